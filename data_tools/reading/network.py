"""Reach the hub once, with a short time-out; if it does not answer, use the cache alone."""

import logging
import os
import time
from functools import cache

logger = logging.getLogger(__name__)

_TIMEOUT = 5.0  # seconds


@cache
def reach_hub() -> bool:
    """Whether the hub answers; if not, what is loaded later comes from the cache only.

    The libraries ask for every file of a model by itself and try each request six times, so that a
    dead mirror would take minutes before they use the cache.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    began = time.monotonic()
    try:
        # any answer counts, also one that refuses: only a gateway speaks for a dead server
        reached = get_session().head(constants.ENDPOINT, timeout=_TIMEOUT).status_code < 500
    except Exception:  # of the HTTP library that huggingface_hub chose
        reached = False
    if not reached:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for datasets and for other processes
        constants.HF_HUB_OFFLINE = True
        if os.environ.get("RANK", "0") == "0":
            taken = time.monotonic() - began
            logger.warning(
                "hub: %s: no answer (%.1f s); only the cache is used", constants.ENDPOINT, taken
            )
    return reached

"""A scorer behind HTTP: POST {"prompts", "completions"} -> {"scores"}."""

import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any

from alignment.errors import ConfigError, DataError
from alignment.ppo.reward_functions import Reward, check_scores

logger = logging.getLogger(__name__)

_FIRST_WAIT = 0.5  # seconds, doubled at each retry


class HttpReward(Reward):
    """Asks a server for scores, and asks again if that fails.

    It repeats a request after a time-out, a refused connection, status 429 or 5xx, each time after
    twice the wait. Every other answer is final.
    """

    def __init__(self, url: str, *, timeout: float, retries: int) -> None:
        # the name appears in metrics and trackers; a query may hold a key
        super().__init__(url.split("?")[0].rstrip("/").rsplit("/", 1)[-1])
        self.url = url
        self.timeout = timeout
        self.retries = retries

    def __call__(self, **columns: Any) -> list[float | None]:
        """Send prompts and completions, and check the scores in the answer.

        Raises:
            ConfigError: The server cannot be reached or refuses the request.
            DataError: Its answer is not one number for each completion.
        """
        body = {"prompts": columns["prompts"], "completions": columns["completions"]}
        answer = self._ask(json.dumps(body, ensure_ascii=False).encode())
        try:
            scores = json.loads(answer)["scores"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'reward {self.url}: answered {answer[:80]!r}, not {{"scores": [...]}}'
            ) from error
        return check_scores(scores, count=len(columns["completions"]), source=self.url)

    def _ask(self, body: bytes) -> bytes:
        wait = _FIRST_WAIT
        for attempt in range(self.retries + 1):
            try:
                return self._ask_once(body)
            except urllib.error.HTTPError as error:
                # the same request would be refused again
                if error.code != 429 and error.code < 500:
                    raise ConfigError(
                        f"reward {self.url}: HTTP {error.code} {error.reason}",
                        "look at the scorer's log",
                    ) from error
                reason = f"HTTP {error.code} {error.reason}"
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                reason = str(error)
            if attempt < self.retries:
                logger.warning("%s: %s; asking again in %.1f s", self.url, reason, wait)
                time.sleep(wait)
                wait *= 2
        raise ConfigError(
            f"reward {self.url}: no answer after {self.retries + 1} attempts ({reason})",
            "start the scorer, or raise reward_timeout or reward_retries",
        )

    def _ask_once(self, body: bytes) -> bytes:
        request = urllib.request.Request(
            self.url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            answer: bytes = response.read()
        return answer

"""A scorer behind HTTP: POST {"prompts", "completions"} -> {"scores"}."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from alignment.errors import ConfigError, DataError
from alignment.ppo.reward_functions import Reward, check_scores

if TYPE_CHECKING:
    from alignment.settings.reward_spec import RewardSpec

logger = logging.getLogger(__name__)

_FIRST_WAIT = 0.5  # seconds, doubled at each retry
_CHUNK = 65_536  # bytes
#: The longest answer, in bytes: scores and what a scorer says beside them.
_LONGEST, _LONGEST_EACH = 1_000_000, 10_000


class HttpReward(Reward):
    """Asks a server for scores, and asks again if that fails.

    It repeats a request after a time-out, a connection that is refused or breaks, an answer that
    is cut, and status 429 or 5xx, each time after twice the wait. Every other answer is final. A
    request takes `timeout` seconds at most, from the look-up of the host to the last byte.
    """

    def __init__(self, reward: RewardSpec, *, timeout: float, retries: int) -> None:
        parts = urlsplit(reward.text)
        # the name appears in metrics and trackers; a query may hold a key
        super().__init__(parts.path.rstrip("/").rsplit("/", 1)[-1] or str(parts.hostname))
        self.address = reward.shown
        self.timeout = timeout
        self.retries = retries
        self._url, self._headers = _address(parts)

    def __call__(self, **columns: Any) -> list[float | None]:
        """Send prompts and completions, and check the scores in the answer.

        Raises:
            ConfigError: The server cannot be reached or refuses the request.
            DataError: Its answer is too long, or is not one number for each completion.
        """
        count = len(columns["completions"])
        body = {"prompts": columns["prompts"], "completions": columns["completions"]}
        limit = _LONGEST + _LONGEST_EACH * count
        answer = self._ask(json.dumps(body, ensure_ascii=False).encode(), limit)
        try:
            scores = answer["scores"]
        except (KeyError, TypeError) as error:
            raise self._not_scores(json.dumps(answer).encode()) from error
        return check_scores(scores, count=count, source=self.address)

    def _not_scores(self, answer: bytes) -> DataError:
        return DataError(
            f'reward {self.address}: answered {answer[:80]!r}, not {{"scores": [...]}}'
        )

    def _ask(self, body: bytes, limit: int) -> Any:
        wait = _FIRST_WAIT
        cut: bytes | None = None
        for attempt in range(self.retries + 1):
            try:
                cut = self._ask_in_time(body, limit)
                return json.loads(cut)
            except urllib.error.HTTPError as error:
                error.close()  # it holds the connection
                # the same request would be refused again
                if error.code != 429 and error.code < 500:
                    raise ConfigError(
                        f"reward {self.address}: HTTP {error.code} {error.reason}",
                        "look at the scorer's log",
                    ) from error
                cut, reason = None, f"HTTP {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                cut, reason = None, str(error) or type(error).__name__
            except ValueError:  # also what is left of an answer whose connection broke
                reason = "the answer is not whole JSON"
            if attempt < self.retries:
                logger.warning("%s: %s; asking again in %.1f s", self.address, reason, wait)
                time.sleep(wait)
                wait *= 2
        if cut is not None:
            raise self._not_scores(cut)
        raise ConfigError(
            f"reward {self.address}: no answer after {self.retries + 1} attempts ({reason})",
            "start the scorer, or raise reward_timeout or reward_retries",
        )

    def _ask_in_time(self, body: bytes, limit: int) -> bytes:
        """One request, in a thread: time-outs of sockets begin again with each byte that comes."""
        found: SimpleQueue[bytes | Exception] = SimpleQueue()

        def ask() -> None:
            try:
                found.put(self._ask_once(body, limit))
            except Exception as error:  # raised again by the caller
                found.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = found.get(timeout=self.timeout)
        except Empty:
            raise TimeoutError(f"no whole answer in {self.timeout:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ask_once(self, body: bytes, limit: int) -> bytes:
        """Send a request and read the answer until it ends, is too long or comes too late."""
        deadline = time.monotonic() + self.timeout
        request = urllib.request.Request(self._url, data=body, headers=self._headers, method="POST")
        found = bytearray()
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            while chunk := response.read1(_CHUNK):
                found += chunk
                if len(found) > limit:
                    raise DataError(
                        f"reward {self.address}: the answer is longer than {limit:,} bytes",
                        "a scorer answers with one number for each completion",
                    )
                if time.monotonic() > deadline:  # the caller has given up
                    break
            if response.length:
                raise http.client.IncompleteRead(bytes(found[:80]), response.length)
        return bytes(found)


def _address(parts: SplitResult) -> tuple[str, dict[str, str]]:
    """The URL without user and password, and the headers that carry them."""
    headers = {"Content-Type": "application/json"}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        words = base64.b64encode(unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {words}"
    return parts._replace(netloc=host, fragment="").geturl(), headers

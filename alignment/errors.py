"""User errors: exceptions that the command line prints without a traceback."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class AlignError(Exception):
    """An error that the user can fix: what is wrong and where, then what to do.

    The command line prints it in one or two lines and exits with code 2. Any other exception is a
    bug and keeps its traceback.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class ConfigError(AlignError):
    """A wrong key, value, flag or recipe."""


class DataError(AlignError):
    """A data file or a row in it that cannot be used; the message begins with file:line."""


class TrainingError(AlignError):
    """Training cannot continue, and a retry would not help; exit code 1, no traceback."""


class Interrupted(BaseException):
    """A signal ended a run; exit code 128 + signal.

    Like KeyboardInterrupt, which it replaces, it is no Exception: a library in which the signal
    arrives must not swallow it.
    """

    def __init__(self, number: int, outcome: str) -> None:
        super().__init__(f"ended by {signal.Signals(number).name} {outcome}")
        self.number = number


def place_of(source: str) -> str:
    """The prefix of a message with the file and line of a value; empty for a flag or a default."""
    return "" if source in ("default", "") or source.startswith("--") else f"{source}: "


def raised_in(error: BaseException) -> str:
    """The package of the function that raised an error; empty if it was not raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0]


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise as a user error what a library or the system raises for a name that a user gave."""
    try:
        yield
    except Exception as error:
        in_words = _user_error(error)
        if in_words is None:
            raise
        raise in_words from error


def _user_error(error: BaseException) -> ConfigError | None:
    """An error of the hub, of a file that it lacks, or of too long a name, as a user error."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return ConfigError(
            f"{str(error.filename)[:60]}...: no file system has so long a name",
            "a name may have 255 bytes (85 Chinese characters), a path 4,096",
        )
    is_the_hub_s = type(error).__module__.startswith("huggingface_hub")
    # transformers raises a plain OSError, without a number, for a file that it cannot get
    is_absent = isinstance(error, OSError) and error.errno is None
    if not is_the_hub_s and not (is_absent and raised_in(error) == "transformers"):
        return None
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConfigError(
        f"hub: {first[:300]}",
        "check the name, HF_TOKEN and HF_ENDPOINT; without a network, fetch it before",
    )

"""What a user can get wrong, as exceptions that the command line prints without a traceback."""


class AlignError(Exception):
    """A mistake that the user can mend: what is wrong and where, then what to do.

    Printed as one or two lines, exit code 2. Anything that is not an AlignError is a bug of ours
    and keeps its traceback.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class ConfigError(AlignError):
    """A key, a value or a recipe that cannot be meant."""


class DataError(AlignError):
    """A data file or a row in it that cannot be used; the message begins with file:line."""


class TrainingError(AlignError):
    """Training cannot go on and more of the same will not help; exit code 1, no traceback."""


class Interrupted(Exception):
    """A signal ended a run after its checkpoint was written; exit code 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.number = number


def place_of(source: str) -> str:
    """Where a value was given, before a message; a flag or a default is told by its key alone."""
    return "" if source in ("default", "") or source.startswith("--") else f"{source}: "

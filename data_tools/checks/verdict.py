"""Which findings fail a run: errors, and what `--fail-on` names."""

from collections.abc import Iterable

from alignment.errors import ConfigError
from data_tools.checks import CHECKS, SEVERITIES


def known(fail_on: Iterable[str]) -> frozenset[str]:
    """What `--fail-on` names, each a code or a severity.

    Raises:
        ConfigError: If one is neither.
    """
    names = frozenset(fail_on)
    if unknown := sorted(names - set(CHECKS) - set(SEVERITIES)):
        raise ConfigError(
            f"--fail-on {unknown[0]}: no such code",
            f"codes are listed in data_tools/README.md; severities: {', '.join(SEVERITIES)}",
        )
    return names


def failing(found: Iterable[str], fail_on: Iterable[str]) -> list[str]:
    """Of the codes found those that fail a run: errors, and what `fail_on` names or what is worse.

    Raises:
        ConfigError: If `fail_on` names neither a code nor a severity.
    """
    names = known(fail_on)
    least = min((SEVERITIES.index(level) for level in names & set(SEVERITIES)), default=None)
    bound = SEVERITIES.index("error") if least is None else least
    return sorted(
        {
            code
            for code in found
            if code in names or SEVERITIES.index(CHECKS[code].severity) >= bound
        }
    )

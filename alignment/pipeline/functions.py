"""Check that a pipeline's reward functions exist, before its first stage starts.

This needs an import, which runs the user's code and may claim a GPU or leave threads behind. So a
separate process imports them and ends before the first stage starts.
"""

import sys
from collections.abc import Sequence

import click

from alignment.errors import AlignError
from alignment.models.parents import import_functions
from alignment.pipeline.child import run_child
from alignment.secrets import guard_output, redact_text
from alignment.settings.reward_spec import RewardKind, parse_reward


def check_functions(rewards: Sequence[str]) -> int:
    """Import the functions among rewards in a separate process; return its exit code."""
    named = sorted({r for r in rewards if parse_reward(r).kind is RewardKind.FUNCTION})
    return run_child([sys.executable, "-m", __name__, *named]) if named else 0


def main(rewards: Sequence[str]) -> None:
    """Import the functions; a mistake is reported as a stage reports it."""
    guard_output()
    try:
        import_functions(rewards)
    except AlignError as error:
        click.echo(redact_text(f"error: {error}"), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])

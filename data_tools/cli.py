"""The `align data` commands; what a command needs is imported when it runs."""

import click


@click.group()
def data() -> None:
    """Turn any preference data into JSONL that can be trusted."""

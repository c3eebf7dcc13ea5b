"""`--nproc N` and `--accelerate CONFIG`: start the same stage with accelerate's launcher."""

import os
import sys
from pathlib import Path

from alignment.errors import ConfigError


def take_launch_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into accelerate's flags and the stage's."""
    launcher: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, inline = word.partition("=")
        if name not in ("--nproc", "--accelerate"):
            rest.append(word)
            continue
        value = inline if equals else next(words, "")
        launcher += _launch_option(name, value)
    return launcher, rest


def _launch_option(name: str, value: str) -> list[str]:
    if name == "--accelerate":
        if not value:
            raise ConfigError("--accelerate: a value is missing", "a config file or a preset name")
        return ["--config_file", _config_file(value)]
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"--nproc: expected a count of processes, got '{value}'", "--nproc 2")
    return ["--num_processes", value]


def _config_file(value: str) -> str:
    """A path, or one of the configs that TRL ships (single_gpu, multi_gpu, fsdp1, zero1, ...)."""
    from importlib.util import find_spec

    if Path(value).is_file():
        return value
    spec = find_spec("trl")
    folder = Path(spec.origin or "").parent / "accelerate_configs" if spec else Path()
    shipped = folder / f"{value}.yaml"
    if shipped.is_file():
        return str(shipped)
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigError(f"--accelerate: {value}: no such file", f"or one of {known}")


def command(stage: str, argv: list[str]) -> list[str]:
    """The command that starts a stage in a process of its own."""
    return [sys.executable, "-m", "alignment", stage, *_take_token(argv)]


def _take_token(words: list[str]) -> list[str]:
    """Pass `--hub_token` in the environment, so that no command line shows it."""
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, inline = word.partition("=")
        if name.replace("-", "_").lstrip("_") == "hub_token":
            os.environ["HF_TOKEN"] = inline if equals else next(rest, "")
        else:
            left.append(word)
    return left


def relaunch(stage: str, argv: list[str]) -> list[str]:
    """Run the launcher in this process if the flags ask for it, and exit with the stage's code.

    Else return the stage's own flags.
    """
    launcher, rest = take_launch_words(argv)
    if launcher in ([], ["--num_processes", "1"]):
        return rest
    if "--config_file" not in launcher:
        # accelerate's word for "more than one", also without a GPU: with --cpu it starts only one
        launcher.append("--multi_gpu")
    from alignment.pipeline.launcher import run_launcher

    sys.exit(run_launcher([*launcher, "-m", "alignment", stage, *_take_token(rest)]))

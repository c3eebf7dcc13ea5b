"""What `accelerate launch` was asked for and does not pass on to the process that it starts."""

from __future__ import annotations

from pathlib import Path

#: The ends of the word in its command line after which its own options begin.
_LAUNCHERS = ("launch", "launch.py", "accelerate-launch")


def asked_of_accelerate() -> int | None:
    """How many processes it was to start on this machine; None: not known, or on several ones.

    Its command line says it, or the config file that this names, or the default one.
    """
    import psutil  # type: ignore[import-untyped]
    from accelerate.commands.config.config_args import (  # type: ignore[import-untyped]
        default_config_file,
        load_config_from_file,
    )
    from accelerate.commands.launch import launch_command_parser  # type: ignore[import-untyped]

    parent = psutil.Process().parent()
    words = [] if parent is None else parent.cmdline()
    begin = next((i for i, word in enumerate(words) if word.endswith(_LAUNCHERS)), None)
    if begin is None:
        return None
    asked, _ = launch_command_parser().parse_known_args(words[begin + 1 :])
    number, machines = asked.num_processes, asked.num_machines
    if asked.config_file or Path(default_config_file).is_file():
        config = load_config_from_file(asked.config_file)
        number, machines = number or config.num_processes, machines or config.num_machines
    return number if (machines or 1) == 1 else None

"""Run stages one after another within one process of several; started by tests.

`run_stage` would leave the group of processes after the first stage. Imports are in the function
that needs them, so that they can be made without collections.
"""

import importlib
import json
import sys


def main(words: dict[str, list[str]]) -> None:
    """Run each stage with its words."""
    from alignment.models.imports import import_heavy

    import_heavy("alignment.training.trainers")
    from alignment.settings.resolve import resolve
    from alignment.training.job import open_job, recorded
    from alignment.training.signals import StopSignals

    for stage, flags in words.items():
        with recorded(open_job(resolve(stage, flags), StopSignals())) as job:
            importlib.import_module(f"alignment.stages.{stage}").run(job)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    importlib.import_module("torch.distributed").destroy_process_group()  # or Python may abort

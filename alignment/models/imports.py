"""Import what needs torch, TRL and transformers: seconds of every command that uses a model."""

import gc
import importlib
import sys


def import_heavy(name: str) -> None:
    """Import a module that needs torch, with no garbage collections in between.

    They take a quarter of the time of the import. What is loaded then stays out of every later one:
    transformers and accelerate collect at each start of training, half a second each.
    """
    if name in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module(name)
    finally:
        gc.enable()
        gc.freeze()

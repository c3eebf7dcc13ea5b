"""The values that libraries know, which are checked without importing them."""

import inspect

from accelerate.utils import DynamoBackend
from torch._inductor import list_mode_options
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS, _get_bitsandbytes_optimizer
from transformers.training_args import OptimizerNames

from alignment.settings.late_faults import (
    CHOICES,
    OPTIMIZER_KEYS,
    SCHEDULER_KEYS,
    optimizer_package,
)

#: What the trainer gives a scheduler by itself.
_GIVEN = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}


def test_schedulers_have_these_keys() -> None:
    known = {
        kind.value: set(inspect.signature(function).parameters) - _GIVEN
        for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()
    }
    classes = {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    for name, kind in classes.items():  # whose keys are those of a class
        assert known[name] == {"kwargs"}
        known[name] = set(inspect.signature(kind).parameters) - _GIVEN
    assert {name: set(keys) for name, keys in SCHEDULER_KEYS.items()} == known


def test_choices_are_those_of_the_libraries() -> None:
    attention = {name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name}
    assert set(CHOICES["attn_implementation"]) == attention | {"eager"}
    assert set(CHOICES["cache_implementation"]) <= set(ALL_CACHE_IMPLEMENTATIONS)
    backends = {backend.value.lower() for backend in DynamoBackend} - {"no"}
    # accelerate 1.15 brought the one and dropped the other
    assert set(CHOICES["torch_compile_backend"]) ^ backends <= {"neuron", "ipex"}
    assert set(list_mode_options()) <= set(CHOICES["torch_compile_mode"]) | {"default"}


def test_every_optimizer_is_torch_s_or_names_its_package() -> None:
    own = {name.value for name in OptimizerNames if optimizer_package(name.value) is None}
    torch_s = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    assert own == torch_s


def test_optimizers_take_these_arguments() -> None:
    for start, keys in OPTIMIZER_KEYS.items():
        handlers = [f for name, f in _OPTIMIZER_HANDLERS.items() if name.value.startswith(start)]
        for handler in handlers:
            if handler is not _get_bitsandbytes_optimizer or "ademamix" in start:
                missing = [key for key in keys if f'"{key}"' not in inspect.getsource(handler)]
                assert missing == [], (start, handler)

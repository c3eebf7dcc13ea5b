"""What the preflight relies on in transformers, TRL and accelerate and nobody promises."""

import inspect
import re

import pytest
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from transformers import Trainer
from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer

from alignment.memory.restore import LocalAccelerator


def test_training_begins_with_everything_in_place_and_nothing_done() -> None:
    source = inspect.getsource(Trainer._inner_training_loop)
    prepared, begun = source.index("_prepare_for_training("), source.index("on_train_begin(")
    assert prepared < begun < source.index("_run_epoch(")
    made = "self.neftune_hook_handle = activate_neftune("
    assert made in inspect.getsource(Trainer.train)


def test_a_micro_step_is_what_the_loop_does() -> None:
    names = list(inspect.signature(Trainer.get_batch_samples).parameters)
    assert names == ["self", "epoch_iterator", "num_batches", "device"]
    source = inspect.getsource(Trainer._run_epoch)
    assert "self.current_gradient_accumulation_steps = len(batch_samples)" in source
    assert "self.training_step(model, inputs, num_items_in_batch)" in source


@pytest.mark.parametrize("name", ["gather", "gather_for_metrics", "reduce"])
def test_an_accelerator_of_one_process_has_the_signatures_of_all(name: str) -> None:
    ours, theirs = (
        list(inspect.signature(vars(owner)[name]).parameters)
        for owner in (LocalAccelerator, Accelerator)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "loss",
    [
        SFTTrainer.compute_loss,
        RewardTrainer.compute_loss,
        DPOTrainer._compute_loss,
        KTOTrainer._compute_loss,
        Trainer.get_batch_samples,
    ],
    ids=lambda loss: loss.__qualname__,
)
def test_processes_wait_for_each_other_in_the_accelerator_alone(loss: object) -> None:
    """By `self.accelerator`, so that a copy of the trainer with another one does not wait."""
    source = re.sub(r"#.*", "", inspect.getsource(loss))  # type: ignore[arg-type]
    assert "torch.distributed" not in source
    assert "gather_object" not in source
    assert source.count("gather") == source.count("self.accelerator.gather")


def test_messages_of_memory_are_known() -> None:
    assert should_reduce_batch_size(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert should_reduce_batch_size(RuntimeError("DefaultCPUAllocator: can't allocate memory: x"))
    assert not should_reduce_batch_size(RuntimeError("shapes do not fit"))

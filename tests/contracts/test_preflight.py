"""The names of transformers, TRL and accelerate that the preflight leans on and are not public."""

import inspect

import pytest
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from transformers import Trainer
from trl import DPOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer


@pytest.mark.parametrize("trainer", [SFTTrainer, RewardTrainer, DPOTrainer, RLOOTrainer])
def test_metrics_since_the_last_log_are_lists_by_mode(trainer: type[Trainer]) -> None:
    made = 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}'
    assert made in inspect.getsource(trainer.__init__)


def test_the_loader_takes_its_batch_size_from_one_attribute() -> None:
    assert "self._train_batch_size = args.train_batch_size" in inspect.getsource(Trainer.__init__)
    assert "batch_size=self._train_batch_size" in inspect.getsource(Trainer.get_train_dataloader)
    source = inspect.getsource(RLOOTrainer.get_train_dataloader)
    assert "batch_size=self._train_batch_size * self.args.steps_per_generation" in source


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


def test_processes_wait_for_each_other_in_these_alone() -> None:
    assert {"gather", "gather_for_metrics", "reduce"} <= set(vars(Accelerator))
    for loss in (SFTTrainer.compute_loss, RewardTrainer.compute_loss, DPOTrainer._compute_loss):
        source = inspect.getsource(loss)
        assert "torch.distributed" not in source
        assert "gather_object" not in source


def test_messages_of_memory_are_known() -> None:
    assert should_reduce_batch_size(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert should_reduce_batch_size(RuntimeError("DefaultCPUAllocator: can't allocate memory: x"))
    assert not should_reduce_batch_size(RuntimeError("shapes do not fit"))

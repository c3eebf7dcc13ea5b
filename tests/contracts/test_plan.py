"""The parts of torch and TRL behind `align plan` that are not public, and what they must do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig
from trl.kernels import chunked_logprob
from trl.trainer import utils

from alignment.plan.head import TILE, add_head
from alignment.plan.ledger import Ledger
from alignment.plan.models import take_shape

#: As wide as a tile, so that TRL touches its whole buffer.
WIDE = LlamaConfig(
    vocab_size=32768, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2,
)  # fmt: skip


def test_tensors_without_storage_have_shapes_devices_and_sizes() -> None:
    with FakeTensorMode():
        x = torch.empty(1 << 20, 1 << 20)
        assert (x @ x).shape == x.shape
        assert x.device.type == "cpu"
        assert x.untyped_storage().nbytes() == 4 << 40


def test_views_share_one_storage_object() -> None:
    """The ledger knows a storage by its identity."""
    with FakeTensorMode():
        x = torch.empty(4, 4)
        assert x[1:].untyped_storage() is x.view(16).untyped_storage()
        assert torch.empty(4, 4).untyped_storage() is not x.untyped_storage()


def test_a_dispatch_mode_sees_every_operation() -> None:
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), Watch():
        torch.nn.Linear(2, 3)(torch.empty(4, 2)).sum().backward()
    assert {"aten.empty.memory_format", "aten.sum.default"} <= set(seen)
    assert [name for name in seen if "mm" in name]  # forward and backward of the layer


def test_the_tile_is_as_large_as_trls() -> None:
    assert (chunked_logprob.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE) == TILE


@pytest.mark.parametrize("entropy", [False, True], ids=["", "entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_head_takes_what_trls_takes_and_at_most_2_percent_more(
    dtype: torch.dtype, entropy: bool
) -> None:
    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    ours = peak(partial(add_head, is_gpu=False), dtype, entropy=entropy)
    theirs = peak(partial(utils.add_fused_lm_head, outputs=outputs), dtype, entropy=entropy)
    assert theirs <= ours <= 1.02 * theirs


def test_on_a_gpu_the_head_makes_no_copies_of_its_tile() -> None:
    cpu, gpu = (
        peak(partial(add_head, is_gpu=is_gpu), torch.float32, entropy=False)
        for is_gpu in (False, True)
    )
    assert cpu - gpu == 7.25 * 4 * TILE[0] * TILE[1]


def peak(add: Callable[[Any], None], dtype: torch.dtype, *, entropy: bool) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(WIDE, dtype=dtype)
    with FakeTensorMode():
        take_shape(model)
        add(model)
        with Ledger() as ledger:
            ledger.leave_out(model)
            ids = torch.zeros((3, 2000), dtype=torch.long)  # more tokens than a tile has
            ledger.mark("step")
            found = model(input_ids=ids, shift_labels=ids, fused_lm_head=True)
            loss = found.log_probs.sum() + (found.entropy.sum() if entropy else 0)
            loss.backward()
            return ledger.segments["step"].live

"""A rollout in mini- and micro-batches: which rows, how many tokens, in which order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignment.errors import ConfigError
from alignment.ppo.buffer import RolloutBuffer
from alignment.ppo.math import same
from alignment.ppo.rollout import Rollout, pad_rollout, plan_epoch

#: Tokens of each response; the last two are truncated and left out of the losses.
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8]
COUNTS = [True] * 6 + [False] * 2


def rollout() -> Rollout:
    return pad_rollout(
        [[9, 9]] * len(LENGTHS),
        [[number] * number for number in LENGTHS],
        pad_token_id=0,
        counts=COUNTS,
        device=torch.device("cpu"),
    )


def buffer_of(reduce: Callable[..., Any] = same, **keys: Any) -> RolloutBuffer:
    args: Any = SimpleNamespace(
        steps_per_generation=4,
        num_ppo_epochs=2,
        gradient_accumulation_steps=2,
        seed=3,
        process_index=0,
    )
    args.__dict__.update(keys)
    buffer = RolloutBuffer(args, reduce)
    buffer.put(rollout(), number=1)
    return buffer


def real_tokens(rows: Rollout) -> int:
    return int(rows.response_mask.sum())


def test_the_loss_is_divided_by_the_counted_tokens_of_its_own_mini_batch() -> None:
    buffer = buffer_of()
    for epoch in range(2):
        batches = [buffer.micro_batch(4 * epoch + step) for step in range(4)]
        for mini in (batches[:2], batches[2:]):
            expected = sum(real_tokens(batch.rows) for batch in mini)
            assert [batch.num_tokens for batch in mini] == [expected, expected]
        assert batches[0].num_tokens != batches[2].num_tokens
        assert batches[0].num_tokens + batches[2].num_tokens == sum(LENGTHS[:6])


def test_tokens_are_those_of_all_processes() -> None:
    alone, three = buffer_of(), buffer_of(reduce=lambda counts: counts * 3)
    for step in range(4):
        assert three.micro_batch(step).num_tokens == 3 * alone.micro_batch(step).num_tokens


def order(buffer: RolloutBuffer, *, number: int = 1, epoch: int = 0) -> list[list[int]]:
    return [rows.tolist() for rows in buffer.make_plan(rollout(), number=number, epoch=epoch)]


def test_the_order_depends_on_seed_process_rollout_and_epoch_alone() -> None:
    first = order(buffer_of())
    assert first == order(buffer_of())
    others = [
        order(buffer_of(seed=4)),
        order(buffer_of(process_index=1)),
        order(buffer_of(), number=2),
        order(buffer_of(), epoch=1),
    ]
    minis = [{*plan[0], *plan[1]} for plan in (first, *others)]
    assert all(other != minis[0] for other in minis[1:])
    for plan in (first, *others):
        assert sorted(row for rows in plan for row in rows) == list(range(8))


def test_a_smaller_batch_that_fits_changes_the_micro_batches_at_once() -> None:
    """The preflight halves the batch in the settings; the buffer asks them each time."""
    buffer = buffer_of()
    buffer.args.steps_per_generation, buffer.args.gradient_accumulation_steps = 8, 4
    assert [len(buffer.micro_batch(step).rows) for step in range(8)] == [1] * 8
    assert buffer.place(16) == 0
    assert buffer.place(8) == 8


def test_a_rollout_within_its_use_is_read_back_where_it_was(tmp_path: Path) -> None:
    before = buffer_of()
    step = 5  # the second micro-batch of the second epoch
    rows = before.micro_batch(4), before.micro_batch(step)
    before.save(tmp_path, step=step)
    after = buffer_of(seed=3)
    after.rollout = None
    after.load(tmp_path, step=step, number=1, device=torch.device("cpu"))
    found = after.micro_batch(step)
    assert found.num_tokens == rows[1].num_tokens
    assert torch.equal(found.rows.response_ids, rows[1].rows.response_ids)


def test_a_checkpoint_between_rollouts_holds_none(tmp_path: Path) -> None:
    buffer = buffer_of()
    buffer.save(tmp_path, step=8)
    assert not list(tmp_path.iterdir())
    buffer.load(tmp_path, step=8, number=1, device=torch.device("cpu"))


def test_another_number_of_processes_cannot_resume_within_a_rollout(tmp_path: Path) -> None:
    buffer_of().save(tmp_path, step=5)
    second = buffer_of(process_index=1)
    with pytest.raises(ConfigError, match=r"rollout-1\.safetensors is missing") as caught:
        second.load(tmp_path, step=5, number=1, device=torch.device("cpu"))
    assert "resume with the number of processes that saved it" in str(caught.value)


def test_rows_are_cut_to_the_longest_of_them() -> None:
    rows = rollout().rows(torch.tensor([0, 2]))
    assert rows.response_ids.tolist() == [[1, 0, 0], [3, 3, 3]]
    masked = replace(rollout(), response_attention=torch.zeros_like(rollout().response_attention))
    assert masked.rows(torch.tensor([0])).response_ids.shape == (1, 1)  # one token at least


def test_each_epoch_goes_through_its_own_plan() -> None:
    buffer = buffer_of()
    for epoch in range(2):
        plan = buffer.make_plan(rollout(), number=1, epoch=epoch)
        for place, rows in enumerate(plan):
            found = buffer.micro_batch(4 * epoch + place).rows.response_ids[:, 0]
            assert found.tolist() == [LENGTHS[row] for row in rows.tolist()]
    other = buffer_of()
    other.put(rollout(), number=2)
    first = other.make_plan(rollout(), number=2, epoch=0)[0]
    assert other.micro_batch(0).rows.response_ids[:, 0].tolist() == (first + 1).tolist()


def test_a_new_rollout_is_ordered_anew_at_its_first_step() -> None:
    buffer = buffer_of()
    buffer.micro_batch(7)
    buffer.put(rollout(), number=2)
    first = buffer.make_plan(rollout(), number=2, epoch=0)[0]
    assert buffer.micro_batch(8).rows.response_ids[:, 0].tolist() == (first + 1).tolist()
    assert (buffer.place(7), buffer.place(8), buffer.per_epoch, buffer.per_rollout) == (7, 0, 4, 8)


def test_prompts_are_cut_on_the_left() -> None:
    found = pad_rollout(
        [[1], [2, 3], [4, 5, 6, 7, 8]],
        [[1, 2, 3], [4], [5]],
        pad_token_id=0,
        counts=[True] * 3,
        device=torch.device("cpu"),
    ).rows(torch.tensor([0, 1]))
    assert found.prompt_ids.tolist() == [[0, 1], [2, 3]]
    assert found.prompt_attention.tolist() == [[0, 1], [1, 1]]
    assert found.response_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert found.input_ids.tolist() == [[0, 1, 1, 2, 3], [2, 3, 4, 0, 0]]
    assert found.attention_mask.tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_padding_has_the_id_that_is_named_and_no_attention() -> None:
    found = pad_rollout(
        [[1, 2], [3]],
        [[4], [5, 6]],
        pad_token_id=9,
        counts=[True, False],
        device=torch.device("cpu"),
    )
    assert found.prompt_ids.tolist() == [[1, 2], [9, 3]]
    assert found.response_ids.tolist() == [[4, 9], [5, 6]]
    assert found.response_attention.tolist() == [[1, 0], [1, 1]]
    assert found.response_mask.tolist() == [[True, False], [False, False]]
    kinds = {found.prompt_ids.dtype, found.response_ids.dtype, found.prompt_attention.dtype}
    assert kinds == {torch.int64}
    assert found.old_logps.tolist() == [[0.0, 0.0]] * 2


def test_mini_batches_are_drawn_and_their_rows_sorted_by_length() -> None:
    lengths = torch.tensor([5, 1, 4, 2, 8, 3, 7, 6])
    plan = plan_epoch(lengths, micro_size=2, mini_size=4, seed=(1, 2))
    assert [len(rows) for rows in plan] == [2] * 4
    for mini in (plan[:2], plan[2:]):
        found = lengths[torch.cat(mini)].tolist()
        assert found == sorted(found)
    equal = torch.ones(6, dtype=torch.long)
    (whole,) = plan_epoch(equal, micro_size=6, mini_size=6, seed=(1,))
    assert whole.tolist() == list(range(6)), "rows of one length stay in order"
    uneven = plan_epoch(torch.arange(5), micro_size=2, mini_size=4, seed=(3,))
    assert [len(rows) for rows in uneven] == [2, 2, 1]

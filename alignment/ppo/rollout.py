"""Responses of one rollout as padded tensors, and their order in epochs, mini- and micro-batches.

Shapes: N responses of this process, B rows of a micro-batch, P prompt tokens (padded on the left),
T response tokens (padded on the right).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Rollout:
    """Tokens of N responses and what PPO needs of each token.

    `response_attention` is 1 where a token is real, `response_mask` True where it counts in reward,
    advantages and losses. They differ only in truncated responses that are left out
    (`mask_truncated_completions`).
    """

    prompt_ids: Tensor  # (N, P)
    prompt_attention: Tensor  # (N, P)
    response_ids: Tensor  # (N, T)
    response_attention: Tensor  # (N, T)
    response_mask: Tensor  # (N, T), bool
    old_logps: Tensor  # (N, T)
    values: Tensor  # (N, T)
    advantages: Tensor  # (N, T)
    returns: Tensor  # (N, T)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def rows(self, index: Tensor) -> Rollout:
        """Select some rows, without the padding that none of them needs."""
        width = int(self.prompt_attention[index].sum(dim=1).max())
        length = max(int(self.response_attention[index].sum(dim=1).max()), 1)
        found = {}
        for name, column in vars(self).items():
            x = column[index]
            found[name] = x[:, x.size(1) - width :] if name.startswith("prompt_") else x[:, :length]
        return Rollout(**found)

    def with_tokens(self, **columns: Tensor) -> Rollout:
        """Return a copy with some `(N, T)` columns replaced, 0 where a token does not count."""
        masked = {name: torch.where(self.response_mask, x, 0.0) for name, x in columns.items()}
        return replace(self, **masked)

    @property
    def input_ids(self) -> Tensor:
        """Prompt and response, `(N, P + T)`."""
        return torch.cat([self.prompt_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """1 for real tokens, `(N, P + T)`."""
        return torch.cat([self.prompt_attention, self.response_attention], dim=1)

    def save(self, path: Path) -> None:
        """Write all tensors to a safetensors file."""
        save_file({name: x.cpu().contiguous() for name, x in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path, *, device: torch.device) -> Rollout:
        """Read what `save` wrote."""
        # Through the CPU: safetensors rejects `cpu:0`, the device of a process among several.
        return cls(**{name: x.to(device) for name, x in load_file(path).items()})


def pad_rollout(
    prompts: list[list[int]],
    responses: list[list[int]],
    *,
    pad_token_id: int,
    counts: list[bool],
    device: torch.device,
) -> Rollout:
    """Pad prompts on the left and responses on the right, and set all that is computed later to 0.

    Args:
        prompts: Token ids of each prompt.
        responses: Token ids of each response, with the EOS that ended it.
        pad_token_id: May equal an EOS: masks come from lengths, never from ids.
        counts: Whether the tokens of each response count in the losses.
        device: Of the tensors.
    """
    # left: then all responses begin in the same column
    prompt_ids, prompt_attention = _pad(prompts, pad_token_id, side="left")
    response_ids, response_attention = _pad(responses, pad_token_id, side="right")
    mask = response_attention.bool() & torch.tensor(counts).unsqueeze(1)
    return Rollout(
        prompt_ids.to(device),
        prompt_attention.to(device),
        response_ids.to(device),
        response_attention.to(device),
        mask.to(device),
        *(torch.zeros(response_ids.shape, device=device) for _ in range(4)),
    )


def plan_epoch(
    lengths: Tensor, *, micro_size: int, mini_size: int, seed: tuple[int, ...]
) -> list[Tensor]:
    """Shuffle the rows of a rollout into mini-batches and cut each into micro-batches.

    Within a mini-batch rows are sorted by length, so that micro-batches have little padding. Its
    loss is a mean over all its tokens, which no order changes.

    Args:
        lengths: Tokens of each row, `(N,)`.
        micro_size: Rows of one forward.
        mini_size: Rows of one optimizer step.
        seed: All that the order depends on, so that a resumed run draws the same.

    Returns:
        The row indices of each micro-batch, in the order of use.
    """
    generator = torch.Generator().manual_seed(seed_of(*seed))
    order = torch.randperm(len(lengths), generator=generator)
    plan = []
    for start in range(0, len(order), mini_size):
        mini = order[start : start + mini_size].sort().values
        mini = mini[lengths.cpu()[mini].argsort(stable=True)]
        plan += list(torch.split(mini, micro_size))
    return plan


def seed_of(*facts: int) -> int:
    """A seed that depends on all facts, and is far from that of other ones."""
    digest = hashlib.sha256(repr(facts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _pad(rows: list[list[int]], value: int, *, side: str) -> tuple[Tensor, Tensor]:
    ids = pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=value,
        padding_side=side,
    )
    attention = pad_sequence(
        [torch.ones(len(row), dtype=torch.long) for row in rows],
        batch_first=True,
        padding_side=side,
    )
    return ids, attention

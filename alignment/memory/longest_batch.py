"""Find the longest batch of a run, and run forward and backward on it once.

Shapes: B rows of a batch, R rows of a rollout, P prompt tokens, T response tokens, L tokens so far.
"""

from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers.cache_utils import DynamicLayer

from alignment.models.renamed import cache_word

Lengths: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_CHUNK = 10_000
#: The maximum number of rows to name.
_NAMED = 5


class LongestBatch(Protocol):
    """A batch as large as any that training will see.

    Attributes:
        tokens: Those of its longest row.
    """

    tokens: int

    def describe(self, size: int) -> str:
        """Describe the content of a batch of ``size`` rows."""

    def run(self, trainer: Any, size: int) -> None:
        """Send ``size`` rows per device through forward and backward."""


class LongestRows:
    """The longest rows of the training data, as the trainer collates them.

    Every process uses the same rows.
    """

    def __init__(self, trainer: Any, loader: Any, *, unit: str) -> None:
        self.args = trainer.args
        self.loader = loader
        self.unit = unit
        lengths = token_counts(loader.dataset)
        self.order = np.argsort(-lengths, kind="stable")[: self.args.train_batch_size].tolist()
        longest = int(lengths[self.order[0]])
        self.tokens = min(longest, self.args.max_length or longest)

    def describe(self, size: int) -> str:
        """Name the rows, counted from 1."""
        rows = self._rows(size)
        named = ", ".join(str(row + 1) for row in rows[:_NAMED])
        named = f"{self.unit}{_s(len(rows))} {named}{', ...' if len(rows) > _NAMED else ''}"
        return f"{len(rows)} row{_s(len(rows))} of up to {self.tokens:,} tokens ({named})"

    def run(self, trainer: Any, size: int) -> None:
        """Take one micro-step of the trainer, as Trainer's loop does."""
        dataset = self.loader.dataset
        batch = self.loader.collate_fn([dataset[row] for row in self._rows(size)])
        # counts the tokens that carry loss, as Trainer does: some models divide by them
        batches, num_items = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        # DDP's wrapper would wait for the other processes in backward; the model inside does not.
        model = trainer.model_wrapped if trainer.args.n_gpu > 1 else trainer.model
        trainer.training_step(model, batches[0], num_items)

    def _rows(self, size: int) -> list[int]:
        rows: list[int] = self.order[: size * max(1, self.args.n_gpu)]
        return rows


class LongestResponses:
    """B times the longest prompt with a response of `max_completion_length`."""

    def __init__(self, trainer: Any, *, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.new_tokens = trainer.max_completion_length
        self.tokens = prompt_tokens + self.new_tokens
        args = trainer.args
        self.rollout_size = int(args.per_device_train_batch_size * args.steps_per_generation)

    def describe(self, size: int) -> str:
        """Say how many prompts and how long, with the response."""
        length = f"of up to {self.prompt_tokens:,} tokens with {self.new_tokens:,} new ones"
        return f"{size} prompt{_s(size)} {length}"

    def run(self, trainer: Any, size: int) -> None:
        """Compute the loss of policy and critic on one micro-batch, and its gradients."""
        from alignment.ppo.rollout import pad_rollout

        rows = pad_rollout(
            [[0] * self.prompt_tokens] * size,
            [[0] * self.new_tokens] * size,
            pad_token_id=0,
            counts=[True] * size,
            device=trainer.args.device,
        )
        trainer.update_on(rows)

    def describe_rollout(self) -> str:
        """Say how many responses are sampled at once."""
        return self.describe(self.rollout_size)

    def sample(self, trainer: Any) -> None:
        """Read R of the longest prompts, then hold the KV cache of responses of full length."""
        from alignment.ppo.adapters import keeping_activations

        if trainer.use_vllm or trainer.args.use_transformers_continuous_batching:
            return  # their caches have a fixed size, set before
        rows, width, word = self.rollout_size, self.prompt_tokens, cache_word()
        mask = torch.ones((rows, width + 1), dtype=torch.long, device=trainer.args.device)
        with torch.no_grad(), keeping_activations(trainer.model):
            first = {"input_ids": mask[:, 1:], "attention_mask": mask[:, 1:]}
            found = trainer.model(**first, use_cache=True, logits_to_keep=1)
            second = {"input_ids": mask[:, :1], "attention_mask": mask}
            cache = found[word]
            trainer.model(**second, **{word: cache}, use_cache=True, logits_to_keep=1)
        layers = [_bytes_that_grow(layer, width + 1) for layer in cache.layers]
        # The cache still grows, and each new token copies the cache of one layer at a time.
        more = (sum(layers) * self.new_tokens + max(layers) * self.tokens) / (width + 1)
        torch.empty(int(more), dtype=torch.uint8, device=mask.device)


def token_counts(dataset: Any) -> Lengths:
    """The tokens of each row's longest side, `(N,)`."""
    parts = [_longest_sides(part) for part in dataset.with_format("arrow").iter(_CHUNK)]
    return np.concatenate(parts)


def _longest_sides(table: pa.Table) -> Lengths:
    """A row has one sequence or several; a prompt that is kept apart begins each of them."""

    def tokens(column: str) -> Lengths:
        return np.asarray(pc.list_value_length(table[column]), dtype=np.int64)

    names = [name for name in table.column_names if name.endswith("_ids")]
    sides: Lengths = np.max([tokens(name) for name in names if name != "prompt_ids"], axis=0)
    return sides + tokens("prompt_ids") if "prompt_ids" in names else sides


def _bytes_that_grow(layer: Any, length: int) -> int:
    """Bytes of a layer's keys and values `(R, heads, L, size)`; 0 if it keeps no token for good.

    A layer with a sliding window that is full, or with linear attention, grows no further.
    """
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        return 0
    return layer.keys.nbytes + layer.values.nbytes if layer.keys.size(2) == length else 0


def _s(count: int) -> str:
    return "" if count == 1 else "s"

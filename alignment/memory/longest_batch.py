"""The longest batch of a run, through forward and backward once.

Shapes: B rows of a batch, R rows of a rollout, P prompt tokens, T response tokens.
"""

from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from alignment.models.renamed import cache_word

Lengths: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_CHUNK = 10_000
#: More rows than these are not named.
_NAMED = 5


class Trial(Protocol):
    """A batch as large as any that training will see.

    Attributes:
        tokens: Those of its longest row.
    """

    tokens: int

    def describe(self, size: int) -> str:
        """Say in words what a batch of ``size`` rows holds."""

    def run(self, size: int) -> None:
        """Send ``size`` rows a device through forward and backward."""


class RowsTrial:
    """The longest rows of pt, sft, rm or dpo, as the trainer collates them.

    Every process takes the same ones.
    """

    def __init__(self, trainer: Any, loader: Any, *, unit: str) -> None:
        self.trainer = trainer
        self.loader = loader
        self.unit = unit
        lengths = token_counts(loader.dataset)
        self.order = np.argsort(-lengths, kind="stable")[: trainer.args.train_batch_size].tolist()
        longest = int(lengths[self.order[0]])
        self.tokens = min(longest, trainer.args.max_length or longest)

    def describe(self, size: int) -> str:
        """Name the rows, counted from 1."""
        rows = self._rows(size)
        named = ", ".join(str(row + 1) for row in rows[:_NAMED])
        named = f"{self.unit}{_s(len(rows))} {named}{', ...' if len(rows) > _NAMED else ''}"
        return f"{len(rows)} row{_s(len(rows))} of up to {self.tokens:,} tokens ({named})"

    def run(self, size: int) -> None:
        """Take one micro-step of the trainer, as Trainer's loop does."""
        trainer, dataset = self.trainer, self.loader.dataset
        batch = self.loader.collate_fn([dataset[row] for row in self._rows(size)])
        batches, num_items = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        trainer.training_step(model_of(trainer), batches[0], num_items)

    def _rows(self, size: int) -> list[int]:
        rows: list[int] = self.order[: size * max(1, self.trainer.args.n_gpu)]
        return rows


class ResponsesTrial:
    """PPO's update on the longest prompt with a response of `max_completion_length`, B times."""

    def __init__(self, trainer: Any, *, prompt_tokens: int) -> None:
        self.trainer = trainer
        self.prompt_tokens = prompt_tokens
        self.tokens = prompt_tokens + trainer.max_completion_length

    def describe(self, size: int) -> str:
        """Say how many prompts and how long, with the response."""
        new = self.trainer.max_completion_length
        length = f"of up to {self.prompt_tokens:,} tokens with {new:,} new ones"
        return f"{size} prompt{_s(size)} {length}"

    def run(self, size: int) -> None:
        """Compute the loss of policy and critic on one micro-batch, and its gradients."""
        from alignment.ppo.buffer import MicroBatch
        from alignment.ppo.rollout import pad_rollout

        trainer = self.trainer
        trainer.args.critic_warmup_steps = 0  # from its end on the policy trains too
        rows = pad_rollout(
            [[0] * self.prompt_tokens] * size,
            [[0] * trainer.max_completion_length] * size,
            pad_token_id=0,
            counts=[True] * size,
            device=trainer.args.device,
        )
        batch = MicroBatch(rows, num_tokens=float(rows.response_mask.sum()))
        model = model_of(trainer)
        model.train()
        try:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, batch)
            trainer.accelerator.backward(loss)
        finally:
            trainer._sums.rows.clear()  # its metrics of this mini-batch, of which there are none

    def describe_rollout(self) -> str:
        """Say how many responses are sampled at once."""
        return self.describe(self._rows())

    def generate(self) -> None:
        """Read R of the longest prompts, then hold the KV cache of responses of full length."""
        from alignment.ppo.adapters import keeping_activations

        trainer = self.trainer
        if trainer.use_vllm or trainer.args.use_transformers_continuous_batching:
            return  # their caches have a size of their own, set before
        rows, width = self._rows(), self.prompt_tokens
        mask = torch.ones((rows, width + 1), dtype=torch.long, device=trainer.args.device)
        word = cache_word()
        with torch.no_grad(), keeping_activations(trainer.model):
            first = {"input_ids": mask[:, 1:], "attention_mask": mask[:, 1:]}
            found = trainer.model(**first, use_cache=True, logits_to_keep=1)
            second = {"input_ids": mask[:, :1], "attention_mask": mask}
            cache = found[word]
            trainer.model(**second, **{word: cache}, use_cache=True, logits_to_keep=1)
        layers = [_grown(layer, width + 1) for layer in cache.layers]
        # what is still to come; and each new token copies the cache of one layer after the other
        new = trainer.max_completion_length
        more = (sum(layers) * new + max(layers) * self.tokens) / (width + 1)
        torch.empty(int(more), dtype=torch.uint8, device=mask.device)

    def _rows(self) -> int:
        args = self.trainer.args
        return int(args.per_device_train_batch_size * args.steps_per_generation)


def token_counts(dataset: Any) -> Lengths:
    """The tokens of each row's longest side, `(N,)`."""
    parts = [_longest_sides(part) for part in dataset.with_format("arrow").iter(_CHUNK)]
    return np.concatenate(parts)


def _longest_sides(table: pa.Table) -> Lengths:
    def tokens(column: str) -> Lengths:
        return np.asarray(pc.list_value_length(table[column]), dtype=np.int64)

    if "input_ids" in table.column_names:
        return tokens("input_ids")
    sides: Lengths = np.maximum(tokens("chosen_ids"), tokens("rejected_ids"))
    return sides + tokens("prompt_ids") if "prompt_ids" in table.column_names else sides


def _grown(layer: Any, length: int) -> int:
    """Bytes of what grows with each token in a layer's cache: `(R, heads, L, size)`."""
    tensors = [x for x in vars(layer).values() if isinstance(x, torch.Tensor)]
    return sum(x.nbytes for x in tensors if x.dim() == 4 and x.size(2) == length)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def model_of(trainer: Any) -> Any:
    """What a batch goes through: under DDP the model inside, which waits for no other process."""
    return trainer.model_wrapped if trainer.args.n_gpu > 1 else trainer.model

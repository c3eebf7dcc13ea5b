"""TRL's trainers on rows that are prepared already.

Rows arrive tokenised and masked (`alignment.data`), so nothing here renders or tokenises. Masks let
turns within an answer carry no loss, which TRL's own preparation cannot express.

TRL 1.16 names used that are not public; `tests/contracts` holds their signatures:
overridden: `_prepare_dataset`, `_precompute_ref_logps`. Of datasets: `_fingerprint`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets.fingerprint import Hasher
from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from alignment.training.metrics import HIGHEST, LOWEST, WeightedMetrics


class PreparedSFTTrainer(WeightedMetrics, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that packs prepared rows but changes nothing else about them."""

    units = {"entropy": "tokens", "mean_token_accuracy": "tokens"}  # noqa: RUF012 - a constant
    loss_unit = "tokens"

    def count(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count rows, and the tokens that carry loss."""
        labels = inputs["labels"]
        return {"rows": len(labels), "tokens": (labels[..., 1:] != -100).sum()}

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, *rest: Any
    ) -> Any:
        if packing:
            return super()._prepare_dataset(dataset, processing_class, args, packing, *rest)
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset


class PreparedRewardTrainer(WeightedMetrics, RewardTrainer):  # type: ignore[misc]
    """RewardTrainer that takes prepared rows as they are."""

    units = {"min_reward": LOWEST, "max_reward": HIGHEST}  # noqa: RUF012 - a constant

    def count(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count pairs."""
        return {"rows": len(inputs["input_ids"]) // 2}

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class MaskedReference:
    """A mixin for TRL's trainers with a reference: masks in the answers of policy and reference."""

    data_collator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # TRL made its collator from arguments that it resolved; ours takes those
        self.data_collator = self.masked(self.data_collator)

    def masked(self, given: Any) -> Any:
        """Our collator, with the arguments of TRL's."""
        raise NotImplementedError

    def for_reference(self, dataset: Any, batch_size: int) -> Any:
        """Get ready for TRL to compute the reference of some rows, which it does when constructed.

        Returns:
            The rows, with a fingerprint, by which TRL keeps the reference, of all that decides it.
            TRL's has rows and model alone: a run with another limit, or for KTO's KL another batch
            size, would read the reference of an earlier run.
        """
        self.data_collator = self.masked(self.data_collator)
        keyed = copy.copy(dataset)
        facts = (dataset._fingerprint, asdict(self.data_collator), batch_size)
        keyed._fingerprint = Hasher.hash(facts)
        return keyed


class PreparedDPOTrainer(MaskedReference, WeightedMetrics, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer that takes prepared rows as they are, with masks within the answers.

    The losses in ``answer_losses`` are means over the tokens of chosen answers in an optimizer
    step; TRL's are means over a batch of one process, which change with accumulation and processes.
    """

    units = {  # noqa: RUF012 - a constant
        "entropy": "tokens",
        "mean_token_accuracy": "chosen tokens",
        "logits/chosen": "chosen tokens",
        "logits/rejected": "rejected tokens",
    }
    loss_weights: list[Any]
    step_tokens: float | None = None
    step_batches = 1

    def __init__(self, *args: Any, answer_losses: Sequence[str] = (), **kwargs: Any) -> None:
        self.answer_losses = answer_losses
        super().__init__(*args, **kwargs)

    @property
    def learns_answers(self) -> bool:
        """Whether one of the losses is a mean over the tokens of chosen answers."""
        return not set(self.answer_losses).isdisjoint(self.loss_types)

    def masked(self, given: Any) -> MaskedPreferences:
        """Our collator, with the arguments of TRL's."""
        return MaskedPreferences(
            pad_token_id=given.pad_token_id,
            max_length=given.max_length,
            truncation_mode=given.truncation_mode,
            pad_to_multiple_of=given.pad_to_multiple_of,
        )

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return super()._precompute_ref_logps(
            self.for_reference(dataset, batch_size), name, batch_size
        )

    def count(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count pairs, and the tokens of the answers."""
        chosen, rejected = (x.sum() for x in inputs["completion_mask"][:, 1:].chunk(2))
        return {
            "rows": len(inputs["completion_mask"]) // 2,
            "tokens": chosen + rejected,
            "chosen tokens": chosen,
            "rejected tokens": rejected,
        }

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Get the batches of an optimizer step, and count the chosen tokens of all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.learns_answers:  # no need to wait for the device and the other processes
            return batches, items
        counted = [self.count(batch)["chosen tokens"] for batch in batches]
        tokens = torch.tensor([float(x) for x in counted], device=self.args.device).sum()
        self.step_tokens = float(self.accelerator.reduce(tokens, reduction="sum"))
        self.step_batches = len(batches)
        return batches, items

    def losses(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Split the loss into that of pairs and that of the tokens of chosen answers."""
        if not self.learns_answers:
            return super().losses(model, inputs)
        *losses, auxiliary = self._loss_parts(model, inputs)
        found = {"rows": auxiliary, "chosen tokens": torch.zeros_like(auxiliary)}
        for name, weight, loss in zip(self.loss_types, self.loss_weights, losses, strict=True):
            unit = "chosen tokens" if name in self.answer_losses else "rows"
            found[unit] = found[unit] + weight * (loss - auxiliary)
        return found

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss; tokens of an optimizer step weigh the same in any of its batches."""
        if not self.learns_answers:
            return super().compute_loss(model, inputs, *args, **kwargs)
        losses = self.losses(model, inputs)
        share = 1.0
        if self.model.training and self.step_tokens:
            # Trainer divides by the batches of the step, and DDP by the processes
            mine = float(self.count(inputs)["chosen tokens"])
            share = mine * self.step_batches * self.args.world_size / self.step_tokens
        return losses["rows"] + share * losses["chosen tokens"]

    def _loss_parts(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Each loss by itself, then the auxiliary loss of a mixture of experts, which all hold."""
        weights, count = self.loss_weights, len(self.loss_types)
        self.loss_weights = list(torch.eye(count, count + 1, device=self.args.device))
        try:
            parts: torch.Tensor = super().compute_loss(model, inputs)
        finally:
            self.loss_weights = weights
        return parts


class PreparedKTOTrainer(MaskedReference, WeightedMetrics, KTOTrainer):  # type: ignore[misc]
    """KTOTrainer that shuffles prepared rows once, with masks within the answers.

    ``positions`` are those of the model; None: not limited, or unknown.
    """

    units = {  # noqa: RUF012 - a constant
        "entropy": "tokens",
        "logits/chosen": "chosen tokens",
        "logits/rejected": "rejected tokens",
        "rewards/chosen": "chosen",
        "rewards/rejected": "rejected",
        "logps/chosen": "chosen",
        "logps/rejected": "rejected",
    }

    def __init__(self, *args: Any, positions: int | None = None, **kwargs: Any) -> None:
        self.positions = positions
        super().__init__(*args, **kwargs)
        if self.calculate_KL and not self.precompute_ref_logps:  # TRL made those batches before
            self.least_rows = 2

    def masked(self, given: Any) -> MaskedAnswers:
        """Our collator, with the arguments of TRL's."""
        return MaskedAnswers(
            pad_token_id=given.pad_token_id,
            max_length=given.max_length,
            pad_to_multiple_of=given.pad_to_multiple_of,
            estimates_kl=self.calculate_KL,
            positions=self.positions,
        )

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *_: Any) -> Any:
        return dataset.shuffle(seed=args.seed)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return super()._precompute_ref_logps(
            self.for_reference(dataset, batch_size), name, batch_size
        )

    def count(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Count rows and the tokens of the answers, also by label."""
        is_chosen = torch.as_tensor(inputs["label"], dtype=torch.bool)
        tokens = inputs["completion_mask"][:, 1:].sum(dim=1)
        is_chosen = is_chosen.to(tokens.device)
        return {
            "rows": len(tokens),
            "tokens": tokens.sum(),
            "chosen": is_chosen.sum(),
            "rejected": (~is_chosen).sum(),
            "chosen tokens": tokens[is_chosen].sum(),
            "rejected tokens": tokens[~is_chosen].sum(),
        }


@dataclass
class MaskedPreferences(DataCollatorForPreference):  # type: ignore[misc]
    """DPO's collator, with `chosen_mask` and `rejected_mask` in place of whole answers."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate B pairs; `completion_mask` is `(2B, T)`, chosen rows first."""
        batch: dict[str, Any] = super().torch_call(examples)
        masks = [
            [0] * len(row["prompt_ids"]) + row[f"{side}_mask"]
            for side in ("chosen", "rejected")
            for row in examples
        ]
        window = slice(self.max_length)
        if self.max_length is not None and self.truncation_mode == "keep_end":
            # masks must be cut exactly as TRL cuts the tokens
            window = slice(-self.max_length, None)
        _fill(batch["completion_mask"], [mask[window] for mask in masks])
        return batch


@dataclass
class MaskedAnswers(DataCollatorForUnpairedPreference):  # type: ignore[misc]
    """KTO's collator, with `completion_mask` in place of whole answers.

    For the KL estimate each prompt gets the answer of the row before it in the batch, as in TRL,
    which computes these pairs before training (arXiv 2402.01306, section 4.2). A long prompt with a
    long answer to another one is cut to the model's positions.
    """

    estimates_kl: bool = True
    positions: int | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate B answers; `completion_mask` is `(B, T)`."""
        if self.estimates_kl:
            others = [examples[-1], *examples[:-1]]
            examples = [
                {**row, "KL_completion_ids": other["completion_ids"][: self._room(row)]}
                for row, other in zip(examples, others, strict=True)
            ]
        batch: dict[str, Any] = super().torch_call(examples)
        masks = [[0] * len(row["prompt_ids"]) + row["completion_mask"] for row in examples]
        _fill(batch["completion_mask"], [mask[: self.max_length] for mask in masks])
        return batch

    def _room(self, row: dict[str, Any]) -> int | None:
        """Positions after the prompt of a row."""
        return None if self.positions is None else self.positions - len(row["prompt_ids"])


def _fill(target: torch.Tensor, masks: list[list[Any]]) -> None:
    """Write masks into a padded tensor `(B, T)`, in place."""
    for row, mask in zip(target, masks, strict=True):
        row[: len(mask)] = torch.tensor(mask, dtype=row.dtype)

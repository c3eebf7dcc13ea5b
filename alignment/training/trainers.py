"""TRL's trainers on rows that are prepared already.

Rows arrive tokenised and masked (`alignment.data`), so nothing here renders or tokenises. Masks let
turns within an answer carry no loss, which TRL's own preparation cannot express.

TRL 1.16 names used that are not public; `tests/contracts` holds their signatures:
overridden: `_prepare_dataset`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference


class PreparedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that packs prepared rows but changes nothing else about them."""

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, *rest: Any
    ) -> Any:
        if packing:
            return super()._prepare_dataset(dataset, processing_class, args, packing, *rest)
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset


class PreparedRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer that takes prepared rows as they are."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class PreparedDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer that takes prepared rows as they are, with masks within the answers."""

    data_collator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # TRL made its collator from arguments that it resolved; ours takes those
        given = self.data_collator
        self.data_collator = MaskedPreferences(
            pad_token_id=given.pad_token_id,
            max_length=given.max_length,
            truncation_mode=given.truncation_mode,
            pad_to_multiple_of=given.pad_to_multiple_of,
        )

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class PreparedKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """KTOTrainer that shuffles prepared rows once, with masks within the answers."""

    data_collator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = self.data_collator
        self.data_collator = MaskedAnswers(
            pad_token_id=given.pad_token_id,
            max_length=given.max_length,
            pad_to_multiple_of=given.pad_to_multiple_of,
            estimates_kl=self.calculate_KL,
        )

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *_: Any) -> Any:
        return dataset.shuffle(seed=args.seed)


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
    which computes these pairs before training (arXiv 2402.01306, section 4.2).
    """

    estimates_kl: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate B answers; `completion_mask` is `(B, T)`."""
        if self.estimates_kl:
            others = [examples[-1], *examples[:-1]]
            examples = [
                {**row, "KL_completion_ids": other["completion_ids"]}
                for row, other in zip(examples, others, strict=True)
            ]
        batch: dict[str, Any] = super().torch_call(examples)
        masks = [[0] * len(row["prompt_ids"]) + row["completion_mask"] for row in examples]
        _fill(batch["completion_mask"], [mask[: self.max_length] for mask in masks])
        return batch


def _fill(target: torch.Tensor, masks: list[list[Any]]) -> None:
    """Write masks into a padded tensor `(B, T)`, in place."""
    for row, mask in zip(target, masks, strict=True):
        row[: len(mask)] = torch.tensor(mask, dtype=row.dtype)

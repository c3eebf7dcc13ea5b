"""A sequence classifier as a reward, read with its own tokenizer and chat template."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.models import prepare_deepspeed

from alignment.ppo.reward_functions import Reward, ScoreStats, check_scores

logger = logging.getLogger(__name__)


class ModelReward(Reward):
    """Scores prompt and completion as the text that the reward model was trained on.

    Chats are rendered by its own chat template (the policy's where it has none); plain text ends
    with its EOS, as in TRL's RewardTrainer. The score is read at the last real token.
    """

    def __init__(
        self,
        classifier: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        chat_template: Any = None,
        stats: ScoreStats | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(name)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        classifier.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.classifier = classifier.eval().requires_grad_(False)
        self.model: nn.Module = self.classifier
        self.tokenizer: Any = tokenizer
        self.chat_template = chat_template
        self.stats = stats
        self.batch_size = batch_size
        limit = classifier.config.get_text_config().to_dict().get("max_position_embeddings")
        self.max_length = limit or 10**9
        self._has_warned = False

    def place(self, accelerator: Any) -> None:
        """Move the model to the device, or hand it to DeepSpeed or FSDP as TRL does."""
        if accelerator.state.deepspeed_plugin is not None:
            self.model = prepare_deepspeed(self.classifier, accelerator)
        else:
            self.model = accelerator.prepare_model(
                self.classifier, evaluation_mode=True, device_placement=True
            )

    def __call__(self, **columns: Any) -> list[float | None]:
        """Score each completion."""
        rows = [
            self._token_ids(prompt, completion)
            for prompt, completion in zip(columns["prompts"], columns["completions"], strict=True)
        ]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        scores = torch.zeros(len(rows))
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            scores[index] = self._score([rows[row] for row in index]).float().cpu()
        return check_scores(scores, count=len(rows), source=self.__name__)

    def _score(self, rows: list[list[int]]) -> Tensor:
        batch = self.tokenizer.pad(
            {"input_ids": rows}, padding=True, padding_side="right", return_tensors="pt"
        ).to(self.classifier.device)
        with torch.no_grad():
            scores: Tensor = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits[:, 0]
        return scores

    def _token_ids(self, prompt: Any, completion: Any) -> list[int]:
        if isinstance(prompt, str):
            eos = self.tokenizer.eos_token or ""
            text = prompt + completion
            text = text if text.endswith(eos) else text + eos
            ids = self.tokenizer(text)["input_ids"]
        else:
            ids = self.tokenizer.apply_chat_template(
                prompt + completion,
                chat_template=self.chat_template,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
        if len(ids) > self.max_length and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "reward %s: a text has %d tokens and the model takes %d; such texts lose their "
                "beginning",
                self.__name__,
                len(ids),
                self.max_length,
            )
        return list(ids[-self.max_length :])

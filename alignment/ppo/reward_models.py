"""A sequence classifier as a reward, read with its own tokenizer and chat template."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl.models import prepare_deepspeed

from alignment.errors import DataError
from alignment.models.limits import max_positions
from alignment.ppo.adapters import active_adapter, add_saved_adapter, evaluating
from alignment.ppo.reward_functions import Reward, ScoreStats, check_scores
from data_tools.formats.record import Record, Unusable
from data_tools.rendering import Renderer, from_transformers

logger = logging.getLogger(__name__)

#: Tokens of the longest text, if a model does not say how many it can read.
_UNLIMITED = 10**9
#: Rows that a reward model scores at once.
SCORED_ROWS = 16


class ModelReward(Reward):
    """Scores prompt and completion as the text that the reward model was trained on.

    Its own chat template renders chats (the policy's if it has none); plain text ends with its EOS,
    as in TRL's RewardTrainer. The score is that of the last token that is not padding.
    """

    def __init__(
        self,
        classifier: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        chat_template: str | None = None,
        stats: ScoreStats | None = None,
        batch_size: int = SCORED_ROWS,
    ) -> None:
        super().__init__(name)
        self.tokenizer: Any = tokenizer
        light = from_transformers(tokenizer)
        if chat_template is not None:
            light = light.changed(template=chat_template, eos=light.eos)
        self._renderer = Renderer(light, as_chat=False)
        self.stats = stats
        self.batch_size = batch_size
        self.max_length = _UNLIMITED
        self.vocabulary: int | None = None
        self.device = torch.device("cpu")
        self._has_warned = False
        self.model: nn.Module | None = None
        self._classifier: PreTrainedModel | None = None
        if classifier is not None:
            self._take(classifier)

    @property
    def classifier(self) -> PreTrainedModel:
        """The sequence classifier."""
        assert self._classifier is not None
        return self._classifier

    def _take(self, classifier: PreTrainedModel) -> None:
        # transformers finds the last token of a row by it, and refuses a batch without it
        classifier.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self._classifier = classifier.eval().requires_grad_(False)
        self._limit(classifier.config)

    def _limit(self, config: PreTrainedConfig) -> None:
        """Take from a model's config how long a text and which token ids it can read."""
        self.max_length = max_positions(config) or _UNLIMITED
        self.vocabulary = config.get_text_config().vocab_size

    def place(self, accelerator: Any) -> None:
        """Move the model to the device, or wrap it in DeepSpeed or FSDP as TRL does."""
        self.device = accelerator.device
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
        # texts of similar length together: a batch is padded to its longest
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        scores = torch.zeros(len(rows))
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            scores[index] = self._score([rows[row] for row in index]).float().cpu()
        return check_scores(scores, count=len(rows), source=self.__name__)

    def _score(self, rows: list[list[int]]) -> Tensor:
        model = self.model if self.model is not None else self.classifier
        with torch.no_grad():
            scores: Tensor = model(**self._pad(rows)).logits[:, 0]
        return scores

    def _pad(self, rows: list[list[int]]) -> dict[str, Tensor]:
        batch = self.tokenizer.pad(
            {"input_ids": rows}, padding=True, padding_side="right", return_tensors="pt"
        ).to(self.device)
        return {key: batch[key] for key in ("input_ids", "attention_mask")}

    def _token_ids(self, prompt: Any, completion: Any) -> list[int]:
        try:
            spoken = self._renderer.answer(Record("sft"), prompt, completion)
            (tokens,) = self._renderer.encode([spoken])
            tokens.check_embeddings(self.vocabulary)
        except Unusable as error:
            raise DataError(f"reward {self.__name__}: {error.reason}", error.remedy) from error
        ids = tokens.ids
        if len(ids) > self.max_length and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "reward %s: a text has %d tokens and the model takes %d; such texts lose their "
                "beginning",
                self.__name__,
                len(ids),
                self.max_length,
            )
        # the end stays: the score is read at the last token
        return list(ids[-self.max_length :])


class AdapterReward(ModelReward):
    """A reward model that is a LoRA adapter, on the policy's base or merged into one of its own.

    If the policy is an adapter on the same base, `share` adds this one to that base, and no second
    copy of it is loaded. Else a base is loaded and merged when it is first needed.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        base: str,
        load: Callable[[], PreTrainedModel],
        **keys: Any,
    ) -> None:
        super().__init__(None, tokenizer, **keys)
        self.folder = folder
        self.base = base
        self._load = load
        self._shared: tuple[PeftModel, str, nn.Linear] | None = None

    @property
    def classifier(self) -> PreTrainedModel:
        """The adapter merged into a base of its own, loaded at the first call."""
        if self._classifier is None:
            self._take(self._load())
        return super().classifier

    def share(self, model: nn.Module, name: str) -> bool:
        """Put the adapter on the policy's base, if that is the base it was trained on.

        Args:
            model: The policy.
            name: Of the adapter there; PEFT must not save it with the policy.

        Returns:
            Whether the base is shared.
        """
        if not isinstance(model, PeftModel):
            return False
        config = model.get_base_model().config
        # an adapter on other weights would run without an error and mean nothing
        if _place_of(config.name_or_path) != _place_of(self.base):
            return False
        others = add_saved_adapter(model, self.folder, name)
        weight = next(x for key, x in others.items() if key.endswith("weight"))
        bias = next((x for key, x in others.items() if key.endswith("bias")), None)
        head = nn.Linear(weight.size(1), 1, bias=bias is not None)
        head.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        head.requires_grad_(False)
        self._limit(config)
        self._shared = (model, name, head)
        logger.info("reward %s shares the policy's base", self.__name__)
        return True

    def place(self, accelerator: Any) -> None:
        """Move the parts that are not shared to the device."""
        self.device = accelerator.device
        if self._shared is None:
            super().place(accelerator)
        else:
            self._shared[2].to(accelerator.device)

    def _score(self, rows: list[list[int]]) -> Tensor:
        if self._shared is None:
            return super()._score(rows)
        model, name, head = self._shared
        batch = self._pad(rows)
        # PPO trains the policy in train mode; its dropout would make scores random
        with torch.no_grad(), evaluating(model), active_adapter(model, name):
            hidden = model.get_base_model().base_model(**batch, use_cache=False).last_hidden_state
        # As in AutoModelForSequenceClassification: at the last token that is not padding.
        steps = torch.arange(hidden.size(1), device=hidden.device)
        last = torch.where(batch["input_ids"] != self.tokenizer.pad_token_id, steps, 0).amax(dim=1)
        scores: Tensor = head(hidden[torch.arange(len(rows)), last].float())[:, 0]
        return scores


def _place_of(name: str) -> str:
    """A folder by its full path, a hub name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name

"""The critic V(s_t): a value head on the policy's trunk, a model of its own, or a LoRA adapter.

All three are a submodule `critic` of the policy, so that one wrapped forward, one optimizer and one
checkpoint hold everything. `from_pretrained` of the saved policy never sees them: their weights are
in `value_head.safetensors` (head, lora) or the folder `critic/` (model).

Shapes: B rows, P prompt tokens, T response tokens, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import ConfigError
from alignment.ppo.adapters import (
    active_adapter,
    add_critic_adapter,
    disable_dropout,
    read_unquantized,
    recomputed_with,
)
from alignment.ppo.forward import response_window
from alignment.runs import VALUE_HEAD

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.reward_functions import ScoreStats
    from alignment.ppo.reward_models import ModelReward

CRITIC = "critic"


def is_critic_parameter(name: str) -> bool:
    """Whether a parameter is the critic's (of its module or adapter), by its name."""
    return CRITIC in name.split(".")


class ValueHead(nn.Module):
    """A linear map from a hidden state to its value, in float32; zero at first.

    `offset` is added to every value. `center_values` moves it, the optimizer never does. It is a
    number and no parameter, so that casting, sharding and an optimizer with copies of its own
    (DeepSpeed) leave it alone. Until the weights have learned, it is the whole value: the mean
    return, a baseline that knows no state.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        # random values would be noise in the first advantages, before the critic has learned
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.offset = 0.0

    def forward(self, hidden: Tensor, **inputs: Any) -> Tensor:
        """Give the value of each state.

        Shape:
            hidden: `(B, T, H)`; the result: `(B, T)`.
        """
        # returns of 10 to 100 need more than the 3 digits of bfloat16
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)
        return values.float() + self.offset

    def get_extra_state(self) -> Tensor:
        """Put the offset into `state_dict`."""
        # a Python float: less than float64 would resume to other bits
        return torch.tensor(self.offset, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the offset from a `state_dict`."""
        self.offset = float(state)


class ModelCritic(nn.Module):
    """A trunk with a head, apart from the policy; it reads the same tokens."""

    def __init__(self, trunk: nn.Module, head: ValueHead) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.head = head

    def forward(self, hidden: Tensor, *, response_length: int, **inputs: Any) -> Tensor:
        """Value each state, from the inputs; the policy's hidden states are not read.

        Shape:
            inputs: `input_ids` and `attention_mask` `(B, P + T)`; the result: `(B, T)`.
        """
        output = self.trunk(**inputs, use_cache=False)
        values: Tensor = self.head(response_window(output.last_hidden_state, response_length))
        return values


class LoraCritic(nn.Module):
    """A LoRA adapter on the policy's frozen base, with a head.

    It makes a second pass through the base with the adapter `critic`, and shares only frozen
    weights with the policy.
    """

    def __init__(self, model: PeftModel, head: ValueHead) -> None:
        super().__init__()
        self.head = head
        self._model = [model]  # in a list, else the policy would be a submodule of its submodule

    def forward(self, hidden: Tensor, *, response_length: int, **inputs: Any) -> Tensor:
        """Value each state, from the inputs; the policy's hidden states are not read.

        Shape:
            inputs: `input_ids` and `attention_mask` `(B, P + T)`; the result: `(B, T)`.
        """
        (model,) = self._model
        trunk = model.get_base_model().base_model
        with active_adapter(model, CRITIC), recomputed_with(model, CRITIC):
            output = trunk(**inputs, use_cache=False)
        values: Tensor = self.head(response_window(output.last_hidden_state, response_length))
        return values


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the last hidden state."""
    return int(model.config.get_text_config().hidden_size)


def critic_from_reward_model(
    classifier: PreTrainedModel, *, dtype: torch.dtype, stats: ScoreStats | None = None
) -> ModelCritic:
    """Start the critic as the reward model: its trunk, and its score head as the value head.

    As in InstructGPT (arXiv 2203.02155, appendix C.4).

    Args:
        classifier: The reward model, which does not change.
        dtype: Of the weights that are trained.
        stats: Mean and deviation that scores are normalised by, if they are; then the values start
            on the same scale.

    Raises:
        ConfigError: the classifier has no linear head with one output.
    """
    classifier = copy.deepcopy(classifier).to(dtype)  # type: ignore[arg-type]
    classifier.requires_grad_(True)
    score = [
        module
        for name, module in classifier.named_children()
        if isinstance(module, nn.Linear) and module.out_features == 1
    ]
    if len(score) != 1:
        raise ConfigError(
            f"critic: {type(classifier).__name__} has {len(score)} linear heads with one output",
            "set critic_init: policy",
        )
    head = ValueHead(score[0].in_features)
    with torch.no_grad():
        head.linear.weight.copy_(score[0].weight.float())
        if score[0].bias is not None:
            head.linear.bias.copy_(score[0].bias.float())
        if stats is not None:
            head.linear.weight.div_(stats.std)
            head.linear.bias.sub_(stats.mean).div_(stats.std)
    return ModelCritic(classifier.base_model, head)


def critic_from_policy(
    model: nn.Module, *, dtype: torch.dtype, trust_remote_code: bool = False
) -> ModelCritic:
    """Start the critic as a copy of the policy's trunk, its adapter merged, with a zero head.

    Args:
        model: The policy; the weights of a quantized base, which cannot be trained, are read again.
        dtype: Of the weights that are trained.
        trust_remote_code: Whether code beside the base may run when it is read again.
    """
    is_quantized = "quantization_config" in policy_of(model).config.to_dict()
    whole: Any
    if is_quantized and isinstance(model, PeftModel):
        whole = read_unquantized(model, dtype=dtype, trust_remote_code=trust_remote_code)
    else:
        whole = copy.deepcopy(model)
    if isinstance(whole, PeftModel):
        whole = whole.merge_and_unload()
    whole.base_model.to(dtype).requires_grad_(True)
    return ModelCritic(whole.base_model, ValueHead(hidden_size(whole)))


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether token ids mean the same to both, which a critic on another trunk needs."""
    return bool(one.get_vocab() == other.get_vocab())


def head_of(model: nn.Module) -> ValueHead:
    """Return the value head of a policy's critic of any kind."""
    critic = policy_of(model).critic
    head: ValueHead = critic if isinstance(critic, ValueHead) else critic.head
    return head


def save_critic(model: nn.Module, folder: Path) -> None:
    """Write the critic into a policy's folder, as files that its `from_pretrained` ignores.

    PEFT saves the weights of a LoRA critic as the adapter folder `critic/`; its head is written
    here.
    """
    critic = policy_of(model).critic
    if isinstance(critic, ModelCritic):
        target = folder / CRITIC
        critic.trunk.save_pretrained(target)
        _save_head(critic.head, target / VALUE_HEAD)
    else:
        _save_head(head_of(model), folder / VALUE_HEAD)


def load_critic(model: nn.Module, folder: Path) -> None:
    """Read back what `save_critic` wrote.

    Raises:
        ConfigError: the folder holds no critic of this kind.
    """
    critic = policy_of(model).critic
    is_model = isinstance(critic, ModelCritic)
    head_file = folder / CRITIC / VALUE_HEAD if is_model else folder / VALUE_HEAD
    if not head_file.is_file():
        raise ConfigError(
            f"{folder}: the checkpoint holds no critic of this kind ({head_file.name})",
            "keep the key `critic` as it was, or start again with --overwrite",
        )
    head_of(model).load_state_dict(load_file(head_file))
    if is_model:
        saved = type(critic.trunk).from_pretrained(folder / CRITIC, dtype=critic.trunk.dtype)
        critic.trunk.load_state_dict(saved.state_dict())


def load_critic_adapter(model: nn.Module, folder: Path) -> None:
    """Read the weights of a critic that is an adapter from a checkpoint.

    For the best checkpoint, of which Trainer reads the policy's adapter alone. At a resume it reads
    every adapter by itself.
    """
    if not isinstance(policy_of(model).critic, LoraCritic):
        return
    assert isinstance(model, PeftModel)
    set_peft_model_state_dict(model, load_peft_weights(str(folder / CRITIC)), adapter_name=CRITIC)


def policy_of(model: nn.Module) -> Any:
    """Return the causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _save_head(head: ValueHead, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or have gaps
    state = {name: x.detach().cpu().contiguous() for name, x in head.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})


def make_critic(
    model: nn.Module,
    *,
    args: PPOConfig,
    rewards: list[ModelReward],
    tokenizer: PreTrainedTokenizerBase,
) -> nn.Module:
    """Build the critic that the keys `critic` and `critic_init` name.

    Args:
        model: The causal language model, or its PEFT wrapper.
        args: The keys.
        rewards: Reward models that a critic may start from.
        tokenizer: The policy's.

    Raises:
        ConfigError: it is to start from a reward model and none has the policy's vocabulary, or it
            is to be an adapter and the policy has no frozen base.
    """
    if args.critic == "head":
        return ValueHead(hidden_size(policy_of(model)))
    if args.critic == "lora":
        return lora_critic(model, without_dropout=args.disable_dropout)
    dtype = torch.float32  # bfloat16 rounds most updates of 1e-5 away
    if args.critic_init != "policy":
        for reward in rewards:
            if same_vocabulary(reward.tokenizer, tokenizer):
                stats = reward.stats if args.normalize_reward else None
                return critic_from_reward_model(reward.classifier, dtype=dtype, stats=stats)
        if args.critic_init == "reward_model":
            raise ConfigError(
                "critic_init: reward_model, but no reward model has the policy's vocabulary",
                "set critic_init: policy",
            )
    return critic_from_policy(model, dtype=dtype, trust_remote_code=args.trust_remote_code)


def lora_critic(model: nn.Module, *, without_dropout: bool) -> LoraCritic:
    """Add the critic's adapter to a LoRA policy, and its head.

    Raises:
        ConfigError: the policy is a whole model.
    """
    if not isinstance(model, PeftModel):
        raise ConfigError(
            "critic: lora shares the frozen base of a LoRA policy, and this policy has none",
            "set use_peft: true, or critic: head or model",
        )
    add_critic_adapter(model, CRITIC)
    if without_dropout:
        disable_dropout(model)
    return LoraCritic(model, ValueHead(hidden_size(model.get_base_model())))


def split_groups(optimizer: torch.optim.Optimizer, critic: set[int], *, lr: float) -> None:
    """Move the parameters with these ids to groups of their own, with their own learning rate."""
    # Trainer has split them by weight decay already, which must hold for the critic too
    for group in list(optimizer.param_groups):
        ours = [p for p in group["params"] if id(p) in critic]
        if ours:
            group["params"] = [p for p in group["params"] if id(p) not in critic]
            rest = {key: value for key, value in group.items() if key not in ("params", "lr")}
            optimizer.add_param_group({**rest, "params": ours, "lr": lr})


def keep_critic_apart(policy: Any) -> None:
    """Leave the critic out of what `save_pretrained` writes and of what a load reports missing.

    Args:
        policy: The causal language model itself, with its critic.
    """
    policy._keys_to_ignore_on_save |= {f"{CRITIC}.{name}" for name in policy.critic.state_dict()}
    policy.register_load_state_dict_post_hook(_forgive_missing_critic)


def _forgive_missing_critic(module: nn.Module, found: Any) -> None:
    found.missing_keys[:] = [key for key in found.missing_keys if not is_critic_parameter(key)]


@contextmanager
def without_critic(policy: Any) -> Iterator[None]:
    """Take the critic off the policy for a while, so that `named_parameters` are the policy's."""
    critic = policy.critic
    del policy.critic
    try:
        yield
    finally:
        policy.critic = critic

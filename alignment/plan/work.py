"""What a stage will do to memory, in numbers: the shape of its models and of its batches."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Form = Literal["full", "lora", "qlora"]
Device = Literal["cpu", "gpu"]
Sharding = Literal["ddp", "zero2", "zero3"]

FORMS: tuple[Form, ...] = ("full", "lora", "qlora")
SHARDINGS: dict[Sharding, str] = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3 / FSDP"}
#: Rows that a reward model scores at once (`alignment.ppo.reward_models`).
REWARD_ROWS = 16


@dataclass(frozen=True, slots=True)
class Lora:
    """The keys of an adapter; ``is_trained`` where an earlier stage has trained it already."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    use_dora: bool = False
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A model that scores: its shape, how its weights are stored, what of it is shared.

    ``rank`` is that of an adapter that sits on the policy's own base; None: a model of its own.
    """

    config: "PreTrainedConfig"
    dtype: str
    lora: Lora | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of one process: B sequences of at most T tokens; dpo and rm count both sides.

    ``prompt`` and ``rollout`` are ppo's: tokens of the longest prompt, answers sampled at once.
    """

    rows: int
    length: int
    accumulation: int = 1
    prompt: int = 0
    rollout: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One stage in one form on one device.

    ``dtype`` is that of the stored weights, ``autocast`` whether the forward computes in bfloat16;
    ``quantized`` is the form of the frozen base (4bit, nested-4bit, 8bit or empty).
    """

    stage: str
    config: "PreTrainedConfig"
    form: Form
    device: Device
    batch: Batch
    dtype: str = "float32"
    autocast: bool = False
    lora: Lora = field(default_factory=Lora)
    quantized: str = ""
    attention: str | None = None
    checkpointing: bool = True
    checkpointing_kwargs: tuple[tuple[str, Any], ...] = ()
    drops_out: bool = True
    optimizer: str = "adamw_torch_fused"
    reference: bool = True
    precomputes_reference: bool = False
    critic: str = "head"
    critic_config: "PreTrainedConfig | None" = None
    rewards: tuple[RewardModel, ...] = ()
    entropy_gradient: bool = False

    @property
    def depth(self) -> int:
        """Layers of the policy."""
        return int(self.config.get_text_config().num_hidden_layers)

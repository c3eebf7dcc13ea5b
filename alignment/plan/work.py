"""What is planned: the models and batches of a stage, a machine, and how a run is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig

    from alignment.registry import Stage

Form = Literal["full", "lora", "qlora"]
Device = Literal["cpu", "gpu"]
Sharding = Literal["ddp", "zero2", "zero3"]

FORMS: tuple[Form, ...] = get_args(Form)
SHARDINGS: tuple[Sharding, ...] = get_args(Sharding)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine, with its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What a stage is planned for.

    Attributes:
        device: Where it computes.
        gpus: Those of this machine.
        counts: How many devices to compare; empty: each stage has its own.
        limit: Bytes of one device; None: unknown.
        tflops: What a device reaches, in 1e12 operations a second; None: not given.
    """

    device: Device
    gpus: Sequence[Gpu] = ()
    counts: Sequence[int] = ()
    limit: int | None = None
    tflops: float | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What `--nproc` and `--accelerate` say; ``sharding`` is None if it is none of ours."""

    gpus: int = 1
    sharding: Sharding | None = "ddp"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A model that scores: its shape, and the dtype of its weights.

    ``adapter`` is one on the policy's own base; None: a whole model.
    """

    config: PreTrainedConfig
    dtype: str
    adapter: LoraConfig | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of one process.

    Attributes:
        rows: Sequences; a pair has two.
        length: Tokens of each.
        accumulation: Batches of one optimizer step.
        prompt: Tokens of the longest prompt, if a stage samples.
        rollout: Answers sampled at once, if a stage samples.
    """

    rows: int
    length: int
    accumulation: int = 1
    prompt: int = 0
    rollout: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One stage in one form on one device.

    Attributes:
        stage: The facts of the stage.
        config: The shape of the policy.
        form: What of it is trained.
        device: Where it computes.
        batch: The batch of one process.
        dtype: Of the stored weights.
        autocast: Whether the forward computes in bfloat16.
        adapter: The policy's adapter; needed unless ``form`` is full.
        is_adapter_trained: Whether an earlier stage trained it.
        quantized: How the frozen base is stored: 4bit, nested-4bit, 8bit, or empty.
        attention: The attention implementation; None: the model's default.
        checkpointing: Whether activations are computed again in the backward.
        checkpointing_kwargs: Further arguments of that.
        drops_out: Whether the policy keeps its dropout.
        optimizer: The key ``optim``.
        reference: Whether the policy is compared with a reference model.
        precomputes_reference: Whether that is done before training.
        critic: head, lora or model, if the stage trains one.
        critic_config: The shape of a critic that is a model; None: the policy's.
        rewards: The reward models.
        entropy_gradient: Whether the loss has an entropy bonus.
    """

    stage: Stage
    config: PreTrainedConfig
    form: Form
    device: Device
    batch: Batch
    dtype: str = "float32"
    autocast: bool = False
    adapter: LoraConfig | None = None
    is_adapter_trained: bool = False
    quantized: str = ""
    attention: str | None = None
    checkpointing: bool = True
    checkpointing_kwargs: tuple[tuple[str, Any], ...] = ()
    drops_out: bool = True
    optimizer: str = "adamw_torch_fused"
    reference: bool = False
    precomputes_reference: bool = False
    critic: str = "head"
    critic_config: PreTrainedConfig | None = None
    rewards: tuple[RewardModel, ...] = ()
    entropy_gradient: bool = False

    @property
    def depth(self) -> int:
        """Layers of the policy."""
        return int(self.config.get_text_config().num_hidden_layers)

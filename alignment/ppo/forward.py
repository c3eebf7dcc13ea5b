"""One forward of the policy that gives log-probabilities, entropy and values of the response.

Everything goes through the module that Trainer wraps, so DDP, FSDP and DeepSpeed see one forward.
Shapes: B rows, P prompt tokens (padded on the left), T response tokens (padded on the right).
"""

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


@dataclass
class ResponseOutput(ModelOutput):
    """What the policy and the critic say of each response token; all fields are `(B, T)`."""

    logps: Tensor = None  # type: ignore[assignment]  # ModelOutput wants a default
    entropy: Tensor = None  # type: ignore[assignment]
    state_values: Tensor = None  # type: ignore[assignment]  # `values` is a method of a dict
    aux_loss: Tensor = None  # type: ignore[assignment]


def add_response_forward(model: nn.Module, *, critic: nn.Module | None = None) -> None:
    """Let `model(input_ids, attention_mask, response_length=T)` return a ResponseOutput.

    The model must have TRL's fused LM head, which divides by the temperature and keeps the logits
    out of memory. Without `response_length` the forward is the one it was, so generation, saving
    and evaluation are unchanged. The critic becomes the submodule `critic` of the model.

    Args:
        model: The causal language model itself, not its PEFT wrapper.
        critic: Maps hidden states and inputs to values; see `alignment.ppo.critic`.
    """
    fused = model.forward
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
    if critic is not None:
        model.critic = critic

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        response_length: int | None = None,
        with_values: bool = False,
        detach_trunk: bool = False,
        **kwargs: Any,
    ) -> Any:
        if response_length is None:
            return fused(*args, **kwargs)
        if takes_positions:
            kwargs["position_ids"] = positions(kwargs["attention_mask"])
        hidden: list[Tensor] = []

        def keep_response(module: nn.Module, inputs: Any, output: Any) -> Any:
            # State s_t is what stands before token t, so the window is one to the left.
            window = response_window(output.last_hidden_state, response_length)
            hidden.append(window)
            output.last_hidden_state = window
            return output

        labels = kwargs["input_ids"][:, -response_length:].masked_fill(
            kwargs["attention_mask"][:, -response_length:] == 0, -100
        )
        handle = self.base_model.register_forward_hook(keep_response)
        try:
            output = fused(*args, **kwargs, shift_labels=labels, fused_lm_head=True)
        finally:
            handle.remove()
        values: Any = None
        if with_values:
            trunk = hidden[0].detach() if detach_trunk else hidden[0]
            kwargs.pop("output_router_logits", None)
            values = self.critic(trunk, response_length=response_length, **kwargs)
        return ResponseOutput(
            logps=output.log_probs,
            entropy=output.entropy,
            state_values=values,
            aux_loss=output.aux_loss,
        )

    model.forward = types.MethodType(forward, model)


def positions(attention_mask: Tensor) -> Tensor:
    """Number the real tokens from 0, as generation does, so that padding moves none of them.

    Shape:
        attention_mask, result: `(B, L)`.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def response_window(hidden: Tensor, response_length: int) -> Tensor:
    """Cut the states before each response token out of all states.

    Shape:
        hidden: `(B, P + T, H)`; the result: `(B, T, H)`.
    """
    return hidden[:, -response_length - 1 : -1]

"""Sizes of a model: bytes of its tensors, of quantized weights, and of its layers."""

import torch
from torch import nn

#: Bytes of a weight that bitsandbytes quantizes, with its scales: a float32 for each 64 weights;
#: nested, a byte for each 64 and a float32 for each 256 of those; 8 bit, one scale a row.
QUANTIZED_BYTES = {"4bit": 0.5 + 4 / 64, "nested-4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The repeated blocks of a transformer: its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())


def bytes_of(model: nn.Module, *, is_trained: bool = False) -> int:
    """Bytes of the parameters and buffers of a model, or of what is trained; shared ones once."""
    tensors = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
    return sum(x.nbytes for x in tensors.values() if x.requires_grad or not is_trained)


def quantized_saving(model: nn.Module, kind: str) -> int:
    """Bytes saved by quantizing the frozen linear layers; embeddings and head stay as they are."""
    if not kind:
        return 0
    saved = sum(w.numel() * (w.element_size() - QUANTIZED_BYTES[kind]) for w in _frozen(model))
    return int(saved)


def largest_frozen(model: nn.Module) -> int:
    """Weights of the largest frozen linear layer; a product dequantizes all of them."""
    return max((w.numel() for w in _frozen(model)), default=0)


def gathered_bytes(model: nn.Module, kind: str) -> int:
    """Bytes that are whole on each device while weights are sharded.

    FSDP keeps its root (embeddings and head) through forward and backward, and fetches the next
    layer while one computes: what is outside the layers, and two layers.
    """
    layers = decoder_layers(model)
    inside = sum(map(bytes_of, layers))
    stored = inside - quantized_saving(model, kind)
    return bytes_of(model) - inside + 2 * stored // max(len(layers), 1)


def _frozen(model: nn.Module) -> list[torch.Tensor]:
    return [
        module.weight
        for layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad and "lora_" not in name
    ]

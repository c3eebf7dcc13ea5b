"""The device that models are put on outside of training."""

import torch


def default_device() -> torch.device:
    """The accelerator of this process, the CPU if there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")


def describe_device() -> str:
    """The accelerator's name, or `cpu`."""
    device = default_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

"""The device that a process computes on, and the type of the weights that it holds there."""

import torch

from boson_multimodal.errors import InputError

TORCH_DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
"""Values of ``--torch_dtype``; what ``auto`` is depends on the device."""


def pick_device(local_rank: int) -> torch.device:
    """One GPU per process, or the CPU. The GPU becomes the process's current one.

    Args:
        local_rank: this process's number on its machine; -1 for a process by itself.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", max(local_rank, 0))
    torch.cuda.set_device(device)
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that ``name`` means on ``device``: ``auto`` is bfloat16 on a GPU and float32 elsewhere.

    Raises:
        InputError: if ``name`` is none of ``TORCH_DTYPES``.
    """
    if name not in TORCH_DTYPES:
        raise InputError(f"torch_dtype is {name!r}; it must be one of {list(TORCH_DTYPES)}")
    automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
    return TORCH_DTYPES[name] or automatic

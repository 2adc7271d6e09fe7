"""Select the device of a process and the type of its weights."""

import torch

from boson_multimodal.cards import require_bfloat16, require_kernels
from boson_multimodal.errors import InputError

TORCH_DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
"""The values of ``--torch_dtype``. The meaning of ``auto`` depends on the device."""


def turn_off_cudnn_attention() -> None:
    """Keep scaled dot-product attention off cuDNN in this process; the flash and the efficient kernel stay.

    On Hopper PyTorch prefers cuDNN's attention, which builds a plan for each new shape. Samples differ in length, and
    each column of generated speech has a longer cache: nearly every call would build one, which takes longer than the
    attention.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def pick_device(local_rank: int) -> torch.device:
    """Return the GPU of this process and make it the current one, or return the CPU if there is no GPU.

    cuDNN's attention is turned off, for the models that come with a library too (see :func:`turn_off_cudnn_attention`).

    Args:
        local_rank: the rank of this process on its machine; -1 for a single process.

    Raises:
        InputError: if this build of PyTorch has no kernels for the GPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", max(local_rank, 0))
    torch.cuda.set_device(device)
    turn_off_cudnn_attention()
    require_kernels(device)
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type that ``name`` stands for on ``device``: ``auto`` is bfloat16 on a GPU, else float32.

    Raises:
        InputError: if ``name`` is not in ``TORCH_DTYPES``.
    """
    if name not in TORCH_DTYPES:
        raise InputError(f"torch_dtype is {name!r}; it must be one of {list(TORCH_DTYPES)}")
    automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
    return TORCH_DTYPES[name] or automatic


def usable_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type that ``name`` stands for, if the device of this process computes in it.

    Raises:
        InputError: as :func:`resolve_dtype`; if this build of PyTorch has no kernels for the GPU; or if the GPU is too
            old for bfloat16.
    """
    dtype = resolve_dtype(name, device)
    require_kernels(device)
    if dtype == torch.bfloat16:
        require_bfloat16(device)
    return dtype


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device by its name. Raises ``InputError`` if this machine has none of this name."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise InputError(f"--device {device}: cannot be used ({error})") from error

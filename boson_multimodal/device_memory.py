"""Keep the memory that PyTorch's allocator reserves on a GPU close to the memory that is in use; on a CPU, keep it.

The allocator keeps freed memory for itself, in the pieces in which it asked for it. Micro-batches differ in length, so
old pieces do not fit new tensors, and reserved memory grows past what any step uses. One piece that is as large as a
step needs can be divided anew in each step.

``expandable_segments:True`` would do the same inside the allocator. It is not set here, because the first allocation
fails on WSL 2 with some drivers, and because an allocation that fails for lack of memory can leave it unusable, while a
trial of the fullest micro-batch must be able to fail. Whoever sets it, or any other option of the allocator, has it.
"""

import ctypes
import os
import sys

import torch

ALLOCATOR_OPTIONS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables in which a user sets up the allocator; the second is the older name."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Options of glibc's ``mallopt``."""


def release_cached_memory(device: torch.device) -> None:
    """Give the memory that the allocator keeps without use back to the GPU. Nothing happens on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def hold_one_block(device: torch.device, peak: int) -> None:
    """Let the allocator keep one block, with which the memory in use can rise to ``peak`` without a further one.

    Call it between two steps, after a step that needs as much memory as any. Nothing happens on a CPU, or if the user
    has set up the allocator: some of its options forbid to divide a large block.

    Args:
        device: of the model.
        peak: bytes, the largest ``torch.cuda.memory_allocated`` within that step.
    """
    if device.type != "cuda" or any(os.environ.get(name) for name in ALLOCATOR_OPTIONS):
        return
    release_cached_memory(device)
    missing = peak - torch.cuda.memory_allocated(device)
    if missing > 0:
        torch.empty(missing, dtype=torch.uint8, device=device)  # freed at once, and kept by the allocator


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees on a CPU, for the next step. Nothing happens with another C library.

    By default it gives the memory of large tensors back at once, and the system clears every page when the next tensor
    gets it: a tenth of the time of a step of a small model.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 << 20)

"""Recognise the errors that say that memory is used up, on a GPU or in the machine."""

import sys
from enum import StrEnum

from boson_multimodal.errors import NamedError

GPU_SIGNS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cuda failure 'out of memory'",
    "Cuda failure 2 'out of memory'",
)
"""Parts of messages that torch raises as other errors than its ``OutOfMemoryError``: those of the driver, of libraries
that allocate on their own, and of NCCL."""
CPU_SIGN = "DefaultCPUAllocator: can't allocate memory"
"""torch has no class of its own for the memory of the CPU."""
ADVICE_OF_TORCH = (" If reserved but unallocated", "\n")
"""Where torch's messages turn to its own settings, or to debugging."""


class Memory(StrEnum):
    """What is used up. The values are words for messages."""

    GPU = "GPU memory"
    MACHINE = "memory"


def memory_used_up(error: BaseException) -> Memory | None:
    """Return which memory an error says is used up, or None for any other error."""
    torch = sys.modules.get("torch")  # not imported: commands that do without it start faster
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return Memory.GPU
    if isinstance(error, MemoryError):
        return Memory.MACHINE
    if not isinstance(error, RuntimeError) or isinstance(error, NamedError):
        return None
    if any(sign in str(error) for sign in GPU_SIGNS):
        return Memory.GPU
    return Memory.MACHINE if CPU_SIGN in str(error) else None


def out_of_memory(error: BaseException) -> str | None:
    """Return ``out of GPU memory (what the error says)``, without torch's own advice; None for any other error."""
    memory = memory_used_up(error)
    if memory is None:
        return None
    reason = str(error)
    for beginning in ADVICE_OF_TORCH:
        reason = reason.partition(beginning)[0]
    return f"out of {memory} ({reason.rstrip('.')})" if reason else f"out of {memory}"

"""GPUs by name: how much memory they have, and how fast their data sheets say that they are."""

import re
from dataclasses import dataclass

import torch

from boson_multimodal.cards import GB, has_bfloat16
from boson_multimodal.errors import InputError

CONTEXT_BYTES = int(0.5 * GB)
"""What a process takes of a GPU outside torch's allocator (CUDA context, kernels, libraries): an assumption."""
DRIVER_SHARE = 0.02
"""The part of a named card's memory that its driver keeps: an assumption. Of a present card, torch knows the rest."""
_NOT_PART_OF_A_NAME = frozenset("nvidia geforce tesla gpu graphics sxm sxm2 sxm4 sxm5 hbm2e hbm3".split())

_CARDS = (
    (("T4",), 15360, None),
    (("V100-16GB",), 16384, None),
    (("V100-32GB",), 32768, None),
    (("RTX 2080 Ti",), 11264, None),
    (("RTX 3080",), 10240, 59.5),
    (("RTX 3090",), 24576, 71.0),
    (("RTX 4070 Ti",), 12282, 80.2),
    (("RTX 4080",), 16376, 97.5),
    (("RTX 4090",), 24564, 165.2),
    (("RTX 5080",), 16303, 112.6),
    (("RTX 5090",), 32607, 209.5),
    (("A10",), 23028, 125.0),
    (("A10G",), 23028, 70.0),
    (("L4",), 23034, 121.0),
    (("A40",), 46068, 149.7),
    (("RTX A6000", "A6000"), 49140, 154.8),
    (("L40S",), 46068, 362.0),
    (("A100-40GB", "A100-PCIE-40GB"), 40960, 312.0),
    (("A100-80GB", "A100 80GB PCIe"), 81920, 312.0),
    (("H100", "H100 80GB"), 81559, 989.0),
    (("H100 PCIe",), 81559, 756.0),
    (("H200",), 143771, 989.0),
    (("B200",), 183359, 2250.0),
)
"""Names, memory in MiB as nvidia-smi shows it, and the dense bf16 peak in TFLOP/s of the maker's data sheet, with sums
in fp32; None for cards that have no bf16."""


@dataclass(frozen=True)
class GpuCard:
    """A GPU, present or not.

    Attributes:
        name: for messages.
        memory: bytes that the card has.
        available: bytes that torch's allocator can get: without what the driver, the CUDA context and other processes
            take.
        bf16_tflops: peak of its data sheet in 1e12 operations per second; None if it is not known.
        has_bf16: whether it computes in bfloat16; None if that is not known.
    """

    name: str
    memory: int
    available: int
    bf16_tflops: float | None
    has_bf16: bool | None


def named_card(text: str) -> GpuCard:
    """Return the card of a name (``RTX 4090``), or one with so many GB of memory (``24``, ``24GB``).

    Raises:
        InputError: if the text names no known card, or several.
    """
    found = _matches(text)  # first, because 4090 is a name and not a size
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:gb)?\s*", text, re.IGNORECASE)
    if size and not found:
        memory = int(float(size[1]) * GB)
        if memory <= CONTEXT_BYTES:
            raise InputError(f"gpu is {text!r}; give a card's name, or its memory in GB, above {CONTEXT_BYTES / GB}")
        return GpuCard(f"a card of {size[1]} GB", memory, memory - CONTEXT_BYTES, None, None)
    if len(found) != 1:
        names = ", ".join(name for name in (found or _by_name()))
        what = "can be one of several cards" if found else "is no card that is known here"
        raise InputError(f"gpu is {text!r}, which {what}: {names}; give one of these, or the memory in GB, such as 24")
    name = found[0]
    mebibytes, tflops = _by_name()[name]
    memory = mebibytes * 2**20
    return GpuCard(name, memory, int(memory * (1 - DRIVER_SHARE)) - CONTEXT_BYTES, tflops, tflops is not None)


def present_card(device: torch.device) -> GpuCard:
    """Return a GPU of this machine. What other processes hold of it now is not available."""
    properties = torch.cuda.get_device_properties(device)
    free, _ = torch.cuda.mem_get_info(device)  # the context of this process is in use by now
    found = _matches(properties.name)
    tflops = _by_name()[found[0]][1] if len(found) == 1 else None
    available = free + torch.cuda.memory_reserved(device)
    return GpuCard(properties.name, properties.total_memory, available, tflops, has_bfloat16(device))


def _by_name() -> dict[str, tuple[int, float | None]]:
    return {name: (mebibytes, tflops) for names, mebibytes, tflops in _CARDS for name in names}


def _matches(text: str) -> list[str]:
    """Return the known names that are made of the words of the text, or else those that have all these words."""
    wanted = _words(text)
    if not wanted:
        return []
    exact = [name for name in _by_name() if _words(name) == wanted]
    return exact or [name for name in _by_name() if _words(name) > wanted]


def _words(name: str) -> frozenset[str]:
    """Return the words of a card's name: ``NVIDIA A100-SXM4-80GB`` -> a100, 80gb."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(\d)\s+(?=gb\b)", r"\1", name.lower()))
    joined = re.sub(r"\brtx(?=\d)", "rtx ", " ".join(words))
    return frozenset(joined.split()) - _NOT_PART_OF_A_NAME

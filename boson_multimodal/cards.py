"""What a GPU is able to do, and who holds its memory."""

import re
from dataclasses import dataclass

import torch

from boson_multimodal.errors import InputError
from boson_multimodal.memory_errors import memory_used_up

GB = 1e9
CUDA_ITSELF_BYTES = 2e9
"""More than CUDA and NCCL take for themselves in one process. What lies above belongs to other programs."""
BFLOAT16_CAPABILITY = (8, 0)
"""The first compute capability with bfloat16 products and with the kernel of varlen attention (Ampere, 2020)."""
RELEASED_WEIGHTS = 5.77e9
"""The number of weights of the released model."""


@dataclass(frozen=True)
class CardMemory:
    """The memory of a GPU, in bytes.

    Attributes:
        name: see :func:`card_name`.
        total, free: of the whole card.
        own: held by PyTorch in this process.
    """

    name: str
    total: int
    free: int
    own: int

    @property
    def others(self) -> int:
        """What other programs hold, and CUDA itself in this process. PyTorch cannot tell one from the other."""
        return max(0, self.total - self.free - self.own)

    @property
    def is_shared(self) -> bool:
        """Whether other programs hold memory of the card."""
        return self.others > CUDA_ITSELF_BYTES

    def __str__(self) -> str:
        return (
            f"{self.name} has {self.total / GB:.1f} GB: {self.own / GB:.1f} GB held by this process, "
            f"{self.free / GB:.1f} GB free, {self.others / GB:.1f} GB held by other programs and by CUDA itself"
        )


def card_memory(device: torch.device) -> CardMemory | None:
    """Return the memory of a GPU; None for a CPU, or if the card is so full that it does not answer."""
    if device.type != "cuda":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # without room for the context of CUDA, every call fails
        if memory_used_up(error) is None:
            raise
        return None
    return CardMemory(card_name(device), total, free, torch.cuda.memory_reserved(device))


def card_name(device: torch.device) -> str:
    """Return the name of a GPU for messages, such as ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"


def require_kernels(device: torch.device) -> None:
    """Check that this build of PyTorch has kernels for a GPU. A CPU always passes.

    Raises:
        InputError: if it has none. Otherwise the first kernel would fail, after minutes of preparation.
    """
    if device.type != "cuda" or torch.version.cuda is None:  # AMD's cards count in another way
        return
    built = torch.cuda.get_arch_list()
    major, minor = capability = torch.cuda.get_device_capability(device)
    if not built or any(_runs(arch, major, minor) for arch in built):
        return
    raise InputError(
        f"{card_name(device)} has compute capability {_dotted(capability)}, and this build of PyTorch "
        f"({torch.__version__}) has kernels for {', '.join(built)} only. Install a build for an older CUDA that has "
        "them (https://pytorch.org/get-started/locally), take another card, or set CUDA_VISIBLE_DEVICES= to use the CPU"
    )


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16. A CPU does."""
    if device.type != "cuda" or torch.version.cuda is None:
        return True
    return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY


def require_bfloat16(device: torch.device) -> None:
    """Check that a GPU computes in bfloat16. A CPU always passes.

    Raises:
        InputError: if the card is too old. PyTorch would imitate bfloat16 there, many times slower, and the attention
            of this project has no kernel there. float16 overflows in this model.
    """
    if has_bfloat16(device):
        return
    total = torch.cuda.get_device_properties(device).total_memory / GB
    needed = 4 * RELEASED_WEIGHTS / GB
    verdict = "that may fit" if total > 1.2 * needed else "too little for the released model"
    capability = _dotted(torch.cuda.get_device_capability(device))
    raise InputError(
        f"{card_name(device)} has compute capability {capability}; bfloat16 needs {_dotted(BFLOAT16_CAPABILITY)} or "
        "more, and float16 overflows in this model. Take a card of 2020 or newer (A100, L4, RTX 3090), or give "
        f"--torch_dtype float32, which takes 4 bytes a weight: {needed:.1f} GB for the released model alone. This card "
        f"has {total:.1f} GB: {verdict}"
    )


def _runs(arch: str, major: int, minor: int) -> bool:
    """Return whether a card runs code that was built for ``sm_86``, or for ``compute_90`` or older."""
    kind, digits = re.fullmatch(r"([a-z]+)_(\d+)[a-z]*", arch).groups()
    built_major, built_minor = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return (built_major, built_minor) <= (major, minor)
    return built_major == major and built_minor <= minor


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))

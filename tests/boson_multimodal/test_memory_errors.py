"""Which errors say that memory is used up, and which GPUs are refused."""

from types import SimpleNamespace

import pytest
import torch

from boson_multimodal import cards
from boson_multimodal.cards import card_memory, has_bfloat16, require_bfloat16, require_kernels
from boson_multimodal.device import resolve_dtype, usable_dtype
from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.memory_errors import Memory, memory_used_up, out_of_memory

GPU = torch.device("cuda", 0)
FRAGMENTED = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which 3.12 MiB is "
    "free. Of the allocated memory 20 GiB is allocated by PyTorch, and 2 GiB is reserved by PyTorch but unallocated. "
    "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError(FRAGMENTED), Memory.GPU),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported", 2), Memory.GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), Memory.GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), Memory.GPU),
        (torch.distributed.DistBackendError("NCCL error\nCuda failure 2 'out of memory'"), Memory.GPU),
        (RuntimeError(CPU), Memory.MACHINE),
        (MemoryError(), Memory.MACHINE),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (NamedError("CUDA error: out of memory"), None),
        (OSError("CUDA error: out of memory"), None),
    ],
    ids=repr,
)
def test_errors_that_say_that_memory_is_used_up(error: Exception, memory: Memory | None) -> None:
    assert memory_used_up(error) is memory
    assert (out_of_memory(error) is None) is (memory is None)


def test_the_message_has_no_advice_of_the_library() -> None:
    assert out_of_memory(torch.OutOfMemoryError(FRAGMENTED)) == (
        "out of GPU memory (CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB "
        "of which 3.12 MiB is free. Of the allocated memory 20 GiB is allocated by PyTorch, and 2 GiB is reserved by "
        "PyTorch but unallocated)"
    )
    assert out_of_memory(MemoryError()) == "out of memory"


def a_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], gigabytes: float = 80.0, name: str = "a card"
) -> None:
    """Give this process one GPU, and a PyTorch that is built for the cards below."""
    properties = SimpleNamespace(total_memory=int(gigabytes * 1e9))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_86", "sm_90a", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0), (12, 1)])
def test_a_card_runs_code_for_its_generation_and_newer_ones_compile_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    a_card(monkeypatch, capability)
    require_kernels(GPU)


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (10, 0)])
def test_a_card_without_kernels_is_refused_with_the_list(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    a_card(monkeypatch, capability)
    with pytest.raises(InputError, match=r"has kernels for sm_75, sm_80, sm_86, sm_90a, compute_120 only\. Install"):
        require_kernels(GPU)
    with pytest.raises(InputError, match="has kernels for"):
        usable_dtype("float32", GPU)


@pytest.mark.parametrize(
    ("gigabytes", "verdict"),
    [(15.8, "This card has 15.8 GB: too little for the released model"), (34.1, "This card has 34.1 GB: that may fit")],
)
@pytest.mark.parametrize("name", ["auto", "bfloat16"])
def test_bfloat16_is_refused_on_an_older_card_and_float32_is_not(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, verdict: str, name: str
) -> None:
    a_card(monkeypatch, (7, 5), gigabytes, "Tesla T4")
    with pytest.raises(InputError, match=r"cuda:0 \(Tesla T4\) has compute capability 7\.5; bfloat16 needs 8\.0") as e:
        usable_dtype(name, GPU)
    assert "--torch_dtype float32" in str(e.value) and str(e.value).endswith(verdict)
    assert usable_dtype("float32", GPU) == torch.float32
    assert not has_bfloat16(GPU)
    assert resolve_dtype(name, GPU) == torch.bfloat16  # of a card that need not be here


def test_a_newer_card_and_a_cpu_compute_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    a_card(monkeypatch, (8, 0))
    require_bfloat16(GPU)
    assert usable_dtype("auto", GPU) == torch.bfloat16
    a_card(monkeypatch, (7, 5))
    assert usable_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert usable_dtype("auto", torch.device("cpu")) == torch.float32


def test_the_memory_of_a_card_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    a_card(monkeypatch, (8, 0), name="RTX")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(2e9), int(24e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(20.5e9))
    found = card_memory(GPU)
    assert str(found) == (
        "cuda:0 (RTX) has 24.0 GB: 20.5 GB held by this process, 2.0 GB free, 1.5 GB held by other programs and by "
        "CUDA itself"
    )
    assert not found.is_shared
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(12e9))
    assert card_memory(GPU).is_shared


def test_a_card_without_room_for_an_answer_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory", 2)

    monkeypatch.setattr(cards.torch.cuda, "mem_get_info", full)
    assert card_memory(GPU) is None and card_memory(torch.device("cpu")) is None

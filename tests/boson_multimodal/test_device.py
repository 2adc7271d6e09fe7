"""Test the choice of device and of the type of weights."""

import pytest
import torch

from boson_multimodal import device as device_module
from boson_multimodal.device import TORCH_DTYPES, pick_device, resolve_dtype
from boson_multimodal.errors import InputError
from tests.null_cuda import needs_null_cuda, report_of


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_gpu"),
    [
        ("auto", torch.float32, torch.bfloat16),
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        ("float32", torch.float32, torch.float32),
        ("float16", torch.float16, torch.float16),
    ],
)
def test_auto_depends_on_the_device_and_nothing_else_does(name: str, on_cpu: torch.dtype, on_gpu: torch.dtype) -> None:
    assert resolve_dtype(name, torch.device("cpu")) == on_cpu
    assert resolve_dtype(name, torch.device("mps")) == on_cpu
    assert resolve_dtype(name, torch.device("cuda", 1)) == on_gpu
    assert name in TORCH_DTYPES


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^torch_dtype is 'int8'; it must be one of \['auto', 'bfloat16', "):
        resolve_dtype("int8", torch.device("cpu"))


@pytest.mark.parametrize("local_rank", [-1, 0, 3])
def test_without_a_gpu_each_process_has_the_cpu(local_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(local_rank) == torch.device("cpu")


@pytest.mark.parametrize(("local_rank", "number"), [(-1, 0), (0, 0), (3, 3)])
def test_each_process_has_its_own_gpu(local_rank: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, checked = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(device_module, "require_kernels", checked.append)
    assert pick_device(local_rank) == torch.device("cuda", number)
    assert chosen == checked == [torch.device("cuda", number)]


BACKENDS = """
import torch
from torch.nn.attention import SDPBackend

def backend(queries, keys, is_causal, masked):
    q = torch.empty(1, 24, queries, 128, dtype=torch.bfloat16, device="cuda")
    k = v = torch.empty(1, 8, keys, 128, dtype=torch.bfloat16, device="cuda")
    mask = torch.empty(1, 1, queries, keys, dtype=torch.bool, device="cuda") if masked else None
    return SDPBackend(torch._fused_sdp_choice(q, k, v, mask, 0.0, is_causal, enable_gqa=True)).name

def backends():
    shapes = [(1, 300, False, False), (1, 301, False, True), (400, 400, True, False), (400, 700, False, True)]
    return [backend(*shape) for shape in shapes]

torch.backends.cuda.enable_cudnn_sdp(True)
found = {"on": backends()}
from boson_multimodal.device import pick_device
pick_device(-1)
found["picked"] = backends()
torch.backends.cuda.enable_cudnn_sdp(True)
del sys.modules["boson_multimodal.model.higgs_audio.attention"]
import boson_multimodal.model.higgs_audio.attention
found["imported"] = backends()
report({**found, "benchmark": torch.backends.cudnn.benchmark})
"""


@needs_null_cuda
def test_no_attention_of_one_column_or_one_sample_runs_on_cudnn() -> None:
    """The shapes are those of generation, alone and beside a longer sample, and of whole and continued samples."""
    found = report_of(BACKENDS)
    assert "CUDNN_ATTENTION" in found["on"]  # so this GPU would take it
    assert "CUDNN_ATTENTION" not in found["picked"] + found["imported"]
    assert found["benchmark"] is False

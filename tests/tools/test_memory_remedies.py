"""What the commands advise when memory is used up: flags that they have, and that save memory there."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from tools import synthesize
from tools.prepare_data import check, encode
from tools.prepare_data.__main__ import main as prepare_data

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "dtype", "is_loaded", "batch_size", "words"),
    [
        (GPU, torch.bfloat16, True, 8, [("--batch_size", "4"), ("--device", "cpu")]),
        (GPU, torch.bfloat16, True, 1, [("--device", "cpu")]),
        (GPU, torch.bfloat16, False, 8, [("--device", "cpu")]),
        (GPU, torch.float32, False, 8, [("--torch_dtype", "bfloat16"), ("--device", "cpu")]),
        (CPU, torch.float32, True, 3, [("--batch_size", "1"), ("--torch_dtype", "bfloat16")]),
    ],
)
def test_synthesis_advises_flags_that_save_memory(
    device: torch.device, dtype: torch.dtype, is_loaded: bool, batch_size: int, words: list[tuple[str, str]]
) -> None:
    cloner = SimpleNamespace(device=device, dtype=dtype, is_loaded=is_loaded)
    with patch.object(synthesize, "has_bfloat16", return_value=True):
        found = [remedy.words for remedy in synthesize.memory_remedies(cloner, batch_size)]
    assert found == words
    known = ["--text", "a", "--reference", "b", "--reference_text", "c", "--output", "d.wav"]
    assert synthesize.parse_arguments([*known, *(word for remedy in found for word in remedy)])


@pytest.mark.parametrize(
    ("module", "work", "words"),
    [
        (encode, "encode_files", "while clips were encoded; those that are done stay in the cache."),
        (check, "check_files", "while the data were checked."),
    ],
)
def test_commands_without_a_flag_for_the_device_name_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: object,
    work: str,
    words: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, work, full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("boson_multimodal.memory_remedies.card_memory", lambda device: None)
    monkeypatch.setattr(encode, "pick_device", lambda rank: GPU)
    verb = "encode" if module is encode else "check"
    output = [] if module is encode else ["--output_dir", str(tmp_path)]
    assert prepare_data([verb, "a.json", *output]) == 1
    assert capsys.readouterr().err == (
        f"error: out of GPU memory (CUDA out of memory) {words}\n"
        "What helps, with the words to add at the end of the same command:\n"
        "  - give the same command on the CPU, which is slower: put this before it:\n"
        "      CUDA_VISIBLE_DEVICES=\n"
        "  - use a GPU with more memory\n"
    )

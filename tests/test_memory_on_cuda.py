"""A GPU that is too small or too old, under a CUDA that does nothing; its memory is that of PyTorch's allocator."""

from pathlib import Path
from typing import Any

import pytest

from tests.null_cuda import needs_null_cuda, report_of
from voice_cloning.corpora.encode import encode_files

pytestmark = needs_null_cuda

RUNS = """
import contextlib, gc, io, logging, shlex
from pathlib import Path
import torch
import arabic_voice_cloning_distributed_trainer as program
from tests.training_runs import flags, metrics
from tools import synthesize

demo, base, found = Path(DEMO), Path(BASE), {}
total = torch.cuda.get_device_properties(0).total_memory
one_batch = dict(max_steps=2, max_tokens_per_batch=4096, save_steps=1, logging_steps=1, torch_dtype="bfloat16")


def run(name, *words, fits=None, **settings):
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(1.0 if fits is None else fits / total)
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    before = torch.cuda.memory_stats()["num_ooms"]
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        status = program.main([*flags(demo, base / name, **{**one_batch, **settings}), *words])
    logging.getLogger().removeHandler(handler)
    return {"status": status, "err": err.getvalue(), "log": log.getvalue(), "out": out.getvalue(),
            "ooms": torch.cuda.memory_stats()["num_ooms"] - before}


def words_of(message, beginning):
    return shlex.split(next(line for line in message.splitlines() if line.strip().startswith(beginning)))


for level in ("layer", "none"):
    found[level] = run(level, recompute=level)
    found[level]["allocated"] = torch.cuda.memory_stats()["allocated_bytes.all.peak"]
# The allocator gives back what it keeps before it fails, so less than what the tensors take is sure not to fit.
fits = (found["layer"]["allocated"] + found["none"]["allocated"]) // 2
found["small"] = run("small", recompute="none", fits=fits)
found["small_files"] = sorted(path.name for path in (base / "small").iterdir())
found["small_metrics"] = (base / "small" / "metrics.jsonl").stat().st_size
found["followed"] = run("small", "--recompute", "none", *words_of(found["small"]["err"], "--recompute"), fits=fits)
found["first_metrics"] = metrics(base / "small")[0]["step"]
found["tiny"] = run("tiny", fits=2**20)

torch.cuda.get_device_capability = lambda device=None: (7, 5)
torch.cuda.get_device_name = lambda device=None: "Tesla T4"
program.load_base_model = program.create_higgs_audio_lora_model = None
found["old"] = run("old", torch_dtype="auto")
found["old_bfloat16"] = run("old")
program.load_base_model = None
try:
    run("old_float32", torch_dtype="float32")
except TypeError as error:  # the weights would be loaded now
    found["old_float32"] = str(error)
err = io.StringIO()
clip = next((demo / "clips").rglob("*.wav"))
text = "\\u0645\\u0631\\u062d\\u0628\\u0627"
words = {"model_path": demo / "model", "audio_tokenizer_path": demo / "audio_tokenizer", "text": text,
         "reference": clip, "reference_text": text, "output": base / "a.wav"}
with contextlib.redirect_stderr(err):
    status = synthesize.main([part for name, value in words.items() for part in (f"--{name}", str(value))])
found["old_synthesis"] = [status, err.getvalue()]
torch.cuda.get_device_capability = lambda device=None: (6, 1)
found["no_kernels"] = run("no_kernels", torch_dtype="float32")
report(found)
"""


@pytest.fixture(scope="module")
def runs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("on_cuda")
    files = [demo / f"{part}_chatml_samples.json" for part in ("train", "val")]
    encode_files(files, str(demo / "audio_tokenizer"), str(demo / "code_cache"))  # the null CUDA has no cuDNN
    return report_of(RUNS.replace("DEMO", repr(str(demo)), 1).replace("BASE", repr(str(base)), 1))


def test_a_run_says_what_its_fullest_micro_batches_take(runs: dict[str, Any]) -> None:
    assert runs["none"]["status"] == 0
    lines = [line for line in runs["none"]["log"].splitlines() if "fullest" in line]
    assert len(lines) == 2
    assert lines[0].startswith("the fullest micro-batch (16 samples, ") and lines[0].endswith(" GB of 85.0 GB")
    assert lines[1].startswith("the fullest micro-batch of the evaluation (4 samples, ")


def test_a_lack_of_memory_shows_before_the_first_step_and_the_advice_ends_it(runs: dict[str, Any]) -> None:
    assert runs["layer"]["allocated"] < runs["none"]["allocated"]
    assert runs["small"]["status"] == 1 and runs["small"]["ooms"] > 0
    message = runs["small"]["err"]
    assert "when the fullest micro-batch (16 samples, " in message and " was tried before step 1." in message
    assert "cuda:0 (NVIDIA H100 80GB HBM3 (null)) has 85.0 GB: " in message
    assert runs["small_files"] == [".lock", "metrics.jsonl", "run.json"] and runs["small_metrics"] == 0
    assert runs["followed"]["status"] == 0, runs["followed"]["err"]
    assert runs["first_metrics"] == 1


def test_a_card_that_does_not_hold_the_weights_is_told_what_they_take(runs: dict[str, Any]) -> None:
    assert runs["tiny"]["status"] == 1
    assert "while the weights were loaded; in bfloat16 they alone take 0.0 GB" in runs["tiny"]["err"]


def test_a_card_without_bfloat16_is_refused_before_any_weight_is_loaded(runs: dict[str, Any]) -> None:
    for name in ("old", "old_bfloat16"):
        assert runs[name]["status"] == 1
        assert runs[name]["err"] == (
            "error: cuda:0 (Tesla T4) has compute capability 7.5; bfloat16 needs 8.0 or more, and float16 overflows in "
            "this model. Take a card of 2020 or newer (A100, L4, RTX 3090), or give --torch_dtype float32, which takes "
            "4 bytes a weight: 23.1 GB for the released model alone. This card has 85.0 GB: that may fit\n"
        )
    assert "NoneType" in runs["old_float32"]
    status, message = runs["old_synthesis"]
    assert status == 1 and "(Tesla T4) has compute capability 7.5; bfloat16 needs 8.0" in message


def test_a_card_for_which_this_pytorch_has_no_kernels_is_refused(runs: dict[str, Any]) -> None:
    assert runs["no_kernels"]["status"] == 1
    assert "has compute capability 6.1, and this build of PyTorch (" in runs["no_kernels"]["err"]

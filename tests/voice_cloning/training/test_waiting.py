"""The real loop on the null CUDA: where the host waits for the device, in a new run and in a resumed one."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.null_cuda import needs_null_cuda, report_of
from tests.training_runs import flags, trainer

LOGGING, EVALUATION, STEPS, RESUMED = 4, 8, 12, 3
SETTINGS = {
    "torch_dtype": "bfloat16",
    "max_steps": STEPS,
    "gradient_accumulation_steps": 2,
    "logging_steps": LOGGING,
    "eval_steps": EVALUATION,
}
PLACES = {"StepLedger.settle": "log", "Evaluator.evaluate": "evaluation", "CheckpointCopy.to_host": "save"}
"""The functions that may wait for the device; the last one only in the thread that writes a checkpoint."""
COPIED = 4
"""Tensors of a checkpoint that are copied from the device: the weights, two moments, and AdamW's step."""

LOOP = """
import ctypes, tempfile, threading
from collections import Counter
from pathlib import Path
import torch
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from voice_cloning.training.config import parse_arguments

def pageable():
    with tempfile.TemporaryDirectory() as folder:
        cuda.write_kernels(Path(folder) / "kernels")
        lines = (Path(folder) / "kernels").read_text().splitlines()
    return sum(int(line.split()[0]) for line in lines if line.endswith("H2D pageable"))

def train(flags):
    trainer = ArabicVoiceCloningDistributedTrainer(*parse_arguments(flags, ""))
    state = trainer.components.state
    begin, waits, beside = state.step, Counter(), Counter()

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p)
    def note(call):
        frame, names = sys._getframe(), []
        while frame is not None:
            names.append(frame.f_code.co_qualname)
            frame = frame.f_back
        known = [PLACES[name] for name in names if name in PLACES]
        place = known[0] if known else " < ".join(names[:8])
        if threading.current_thread() is threading.main_thread():
            waits[place, state.step] += 1
        else:
            beside[place] += 1

    library.nullcuda_hook(note)
    cuda.reset()
    summary = trainer.train()
    library.nullcuda_hook(None)
    trainer.components.opened.directory.close()
    return {"begin": begin, "end": summary.step, "waits": [[*k, n] for k, n in waits.items()],
            "beside": beside, "pageable": pageable()}

library = ctypes.CDLL(os.environ["NULLCUDA_SO"])
report([train(flags) for flags in FLAGS])
"""


def begun_run(demo: Path, folder: Path) -> None:
    """A run that died after the checkpoint of step 3, on the CPU: the null device would save zeros as AdamW's step."""
    subject = trainer(demo, folder, **SETTINGS, save_steps=RESUMED)
    save = subject._save

    def die_after_saving(*args: object) -> None:
        save(*args)
        raise KeyboardInterrupt

    subject._save = die_after_saving
    with pytest.raises(KeyboardInterrupt):
        subject.train()


@needs_null_cuda
def test_the_loop_waits_only_to_log_and_to_evaluate(demo: Path, tmp_path: Path) -> None:
    """It waits for nothing to save, and no copy to the device goes through memory that is not pinned."""
    begun_run(demo, tmp_path / "begun")  # it also encodes the clips
    runs = [flags(demo, tmp_path / name, **SETTINGS, save_steps=100) for name in ("new", "begun")]
    found: list[dict[str, Any]] = report_of(f"FLAGS, PLACES = {runs!r}, {PLACES!r}\n{LOOP}")
    assert [(run["begin"], run["end"]) for run in found] == [(0, STEPS), (RESUMED, STEPS)]
    for run in found:
        waits = Counter({(place, step): times for place, step, times in run["waits"]})
        wanted = {("log", LOGGING): 1, ("log", EVALUATION): 1, ("log", STEPS): 1}
        assert waits == wanted | {("evaluation", EVALUATION): 1, ("evaluation", STEPS): 1}
        assert run["beside"] == {"save": 2 * COPIED}, "the best evaluation and the last step"
        assert run["pageable"] == 0

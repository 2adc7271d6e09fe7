"""Run the program as a user does: with python and torchrun, with wrong inputs, and stopped."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.goldens import SAMPLES_DIR, needs_samples
from tests.training_runs import ENVIRONMENT, PROGRAM, command, flags, metrics, run

PROBE = Path(__file__).parents[1] / "gradient_probe.py"


def test_two_ranks_and_one_give_the_same_loss_and_gradients(demo: Path, tmp_path: Path) -> None:
    """Both take the same optimizer batch: four micro-batches with very different numbers of labels."""
    micro_batches = tmp_path / "micro_batches.json"
    micro_batches.write_text(json.dumps([[0, 1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [11]]))
    arguments = flags(demo, tmp_path / "out", lora_dropout=0.0, max_grad_norm=0.0, eval_data_path=None)
    results = []
    for processes in (None, 2):
        output = tmp_path / f"{processes}.pt"
        words = [str(output), str(micro_batches), *arguments, "--overwrite"]
        result = run(command(words, processes, PROBE))
        assert result.returncode == 0, result.stderr
        results.append(torch.load(output))
    one, two = results
    assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-6)
    for single, double in zip(one["gradients"], two["gradients"], strict=True):
        assert (single - double).abs().max() <= 1e-5 * single.abs().max()


@needs_samples
@pytest.mark.parametrize("processes", [None, 2], ids=["python", "torchrun 2"])
def test_trains_on_real_speech(demo: Path, tmp_path: Path, processes: int | None) -> None:
    """Train on files as users have them. The run leaves exactly the expected files, and the loss falls."""
    out = tmp_path / "out"
    arguments = flags(
        demo,
        out,
        data_path=SAMPLES_DIR / "train_chatml_samples.json",
        eval_data_path=SAMPLES_DIR / "val_chatml_samples.json",
        max_steps=24,
        max_tokens_per_batch=2048,
        learning_rate=1e-2,
        lora_targets=["attention", "audio_mlp", "text_mlp", "heads"],
        logging_steps=1,
        eval_steps=12,
        save_steps=12,
        lora_dropout=0.0,
        report_to="tensorboard",
    )
    result = run(command(arguments, processes))
    assert result.returncode == 0, result.stderr
    assert "112 samples, 0 dropped" in result.stderr and "16 samples, 0 dropped" in result.stderr
    assert "finished: 24 steps" in result.stdout
    assert "\r" not in result.stderr, "a log file holds whole lines"
    assert len(re.findall(r"step \d+ of 24: loss", result.stderr)) == 24
    assert len(result.stderr.splitlines()) < 24 + 20
    assert result.stdout.count("trainable parameters: ") == 1
    assert result.stderr.count("resuming from") == 0
    names = {path.name for path in out.iterdir()}
    assert names == {".lock", "run.json", "metrics.jsonl", "tensorboard", "checkpoint-000012", "checkpoint-000024"}
    losses = [line["loss"] for line in metrics(out) if "loss" in line]
    assert len(losses) == 24
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 2.0
    again = run(command(arguments, processes))
    assert again.returncode == 0 and "this run is finished" in again.stderr


def test_a_wrong_input_under_torchrun_is_reported_once(demo: Path, tmp_path: Path) -> None:
    result = run(command(flags(demo, tmp_path / "out", data_path=demo / "nowhere.json"), 2))
    assert result.returncode != 0
    assert result.stderr.count(f"--data_path {demo / 'nowhere.json'}: no such file") == 1
    assert "error on rank 0: " in result.stderr
    assert f'File "{PROGRAM}"' not in result.stderr, "a trace of ours; torchrun adds one of its own"


FAILING = """
import os, sys, time
sys.path.insert(0, {folder!r})
import arabic_voice_cloning_distributed_trainer as program
def fail(*arguments):
    print("failed at", time.time(), file=sys.stderr)
    raise program.NamedError("a clip is missing")
if os.environ["RANK"] == "{rank}":
    {place} = fail
sys.exit(program.main())
"""
TRAINER = "program.ArabicVoiceCloningDistributedTrainer"


def failing_script(folder: Path, place: str, rank: int) -> Path:
    """The program, in which one function fails on one rank."""
    script = folder / "failing.py"
    script.write_text(FAILING.format(folder=str(PROGRAM.parent), rank=rank, place=place))
    return script


def seconds_since_the_failure(printed: str) -> float:
    (line,) = re.findall("^failed at (.*)", printed, re.MULTILINE)
    return time.time() - float(line)


def test_an_error_on_another_rank_names_it_and_ends_all(demo: Path, tmp_path: Path) -> None:
    script = failing_script(tmp_path, f"{TRAINER}._training_step", rank=1)
    result = run(command(flags(demo, tmp_path / "out"), 2, script), timeout=120)
    assert seconds_since_the_failure(result.stderr) < 30
    assert result.returncode != 0
    assert result.stderr.count("error on rank 1: a clip is missing") == 1
    assert f'File "{script}"' not in result.stderr, "a trace of ours; torchrun adds one of its own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "rank"),
    [
        ("program.load_run_data", 0),
        ("program.encode_and_pack", 1),
        (f"{TRAINER}._load_model", 1),
        (f"{TRAINER}._evaluate", 1),
        (f"{TRAINER}._write_checkpoint", 0),
    ],
)
def test_an_error_anywhere_ends_all_without_a_launcher(demo: Path, tmp_path: Path, place: str, rank: int) -> None:
    """Nothing but the processes themselves ends them."""
    script = failing_script(tmp_path, place, rank)
    words = [sys.executable, str(script), *flags(demo, tmp_path / "out")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            words,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **address, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(2)
    ]
    printed = [process.communicate(timeout=120)[1] for process in processes]
    assert seconds_since_the_failure("".join(printed)) < 30
    assert [process.returncode for process in processes] == [1, 1]
    assert f"error on rank {rank}: a clip is missing\n" in printed[rank]
    assert printed[1 - rank].endswith(f"rank {1 - rank} ends: rank {rank} failed; its message says why\n")
    assert "Traceback" not in "".join(printed)


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the program with its output in a file, in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=ENVIRONMENT, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], timeout: float = 120) -> bool:
    """Return whether the condition became true before the process ended."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    raise TimeoutError(f"neither happened within {timeout} s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_save_then_end(demo: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = command(flags(demo, out, max_steps=500, logging_steps=1, save_steps=500, eval_data_path=None))
    process = start(words, log)
    assert wait_until(lambda: (out / "metrics.jsonl").exists() and len(metrics(out)) >= 2, process)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    printed = log.read_text()
    step = int(re.search(r"stopped at step (\d+) of 500; run the same command again to resume from there", printed)[1])
    assert (out / f"checkpoint-{step:06d}" / "trainer_state.json").is_file()
    assert "Traceback" not in printed


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_of_torchrun_saves_then_ends(demo: Path, tmp_path: Path) -> None:
    """The terminal sends it to torchrun and to its processes, and torchrun sends it to them once more."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = command(flags(demo, out, max_steps=5000, logging_steps=1, save_steps=5000, eval_data_path=None), 2)
    process = start(words, log)
    assert wait_until(lambda: (out / "metrics.jsonl").exists() and len(metrics(out)) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    printed = log.read_text()
    step = int(re.search(r"stopped at step (\d+) of 5000; run the same command again", printed)[1])
    assert (out / f"checkpoint-{step:06d}" / "trainer_state.json").is_file()
    assert "interrupted" not in printed and "ends: rank" not in printed

"""Two ranks on each of two "nodes": they train like four ranks on one machine, and faults end all of them."""

import json
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.training_runs import PROGRAM, PROJECT, assert_same_adapter, command, flags, metrics, run
from tests.two_nodes import Nodes, end_of_all

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 30.0
LAUNCHER_SECONDS = 45.0
"""torchrun waits 30 s for a process that it has asked to end, and a stopped process does not hear it."""
SETTINGS = {"logging_steps": 1, "save_steps": 2, "lora_dropout": 0.0}
FAULT = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import arabic_voice_cloning_distributed_trainer as program
def fail(*arguments):
    print("failed at", time.time(), file=sys.stderr, flush=True)
    {fault}
if os.environ["RANK"] == "3":
    program.ArabicVoiceCloningDistributedTrainer._training_step = fail
sys.exit(program.main())
"""
OTHER_PROGRAM = """
import os, sys
program = {other!r} if os.environ["RANK"] == "3" else {own!r}
os.execv(sys.executable, [sys.executable, program, *sys.argv[1:]])
"""


@pytest.fixture
def nodes(demo: Path, tmp_path: Path) -> Nodes:
    return Nodes.make(demo, tmp_path)


def test_two_nodes_train_like_four_ranks_of_one_and_resume(demo: Path, nodes: Nodes, tmp_path: Path) -> None:
    """Each node has its own data, model and cache. Only the first has the folder of the run."""
    one = tmp_path / "one"
    result = run(command(flags(demo, one, code_cache_dir=tmp_path / "cache", **SETTINGS), 4))
    assert result.returncode == 0, result.stderr
    assert end_of_all(nodes.start(**SETTINGS), 280) == [0, 0], nodes.logs()
    assert metrics(nodes.out) == metrics(one)
    assert_same_adapter(nodes.out / "checkpoint-000006", one / "checkpoint-000006")
    assert not (nodes.folders[1] / "out").exists()
    assert (nodes.folders[1] / "code_cache").is_dir() and not list(nodes.folders[1].rglob("*.tmp"))
    assert "finished: 6 steps" in nodes.log(0) and "step" not in nodes.log(1), "rank 0 writes all messages"

    # The same flags, without those that the record of the run holds. The second node cannot read it. It has also lost
    # what it packed, so all processes read the file again, and it packs anew.
    shutil.rmtree(nodes.folders[1] / "code_cache" / "prepared")
    for name in ("checkpoint-000004", "checkpoint-000006"):
        shutil.rmtree(nodes.out / name)
    again = {"logging_steps": None, "save_steps": None, "lora_dropout": None, "learning_rate": None}
    assert end_of_all(nodes.start(**again), 280) == [0, 0], nodes.logs()
    assert f"resuming from {nodes.out / 'checkpoint-000002'} at step 2 of 6" in nodes.log(0)
    assert "found as prepared" not in nodes.log(0)
    assert_same_adapter(nodes.out / "checkpoint-000006", one / "checkpoint-000006")
    assert metrics(nodes.out) == metrics(one)
    assert not (nodes.folders[1] / "out").exists()

    # The finished run too.
    assert end_of_all(nodes.start(**again), 280) == [0, 0], nodes.logs()
    assert "this run is finished: step 6" in nodes.log(0)
    assert nodes.log(0).count("samples found as prepared in") == 2, "training and evaluation data"


FAULTS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "rank 3 on {machine} ended without a word", 0.0),
    "stopped": (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "rank 3 on {machine} has given no sign of life for 30 s",
        LIMIT_SECONDS,
    ),
    "raising": (
        "raise program.NamedError('a clip is broken')",
        "rank 3 on {machine} failed; its message says why",
        0.0,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_that_fails_ends_both_nodes(fault: str, nodes: Nodes, tmp_path: Path) -> None:
    code, said, silence = FAULTS[fault]
    script = tmp_path / "fault.py"
    script.write_text(FAULT.format(folder=str(PROJECT), fault=code))
    launchers = nodes.start([PROGRAM, script], **SETTINGS)
    statuses = end_of_all(launchers, 280)
    assert 0 not in statuses, nodes.logs()
    (failed,) = re.findall("^failed at (.*)", nodes.log(1), re.MULTILINE)
    assert time.time() - float(failed) < LIMIT_SECONDS + silence + LAUNCHER_SECONDS
    words = said.format(machine=f"{socket.gethostname()} (node 1)")
    # The launchers may stop some of them first.
    assert words in nodes.log(0), nodes.logs()
    if fault == "raising":
        assert nodes.logs().count(f"error on rank 3 on {socket.gethostname()} (node 1): a clip is broken") == 1


def refusal(nodes: Nodes, scripts: list[Path] | None = None) -> str:
    """Start a run that is refused. Return what the first node printed."""
    started = time.time()
    assert 0 not in end_of_all(nodes.start(scripts, **SETTINGS), 280), nodes.logs()
    assert "loss" not in nodes.log(0) and not nodes.out.exists(), "before any weight is loaded"
    print("refused after", time.time() - started, "s")
    return nodes.log(0)


def test_a_node_with_another_copy_of_the_data_is_named(nodes: Nodes) -> None:
    path = nodes.folders[1] / "demo" / "train_chatml_samples.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(records[:-1]), encoding="utf-8")
    printed = refusal(nodes)
    machine = re.escape(f"{socket.gethostname()} (node 1)")
    assert re.search(rf"rank 2 on {machine}: the content of --data_path is \w+ \([\d,]+ bytes\), and \w+", printed)
    assert printed.count("--data_path is") == 1 and "--eval_data_path" not in printed


def test_a_node_with_another_clip_is_named(nodes: Nodes) -> None:
    clip = nodes.folders[1] / "demo" / "clips" / "amal" / "train_01.wav"
    samples, rate = soundfile.read(clip)
    soundfile.write(clip, np.flip(samples), rate)
    printed = refusal(nodes)
    assert f"rank 2 on {socket.gethostname()} (node 1): samples and clips of --data_path is" in printed


def test_another_version_of_the_program_on_one_rank_is_named(nodes: Nodes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    left_out = shutil.ignore_patterns("__pycache__", ".*", "tests", "demo")
    shutil.copytree(PROJECT, other, ignore=left_out)
    version = other / "voice_cloning" / "__init__.py"
    version.write_text(version.read_text(encoding="utf-8").replace('__version__ = "', '__version__ = "9'))
    script = tmp_path / "either.py"
    script.write_text(OTHER_PROGRAM.format(other=str(other / PROGRAM.name), own=str(PROGRAM)))
    printed = refusal(nodes, [script, script])
    assert re.search(r"rank 3 on \S+ \(node 1\): version is 9\S+, and \S+ on rank 0", printed)
    assert re.search(r"rank 3 on \S+ \(node 1\): the source of the program is \w+, and \w+ on rank 0", printed)


CRASH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import arabic_voice_cloning_distributed_trainer as program
after_step = program.ArabicVoiceCloningDistributedTrainer._after_step
def crash(trainer, *arguments):
    after_step(trainer, *arguments)
    crashes = Path({crashes!r})
    before = len(list(crashes.iterdir()))
    if trainer.ranks.rank == 1 and before < 2 and trainer.components.state.step == 3 + before:
        (crashes / str(trainer.components.state.step)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
program.ArabicVoiceCloningDistributedTrainer._after_step = crash
sys.exit(program.main())
"""


def test_torchrun_restarts_from_the_newest_checkpoint_by_itself(demo: Path, tmp_path: Path) -> None:
    """Rank 1 is killed after step 3, and in the next attempt after step 4. Checkpoints are of even steps."""
    script, crashes = tmp_path / "crash.py", tmp_path / "crashes"
    crashes.mkdir()
    script.write_text(CRASH.format(folder=str(PROJECT), crashes=str(crashes)))
    settings = {"code_cache_dir": tmp_path / "cache", **SETTINGS}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3"]
    result = run([*launch, str(script), *flags(demo, tmp_path / "crashed", **settings)], timeout=400)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in crashes.iterdir()) == ["3", "4"]
    assert re.findall(r"resuming from \S+ at step (\d) of 6", result.stderr) == ["2", "4"]
    whole = run(command(flags(demo, tmp_path / "whole", **settings), 2))
    assert whole.returncode == 0, whole.stderr
    assert_same_adapter(tmp_path / "crashed" / "checkpoint-000006", tmp_path / "whole" / "checkpoint-000006")
    assert metrics(tmp_path / "crashed") == metrics(tmp_path / "whole")
    assert result.stderr.count("rank 1 ended without a word") == 2

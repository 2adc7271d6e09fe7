"""The script for a machine with a GPU: how its parts are run, and that all of them run on a null device."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_parts
from benchmarks.gpu_parts import DONE, FAILED, LATE, LEFT_OUT, STOPPED, Part, Results, json_objects, main, run_parts
from tests.null_cuda import NULL_CUDA_RUN, PROJECT, needs_null_cuda, run_null_cuda

SCRIPT = PROJECT / "benchmarks" / "on_gpu.sh"


def fake(name: str, *codes: str, seconds: float = 20) -> Part:
    """A part whose commands are Python code."""
    return Part(name, "a fake", seconds, tuple(f"-c {shlex.quote(code)}" for code in codes))


def run(tmp_path: Path, *parts: Part, seconds: float = 60) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Run the parts. Return their states, and all lines of the file of results."""
    path = tmp_path / "out.jsonl"
    with path.with_suffix(".log").open("a", encoding="utf-8") as log:
        results = Results(path, log)
        run_parts(parts, results, seconds)
    return results.states, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_results_of_one_line_and_of_many_are_found_between_other_output() -> None:
    lines = [
        "loading\n",
        '{"a": 1}\n',
        "{no object\n",
        "{\n",
        ' "b": [\n',
        "  2\n",
        " ]\n",
        "}\n",
        "end\n",
        '{"c": 3}\n',
    ]
    log = io.StringIO()
    assert list(json_objects(lines, log)) == [{"a": 1}, {"b": [2]}, {"c": 3}]
    assert log.getvalue() == "loading\n{no object\nend\n"


def test_a_part_that_fails_leaves_its_reason_and_the_next_one_runs(tmp_path: Path) -> None:
    states, lines = run(
        tmp_path,
        fake("good", """print('{"ms": 1}')"""),
        fake("bad", """print('{"ms": 2}'); raise ValueError('too hot')""", """print('{"ms": 3}')"""),
        fake("silent", "import sys; sys.exit(3)"),
        fake("last", """print('{"ms": 4}')"""),
    )
    assert states == {"good": DONE, "bad": FAILED, "silent": FAILED, "last": DONE}
    assert [line["result"]["ms"] for line in lines if "result" in line] == [1, 2, 3, 4]
    reasons = {line["part"]: line.get("reason") for line in lines if "state" in line}
    assert reasons["good"] is None and reasons["last"] is None
    assert len(reasons["bad"]) == 1 and reasons["bad"][0].endswith("| ValueError: too hot")
    assert reasons["silent"][0].endswith("exit status 3: it said nothing")


def test_a_module_or_a_flag_that_is_missing_is_a_failed_part(tmp_path: Path) -> None:
    states, lines = run(
        tmp_path,
        Part("module", "a fake", 20, ("-m benchmarks.no_such_module",)),
        Part("flag", "a fake", 20, ("-m benchmarks.gpu_parts --no_such_flag 1",)),
    )
    assert states == {"module": FAILED, "flag": FAILED}
    assert "No module named benchmarks.no_such_module" in lines[0]["reason"][0]
    assert "unrecognized arguments: --no_such_flag 1" in lines[1]["reason"][0]


def test_a_part_that_is_late_ends_with_the_processes_that_it_started_and_keeps_its_results(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import pathlib, subprocess, time; "
        f"pathlib.Path({str(child)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid)); "
        """print('{"ms": 1}', flush=True); time.sleep(60)"""
    )
    began = time.monotonic()
    states, lines = run(tmp_path, fake("late", code, seconds=3), fake("next", "pass"))
    assert time.monotonic() - began < 20
    assert states == {"late": LATE, "next": DONE} and lines[0]["result"] == {"ms": 1}
    wait_until(lambda: not is_running(int(child.read_text())))


def is_running(process: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_parts_for_which_no_time_is_left_are_not_begun(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    states, _ = run(tmp_path, fake("first", sleep, sleep), fake("second", "pass"), seconds=1)
    assert states == {"first": LATE, "second": LEFT_OUT}


def test_a_script_that_is_stopped_ends_its_command_and_names_the_parts_that_did_not_run(tmp_path: Path) -> None:
    pid, out = tmp_path / "pid", tmp_path / "out.jsonl"
    sleep = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parts = [fake("first", sleep, seconds=60), fake("second", "pass")]
    code = (
        "import sys; from benchmarks import gpu_parts as g; "
        f"g.all_parts = lambda layers: {parts!r}; sys.exit(g.main(['--out', {str(out)!r}]))"
    ).replace("Part(", "g.Part(")
    script = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.DEVNULL)
    wait_until(lambda: pid.exists() and pid.read_text() != "")
    script.send_signal(signal.SIGTERM)
    assert script.wait(20) == 128 + signal.SIGTERM
    assert not is_running(int(pid.read_text()))
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["part"], line["state"]) for line in lines] == [("first", STOPPED), ("second", LEFT_OUT)]


def test_the_exit_status_and_the_end_tell_the_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (fake("good", "pass"), fake("bad", "import sys; sys.exit(1)"))
    monkeypatch.setattr(gpu_parts, "all_parts", lambda layers: parts)
    monkeypatch.setenv("OUT", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--only", "good"]) == 0
    assert main([]) == 1
    signal.signal(signal.SIGTERM, before)
    assert re.search(r"good +done\nbad +failed\n$", capsys.readouterr().out)
    assert len((tmp_path / "on_gpu.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--only step,sleep", "--only sleep: no such part; there are tests,step,"),
        ("--layers 0", "--layers must be at least 1"),
        ("--seconds 0", "--seconds above 0"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(flags.split())
    assert message in capsys.readouterr().err


def test_all_parts_fit_into_eight_minutes_if_each_command_takes_half_its_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The time limit holds in any case; this says that every part has a chance to run."""
    parts = gpu_parts.all_parts(28)
    assert sum(part.seconds * len(part.commands) for part in parts) / 2 <= gpu_parts.MOST_SECONDS == 480
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [part.name for part in parts]


# -- on the null device ------------------------------------------------------------------------------------------------


def run_script(tmp_path: Path, *flags: str, timeout: float = 600) -> tuple[int, list[dict[str, Any]]]:
    """Run the script under the null device. Return its exit status, and the lines of its file of results."""
    status = subprocess.run(
        ["bash", str(SCRIPT), *flags],
        env={**os.environ, "PYTHON": f"{NULL_CUDA_RUN} {sys.executable}", "OUT": str(tmp_path), "WHEELS": "none"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        timeout=timeout,
    ).returncode
    lines = (tmp_path / "on_gpu.jsonl").read_text(encoding="utf-8").splitlines()
    return status, [json.loads(line) for line in lines]


@needs_null_cuda
def test_generation_waits_once_a_column(tmp_path: Path) -> None:
    status, lines = run_script(tmp_path, "--layers", "1", "--only", "generation")
    assert status == 0, (tmp_path / "on_gpu.log").read_text(encoding="utf-8")
    assert [line["result"]["batch"] for line in lines[:-1]] == [1, 16] and lines[-1]["state"] == DONE
    assert all("null CUDA" in line["device"] for line in lines)
    for line in lines[:-1]:
        assert line["result"]["per_column"]["syncs"] == 1


@needs_null_cuda
def test_the_gpu_tests_of_the_model_run_up_to_their_assertions_on_numbers() -> None:
    check_gpu_tests("tests/test_gpu.py")


@pytest.mark.slow
@needs_null_cuda
def test_the_gpu_tests_of_whole_runs_run_up_to_their_assertions_on_numbers() -> None:
    check_gpu_tests("tests/test_gpu_training.py")


def check_gpu_tests(path: str) -> None:
    """Run the tests under the null device; no error but that of an assertion may end one."""
    result = run_null_cuda("-m", "pytest", "-s", "-m", "gpu", "-p", "tests.gpu_outcomes", path)
    tests = [found for found in json_objects(result.stdout.splitlines(keepends=True), io.StringIO()) if "test" in found]
    assert result.returncode == 0, [test for test in tests if test["outcome"] == "failed"] or result.stdout
    assert len(tests) >= 6 and {test["outcome"] for test in tests} <= {"passed", "skipped", "reached its assertion"}


@pytest.mark.slow
@needs_null_cuda
def test_all_parts_run(tmp_path: Path) -> None:
    status, lines = run_script(tmp_path, "--layers", "2", "--seconds", "1200", timeout=1200)
    states = {line["part"]: line["state"] for line in lines if "state" in line}
    assert states == dict.fromkeys((part.name for part in gpu_parts.all_parts(2)), DONE), lines
    assert status == 0

"""Test progress: few, complete lines in a file, and a bar in a terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from boson_multimodal import progress as progress_module
from boson_multimodal.progress import limit_library_bars, progress
from tests.terminals import open_terminal, read_terminal

PROJECT = Path(__file__).resolve().parents[2]
SECONDS_OF_LOOP = 1.0
LOOP = """
import logging, sys, time
from boson_multimodal import progress

progress.SECONDS_BETWEEN_LINES = float(sys.argv[1])
logging.basicConfig(format="%(message)s")
started = time.monotonic()
with progress.messages_above_bars():
    for number in progress.progress(range(10_000), "encoding clips", unit="clip"):
        while time.monotonic() - started < number / 10_000:
            pass
        if number == 5_000:
            logging.warning("half of it is done")
print("end of the work", file=sys.stderr)
"""


class Clock:
    """A stand-in for the clock that tqdm reads."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def command(seconds_between_lines: float) -> list[str]:
    return [sys.executable, "-c", LOOP, str(seconds_between_lines)]


def in_a_terminal(words: list[str]) -> str:
    """Return the output of a command in a terminal."""
    ours, theirs = open_terminal()
    process = subprocess.Popen(words, cwd=PROJECT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_terminal(ours)
    assert process.wait(timeout=60) == 0, shown
    return shown


def test_a_log_file_gets_few_whole_lines_and_no_carriage_return(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command(0.2), cwd=PROJECT, stderr=log, check=True, timeout=60)
    content = (tmp_path / "log").read_bytes().decode()
    assert "\r" not in content and "\x1b" not in content and content.endswith("\n")
    lines = content.splitlines()
    assert lines.count("half of it is done") == 1 and lines[-1] == "end of the work"
    assert lines[-2].startswith("encoding clips: 10000 of 10000 clips, 100 %, ")
    others = [line for line in lines[:-1] if line != "half of it is done"]
    assert 2 <= len(others) <= SECONDS_OF_LOOP / 0.2 + 1, content
    form = r"encoding clips: \d+ of 10000 clips, \d+ %, \d+ s(, \d+ s left)?"
    assert all(re.fullmatch(form, line) for line in others), content


def test_short_work_leaves_nothing_in_a_log_file() -> None:
    done = subprocess.run(command(100.0), cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "half of it is done\nend of the work\n"


def test_a_terminal_gets_a_bar_and_messages_on_lines_of_their_own() -> None:
    shown = in_a_terminal(command(0.2))
    assert shown.count("\r") > 5 and " of 10000 clips" not in shown
    assert re.search(r"\rencoding clips: +\d+%\|.*\| \d+/10000 \[.*clip/s\]", shown), shown
    assert "100%" in shown and "clip/s]\r\nend of the work\r\n" in shown
    message = next(line for line in shown.split("\n") if "half of it is done" in line)
    assert message.split("\r")[-2] == "half of it is done", "the bar was cleared before, and drawn again below"


def test_lines_come_at_their_interval_and_one_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for number in progress(list(range(320)), "encoding clips", unit="clip"):
        clock.now += 0.125
        if line := capsys.readouterr().err:
            written.append((number, line))
    written.append((320, capsys.readouterr().err))
    assert written == [
        (80, "encoding clips: 80 of 320 clips, 25 %, 10 s, 30 s left\n"),
        (160, "encoding clips: 160 of 320 clips, 50 %, 20 s, 20 s left\n"),
        (240, "encoding clips: 240 of 320 clips, 75 %, 30 s, 10 s left\n"),
        (320, "encoding clips: 320 of 320 clips, 100 %, 40 s\n"),
    ]


def test_counting_by_hand_with_and_without_a_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(title="reading a.arrow", unit="row") as bar:
        for _ in range(30):
            clock.now += 1
            bar.update(2)
    with progress(title="speaking", total=10, unit="batch", initial=4) as bar:
        clock.now += 3600
        bar.update(2)
        clock.now += 90
        bar.update(4)
    assert capsys.readouterr().err.splitlines() == [
        "reading a.arrow: 20 rows, 10 s",
        "reading a.arrow: 40 rows, 20 s",
        "reading a.arrow: 60 rows, 30 s",
        "speaking: 6 of 10 batches, 60 %, 1 h 00 min, 2 h 00 min left",
        "speaking: 10 of 10 batches, 100 %, 1 h 01 min",
    ]


def test_work_that_fails_writes_its_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), progress(title="reading", total=100, unit="line") as bar:
        for _ in range(15):
            clock.now += 1
            bar.update()
        raise ValueError("broken")
    with progress(title="waiting", total=100):
        clock.now += 20
    for _ in progress(iter(()), "nothing"):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "reading: 10 of 100 lines, 10 %, 10 s, 1 min 30 s left",
        "reading: 15 of 100 lines, 15 %, 15 s, 1 min 25 s left",
        "waiting: 0 of 100 items, 0 %, 20 s",
    ]


def test_a_postfix_appears_in_lines_but_causes_none(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(title="training", total=100, unit="step") as bar:
        for _ in range(11):
            clock.now += 1
            bar.update()
            bar.set_postfix(loss="2.31")
    assert capsys.readouterr().err.splitlines() == [
        "training: 10 of 100 steps, 10 %, 10 s, 1 min 30 s left, loss=2.31",
        "training: 11 of 100 steps, 11 %, 11 s, 1 min 29 s left, loss=2.31",
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_disabled_bar_counts_and_shows_nothing(
    is_terminal: bool, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "shows_bars", lambda: is_terminal)
    assert list(progress(map(int, "123"), "reading", disable=True)) == [1, 2, 3]
    with progress(title="reading", total=3, disable=True) as bar:
        clock.now += 100
        bar.update()
        bar.set_postfix(loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_bars_of_libraries_are_turned_off_in_a_log_file_and_on_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: calls.append("off"))
    monkeypatch.setattr(progress_module, "shows_bars", lambda: True)
    limit_library_bars()
    assert calls == []
    limit_library_bars(disable=True)
    assert calls == ["off"]
    monkeypatch.setattr(progress_module, "shows_bars", lambda: False)
    limit_library_bars()
    assert calls == ["off", "off"]

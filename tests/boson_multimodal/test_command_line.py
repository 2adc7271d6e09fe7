"""Test how commands end: which errors have a name, which rise, and what becomes of output that cannot be written."""

import errno
import io
import os
import pickle
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from boson_multimodal import circumstances, command_line
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError, NamedError

PROJECT = Path(__file__).parents[2]
ARABIC = "\u0645\u0631\u062d\u0628\u0627"


def ends_with(error: BaseException) -> int:
    def work() -> int:
        raise error

    return run_command(work, "interrupted; all is well")


def system(number: int, *names: str | bytes | None) -> OSError:
    """The error that Python raises for an error number."""
    return OSError(number, os.strerror(number), *names)


def not_utf8(text: str) -> UnicodeEncodeError:
    """The error that Python raises for a text with bytes that are not UTF-8."""
    with pytest.raises(UnicodeEncodeError) as caught:
        text.encode()
    return caught.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("a file is wrong"), "a file is wrong\n"),
        (NamedError("the model diverged"), "the model diverged\n"),
        (system(errno.ENOSPC, "/d/x"), "/d/x: No space left on device; make room there, or give another folder\n"),
        (system(errno.EDQUOT), "Disk quota exceeded; make room there, or give another folder\n"),
        (system(errno.EROFS, "/d"), "/d: Read-only file system; give a folder on a disk that can be written\n"),
        (system(errno.EACCES, "/d"), "/d: Permission denied; give a folder that this user may use"),
        (system(errno.EPERM, b"/d"), "/d: Operation not permitted; give a folder that this user may use"),
        (system(errno.EMFILE, "/d"), "/d: Too many open files; raise the limit: ulimit -n 4096\n"),
        (system(errno.ENOMEM), "Cannot allocate memory; close other programs, or take a machine with more memory\n"),
        (system(errno.EIO, "/d"), "/d: Input/output error; the disk or its connection fails"),
        (system(errno.ENOENT, "a", None, "b"), "a -> b: No such file or directory; check the path\n"),
        (system(errno.EISDIR, "/d"), "/d: Is a directory; check the path\n"),
        (system(errno.ENAMETOOLONG, "x"), "x: File name too long; give a shorter name\n"),
        (MemoryError("Unable to allocate 7 TiB"), "out of memory (Unable to allocate 7 TiB); give less data at once"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "a file of weights: No space left on"),
        (
            not_utf8("a\nat /d/\udcff.json\nb"),
            "at /d/<U+DCFF>.json: the name is not UTF-8; rename the file",
        ),
        (MemoryError(), "out of memory; give less data at once"),
        (torch.OutOfMemoryError("2 GiB"), "out of GPU memory (2 GiB); give smaller batches"),
        (RuntimeError("can't start new thread"), "the system has no room for another thread; close other programs"),
        (
            KeyError("getpwuid(): uid not found: 5"),
            f"the system does not know user {os.getuid()}; set LOGNAME to a name",
        ),
    ],
    ids=repr,
)
def test_what_can_be_named_is_one_message(error: Exception, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(error) == command_line.WRONG == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1 and printed.out == ""


def test_ctrl_c_says_what_became_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted; all is well\n"


def test_sigterm_ends_a_command_as_ctrl_c_does_if_it_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> int:
        seen.append(signal.getsignal(signal.SIGTERM))
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return 0

    assert run_command(work, "interrupted; all is well") == 0
    assert run_command(work, "interrupted; all is well", takes_sigterm=True) == command_line.TERMINATED == 143
    assert capsys.readouterr().err == "interrupted; all is well\n"
    assert seen[0] is before is signal.getsignal(signal.SIGTERM)


def test_sigterm_of_one_process_of_a_group_has_its_status_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedError(Exception):
        pass

    def end(error: BaseException, message: str, status: int, kind: str = "error") -> None:
        raise EndedError(message, status, kind)

    monkeypatch.setattr(command_line, "_process_group", lambda: SimpleNamespace(end_after_error=end))
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with pytest.raises(EndedError) as ended:
            run_command(lambda number=number: signal.raise_signal(number) or 0, "interrupted", takes_sigterm=True)
        assert ended.value.args == ("interrupted", status, "")


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), RuntimeError("x"), OSError("x"), system(errno.EPIPE), not_utf8("\ud800")],
)
def test_what_cannot_be_named_rises(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as caught:
        ends_with(error)
    assert caught.value is error and capsys.readouterr().err == ""


def test_torch_and_numpy_out_of_memory_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The errors are the real ones: their types and words are those of the libraries."""
    for work in (lambda: torch.empty(1 << 60), lambda: np.ones(1 << 50)):
        assert run_command(work) == 1
        assert "error: out of memory (" in capsys.readouterr().err


def test_the_work_of_a_command_gives_the_status() -> None:
    assert [run_command(lambda status=status: status) for status in (0, 1, 3, 143)] == [0, 1, 3, 143]
    with pytest.raises(SystemExit) as end:
        run_command(lambda: sys.exit(2))
    assert end.value.code == 2


def test_other_ranks_wait_before_they_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)
    for rank, seconds in (("0", []), ("3", [command_line.SECONDS_BEFORE_OTHER_RANKS_REPORT])):
        monkeypatch.setenv("RANK", rank)
        waited.clear()
        assert ends_with(InputError("wrong")) == 1
        assert waited == seconds and capsys.readouterr().err == f"error on rank {rank}: wrong\n"


# -- home ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME is not set, and the system does not know the user."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_path_with_a_tilde_and_no_home(no_home: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"--x ~/a: HOME is not set, and the system does not know user \d+; set HOME"):
        circumstances.home_path("~/a", "--x")
    assert circumstances.home_path("a/~", "--x") == Path("a/~")
    assert circumstances.home_path("~nobody-here", "--x") == Path("~nobody-here"), "it may be the name of a file"
    assert run_command(lambda: Path("~/a").expanduser()) == 1
    assert "error: a path begins with ~, but HOME is not set" in capsys.readouterr().err


def test_a_path_of_a_user_whom_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: Path("~nobody-here/a").expanduser()) == 1
    assert "error: a path begins with ~ and the name of a user whom the system does not know" in capsys.readouterr().err


def test_libraries_get_a_cache_that_is_gone_at_the_end(no_home: None) -> None:
    def work() -> int:
        folders.append(Path(os.environ["XDG_CACHE_HOME"]))
        assert os.environ["NUMBA_CACHE_DIR"] == str(folders[0]) and folders[0].is_dir()
        return 0

    folders: list[Path] = []
    assert run_command(work) == 0
    assert not folders[0].exists() and "XDG_CACHE_HOME" not in os.environ and "NUMBA_CACHE_DIR" not in os.environ


def test_a_cache_that_can_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    with circumstances.cache_for_libraries():
        assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "new" / "cache") and "NUMBA_CACHE_DIR" not in os.environ


# -- standard streams ------------------------------------------------------------------------------------------------

COMMAND = f"""
import os, sys
sys.path.insert(0, {str(PROJECT)!r})
from boson_multimodal.command_line import run_command
from boson_multimodal.standard_streams import input_bytes, result_output
def talk():
    for number in range(20_000):
        print("\\u0645", number)
        print("\\u0645", number, file=sys.stderr)
    open(sys.argv[2], "w").write("done")
    return 0
def result():
    for line in input_bytes():
        result_output().write(line)
    open(sys.argv[2], "w").write("done")
    return 0
def speak():
    print("\\u0645")
    open(sys.argv[2], "w").write("done")
    return 0
sys.exit(run_command(globals()[sys.argv[1]]))
"""


def shell(script: str, what: str, done: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a shell, where ``$COMMAND`` is the command."""
    done.unlink(missing_ok=True)
    words = f'{sys.executable} -c "$SOURCE" {what} {done}'
    script = "set -o pipefail; " + script.replace("COMMAND", words)
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "SOURCE": COMMAND, **environment},
        capture_output=True,
        timeout=60,
    )


def test_a_pipe_that_nobody_reads_does_not_stop_the_work(tmp_path: Path) -> None:
    for script in ("COMMAND 2>/dev/null | head -1", "COMMAND 2>&1 >/dev/null | head -1", "COMMAND 2>&1 | true"):
        ended = shell(script, "talk", tmp_path / "done")
        assert ended.returncode == command_line.UNREAD == 128 + signal.SIGPIPE, script
        assert ended.stderr == b"" and (tmp_path / "done").read_text() == "done", script
        assert ended.stdout in (f"{ARABIC[0]} 0\n".encode(), b"")


def test_a_result_that_nobody_reads_stops_the_command(tmp_path: Path) -> None:
    ended = shell("yes | head -1000000 | COMMAND | head -1", "result", tmp_path / "done")
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"y\n", b"", command_line.UNREAD)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_arabic_shows_escapes_and_a_note(tmp_path: Path, encoding: str) -> None:
    ended = shell("COMMAND", "speak", tmp_path / "done", PYTHONIOENCODING=encoding)
    assert ended.returncode == 0 and ended.stdout == b"\\u0645\n" and (tmp_path / "done").exists()
    assert ended.stderr.startswith(b"note: this terminal's encoding (") and ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "cp1256", "utf-16-le"])
def test_a_terminal_with_arabic_shows_it(tmp_path: Path, encoding: str) -> None:
    ended = shell("COMMAND", "speak", tmp_path / "done", PYTHONIOENCODING=encoding)
    assert (ended.stdout.decode(encoding), ended.stderr, ended.returncode) == ("\u0645\n", b"", 0)


def test_a_result_is_in_utf8_in_every_terminal(tmp_path: Path) -> None:
    ended = shell(f"echo {ARABIC} | COMMAND", "result", tmp_path / "done", PYTHONIOENCODING="ascii")
    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{ARABIC}\n".encode(), b"", 0)


def test_closed_streams(tmp_path: Path) -> None:
    """A closed stream must not give its number to the next file that is opened."""
    done = tmp_path / "done"
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        ended = shell(f"COMMAND {closed}", "speak", done)
        assert ended.returncode == 0 and done.read_text() == "done" and ended.stderr == b"", closed
    ended = shell("echo x | COMMAND >&-", "result", done)
    assert ended.returncode == 1 and ended.stderr.startswith(b"error: standard output: it is closed")
    ended = shell("COMMAND <&-", "result", done)
    assert ended.returncode == 1 and ended.stderr.startswith(b"error: standard input: it is closed")
    assert not done.exists()


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    for what in ("speak", "talk"):
        ended = shell("COMMAND > /dev/full", what, tmp_path / "done")
        assert ended.returncode == 1
        assert ended.stderr.endswith(
            b"error: standard output: No space left on device; " + circumstances.DISK_FULL.encode() + b"\n"
        )


def test_streams_of_a_caller_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    assert run_command(lambda: print("x") or 0) == 0
    assert sys.stdout is mine and mine.getvalue() == "x\n"


def test_a_named_error_can_be_sent_to_another_process() -> None:
    assert str(pickle.loads(pickle.dumps(NamedError("x")))) == "x"


def test_a_text_that_the_locale_misread() -> None:
    assert not circumstances.is_misread(ARABIC) and not circumstances.is_misread("abc")
    assert circumstances.is_misread(os.fsencode(ARABIC).decode("ascii", "surrogateescape"))
    assert circumstances.is_misread("abc\udcff") and circumstances.is_misread("abc\ud800")

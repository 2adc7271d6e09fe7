"""Test every command in the circumstances of a user: no home, an odd terminal, a proxy, a pipe that nobody reads."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, PROGRAM, PROJECT, flags, trainer

Runner = Callable[..., subprocess.CompletedProcess[bytes]]
UID = 12345
"""A user that the system does not know."""
READS_ALL = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search".split()
"""The user may read everything, since a Python below /root is common where the tests run as root."""
AS_NOBODY = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *READS_ALL]
needs_root = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv (util-linux)",
)
PROXY = {"ALL_PROXY": "socks5://me:secret@127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
NAME = "\u0635\u0648\u062a"
"""An Arabic name of a file, which commands print."""


def test_every_command_ends_in_the_one_place() -> None:
    commands = [PROGRAM, *PROJECT.glob("tools/**/*.py"), PROJECT / "benchmarks/spoken_words.py"]
    sources = {path: path.read_text(encoding="utf-8") for path in commands}
    ending = 'if __name__ == "__main__":\n    sys.exit(main())'
    commands = [path for path, source in sources.items() if ending in source]
    assert len(commands) == 10
    for path in commands:
        assert "return run_command(" in sources[path] or "= run_command(" in sources[path], path
    for path, source in sources.items():
        handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
        caught = {ast.unparse(handler.type) for handler in handlers if handler.type is not None}
        assert not caught & {"InputError", "KeyboardInterrupt", "Exception", "BaseException"}, path


def words_of(name: str, demo: Path, adapter: Path, out: Path) -> list[str]:
    """The command line of a command that writes below ``out``."""
    tool, data = [sys.executable, "-m"], str(demo / "train_chatml_samples.json")
    model, codec = str(demo / "model"), str(demo / "audio_tokenizer")
    settings = {"code_cache_dir": out / "codes", "max_steps": 2, "report_to": "tensorboard"}
    spoken = ["--text", "\u0645\u0631\u062d\u0628\u0627", "--reference_text", "\u0646\u0639\u0645", "--keep_runaways"]
    spoken += [
        "--reference",
        str(demo / "clips/amal/train_00.wav"),
        "--retries",
        "0",
        "--slowest_letters_per_second",
        "9",
    ]
    return {
        "trainer": [sys.executable, str(PROGRAM), *flags(demo, out / NAME, **settings)],
        "check": [*tool, "tools.prepare_data", "check", data, "--output_dir", str(out / NAME), "--num_workers", "1"],
        "normalise": [*tool, "tools.prepare_data", "normalise", data, "--output_dir", str(out / NAME)],
        "encode": [*tool, "tools.prepare_data", "encode", data, "--codec", codec, "--code_cache_dir", str(out / NAME)],
        "synthesize": [*tool, "tools.synthesize", "--model_path", model, "--audio_tokenizer_path", codec, *spoken]
        + ["--adapter", str(adapter), "--output", str(out / f"{NAME}.wav")],
        "merge": [*tool, "tools.merge_adapter", "--model_path", model, "--adapter", str(adapter)]
        + ["--output", str(out / NAME), "--layout", "original"],
        "plot": [*tool, "tools.plot_metrics", str(adapter.parent), "--output", str(out / f"{NAME}.png")],
        "make_demo": [*tool, "tools.make_demo", "--output_dir", str(out / NAME)],
    }[name]


COMMANDS = "trainer check normalise encode synthesize merge plot make_demo".split()
STATUS = {"synthesize": (0, 3)}
"""Commands with other right statuses than 0: a model of random weights may not end."""


@pytest.fixture(scope="module")
def adapter(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainer(demo, tmp_path_factory.mktemp("run") / "run", max_steps=2).train().checkpoint


@pytest.fixture
def run_in(demo: Path, adapter: Path, tmp_path: Path) -> Runner:
    """Runs a command in a folder that everybody may write to."""

    def run(
        name: str, *, prefix: list[str] = (), ending: str = "", **environment: str | None
    ) -> subprocess.CompletedProcess[bytes]:
        out = tmp_path / name
        out.mkdir(mode=0o777)
        out.chmod(0o777)
        settings = {**ENVIRONMENT, "PYTHONPATH": str(PROJECT), **environment}
        script = f'set -o pipefail; "$@" {ending}'
        return subprocess.run(
            ["bash", "-c", script, "bash", *prefix, *words_of(name, demo, adapter, out)],
            env={name: value for name, value in settings.items() if value is not None},
            cwd=out,
            capture_output=True,
            timeout=400,
        )

    return run


@needs_root
def test_an_unknown_user_without_a_home_behind_a_proxy_in_an_ascii_terminal(demo: Path, tmp_path: Path) -> None:
    """All at once: what the user named works, and the one thing that cannot work has a message."""
    tmp_path.chmod(0o777)
    words = flags(demo, tmp_path / NAME, code_cache_dir=None)
    settings = {**ENVIRONMENT, **PROXY, "PYTHONIOENCODING": "ascii"}
    settings.pop("HOME")
    ended = subprocess.run(
        [*AS_NOBODY, sys.executable, str(PROGRAM), *words], env=settings, capture_output=True, text=True, timeout=200
    )
    assert ended.stderr == (
        "error: --code_cache_dir ~/.cache/higgs_audio_v2_codes: HOME is not set, and the system does not know user "
        f"{UID}; set HOME, or give a path without ~\n"
    )
    assert ended.returncode == 1 and not (tmp_path / NAME).exists()


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("home", [None, "/", "/nonexistent"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_user(run_in: Runner, name: str, home: str | None) -> None:
    ended = run_in(name, prefix=AS_NOBODY, HOME=home, USER=None, LOGNAME=None)
    assert ended.returncode in STATUS.get(name, (0,)), ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_socks_proxy_that_no_command_needs(run_in: Runner, name: str) -> None:
    ended = run_in(name, **PROXY)
    assert ended.returncode in STATUS.get(name, (0,)), ended.stderr.decode()
    assert b"Traceback" not in ended.stderr and b"secret" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_without_arabic(run_in: Runner, name: str, encoding: str) -> None:
    ended = run_in(name, PYTHONIOENCODING=encoding)
    assert ended.returncode in STATUS.get(name, (0,)), ended.stderr.decode(errors="replace")
    shown = ended.stdout + ended.stderr
    assert b"Traceback" not in shown
    if name != "encode":  # the only command that prints no name
        assert b"\\u0635\\u0648\\u062a" in shown and b"note: this terminal" in shown


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["2>&1 | true", ">&- 2>&-"])
@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_nobody_reads(run_in: Runner, name: str, ending: str, tmp_path: Path) -> None:
    """The work is done all the same."""
    ended = run_in(name, ending=ending)
    right = (141, 3) if "|" in ending else STATUS.get(name, (0,))
    assert ended.returncode in right and ended.stderr == b""
    assert [path for path in (tmp_path / name).iterdir() if path.name.startswith(NAME)]

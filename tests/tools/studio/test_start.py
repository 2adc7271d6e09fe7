"""How the studio starts and ends: bad input is refused before weights are loaded, and nothing is left behind."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.exported_adapters import random_adapter, tiny_model
from tests.training_runs import ENVIRONMENT, PROJECT
from tools.studio import __main__ as tool
from tools.studio import server
from voice_cloning.speech import voice_cloner, voices

gradio_is_absent = server.importlib.util.find_spec("gradio") is None
needs_gradio = pytest.mark.skipif(gradio_is_absent, reason="gradio is not installed")


def flags(demo: Path, *words: str | Path) -> list[str]:
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    return [str(word) for word in (*paths, *words)]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Fail if weights are loaded in this process."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(voice_cloner, "load_speaking_model", refuse)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@pytest.fixture(scope="module")
def adapters(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of the demo's model, one of another model, and one that was trained in 4 bits."""
    root = tmp_path_factory.mktemp("adapters")
    own = random_adapter(root / "own", HiggsAudioModel.from_pretrained(demo / "model"), lora_targets=["attention"])
    nf4 = random_adapter(root / "nf4", HiggsAudioModel.from_pretrained(demo / "model"), lora_targets=["attention"])
    run = {"flags": {"prompt_style": "voice_clone", "text_normalisation": "none", "quantise": "nf4"}}
    (nf4 / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return {"own": own, "nf4": nf4, "other": random_adapter(root / "other", tiny_model(root / "base"))}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_listed_at_once(
    demo: Path, adapters: dict[str, Path], taken: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    words = [
        "--port",
        str(taken),
        "--adapter",
        adapters["own"],
        adapters["other"],
        demo / "clips",
        "--adapter_scale=-1",
    ]
    assert tool.main(flags(demo, *words)) == 1
    message = capsys.readouterr().err
    assert "the studio cannot start (5):" in message
    assert "gradio is not installed; pip install -r requirements-studio.txt" in message
    assert f"--port {taken}: another program has this port on 127.0.0.1; end it, or give another --port" in message
    assert f"--adapter {adapters['other']}: was trained on another model" in message
    assert f"--adapter {demo / 'clips'}: no adapter_config.json" in message
    assert "own: adapter_scale is -1.0; it must be from 0 (the base) to 2" in message
    assert (PROJECT / server.REQUIREMENTS).is_file()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--port", "0"], "--port 0: must be from 1 to 65535"),
        (["--port", "70000"], "--port 70000: must be from 1 to 65535"),
        (
            ["--host", "192.0.2.7"],
            "--host 192.0.2.7: is not an address of this machine; 127.0.0.1 is this machine alone",
        ),
        (["--host", "no such host"], "--host no such host: no such address ("),
        (["--model_path", "absent"], "--model_path"),
        (["--adapter_scale", "0.5"], "--adapter_scale 0.5: there is no --adapter to weaken; give one"),
    ],
)
@needs_gradio
def test_wrong_flags(demo: Path, words: list[str], problem: str, capsys: Any) -> None:
    port = ["--port", str(free_port())]
    assert tool.main(flags(demo, *port, *words)) == 1
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.EACCES, "--port 81: this user may not use it; give a --port from 1024"),
        (errno.ENETDOWN, "--host 127.0.0.1 --port 81: cannot be used (Network is down)"),
    ],
)
def test_a_port_that_cannot_be_used(number: int, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", fail)
    with pytest.raises(InputError) as caught:
        server.check_address("127.0.0.1", 81)
    assert str(caught.value) == problem


def test_adapters_are_named_by_what_makes_them_differ(tmp_path: Path) -> None:
    one, two, base = tmp_path / "a/checkpoint-000200", tmp_path / "b/checkpoint-000200", tmp_path / "base"
    assert list(tool.named_adapters([str(one)])) == ["checkpoint-000200"]
    assert tool.named_adapters([str(one), str(two)]) == {"a/checkpoint-000200": one, "b/checkpoint-000200": two}
    assert list(tool.named_adapters([str(base)])) == [f"{tmp_path.name}/base"]
    assert tool.named_adapters([]) == {}
    with pytest.raises(InputError, match="--adapter: given twice"):
        tool.named_adapters([str(one), str(two), str(tmp_path / "b/../a/checkpoint-000200")])


def test_one_base_has_one_quantisation(adapters: dict[str, Path]) -> None:
    own, nf4 = adapters["own"], adapters["nf4"]
    assert voices.shared_quantisation(None, [own]) == "none"
    assert voices.shared_quantisation(None, [nf4]) == "nf4"
    assert voices.shared_quantisation("none", [own, nf4]) == "none"
    with pytest.raises(InputError, match="trained with different --quantise .*own: none; .*nf4: nf4"):
        voices.shared_quantisation(None, [own, nf4])


# -- the surroundings --------------------------------------------------------------------------------------------------


def test_it_opens_no_browser_where_there_is_no_display(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", lambda address: opened.append(address) or len(opened) > 1)
    monkeypatch.setattr(server.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    server.open_in_browser("http://127.0.0.1:7860/")
    assert not opened
    message = "--open: there is no display here; open http://127.0.0.1:7860/ in a browser yourself\n"
    assert capsys.readouterr().err == message
    monkeypatch.setenv("DISPLAY", ":0")
    server.open_in_browser("http://127.0.0.1:7860/")
    assert capsys.readouterr().err == "--open: no browser was found; open http://127.0.0.1:7860/ yourself\n"
    server.open_in_browser("http://127.0.0.1:7860/")
    assert capsys.readouterr().err == "" and len(opened) == 2


def test_settings_for_gradio_in_the_environment_do_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("ALL_PROXY", "socks5://192.0.2.7:1")
    before = dict(os.environ)
    with server.gradio_in(tmp_path, "127.0.0.1", is_shared=False):
        ours = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
        assert ours == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}
        assert "ALL_PROXY" not in os.environ and os.environ["NO_PROXY"].startswith("127.0.0.1,")
    assert dict(os.environ) == before


def test_sharing_is_asked_for_and_fails_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio only prints that there is no public address, and goes on."""
    asked: list[bool] = []
    closed: list[bool] = []

    def launch(*, share: bool, **_: object) -> tuple[None, str, None]:
        asked.append(share)
        return None, "http://127.0.0.1:7860/", None

    blocks = SimpleNamespace(
        launch=launch, close=lambda verbose: closed.append(verbose), server=SimpleNamespace(config=SimpleNamespace())
    )
    gradio = SimpleNamespace(themes=SimpleNamespace(Default=lambda **_: None))
    with server.served(gradio, blocks, "127.0.0.1", 7860, False, "", Path()) as address:
        assert address == "http://127.0.0.1:7860/"
    with pytest.raises(NamedError, match="--share: Gradio's server gave no public address"):
        with server.served(gradio, blocks, "127.0.0.1", 7860, True, "", Path()):
            pass
    assert asked == [False, True] and len(closed) == 2


def test_the_recogniser_is_loaded_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    stub = ModuleType("recognisers")
    stub.Heard = lambda **fields: SimpleNamespace(**fields)
    recogniser = SimpleNamespace(name="whisper", transcribe=lambda clips: heard.extend(clips) or [" نعم \n"])
    stub.load_recogniser = lambda *words: recogniser if words == ("W", "v1", "cpu") else None
    monkeypatch.setitem(sys.modules, "voice_cloning.evaluation.recognisers", stub)
    dictation = tool.load_dictation("W", "v1", "cpu")
    waveform = SimpleNamespace(samples=torch.zeros(8), sampling_rate=16_000)
    assert (dictation.name, dictation.write_down(waveform)) == ("whisper", "نعم")
    assert heard[0].sampling_rate == 16_000 and heard[0].codes_KT is None and heard[0].samples.shape == (8,)


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_folder_is_removed_also_if_signals_come_again(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = (signal.SIGINT, *server.SIGNALS)
    before, remove = [signal.getsignal(one) for one in ours], server.shutil.rmtree

    def interrupted(path: Path, ignore_errors: bool) -> None:
        for again in ours:
            signal.raise_signal(again)
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(server.shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit) as ended, server.temporary_folder() as folder:
        (folder / "clip.wav").write_bytes(b"voice")
        signal.raise_signal(number)
    assert ended.value.code == status and not folder.exists()
    assert [signal.getsignal(one) for one in ours] == before


def test_a_folder_that_stays_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(server.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(server.shutil, "rmtree", lambda path, ignore_errors: None)
    with server.temporary_folder():
        pass
    assert capsys.readouterr().err == f"warning: {tmp_path} could not be removed; it holds clips and speech\n"


@needs_gradio
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_starts_and_ends(demo: Path, tmp_path: Path, number: int, status: int) -> None:
    port = free_port()
    words = [sys.executable, "-m", "tools.studio", *flags(demo, "--port", str(port), "--open")]
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=PROJECT
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        assert process.stdout.readline() == f"the studio is at {address}; Ctrl-C ends it\n"
        with urllib.request.urlopen(address) as page:
            assert "default-src 'self'" in page.headers["content-security-policy"]
        folders = [path for path in tmp_path.iterdir() if path.name.startswith("studio_")]
        assert len(folders) == 1
        second = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=PROJECT, timeout=200)
        assert second.returncode == 1 and f"--port {port}: another program has this port" in second.stderr
    finally:
        process.send_signal(number)
    start = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status and time.monotonic() - start < 30
    assert output == "" and "Traceback" not in errors
    assert f"--open: there is no display here; open {address} in a browser yourself" in errors
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("studio_")]
    assert tempfile.gettempdir() != str(tmp_path)

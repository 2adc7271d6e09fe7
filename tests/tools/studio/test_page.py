"""The page in a real browser: a voice is tried from the upload to the players."""

import io
import threading
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.clips import Waveform
from tests import chromium
from tests.chatml_files import write_clip
from tests.chromium import Browser, needs_chromium
from tests.studio_pictures import FOLDER, PICTURES, TAKEN_WITH, example_page, take
from tests.tools.studio.conftest import ADAPTER
from tests.tools.studio.test_start import free_port
from tests.voice_cloning.data_check.test_report_page import TOLERANCE, difference
from tests.voice_cloning.speech.cloners import targets
from tools.studio.dictation import Dictation
from tools.studio.job import Wishes
from tools.studio.page import STYLE, Page, as_markdown, escaped
from tools.studio.server import LOOPBACK, gradio_in, served
from tools.studio.systems import BASE, Systems

pytestmark = [needs_chromium, pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")]

SPEAK = "document.querySelector('#speak').click()"
MESSAGES = "(document.querySelector('#messages')?.innerText ?? '')"
UPLOADED = "document.querySelector('#reference #waveform') !== null"
PLAYED = """(async () => {
  const times = [];
  for (const player of document.querySelectorAll(".take audio")) {
    await player.play();
    const deadline = performance.now() + 8000;
    while (player.currentTime < 0.2 && performance.now() < deadline) await new Promise(r => setTimeout(r, 20));
    times.push(player.currentTime >= 0.2);
    player.pause();
  }
  return times;
})()"""
BYTES = """(async name => {
  const answer = await fetch(document.querySelector(`a[download="${name}"]`).href);
  return [...new Uint8Array(await answer.arrayBuffer())];
})"""


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the recogniser of the studio hears next."""
    return []


@pytest.fixture(scope="module")
def address(systems: Systems, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The studio with the demo's base and the adapter that has memorised four clips. The base is cut after 3 s."""
    folder, port = tmp_path_factory.mktemp("studio"), free_port()
    systems.dictation = Dictation("listener", lambda waveform: said.pop())
    short = {"greedy": True, "retries": 0, "slowest_letters_per_second": 20.0}
    defaults = Wishes(reference=None, reference_text="", text="", systems=[BASE, ADAPTER], **short)
    with gradio_in(folder, LOOPBACK, is_shared=False) as gradio:
        page = Page(gradio, systems, defaults, folder)
        with served(gradio, page.blocks, LOOPBACK, port, False, STYLE, folder) as found:
            yield found
    systems.dictation = None


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.order("Network.enable")
        yield opened


def opened(browser: Browser, address: str, width: int = 1200) -> None:
    browser.open(address, width)
    browser.wait_for("document.querySelector('#speak') !== null")


def write(browser: Browser, field: str, text: str) -> None:
    browser.ask(f"document.querySelector('#{field} textarea').select()")
    browser.order("Input.insertText", text=text)


def test_a_voice_is_tried(
    browser: Browser,
    address: str,
    entry: dict[str, Any],
    said: list[str],
    systems: Systems,
    memorised: ArabicVoiceCloningDistributedTrainer,
) -> None:
    opened(browser, address)
    for field in ("text", "reference_text"):
        style = f"getComputedStyle(document.querySelector('#{field} textarea'))"
        assert browser.ask(f"[{style}.direction, {style}.textAlign]") in (["rtl", "start"], ["rtl", "right"])
    assert "only with the consent of its owner" in browser.ask("document.body.innerText")
    said.append(entry["reference_text"])
    browser.upload("#reference input[type=file]", Path(entry["reference"]))
    browser.wait_for(f"document.querySelector('#reference_text textarea').value === {entry['reference_text']!r}")
    assert "listener has written down what the reference says" in browser.ask(MESSAGES)
    write(browser, "text", entry["text"])
    browser.ask(SPEAK)
    browser.wait_for(f"{MESSAGES}.startsWith('Done: 2 spoken. 1 with a warning.')")
    browser.wait_for("document.querySelectorAll('.take audio').length === 2")
    lines = browser.ask("[0, 1].map(n => document.querySelector(`#take-${n}-0`).innerText)")
    assert "Warning: runaway: no end within 2.8 s" in lines[0] and "Warning" not in lines[1]
    assert browser.ask(PLAYED) == [True, True]
    saved = bytes(browser.ask(f"{BYTES}('run_checkpoint_seed0.wav')"))
    samples, rate = soundfile.read(io.BytesIO(saved), dtype="float32")
    wanted = systems.base.codec.decode(targets(memorised)[0]).clamp(-1, 1)
    assert rate == 24_000 and (torch.from_numpy(samples) - wanted).abs().max() <= 2 / 32768
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    outside = [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))]
    assert len(asked) > 10 and not outside


def test_what_is_wrong_is_listed_on_the_page(browser: Browser, address: str) -> None:
    opened(browser, address)
    write(browser, "text", "?!")
    browser.ask(SPEAK)
    browser.wait_for(f"{MESSAGES}.startsWith('Error.')")
    items = browser.ask("[...document.querySelectorAll('#messages li')].map(item => item.innerText)")
    assert [item.partition(":")[0] for item in items] == ["reference text", "text", "reference"]
    assert browser.ask("document.querySelectorAll('.take').length") == 0


@pytest.mark.slow
def test_one_job_at_a_time_and_the_page_says_so(
    browser: Browser, address: str, entry: dict[str, Any], systems: Systems, said: list[str]
) -> None:
    """A job that computes holds up a second one; it can be stopped, and then the second one runs."""
    holds, goes_on = threading.Event(), threading.Event()

    def hold(waveform: object) -> str:
        holds.set()
        assert goes_on.wait(60)
        return "first"

    opened(browser, address)
    listener, systems.dictation = systems.dictation, Dictation("listener", hold)
    browser.upload("#reference input[type=file]", Path(entry["reference"]))
    assert holds.wait(60)
    browser.ask(SPEAK)
    browser.wait_for(f"{MESSAGES}.includes('Another job has been running for')")
    goes_on.set()
    browser.wait_for(f"{MESSAGES}.startsWith('Error.')")
    systems.dictation = listener


def test_a_stop_leaves_the_last_word_to_the_speech(systems: Systems, tmp_path: Path) -> None:
    """The answer to the button may reach the page after the last update of the speech."""
    defaults = Wishes(reference=None, reference_text="", text="", systems=[BASE, ADAPTER])
    with gradio_in(tmp_path, LOOPBACK, is_shared=False) as gradio:
        page = Page(gradio, systems, defaults, tmp_path)
        assert page._stop() == "Nothing is being spoken."

        def spoken() -> Iterator[dict[Any, Any]]:
            yield {page.messages: "Speaking: 1 of 2."}
            assert page._stop() == gradio.skip()
            systems._end_if_stopped()

        assert [list(update.values()) for update in page._as_job(spoken())] == [
            ["Speaking: 1 of 2."],
            ["**Stopped.** What was spoken before stays."],
        ]
        assert page._stop() == "Nothing is being spoken."
    systems.go_on()


@pytest.mark.slow
def test_speech_can_be_stopped(browser: Browser, address: str, entry: dict[str, Any], said: list[str]) -> None:
    opened(browser, address)
    said.append(entry["reference_text"])
    browser.upload("#reference input[type=file]", Path(entry["reference"]))
    browser.wait_for(f"document.querySelector('#reference_text textarea').value === {entry['reference_text']!r}")
    write(browser, "text", "نعم " * 3000)  # many pieces, which take minutes
    browser.ask(SPEAK)
    browser.wait_for(f"{MESSAGES}.startsWith('Speaking: 1 of 2')")
    browser.ask("document.querySelector('#stop').click()")
    browser.wait_for(f"{MESSAGES}.startsWith('Stopped.')")


@pytest.mark.slow
def test_a_reference_can_be_recorded(
    address: str, entry: dict[str, Any], systems: Systems, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The browser plays a clip of noise into its microphone."""
    sound = write_clip(tmp_path / "noise.wav", seconds=2.0)
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    monkeypatch.setattr(chromium, "FLAGS", [*chromium.FLAGS, *fake, f"--use-file-for-fake-audio-capture={sound}"])
    heard: list[Waveform] = []
    listener, systems.dictation = systems.dictation, Dictation("listener", lambda clip: heard.append(clip) or "noise")
    button = "[...document.querySelectorAll('#reference button')].find(b => b.innerText.trim() === '{}')"
    with Browser(tmp_path / "profile") as own:
        opened(own, address)
        own.ask("document.querySelector('#reference [aria-label=\"Record audio\"]').click()")
        own.wait_for(f"{button.format('Record')} !== undefined")
        own.ask(f"{button.format('Record')}.click()")
        own.ask("new Promise(done => setTimeout(done, 3000))")
        own.ask(f"{button.format('Stop')}.click()")
        own.wait_for("document.querySelector('#reference_text textarea').value === 'noise'")
    systems.dictation = listener
    assert heard[0].seconds > 1.0 and not heard[0].is_silent


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with example_page(tmp_path_factory.mktemp("example"), free_port()) as found:
        yield found


@pytest.mark.parametrize("name", PICTURES)
def test_the_page_looks_like_its_pictures(browser: Browser, example: str, name: str, tmp_path: Path) -> None:
    """After an intended change, look at the page, then run ``python -m tests.studio_pictures``."""
    if not version("gradio").startswith(TAKEN_WITH):
        pytest.skip(f"the pictures were taken with Gradio {TAKEN_WITH}x; {version('gradio')} draws its fields itself")
    png = take(browser, example, name)
    (tmp_path / f"{name}.png").write_bytes(png)
    assert difference(png, (FOLDER / f"{name}.png").read_bytes()) <= TOLERANCE, f"see {tmp_path}/{name}.png"
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")


def test_messages_show_what_the_user_wrote() -> None:
    assert escaped("a_b*c <b> 1.5 `x` [y](z)") == r"a\_b\*c \<b\> 1\.5 \`x\` \[y\]\(z\)"
    assert escaped("صباح الخير") == "صباح الخير"
    assert as_markdown("Nothing (2):\n  a_b: x\n  c") == "**Error.** Nothing \\(2\\)\\:\n\n- a\\_b\\: x\n- c"

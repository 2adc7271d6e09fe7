"""The page in a real browser: a voice is tried from the upload to the players."""

import io
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.chromium import Browser, needs_chromium
from tests.tools.studio.conftest import ADAPTER
from tests.tools.studio.test_start import free_port
from tests.voice_cloning.speech.cloners import targets
from tools.studio.dictation import Dictation
from tools.studio.job import Wishes
from tools.studio.page import STYLE, Page, as_markdown, escaped
from tools.studio.server import LOOPBACK, gradio_in, served
from tools.studio.systems import BASE, Systems

pytestmark = [needs_chromium, pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")]

SPEAK, MESSAGES = "document.querySelector('#speak').click()", "document.querySelector('#messages').innerText"
UPLOADED = "document.querySelector('#reference #waveform') !== null"
PLAYED = """(async id => {
  const player = document.querySelector(id), time = () => player.querySelector("#time").innerText;
  player.querySelector('[aria-label="Play"]').click();
  const deadline = performance.now() + 8000;
  while (time() === "0:00" && performance.now() < deadline) await new Promise(r => setTimeout(r, 20));
  return time();
})"""
BYTES = """(async id => {
  const answer = await fetch(document.querySelector(id + ' [data-testid="download-link"]').href);
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
        with served(gradio, page.blocks, LOOPBACK, port, False, STYLE) as found:
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
    assert "Warning: runaway: no end within 2.8 s" in browser.ask(
        "document.querySelector('#player-0-0-line').innerText"
    )
    assert browser.ask("document.querySelector('#player-1-0-line').innerText").count("Warning") == 0
    for number in (0, 1):
        browser.wait_for(f"document.querySelector('#player-{number}-0 [aria-label=Play]') !== null")
        assert browser.ask(f"{PLAYED}('#player-{number}-0')") == "0:01"
    samples, rate = soundfile.read(io.BytesIO(bytes(browser.ask(f"{BYTES}('#player-1-0')"))), dtype="float32")
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
    assert browser.ask("document.querySelectorAll('[id^=player-] audio').length") == 0


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


def test_messages_show_what_the_user_wrote() -> None:
    assert escaped("a_b*c <b> 1.5 `x` [y](z)") == r"a\_b\*c \<b\> 1\.5 \`x\` \[y\]\(z\)"
    assert escaped("صباح الخير") == "صباح الخير"
    assert as_markdown("Nothing (2):\n  a_b: x\n  c") == "**Error.** Nothing \\(2\\)\\:\n\n- a\\_b\\: x\n- c"

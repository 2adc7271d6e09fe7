"""Takes pictures of the studio's page that do not depend on the machine's fonts; run it to replace the references.

    python -m tests.studio_pictures

The page has spoken an example. Letters are boxes (``report_pictures.py``); players are hidden, because each Chromium
draws them differently. The pictures show the layout, the colours, the fields and the lines.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from tests.chromium import PROGRAM, Browser
from tests.report_pictures import draw_as_boxes
from tools.studio import page as studio_page
from tools.studio.job import Job, Take, Wishes
from tools.studio.page import STYLE, Page
from tools.studio.server import LOOPBACK, gradio_in, served
from tools.studio.systems import BASE
from voice_cloning.speech.voice_cloner import SpeechSettings

PICTURES = {"desktop_light": (1200, False, 0.25), "phone_dark": (390, True, 0.4)}
"""Name -> window width in pixels, dark colours, scale of the picture."""
FOLDER = Path(__file__).with_name("studio_pictures")
TAKEN_WITH = "6.31."
"""The beginning of the version of Gradio that drew the references. Another one draws its fields differently."""
ADAPTER = "run/checkpoint-000200"
PLAIN = """
* { font-family: Boxes !important; font-synthesis: none; text-rendering: geometricPrecision; }
* { transition: none !important; animation: none !important; }
audio { visibility: hidden; }
"""


@contextmanager
def example_page(folder: Path, port: int) -> Iterator[str]:
    """Serve a page without weights, which speaks fixed tones. Yield its address."""
    systems = SimpleNamespace(names=[BASE, ADAPTER], has_adapters=True, dictation=None, go_on=lambda: None)
    hints = ("The reference has 2.0 s; 3 to 10 s clone a voice best.",)
    job = Job(dict.fromkeys(systems.names), dict.fromkeys((0, 1), SpeechSettings()), 1.0, hints)

    def speak(*_: object) -> Iterator[Take]:
        path = folder / "tone.wav"
        path.write_bytes(wav_bytes(torch.sin(torch.arange(36_000) / 20), 24_000))
        for name in systems.names:
            for seed in (0, 1):
                warnings = ("runaway: no end within 8.4 s (3 attempts)",) if (name, seed) == (BASE, 1) else ()
                yield Take(name, seed, path, 1.5, 10.7, 3 if warnings else 1, warnings)

    before = studio_page.check, studio_page.speak
    studio_page.check, studio_page.speak = (lambda *_: job), speak
    defaults = Wishes(reference=None, reference_text="كيف حالك", text="صباح الخير", systems=systems.names, seeds="0, 1")
    try:
        with gradio_in(folder, LOOPBACK, is_shared=False) as gradio:
            page = Page(gradio, systems, defaults, folder)
            with served(gradio, page.blocks, LOOPBACK, port, False, STYLE, folder) as address:
                yield address
    finally:
        studio_page.check, studio_page.speak = before


def take(browser: Browser, address: str, name: str) -> bytes:
    """Return the PNG of one of ``PICTURES``."""
    width, dark, scale = PICTURES[name]
    browser.open(address, width, dark)
    browser.wait_for("document.querySelector('#speak') !== null")
    browser.ask("document.querySelector('#speak').click()")
    browser.wait_for("document.querySelector('#messages')?.innerText.startsWith('Done: 4 spoken.')")
    browser.wait_for("document.querySelectorAll('.take audio').length === 4")
    browser.ask("document.activeElement.blur()")
    written = browser.ask("[...document.querySelectorAll('textarea, input')].map(field => field.value).join('')")
    draw_as_boxes(browser, browser.ask("document.body.textContent") + written, PLAIN)
    return browser.picture(scale)


def main() -> int:
    """Write the reference pictures. Returns the exit status."""
    if PROGRAM is None:
        print("error: no Chromium is installed", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, example_page(Path(folder), 7999) as address:
        with Browser(Path(folder) / "profile") as browser:
            for name in PICTURES:
                path = FOLDER / f"{name}.png"
                path.write_bytes(take(browser, address, name))
                print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

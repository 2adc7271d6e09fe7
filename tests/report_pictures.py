"""Takes pictures of the example reports that do not depend on the machine's fonts; run it to replace the references.

    python -m tests.report_pictures

A font made here draws every letter as the same box. Players and fields are hidden, because each Chromium draws them
differently. The pictures show the layout, the colours, the plots and the lines.
"""

import base64
import io
import json
import sys
import tempfile
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from tests.chromium import PROGRAM, Browser
from tests.evaluation_example import write_example, write_report
from tests.report_example import example, write_clips
from voice_cloning.data_check.report_page import write_page
from voice_cloning.evaluation import report_page

DATA_PICTURES = {"desktop_light": (1000, False, 0.25), "phone_dark": (390, True, 0.4)}
EVALUATION_PICTURES = {"evaluation_desktop": (1000, False, 0.25), "evaluation_phone": (390, False, 0.4)}
PICTURES = DATA_PICTURES | EVALUATION_PICTURES
"""Name -> window width in pixels, dark colours, scale of the picture."""
FOLDER = Path(__file__).with_name("report_pictures")
EM = 1000
UNWRITTEN = "\u25b8\u25be \n\t\xa0"
"""Characters that the browser adds to those of the page: the markers of closed and open parts, and spaces."""
STYLE = """
* { font-family: Boxes !important; font-synthesis: none; text-rendering: geometricPrecision; }
* { content-visibility: visible !important; }
audio, select, input { visibility: hidden; }
"""


def box_font(characters: str) -> bytes:
    """Return a TrueType font that draws each of ``characters`` as a box, 0.45 em wide and 0.6 em high."""
    pen = TTGlyphPen(None)
    pen.moveTo((40, 0))
    for point in ((40, 600), (410, 600), (410, 0)):
        pen.lineTo(point)
    pen.closePath()
    box = pen.glyph()
    font = FontBuilder(EM)
    font.setupGlyphOrder([".notdef", "box"])
    font.setupCharacterMap({ord(character): "box" for character in characters})
    font.setupGlyf({".notdef": box, "box": box})
    font.setupHorizontalMetrics({".notdef": (450, 40), "box": (450, 40)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()


def evaluation_page(folder: Path) -> Path:
    """Write the page of an evaluation whose pictures are taken: it has everything, and few sentences."""
    report = write_example(folder, sentences=3)
    report["retention"] = {"set": {"name": "english", "sentences": 20}, "systems": report["systems"]}
    report["warnings"] = ["The adapter was trained with another release."]
    write_report(folder, report)
    return report_page.write_page(folder)


def take(browser: Browser, page: Path, name: str) -> bytes:
    """Return the PNG of one of ``PICTURES``."""
    width, dark, scale = PICTURES[name]
    browser.open(page, width, dark)
    draw_as_boxes(browser, browser.ask("document.documentElement.textContent"), STYLE)
    return browser.picture(scale)


def draw_as_boxes(browser: Browser, text: str, style: str) -> None:
    """Give the open page a font of boxes for the printable characters of a text, and a style that uses it."""
    characters = "".join(sorted({c for c in text + UNWRITTEN if c.isprintable() or c in UNWRITTEN}))
    font = base64.b64encode(box_font(characters)).decode()
    browser.ask(
        f"""(async () => {{
          const bytes = Uint8Array.from(atob("{font}"), letter => letter.charCodeAt(0));
          document.fonts.add(await new FontFace("Boxes", bytes.buffer).load());
          const style = document.createElement("style");
          style.textContent = {json.dumps(style)};
          document.head.append(style);
          await document.fonts.ready;
        }})()"""
    )


def main() -> int:
    """Write the reference pictures. Returns the exit status."""
    if PROGRAM is None:
        print("error: no Chromium is installed", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages = dict.fromkeys(DATA_PICTURES, write_page(example(write_clips(Path(folder) / "clips")), Path(folder)))
        pages |= dict.fromkeys(EVALUATION_PICTURES, evaluation_page(Path(folder) / "evaluation"))
        with Browser(Path(folder) / "profile") as browser:
            for name, page in pages.items():
                path = FOLDER / f"{name}.png"
                path.write_bytes(take(browser, page, name))
                print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

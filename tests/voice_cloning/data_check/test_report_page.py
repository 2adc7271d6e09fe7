"""Tests of the report page: data stays text, players play from disk, and the page looks like its pictures."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Browser, needs_chromium
from tests.report_example import CLIPS, HOSTILE, example, finding, write_clips
from tests.report_pages import PLAY, TOLERANCE, TOO_WIDE, Elements, difference
from tests.report_pictures import DATA_PICTURES, FOLDER, take
from voice_cloning.data_check import report_page
from voice_cloning.data_check.report_page import SAMPLES_SHOWN, write_page

EMPTY = {"errors": [], "warnings": [], "summary": {}, "samples": {}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the example's page to a folder whose name must be encoded in addresses too."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "تقرير of #1"
    folder.mkdir()
    return write_page(example(write_clips(root / "clips")), folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_data_stays_text(page: Path) -> None:
    elements = Elements(page)
    assert not {"script", "img", "b", "link", "iframe"} & elements.tags.keys()
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.text.count(HOSTILE) == 5  # id, speaker, text, advice, detail
    assert "<!doctype html>" in page.read_text(encoding="utf-8")[:20]


def test_the_page_has_no_network_address(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert "http:" not in content and "https:" not in content and "url(" not in content and "@import" not in content


def test_players_find_clips_by_relative_encoded_paths(page: Path) -> None:
    sources = Elements(page).sources()
    assert "../clips/tone.wav" in sources
    assert "../clips/%D8%B5%D9%88%D8%AA%20%D8%B1%D9%82%D9%85%201.flac" in sources
    assert "../clips/a%23b%3Fc%2520d.ogg#t=0.5,1" in sources, "a cut of half a second from 0.5 s on"
    assert "not there: /not/there.wav" in Elements(page).text


def test_a_path_through_a_link_leads_to_the_same_clip(tmp_path: Path) -> None:
    """For the kernel ``link/..`` is the parent of the link's target, for a browser it is the parent of the link."""
    clip = write_clips(tmp_path / "far" / "clips")["tone.wav"]
    (tmp_path / "far" / "lists").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "lists")
    through = tmp_path / "link" / ".." / "clips" / "tone.wav"
    assert through.samefile(clip)
    report = EMPTY | {"errors": [finding("k", ["a"], 0.1, "")], "samples": {"a": {"audio": str(through)}}}
    assert Elements(write_page(report, tmp_path)).sources() == ["far/clips/tone.wav"]


def test_errors_come_first_and_open_warnings_closed(page: Path) -> None:
    findings = [a for tag, a in Elements(page).found if tag == "details" and a.get("id")]
    assert [(a["id"], "open" in a) for a in findings] == [
        ("error-reference_equals_target", True),
        ("error-unreadable_audio", True),
        ("warning-low_native_rate", False),
        ("warning-bidi_controls", False),
        ("warning-text_markup", False),
    ]


def test_texts_are_marked_as_arabic_and_invisible_characters_are_shown(page: Path) -> None:
    elements = Elements(page)
    texts = [a for tag, a in elements.found if tag == "p" and a.get("class") == "text"]
    assert texts and all(a["dir"] == "rtl" and a["lang"] == "ar" for a in texts)
    assert "قال U+202EabcU+202C نعمU+D800" in elements.text
    assert not set("\u202e\u202c\ud800") & set(elements.text)


def test_the_page_of_a_finding_with_many_samples_stays_small(tmp_path: Path) -> None:
    report = example(write_clips(tmp_path / "clips"), many=10_000)
    elements = Elements(write_page(report, tmp_path))
    assert "9,950 further samples are listed in report.json only" in elements.text
    assert elements.tags["audio"] < 2 * SAMPLES_SHOWN + 20
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_embedded_audio_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "data:audio/wav;base64," + "A" * 978
    samples = {f"s{i}": {"audio": address} for i in range(4)}
    report = EMPTY | {"errors": [finding("k", list(samples), 0.1, "")], "samples": samples}
    monkeypatch.setattr(report_page, "EMBEDDED_BYTES", 3000)
    elements = Elements(write_page(report, tmp_path))
    assert elements.sources() == [address] * 3
    assert elements.text.count("the record itself holds this clip, which is too long for this page") == 1


def test_an_empty_report_says_that_there_are_no_findings(tmp_path: Path) -> None:
    elements = Elements(write_page(EMPTY, tmp_path))
    assert "No errors and no warnings." in elements.text
    assert elements.tags["details"] == 0


@needs_chromium
def test_every_player_plays_from_disk(page: Path, browser: Browser) -> None:
    """The page has all four formats, Arabic and reserved characters in paths, cuts, and embedded audio."""
    browser.open(page, 1000)
    sources = Elements(page).sources()
    assert {Path(name).suffix for name in CLIPS} <= {Path(s.partition("#")[0]).suffix for s in sources}
    assert any(source.startswith("data:") for source in sources)
    # One sample is enough: all 120 samples of this warning have the same two clips.
    browser.ask("document.querySelectorAll('#warning-low_native_rate li:nth-child(n+2)').forEach(li => li.remove())")
    assert browser.ask("document.querySelectorAll('audio').length") >= 8
    assert browser.ask(PLAY) == []


@needs_chromium
def test_a_cut_is_played_from_its_start(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    start = "new Promise(r => {p.onloadedmetadata = () => setTimeout(() => r(p.currentTime), 300); p.load(); })"
    assert browser.ask(f"(p => {{p.preload = 'auto'; return {start}}})(document.querySelector('[src*=\"#t\"]'))") == 0.5


@needs_chromium
def test_hostile_text_does_nothing_in_a_browser(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    assert browser.ask("document.querySelectorAll('script, img, b').length") == 0
    assert browser.ask("document.title") == report_page.TITLE
    # The page's policy prevents a script even if one is inserted.
    run = "new Promise(r => setTimeout(() => r(document.title), 300))"
    injected = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')"
    assert browser.ask(f"({injected}, {run})") == report_page.TITLE


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 1000])
def test_no_element_is_wider_than_the_window(page: Path, browser: Browser, width: int) -> None:
    browser.open(page, width)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask(TOO_WIDE) == []


@needs_chromium
def test_the_keyboard_reaches_links_findings_and_players(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    reached = []
    for _ in range(8):
        browser.order("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.ask("document.activeElement.tagName"))
    assert reached[:5] == ["A", "A", "A", "A", "SUMMARY"]
    assert "AUDIO" in reached


@needs_chromium
def test_a_print_shows_all_findings_and_no_players(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    advice = "document.querySelector('#warning-low_native_rate p').checkVisibility()"
    assert not browser.ask(advice)
    browser.order("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask(advice)
        assert browser.ask("[...document.querySelectorAll('audio')].every(a => !a.offsetParent)")
    finally:
        browser.order("Emulation.setEmulatedMedia", media="")


@needs_chromium
def test_a_large_page_opens_in_10_seconds(tmp_path: Path, browser: Browser) -> None:
    """The page has twenty findings with the largest number of samples each: 1000 samples, 2000 players."""
    report = example(write_clips(tmp_path / "clips"), many=1000)
    large = report["warnings"][0]
    report["warnings"] = [large | {"kind": f"kind_{i}"} for i in range(20)]
    page = write_page(report, tmp_path)
    start = time.monotonic()
    browser.open(page, 1000)
    assert time.monotonic() - start < 10.0


@needs_chromium
@pytest.mark.parametrize("name", DATA_PICTURES)
def test_the_page_looks_like_its_pictures(page: Path, browser: Browser, name: str, tmp_path: Path) -> None:
    """After an intended change, look at the page, then run ``python -m tests.report_pictures``."""
    png = take(browser, page, name)
    (tmp_path / f"{name}.png").write_bytes(png)
    assert difference(png, (FOLDER / f"{name}.png").read_bytes()) <= TOLERANCE, f"see {tmp_path}/{name}.png"

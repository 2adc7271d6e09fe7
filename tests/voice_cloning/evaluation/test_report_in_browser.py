"""The page of an evaluation in a browser: players play, the list sorts and filters, Arabic reads from the right."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Browser, needs_chromium
from tests.evaluation_example import HOSTILE, write_example, write_hostile, write_report
from tests.report_pages import PLAY, TOLERANCE, TOO_WIDE, difference
from tests.report_pictures import EVALUATION_PICTURES, FOLDER, evaluation_page, take
from voice_cloning.evaluation import report_clips, report_page
from voice_cloning.evaluation.report_page import write_page

ORDER = "[...document.querySelectorAll('#sentence-list > li:not([hidden]) .who > bdi')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of six sentences."""
    folder = tmp_path_factory.mktemp("report")
    write_example(folder, sentences=6)
    return write_page(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@needs_chromium
def test_hostile_text_does_nothing_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    write_hostile(tmp_path)
    hostile = write_page(tmp_path)
    browser.open(hostile, 1000)
    assert browser.ask("document.querySelectorAll('script').length") == 1
    assert browser.ask("document.title") == HOSTILE
    assert browser.ask(TOO_WIDE) == []
    # The page's policy prevents a script even if one is inserted.
    run = "new Promise(r => setTimeout(() => r(document.title), 300))"
    injected = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')"
    assert browser.ask(f"({injected}, {run})") == HOSTILE


@needs_chromium
def test_every_player_plays_without_the_folder(page: Path, browser: Browser, tmp_path: Path) -> None:
    alone = shutil.copy(page, tmp_path / "alone.html")
    browser.open(alone, 1000)
    browser.ask("document.querySelectorAll('#sentence-list li:nth-child(n+3)').forEach(li => li.remove())")
    assert browser.ask("document.querySelectorAll('audio').length") == 8
    assert browser.ask(PLAY) == []
    seconds = browser.ask("[...document.querySelectorAll('audio')].map(a => a.duration)")
    assert seconds[:2] == pytest.approx([0.7, 1.0], abs=0.06)


@needs_chromium
def test_playing_one_clip_stops_the_others(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    first_two = "document.querySelectorAll('audio')"
    assert browser.ask(
        f"(async () => {{ const [a, b] = {first_two}; await a.play(); await b.play(); return a.paused; }})()"
    )


@needs_chromium
def test_linked_clips_play_too(tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    write_example(tmp_path / "مجلد #2", sentences=1)
    monkeypatch.setattr(report_clips, "EMBEDDED_BYTES", 0)
    browser.open(write_page(tmp_path / "مجلد #2"), 1000)
    assert browser.ask(PLAY) == []


@needs_chromium
def test_a_click_sorts_and_a_second_one_reverses(page: Path, browser: Browser) -> None:
    """Sentence s(i + 1) has i % 5 wrong words of the base and a length ratio of 0.6 + i / 10."""
    browser.open(page, 1000)
    click = "document.querySelector('button[data-sort={}]').click(), " + ORDER
    assert browser.ask(ORDER) == ["s5", "s4", "s3", "s2", "s1", "s6"], "by word errors, ties by id"
    assert browser.ask(click.format("id")) == ["s1", "s2", "s3", "s4", "s5", "s6"]
    assert browser.ask(click.format("id")) == ["s6", "s5", "s4", "s3", "s2", "s1"]
    assert browser.ask(click.format("length")) == ["s1", "s2", "s3", "s4", "s6", "s5"], "farthest from 1 first"
    assert browser.ask(click.format("sim")) == ["s5", "s4", "s3", "s2", "s1", "s6"], "least alike first"
    assert browser.ask(click.format("mos")) == ["s5", "s4", "s3", "s2", "s1", "s6"]
    assert browser.ask(click.format("error")) == ["s5", "s4", "s3", "s2", "s1", "s6"]
    assert browser.ask(click.format("error")) == ["s1", "s6", "s2", "s3", "s4", "s5"]
    pressed = "[...document.querySelectorAll('button')].filter(b => b.ariaPressed === 'true').map(b => b.textContent)"
    assert browser.ask(pressed) == ["word errors, best first"]


@needs_chromium
def test_sentences_without_the_measure_come_last_both_ways(tmp_path: Path, browser: Browser) -> None:
    report = write_example(tmp_path, sentences=3)
    del report["items"][2]["clips"]["base"][0]["mos"]
    report["items"][2]["clips"]["checkpoint-000300"] = []
    write_report(tmp_path, report)
    browser.open(write_page(tmp_path), 1000)
    click = "document.querySelector('button[data-sort=mos]').click(), " + ORDER
    assert browser.ask(click) == ["s2", "s1", "s3"]
    assert browser.ask(click) == ["s1", "s2", "s3"]


@needs_chromium
def test_sentences_beyond_the_first_ones_are_shown_on_request(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "SENTENCES_AT_ONCE", 2)
    write_example(tmp_path, sentences=5, systems=["base"])
    browser.open(write_page(tmp_path), 1000)
    more = "document.getElementById('more')"
    assert browser.ask(ORDER) == ["s5", "s4"]
    assert browser.ask(f"{more}.textContent") == "Show more: 3 are left"
    assert browser.ask(f"({more}.click(), {ORDER})") == ["s5", "s4", "s3", "s2"]
    assert browser.ask(f"document.querySelector('[data-sort=id]').click(), {ORDER}") == ["s1", "s2"], "from all five"
    assert browser.ask(f"({more}.click(), {more}.click(), {ORDER})") == ["s1", "s2", "s3", "s4", "s5"]
    assert browser.ask(f"{more}.checkVisibility()") is False
    browser.ask("document.querySelectorAll('#sentence-list li:not(:first-child)').forEach(li => li.remove())")
    assert browser.ask(PLAY) == [], "a sentence that lay beyond the first ones plays"


@needs_chromium
def test_filters_leave_what_is_asked_for(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    shown = (
        "(() => {{ const f = document.getElementById('{}'); {}; f.dispatchEvent(new Event('change')); return {}; }})()"
    )
    of_base = "[...document.querySelectorAll('#sentence-list li:first-child .spoken')].map(s => s.hidden)"
    assert browser.ask(shown.format("filter-speaker", "f.value = '1'", ORDER)) == ["s4", "s2", "s6"]
    assert browser.ask(shown.format("filter-speaker", "f.value = ''", ORDER)) == ["s5", "s4", "s3", "s2", "s1", "s6"]
    assert browser.ask(shown.format("filter-dialect", "f.value = '0'", ORDER)) == ["s5", "s2"]
    assert browser.ask("document.getElementById('shown').textContent") == "2 of 6 sentences"
    browser.ask(shown.format("filter-dialect", "f.value = ''", "0"))
    assert browser.ask(shown.format("only-failures", "f.checked = true", ORDER)) == ["s5", "s4", "s3"]
    assert browser.ask(shown.format("filter-system", "f.value = '1'", ORDER)) == ["s5", "s4"], "the adapter's failures"
    assert browser.ask(of_base) == [True, False]


@needs_chromium
def test_the_figure_of_a_grouping_is_chosen(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    tables = "[...document.querySelector('.grouping').querySelectorAll('table')].filter(t => !t.hidden)"
    assert browser.ask(f"{tables}.map(t => t.dataset.figure)") == ["stop_rate"]
    choose = (
        "(s => { s.value = 'mos'; s.dispatchEvent(new Event('change')); })(document.querySelector('.figure-choice'))"
    )
    browser.ask(choose)
    assert browser.ask(f"{tables}.map(t => t.dataset.figure)") == ["mos"]


@needs_chromium
def test_arabic_reads_from_right_to_left(page: Path, browser: Browser) -> None:
    browser.open(page, 1000)
    script = """[...document.querySelectorAll("#sentence-list li:first-child .text")].map(p => {
      const texts = document.createTreeWalker(p, NodeFilter.SHOW_TEXT), found = [];
      while (texts.nextNode()) if (texts.currentNode.data.trim()) found.push(texts.currentNode);
      const at = (node, i) => { const r = document.createRange(); r.setStart(node, i); r.setEnd(node, i + 1);
        return r.getBoundingClientRect(); };
      const last = found[found.length - 1];
      const first = at(found[0], 0), end = at(last, last.data.trimEnd().length - 1);
      return [getComputedStyle(p).direction, p.lang, first.top === end.top, first.left > end.left];
    })"""
    assert browser.ask(script) == [["rtl", "ar", True, True]] * 3


@needs_chromium
def test_no_element_is_wider_than_the_window(browser: Browser, tmp_path: Path) -> None:
    """Not with ten checkpoints either."""
    write_example(tmp_path, sentences=1, systems=["base", *(f"checkpoint-{100 * i:06d}" for i in range(1, 11))])
    page = write_page(tmp_path)
    inside = "(w => w.scrollWidth <= w.clientWidth)(document.querySelector('.wide'))"
    for width in (320, 390, 1000):
        browser.open(page, width)
        browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.ask(TOO_WIDE) == [], width
        assert browser.ask(inside), f"the main table needs no scrolling in {width} pixels"


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation_page(tmp_path_factory.mktemp("pictured"))


@needs_chromium
@pytest.mark.parametrize("name", EVALUATION_PICTURES)
def test_the_page_looks_like_its_pictures(browser: Browser, pictured: Path, name: str, tmp_path: Path) -> None:
    """After an intended change, look at the page, then run ``python -m tests.report_pictures``."""
    png = take(browser, pictured, name)
    (tmp_path / f"{name}.png").write_bytes(png)
    assert difference(png, (FOLDER / f"{name}.png").read_bytes()) <= TOLERANCE, f"see {tmp_path}/{name}.png"

"""Tests of the page of an evaluation: its figures are those of report.json, its players play, its list sorts."""

import base64
import copy
import hashlib
import io
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from boson_multimodal.errors import InputError
from tests.evaluation_example import HOSTILE, WORDS, Json, interval, spoken, write_example, write_hostile, write_report
from tests.report_pages import Elements
from voice_cloning.evaluation import report_clips
from voice_cloning.evaluation.report_form import read_report
from voice_cloning.evaluation.report_page import write_page
from voice_cloning.evaluation.report_sentences import natural_order

ORDER = "[...document.querySelectorAll('#sentence-list > li:not([hidden]) .who > bdi')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an example of six sentences and its page to a folder whose name must be encoded in addresses."""
    folder = tmp_path_factory.mktemp("report") / "تقييم #1"
    write_example(folder, sentences=6)
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return folder / "report.html"


def words_of(html: str) -> str:
    """The text of the page without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("&minus;", "-").split())


def small(folder: Path, **changes: object) -> Json:
    """Write a report of one system and one sentence without clips, with some fields changed."""
    item = {"id": "s1", "text": "نعم", "speaker": None, "dialect": None, "reference": None, "recording": None}
    report = {
        "format": 1,
        "title": "small",
        "set": {"name": "val.json", "sentences": 1},
        "systems": [{"name": "base", "kind": "base", "figures": {}}],
        "items": [item | {"clips": {}}],
    }
    return write_report(folder, report | changes)


# -- content -----------------------------------------------------------------------------------------------------------


def test_the_table_shows_values_intervals_and_differences(page: Path) -> None:
    text = words_of(page.read_text(encoding="utf-8"))
    assert "base base model 50.0 % 46.0 to 54.0 1.60 1.55 to 1.65 90.0 % 84.0 to 96.0" in text
    assert "95.0 % 91.0 to 99.0 +45.0 points better +40.0 to +50.0 1.00 0.95 to 1.05 -0.60 differs" in text
    assert "30.0 % 24.0 to 36.0 -60.0 points better -65.0 to -55.0" in text, "fewer errors are better"
    assert "3.50 3.30 to 3.70 +0.01 unclear -0.19 to +0.21" in text
    assert "WER, published normalisation less is better n 11" in text
    assert "true recordings 10.0 % 8.0 to 12.0 0.880" in text and "other speakers 0.510 0.500 to 0.520" in text
    assert "wilson: Ends by itself; bca bootstrap: Length ratio (median), WER" in text
    assert "Below each value its 95 % interval" in text


def test_a_figure_that_was_not_measured_is_nowhere(tmp_path: Path) -> None:
    """Neither columns nor plots nor buttons; a figure that one of two models lacks is a dash."""
    one = {"name": "base", "kind": "base", "figures": {"stop_rate": interval(0.5, 0.1), "mos": interval(3.0, 0.1)}}
    two = {"name": "folder", "kind": "wavs", "figures": {"mos": interval(2.0, 0.1)}, "differences": {}, "cost": {}}
    small(tmp_path, systems=[one, two])
    elements = Elements(write_page(tmp_path))
    for absent in ("WER", "CER", "SIM", "Length ratio", "Retention", "recogniser heard", "Groups"):
        assert absent not in elements.text.replace("WERs", ""), absent
    assert "folder of WAVs" in elements.text and [a["title"] for t, a in elements.found if t == "abbr"] == [
        "not measured"
    ]
    assert [a["data-sort"] for t, a in elements.found if "data-sort" in a] == ["id"]
    assert elements.tags["svg"] == 2


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_ends_that_do_not_exist_are_left_out(tmp_path: Path, value: float | None) -> None:
    ends = {"value": 0.5, "low": value, "high": value, "n": 1, "method": "none"}
    system = {"name": "base", "kind": "base", "figures": {"stop_rate": ends, "mos": dict.fromkeys(ends)}}
    small(tmp_path, systems=[system])
    html = write_page(tmp_path).read_text(encoding="utf-8")
    assert "<strong>50.0 %</strong>" in html and "<strong>&mdash;</strong>" in html
    assert "nan" not in words_of(html.partition("<main>")[2]).lower() and "None" not in words_of(html)


def test_retention_has_its_own_table(tmp_path: Path) -> None:
    systems = [
        {"name": "base", "kind": "base", "figures": {"wer_scoring": interval(0.2, 0.02)}},
        {
            "name": "adapter",
            "kind": "adapter",
            "figures": {"wer_scoring": interval(0.5, 0.02)},
            "differences": {"wer_scoring": interval(0.3, 0.05)},
        },
    ]
    small(tmp_path, retention={"set": {"name": "english.json", "sentences": 40, "speakers": 1}, "systems": systems})
    text = words_of(write_page(tmp_path).read_text(encoding="utf-8").partition("<main>")[2])
    part = text.partition("What the base could do before")[2]
    assert "english.json , 40 sentences, 1 speaker" in part
    assert "50.0 % 48.0 to 52.0 +30.0 points worse +25.0 to +35.0" in part


def test_the_recognisers_mistakes_are_marked(page: Path) -> None:
    """Sentence s5 has four wrong words with the base: two were replaced, two are missing."""
    html = page.read_text(encoding="utf-8")
    item = re.search(r"<li [^>]*><p class=\"who\"><bdi>s5</bdi>.*?</li>", html, re.DOTALL)[0]
    first, second = re.findall(r'<p class="text heard" dir="rtl" lang="ar">(.*?)</p>', item)
    one, two, three, four = WORDS[:4]
    assert (
        first
        == f"<del>{one}</del> <ins>كلمة</ins> <del>{two}</del> <del>{three}</del> <ins>كلمة</ins> <del>{four}</del>"
    )
    assert second.endswith(f" {four}") and second.count("<del>") == 3 and second.count("<ins>") == 2
    assert "4 wrong of 4 words" in item


def test_a_clip_without_words_or_sound_says_so(tmp_path: Path) -> None:
    clip = {"seed": 0, "audio": None, "ended": False, "recognised": "", "alignment": [["delete", "نعم", ""]]}
    clip |= {"errors": {"scoring": {"word_errors": 1, "words": 1, "character_errors": 3, "characters": 3}}}
    item = {"id": "s1", "text": "yes, \u202e indeed", "clips": {"base": [clip]}}
    small(tmp_path, items=[item])
    elements = Elements(write_page(tmp_path))
    assert "nothing was recognised" in elements.text and "no waveform: codes only" in elements.text
    assert "did not end by itself" in elements.text and "1 wrong of 1 words" in elements.text
    assert elements.tags["audio"] == 0 and "U+202E" in elements.text and "\u202e" not in elements.text
    paragraph = next(a for t, a in elements.found if t == "p" and a.get("class") == "text")
    assert paragraph["dir"] == "auto" and "lang" not in paragraph, "not every set is Arabic"


def test_several_seeds_are_told_apart(tmp_path: Path) -> None:
    write_example(tmp_path, sentences=1, seeds=2)
    text = Elements(write_page(tmp_path)).text
    assert all(f"{name}, seed {seed}" in text for name in ("base", "checkpoint-000300") for seed in (0, 1))


def test_the_chosen_checkpoint_is_marked(tmp_path: Path) -> None:
    """With the one that the loss would have chosen, and with every comparison on the way."""
    report = write_example(tmp_path, sentences=1, systems=["base", "c100", "c200", "c300"])
    steps = [
        {"candidate": "c100", "is_better": True, "rule": "the first"},
        {"candidate": "c200", "compared_with": "c100", "is_better": True, "rule": "wer_scoring"},
        {"candidate": "c300", "is_better": False, "rule": "retention: WER changed by +0.300"},
    ]
    steps[1]["difference"] = interval(-0.2, 0.1)
    report["selection"] = {"chosen": "c200", "by_eval_loss": "c100", "comparisons": steps, "retention_bound": 0.1}
    write_report(tmp_path, report)
    text = words_of(write_page(tmp_path).read_text(encoding="utf-8"))
    assert "c100 adapter lowest evaluation loss" in text and "c200 adapter chosen" in text
    assert "Chosen: c200" in text and "c100 : taken (the first)" in text
    assert "c200 against c100 : taken (WER): -20.0 points better -30.0 to -10.0" in text
    assert "c300 : not taken (retention: WER changed by +0.300)" in text
    report["selection"] = {"chosen": None, "comparisons": []}
    write_report(tmp_path, report)
    assert "No checkpoint was chosen: all have forgotten too much" in Elements(write_page(tmp_path)).text


def test_groups_by_length_say_what_they_mean_and_a_single_group_is_left_out(tmp_path: Path) -> None:
    figures = {"stop_rate": interval(0.5, 0.1)}
    groups = {"length": {"short": figures, "long": figures}, "speaker": {"amal": figures}, "dialect": {}}
    system = {"name": "base", "kind": "base", "figures": figures, "groups": groups}
    small(tmp_path, systems=[system], lengths={"short": "up to 30 letters"})
    elements = Elements(write_page(tmp_path))
    assert "shortup to 30 letters" in elements.text and "long" in elements.text
    assert "By length of the text" in elements.text
    assert "By speaker" not in elements.text and "By dialect" not in elements.text


def test_what_the_recogniser_heard_in_the_recordings_is_shown_too(tmp_path: Path) -> None:
    report = write_example(tmp_path, sentences=1)
    through = spoken(tmp_path, "recording_codec", "s1", 0, 1, 1.0)
    recording = spoken(tmp_path, "other", "s1", 0, 2, 1.0) | {"audio": report["items"][0]["recording"]}
    report["items"][0]["scales"] = {"true recordings": recording, "recordings through the codec": through}
    write_report(tmp_path, report)
    html = write_page(tmp_path).read_text(encoding="utf-8")
    given = re.findall(r"<figure class='given'><figcaption>(.*?)</figcaption>(.*?)</figure>", html, re.DOTALL)
    assert [title for title, _ in given] == ["Reference", "True recording", "recordings through the codec"]
    assert ["wrong of" in rest for _, rest in given] == [False, True, True]
    assert "2 wrong of 4 words" in given[1][1] and "1 wrong of 4 words" in given[2][1]
    assert all(rest.count("<audio") == 1 for _, rest in given)


def test_ids_sort_as_people_count() -> None:
    assert sorted(["s10", "s9", "9", "ب2", "s1", "10", "", "²"], key=natural_order) == [
        "",
        "9",
        "10",
        "s1",
        "s9",
        "s10",
        "²",
        "ب2",
    ]


# -- clips -------------------------------------------------------------------------------------------------------------


def test_clips_are_embedded_and_keep_their_length(page: Path) -> None:
    sources = Elements(page).sources()
    assert len(sources) == 24 and all(source.startswith("data:audio/mpeg;base64,") for source in sources)
    reference, recording = (soundfile.info(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in sources[:2])
    assert (reference.samplerate, reference.frames) == (24_000, round(0.7 * 24_000)), "resampled from 16 kHz"
    assert (recording.samplerate, recording.frames, recording.channels) == (24_000, 24_000, 1)
    size = len(base64.b64decode(sources[1].partition(",")[2]))
    assert 8_000 <= size < 9_500, "64 kbit/s, and a header"
    assert "The clips of all 6 sentences are inside this page" in Elements(page).text
    assert "0.64 MB for a minute of sound" in Elements(page).text


def test_the_page_alone_is_enough_and_has_no_network_address(folder: Path, tmp_path: Path) -> None:
    content = (folder / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r"data:audio/mpeg;base64,[A-Za-z0-9+/=]*|// .*", "", content)  # the clips, the script's comments
    for address in ("http:", "https:", "url(", "@import", "//", "audio/"):
        assert address not in outside, address
    assert write_page(folder).read_bytes() == content.encode(), "the same report gives the same bytes"


def test_beyond_the_budget_the_worst_and_random_ones_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clips are equally long here, and room is left for seven of twenty sentences."""
    report = write_example(tmp_path, sentences=20)
    for item in report["items"]:
        for field in ("reference", "recording"):
            item[field] = None
        item["clips"] = {name: [clips[0] | {"audio": "tone.wav"}] for name, clips in item["clips"].items()}
    shutil.copy(tmp_path / "audio/recording/s1.wav", tmp_path / "tone.wav")
    write_report(tmp_path, report)
    clips = report_clips.PageClips(tmp_path, read_report(tmp_path / "report.json")["items"])
    one = len(clips.address("tone.wav", "s1"))
    monkeypatch.setattr(report_clips, "EMBEDDED_BYTES", 15 * one)
    elements = Elements(write_page(tmp_path))
    assert "The clips of 7 sentences are inside this page: the 4 worst, and 3 others drawn at random" in elements.text
    assert "The clips of the other 13 are played from the folder of this page" in elements.text


def test_a_shared_clip_is_not_embedded_in_sentences_beyond_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = write_example(tmp_path, sentences=4, systems=["base"])
    for item in report["items"]:
        item["reference"] = "audio/reference/s1.wav"
    write_report(tmp_path, report)
    monkeypatch.setattr(report_clips, "EMBEDDED_BYTES", 100_000)
    sources = Elements(write_page(tmp_path)).sources()
    embedded = [source for source in sources if source.startswith("data:")]
    assert 0 < sum(map(len, embedded)) <= 100_000 and "audio/reference/s1.wav" in sources


def test_linked_clips_are_found_by_encoded_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = write_example(tmp_path, sentences=1)
    report["items"][0]["clips"]["base"] = [spoken(tmp_path, "صوت #1", "a?b%20", 0, 0, 0.5)]
    write_report(tmp_path, report)
    monkeypatch.setattr(report_clips, "EMBEDDED_BYTES", 0)
    sources = Elements(write_page(tmp_path)).sources()
    assert "audio/%D8%B5%D9%88%D8%AA%20%231/a%3Fb%2520.0.wav" in sources and len(sources) == 4


def test_clips_that_cannot_be_played_are_named(tmp_path: Path) -> None:
    report = write_example(tmp_path, sentences=2)
    (tmp_path / "audio/reference/s1.wav").unlink()
    (tmp_path / "audio/recording/s1.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").write_bytes(b"")
    report["items"][1]["clips"]["base"][0]["audio"] = "empty.wav"
    write_report(tmp_path, report)
    elements = Elements(write_page(tmp_path))
    assert elements.text.count("not there: audio/reference/s1.wav") == 1
    assert "Clips that cannot be played:" in elements.text and "and 2 more" in elements.text
    assert "recording/s1.wav" in elements.text and "empty.wav" in elements.text
    assert elements.tags["audio"] == 8 - 3


# -- hostile and wrong input -------------------------------------------------------------------------------------------


def test_data_stays_text(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    hostile = write_page(tmp_path)
    elements = Elements(hostile)
    assert elements.tags["script"] == 1 and not {"img", "link", "iframe", "b"} & elements.tags.keys()
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    html = hostile.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in html
    assert elements.text.count(HOSTILE) > 15 and "نعمU+D800" in elements.text


def test_wrong_reports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; tools.evaluate writes it"):
        write_page(tmp_path)
    for content, message in (
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "format is 'list'; this release reads format 1"),
        (b'{"format": 2}', "format is 2; this release reads format 1"),
        (b'{"format": 1}', r"(?s)title is missing; it must be a text.*systems is missing; it must be a list"),
    ):
        (tmp_path / "report.json").write_bytes(content)
        with pytest.raises(InputError, match=message):
            write_page(tmp_path)
    for changes, message in (
        ({"systems": [{"name": "a"}, {"name": "a"}], "items": []}, "systems: 2 of them have the name 'a'"),
        ({"items": [{"id": 3, "text": "x"}]}, r"items\[0\].id is 3; it must be a text"),
        ({"items": [{"id": "s2"}]}, r"items\[0\].text is missing; it must be a text"),
        (
            {"items": [{"id": "a", "text": "b", "clips": {"other": []}}]},
            r"items\[0\].clips has 'other'; systems",
        ),
        (
            {"systems": [{"name": "base", "figures": {"mos": 3.0}}]},
            r"systems\[0\].figures.mos is 3.0",
        ),
        ({"retention": {"set": {}}}, "retention.systems is missing; it must be a list"),
    ):
        small(tmp_path, **changes)
        with pytest.raises(InputError, match=message):
            write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value inside a report."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inside:
        yield from places(entry, (*path, key))


def test_a_damaged_report_is_shown_or_refused(tmp_path: Path) -> None:
    """Each draw puts another value in the place of one that is there, at any depth."""
    report = write_example(tmp_path, sentences=1)
    clips = report["items"][0]["clips"]
    report["items"][0] |= {"reference": None, "recording": None, "scales": {"true recordings": clips["base"][0]}}
    for of_system in clips.values():
        of_system[0]["audio"] = None
    report["retention"] = {"set": {"name": "english"}, "systems": report["systems"]}
    draw, all_places, refused = random.Random(0), list(places(report)), 0
    for _ in range(60):
        damaged = copy.deepcopy(report)
        *above, last = draw.choice(all_places)
        inside = damaged
        for key in above:
            inside = inside[key]
        inside[last] = draw.choice([None, 3, "x", [], {}, [None], {"a": None}, True, float("nan")])
        write_report(tmp_path, damaged)
        try:
            assert write_page(tmp_path).stat().st_size > 10_000
        except InputError as error:
            refused += 1
            assert "; " in str(error) and str(tmp_path) in str(error)
    assert 15 < refused < 55

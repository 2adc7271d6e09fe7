"""Tests of Arabic normalisation for speech and for scoring: expected texts, and properties that hold for any text."""

import json
import random
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from arabic_text import find_text_issues, normalise_for_scoring, normalise_for_speech
from arabic_voice_cloning_dataset import parse_record
from tests.goldens import SHARED_DIR
from tests.text_tables import read_table

KINDS = "agreement years eras tatweel verses ranges fractions separators codes powers addresses".split()
"""Tables of at least fifty texts each, one for each kind of reading that the grammar decides."""
SPEECH, SCORING, KEEP_DIGITS = map(read_table, ("speech", "scoring", "keep_digits"))
TABLES = {kind: read_table(kind) for kind in KINDS}
SPOKEN = [*SPEECH, *(row for table in TABLES.values() for row in table)]
CASES = SHARED_DIR / "cases" / "arabic_readings.tsv"


def composed(text: str) -> str:
    """Return the text with the marks of each letter in one order: the typing order is not compared."""
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(("text", "spoken"), SPOKEN)
def test_normalise_for_speech(text: str, spoken: str) -> None:
    assert composed(normalise_for_speech(text)) == composed(spoken)


@pytest.mark.parametrize(("text", "scored"), SCORING)
def test_normalise_for_scoring(text: str, scored: str) -> None:
    assert composed(normalise_for_scoring(text)) == composed(scored)


@pytest.mark.parametrize(("text", "kept"), KEEP_DIGITS)
def test_digits_can_be_kept(text: str, kept: str) -> None:
    assert composed(normalise_for_speech(text, digits="keep")) == composed(kept)


def test_the_tables_are_large_and_hold_each_text_once() -> None:
    kinds = [(table, 50) for table in TABLES.values()]
    for table, least in [(SPEECH, 180), (SCORING, 30), (KEEP_DIGITS, 15), *kinds]:
        assert len({text for text, _ in table}) == len(table) >= least


@pytest.mark.skipif(not CASES.is_file(), reason="../shared/cases is absent")
def test_readings_of_the_shared_cases() -> None:
    rows = [line.split("\t") for line in CASES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(rows) >= 14
    read = {text: normalise_for_speech(text) for text, *_ in rows}
    assert not {text: read[text] for text, spoken, *_ in rows if read[text] not in spoken.split("|")}


@pytest.mark.parametrize("digits", ["", "Spell", "none"])
def test_an_unknown_value_of_digits_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="must be 'spell' or 'keep'"):
        normalise_for_speech("5", digits)


def test_scoring_unifies_spellings_that_recognisers_use_for_one_word() -> None:
    assert normalise_for_scoring("مُحَمَّدٌ إلى الفتاة!") == normalise_for_scoring("محمد الي الفتاه")
    assert normalise_for_scoring("عندي 3 كتب") == normalise_for_scoring("عندي ثلاثة كتب")
    assert normalise_for_scoring("كتب") != normalise_for_scoring("كتاب")


def random_text(generator: random.Random) -> str:
    """Return random code points, with lone surrogates; most are Arabic, punctuation or ASCII."""
    ranges = [(0, 0x10FFFF), (0x0600, 0x06FF), (0xFB50, 0xFEFF), (0x2000, 0x206F), (0x20, 0x7E), (0xD800, 0xDFFF)]
    return "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 30)))


def joined_pieces(generator: random.Random) -> str:
    """Return pieces of the tables' texts without spaces between them, so that one reading touches the next."""
    return "".join(generator.choice(SPOKEN)[0][: generator.randint(1, 12)] for _ in range(generator.randint(1, 4)))


def latin_letters(text: str) -> set[str]:
    # Compatibility characters, such as full-width letters, are Latin letters too.
    return {c for c in unicodedata.normalize("NFKD", text.casefold()) if "LATIN" in unicodedata.name(c, "")}


@pytest.mark.parametrize("make", [random_text, joined_pieces])
@pytest.mark.parametrize(
    "normalise", [normalise_for_speech, partial(normalise_for_speech, digits="keep"), normalise_for_scoring]
)
def test_normalisation_takes_any_text_is_idempotent_and_adds_no_latin_letter(
    normalise: Callable[[str], str], make: Callable[[random.Random], str]
) -> None:
    generator = random.Random(0)
    for _ in range(2000):
        text = make(generator)
        once = normalise(text)
        assert normalise(once) == once, ascii(text)
        assert latin_letters(once) <= latin_letters(text), ascii(text)


def test_text_issues_are_found_and_normalisation_removes_them() -> None:
    text = "مر\u0640\u200bحبا\u200f \ufefb کتاب \U0001f600 5 hello \u4e2d"
    assert find_text_issues(text) == {
        "digits": ["5"],
        "latin_letters": ["hello"],
        "tatweel": ["\u0640"],
        "presentation_forms": ["\ufefb"],
        "bidi_controls": ["\u200f"],
        "zero_width": ["\u200b"],
        "emoji": ["\U0001f600"],
        "persian_letters": ["ک"],
        "unknown_characters": ["\u4e2d"],
    }
    assert set(find_text_issues(normalise_for_speech(text))) == {"latin_letters", "unknown_characters"}


@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_records_are_normalised_when_they_are_parsed(
    demo: Path, tokenizer: PreTrainedTokenizerBase, style: str
) -> None:
    record = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))[0]
    plain, _ = parse_record(record, style, "none")
    written = json.dumps(record, ensure_ascii=False)
    word = record["misc"]["target_transcript"].split()[0]
    odd = json.loads(written.replace(word, word[0] + "\u0640\u0640" + word[1:]))
    assert parse_record(odd, style, "none")[0].messages != plain.messages
    assert parse_record(odd, style, "speech")[0].messages == parse_record(record, style, "speech")[0].messages
    system = [message for message in plain.messages if message.role == "system"]
    spoken, _ = parse_record(record, style, "speech")
    assert [message for message in spoken.messages if message.role == "system"] == system

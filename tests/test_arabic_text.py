"""Arabic text for speech and for scoring: what becomes of it, and what never does."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from arabic_text import normalise_for_scoring, normalise_for_speech
from arabic_voice_cloning_dataset import parse_record

CASES = {
    "مرحبـــا": "مرحبا",
    "عندي 3 كتب": "عندي ثلاثة كتب",
    "50%": "خمسون بالمئة",
    "٢٥٪": "خمسة وعشرون بالمئة",
    "١٢٣": "مئة وثلاثة وعشرون",
    "1001": "ألف وواحد",
    "1,234,567": "مليون ومئتان وأربعة وثلاثون ألفًا وخمسمئة وسبعة وستون",
    "3.14": "ثلاثة فاصلة أربعة عشر",
    "الساعة 10:30": "الساعة العاشرة والنصف",
    "في 2024/5/17": "في السابع عشر من مايو ألفين وأربعة وعشرين",
    "اتصل على 0501234567": "اتصل على صفر خمسة صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة",
    "5$": "خمسة دولارات",
    "20 كم": "عشرون كيلومترًا",
    "من 5 إلى 10": "من خمسة إلى عشرة",
    "\ufdfd": "بسم الله الرحمن الرحيم",
    "\ufdfa": "صلى الله عليه وسلم",
    "\ufefb بأس": "لا بأس",
    "\u200fنعم\u200f": "نعم",
    "کتاب یک": "كتاب يك",
    "\U0001f600 نعم": "نعم",
    "www.example.com/a?b=1": "www.example.com/a?b=1",
    "hello 5": "hello 5",
    "الفتاة": "الفتاة",
    "إلى": "إلى",
    "مُحَمَّدٌ": "مُحَمَّدٌ",
}


@pytest.mark.parametrize(("text", "spoken"), CASES.items())
def test_speech(text: str, spoken: str) -> None:
    assert unicodedata.normalize("NFC", normalise_for_speech(text)) == unicodedata.normalize("NFC", spoken)


def test_digits_may_stay() -> None:
    assert normalise_for_speech("عنـدي 3 كتب", digits="keep") == "عندي 3 كتب"


def test_scoring_unifies_what_a_recogniser_may_write_either_way() -> None:
    assert normalise_for_scoring("مُحَمَّدٌ إلى الفتاة!") == normalise_for_scoring("محمد الي الفتاه")
    assert normalise_for_scoring("عندي 3 كتب") == normalise_for_scoring("عندي ثلاثة كتب")
    assert normalise_for_scoring("كتب") != normalise_for_scoring("كتاب")


def random_text(generator: random.Random) -> str:
    """Any code points, lone surrogates among them; half of the time from Arabic and what stands beside it."""
    ranges = [(0, 0x10FFFF), (0x0600, 0x06FF), (0xFB50, 0xFEFF), (0x2000, 0x206F), (0x20, 0x7E), (0xD800, 0xDFFF)]
    return "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 30)))


@pytest.mark.parametrize("normalise", [normalise_for_speech, normalise_for_scoring])
def test_on_any_text_it_is_total_idempotent_and_adds_no_latin_letter(normalise: object) -> None:
    generator = random.Random(0)
    for _ in range(2000):
        text = random_text(generator)
        once = normalise(text)
        assert normalise(once) == once, ascii(text)
        # A character of compatibility, such as a full-width letter, is a Latin letter too.
        given = {c for c in unicodedata.normalize("NFKD", text.casefold()) if "LATIN" in unicodedata.name(c, "")}
        found = {c for c in unicodedata.normalize("NFKD", once.casefold()) if "LATIN" in unicodedata.name(c, "")}
        assert found <= given, ascii(text)


@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_records_are_normalised_where_they_are_parsed(
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

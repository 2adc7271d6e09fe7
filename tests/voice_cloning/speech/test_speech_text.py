"""Test the plausible duration of a text, and where a long text is cut."""

import json
import random
from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from tests.goldens import SAMPLES_DIR, needs_samples
from voice_cloning.speech.text_pieces import cut_text, has_words, longest_seconds, spoken_letters

PLAIN = "كتب الطالب الدرس"
DIACRITISED = "كَتَبَ الطّالِبُ الدَّرْسَ"


def test_only_letters_that_are_read_aloud_count() -> None:
    assert spoken_letters(PLAIN) == 14
    assert spoken_letters(DIACRITISED) == spoken_letters(PLAIN)
    assert spoken_letters("كتـــب") == spoken_letters("كتب")
    assert spoken_letters("abc 25%") == 3 + 2 * 6 + 6
    assert spoken_letters("نعم، لا.") == 5 + 2 * 2


def test_a_longer_text_may_take_longer() -> None:
    assert longest_seconds("نعم", slowest=3.0) == 3.0
    assert longest_seconds(PLAIN) < longest_seconds(PLAIN + PLAIN)
    assert longest_seconds(PLAIN, slowest=1.0) == 2.0 + 14


def seconds_of_targets(path: Path) -> list[tuple[str, float]]:
    records = json.loads(path.read_text(encoding="utf-8"))
    return [(record["misc"]["target_transcript"], record["misc"]["duration"]) for record in records]


@needs_samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_no_real_clip_would_count_as_a_runaway(split: str) -> None:
    """Words at one per second are the slowest speech we have. They take at most 0.8 of the limit."""
    for text, seconds in seconds_of_targets(SAMPLES_DIR / f"{split}_chatml_samples.json"):
        assert seconds <= 0.8 * longest_seconds(text), text


def test_no_clip_of_the_demo_would_count_as_a_runaway(demo: Path) -> None:
    for text, seconds in seconds_of_targets(demo / "train_chatml_samples.json"):
        assert seconds <= 0.5 * longest_seconds(text), text


def test_a_short_text_is_not_cut() -> None:
    text = "صباح الخير. كيف حالك؟\nأنا بخير!"
    assert cut_text(f" {text} \n", 100) == [text]


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("كيف حالك؟ أنا بخير. شكرا", 12, ["كيف حالك؟", "أنا بخير.", "شكرا"]),
        ("كيف حالك؟ أنا بخير. شكرا", 20, ["كيف حالك؟ أنا بخير.", "شكرا"]),
        ("كيف حالك؟أنا بخير؛شكرا", 12, ["كيف حالك؟", "أنا بخير؛", "شكرا"]),
        ("قال: «كيف حالك؟» ثم ذهب", 18, ["قال: «كيف حالك؟»", "ثم ذهب"]),
        ("Is it 3.14? No... it is not", 26, ["Is it 3.14?", "No... it is not"]),
        ("One two.\nThree four", 12, ["One two.", "Three four"]),
        ("أحب الشاي، وأحب القهوة، وأحب الماء", 12, ["أحب الشاي،", "وأحب القهوة،", "وأحب الماء"]),
        ("واحد اثنان ثلاثة", 10, ["واحد اثنان", "ثلاثة"]),
        ("abcdefgh", 6, ["abcdef", "gh"]),
        ("هل أنت هنا؟! نعم", 12, ["هل أنت هنا؟!", "نعم"]),
    ],
)
def test_cuts_are_at_sentences_then_commas_then_spaces(text: str, limit: int, pieces: list[str]) -> None:
    assert cut_text(text, limit) == pieces


def test_a_cut_within_a_word_keeps_marks_with_their_letters() -> None:
    word = "بَ" * 10
    assert cut_text(word, 6) == ["بَ" * 6, "بَ" * 4]


def test_pieces_contain_the_whole_text_and_keep_the_limit() -> None:
    rng = random.Random(0)
    words = ["كتاب", "مدرسة", "the", "25", "وَلَدٌ", "3.14", "بيت،", "نعم.", "لا؟", "«أهلا»", "...", "–", "؟!", "سنة؛"]
    for _ in range(300):
        text = " ".join(rng.choices(words, k=rng.randint(1, 60))) + rng.choice(["", "\n", ". "])
        limit = rng.randint(12, 60)
        if not has_words(text):
            continue
        pieces = cut_text(text, limit)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(map(has_words, pieces))
        words_only = ["".join(c for c in piece if c.isalnum()) for piece in pieces]
        assert all(spoken_letters(piece) <= limit for piece in words_only)


def test_a_limit_below_one_symbol_is_refused() -> None:
    with pytest.raises(InputError, match="letters_per_piece is 5; it must be at least 6"):
        cut_text("نعم", 5)

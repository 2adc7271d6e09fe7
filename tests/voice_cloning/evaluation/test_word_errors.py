"""WER and CER equal jiwer's and those of a slow table; both normalisations do what they say, and nothing else."""

import random
from collections.abc import Sequence

import jiwer
import pytest

from boson_multimodal.errors import InputError
from voice_cloning.evaluation.word_errors import (
    NORMALISATIONS,
    TextErrors,
    normalise_as_published,
    text_errors,
    word_alignment,
)

WORDS = "من الى كتاب كتب قلم مدرسة ذهب الولد يوم في بيت نهر ماء سماء ارض".split()
"""None of them is changed by ``published``."""


def slow_distance(reference: Sequence[str], recognised: Sequence[str]) -> int:
    """The least number of items to substitute, delete and insert, by the table of all beginnings of both."""
    row = list(range(len(recognised) + 1))
    for i, wanted in enumerate(reference, 1):
        row, above = [i], row
        for j, heard in enumerate(recognised, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted != heard)))
    return row[-1]


def random_pairs(count: int) -> list[tuple[str, str]]:
    """References of 1 to 12 words, and copies with words lost, added, replaced or misspelt; some have nothing left."""
    draw, pairs = random.Random(0), []
    for number in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 12))
        share = draw.choice([0.0, 0.1, 0.4, 1.0])
        heard = []
        for word in words:
            change = draw.choice("loss added replaced misspelt".split()) if draw.random() < share else ""
            heard += [] if change == "loss" else [draw.choice(WORDS)] if change == "replaced" else [word]
            if change == "added":
                heard.append(draw.choice(WORDS))
            if change == "misspelt":
                at = draw.randrange(len(word))
                heard[-1] = word[:at] + draw.choice("بتثج") + word[at + 1 :]
        if number % 100 == 50:
            heard *= 3  # a recogniser that repeats itself
        pairs.append((" ".join(words), "" if number % 100 == 0 else "  ".join(heard)))
    return pairs


def test_wer_and_cer_equal_jiwer_and_a_slow_table_on_1000_pairs() -> None:
    pairs = random_pairs(1000)
    counts = [text_errors(*pair, "published") for pair in pairs]
    for (reference, recognised), errors in zip(pairs, counts, strict=True):
        ours, theirs = reference.split(), recognised.split()
        assert errors.words == len(ours) and errors.characters == len(reference)
        assert errors.word_errors == slow_distance(ours, theirs)
        assert errors.character_errors == slow_distance(reference, " ".join(theirs))
        assert errors.word_errors / errors.words == jiwer.wer(reference, recognised)
        assert errors.character_errors / errors.characters == jiwer.cer(reference, " ".join(theirs))
        aligned = word_alignment(reference, recognised, "published")
        assert [wanted for _, wanted, _ in aligned if wanted] == ours
        assert [heard for *_, heard in aligned if heard] == theirs
        assert sum(kind != "equal" for kind, *_ in aligned) == errors.word_errors
    assert sum(e.word_errors > e.words for e in counts) > 0 and sum(e.word_errors == 0 for e in counts) > 200
    of_the_set = jiwer.wer([reference for reference, _ in pairs], [recognised for _, recognised in pairs])
    assert sum(e.word_errors for e in counts) / sum(e.words for e in counts) == of_the_set


def test_texts_are_scored_in_their_normalised_form() -> None:
    reference, recognised = "ذَهَبَ أحمدُ إلى المدرسةِ، معهُ 3 كتب.", "ذهب احمد الي المدرسه معه ثلاثة كتب"
    assert text_errors(reference, recognised, "scoring").word_errors == 0
    assert text_errors(reference, recognised, "published") == TextErrors(
        word_errors=4, words=6, character_errors=10, characters=28
    )
    assert word_alignment(reference, recognised, "published") == [
        ("equal", "ذهب", "ذهب"),
        ("substitute", "أحمد", "احمد"),
        ("substitute", "إلى", "الي"),
        ("substitute", "المدرسة", "المدرسه"),
        ("equal", "معه", "معه"),
        ("insert", "", "ثلاثة"),
        ("equal", "كتب", "كتب"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("كِتَابٌ مُهِمٌّ جِدًّا ْ", "كتاب مهم جدا"),
        ("\u0671لكتاب", "الكتاب"),
        ("قال: «نعم»، أليس كذلك؟ (بلى)!", "قال نعم أليس كذلك بلى"),
        ("عام 2024 و١٢ يوما ١٢ ٪ 12.5 $5 3م", "عام و١٢ يوما 3م"),
        ("كل-يوم  AI\n+ هاتف", "كليوم AI هاتف"),
        ("أإآؤئىةه هـٰذا", "أإآؤئىةه هـٰذا"),
        (" 1 2 3 ", ""),
    ],
)
def test_published_deletes_what_it_names_and_keeps_the_rest(text: str, expected: str) -> None:
    assert normalise_as_published(text) == expected
    assert normalise_as_published(expected) == expected


def test_nothing_recognised_misses_every_word() -> None:
    for normalisation in NORMALISATIONS:
        for recognised in ("", " ", "؟!"):
            expected = TextErrors(word_errors=2, words=2, character_errors=7, characters=7)
            assert text_errors("قلم جيد", recognised, normalisation) == expected
            assert word_alignment("قلم", recognised, normalisation) == [("delete", "قلم", "")]


def test_a_reference_that_is_left_empty_has_errors_and_no_words() -> None:
    nothing = TextErrors(word_errors=0, words=0, character_errors=0, characters=0)
    assert text_errors("2024", "2024", "published") == nothing
    heard = TextErrors(word_errors=2, words=0, character_errors=7, characters=0)
    assert text_errors("2024", "قلم جيد", "published") == heard
    assert word_alignment("2024", "قلم جيد", "published") == [("insert", "", "قلم"), ("insert", "", "جيد")]
    assert word_alignment("2024", "", "published") == []


def test_an_unknown_normalisation_is_named_with_those_there_are() -> None:
    for call in (lambda: text_errors("قلم", "قلم", "none"), lambda: word_alignment("قلم", "قلم", "none")):
        with pytest.raises(InputError, match="normalisation: 'none'; it must be one of scoring, published"):
            call()

"""Our own 100 sentences: what they are made of, and that every normalisation takes them as they are."""

from collections import Counter

import pytest

from arabic_text.normalise import TEXT_NORMALISATIONS, diacritised_share, find_text_issues, normalise_text
from voice_cloning.evaluation.sentence_lists import read_sentence_list
from voice_cloning.evaluation.test_sets import OUR_SENTENCES
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, spoken_letters

KINDS = {
    "msa": {"plain": 10, "diacritics": 12, "digits": 8, "dates": 6, "question": 8, "names": 8, "short": 4, "long": 4},
    **dict.fromkeys(
        ("egyptian", "gulf", "levantine", "maghrebi"),
        {"plain": 4, "question": 2, "digits": 1, "names": 1, "short": 1, "long": 1},
    ),
}
DIALECT_WORDS = {
    "egyptian": "لسه أوي ده مش خالص هنروح النهارده مني نص عايز إيه بيعدي امبارح بقى مستنياه مفيش اللي عشان",
    "gulf": "أبي وايد خلنا عيال الفريج ألحين عقب شلونك عساك وين يمه شريت بمية ساكنين يدي",
    "levantine": "بدي كتير هلق خلينا عم كل حدا شو ليش مبارح عالموقف أخدت شوي هيك وهيك يشتغل",
    "maghrebi": "بغيت ديال راني نتلاقاو خدام توة معبية علاش واش كاينة هاد غير باش مزيان بزاف",
}
"""Words that the dialect has and written Arabic has not, or not in this use; each sentence has one of them."""
LETTERS = "".join(chr(code) for code in range(0x621, 0x64B) if not 0x63B <= code <= 0x640)
DIACRITICS = "".join(chr(code) for code in range(0x64B, 0x653))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    found = read_sentence_list(OUR_SENTENCES)
    assert not found.problems and not found.notes
    return [row for _, row in found.rows]


def test_there_are_100_sentences_of_each_dialect_and_kind(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 100
    assert Counter((row["dialect"], row["kind"]) for row in rows) == {
        (dialect, kind): count for dialect, kinds in KINDS.items() for kind, count in kinds.items()
    }
    assert all(row["id"].startswith(f"{row['dialect']}_{row['kind']}_") for row in rows)


def test_ids_and_texts_are_there_once(rows: list[dict[str, str]]) -> None:
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == 100


def test_sentences_are_arabic_letters_and_the_usual_marks(rows: list[dict[str, str]]) -> None:
    for row in rows:
        allowed = LETTERS + " ،.؟" + (DIACRITICS if row["kind"] == "diacritics" else "")
        assert not set(row["text"]) - set(allowed), row["id"]
        assert row["text"].endswith("؟") == (row["kind"] == "question"), row["id"]
        assert row["text"][-1] in ".؟" and "  " not in row["text"]


def test_sentences_with_diacritics_have_all_of_them(rows: list[dict[str, str]]) -> None:
    shares = {
        kind: [diacritised_share(r["text"]) for r in rows if r["kind"] == kind] for kind in ("diacritics", "plain")
    }
    assert min(shares["diacritics"]) > 0.7 and max(shares["plain"]) == 0


@pytest.mark.parametrize("how", TEXT_NORMALISATIONS)
def test_normalisations_of_texts_leave_them_as_they_are(rows: list[dict[str, str]], how: str) -> None:
    assert [normalise_text(row["text"], how) for row in rows] == [row["text"] for row in rows]
    assert not [row["id"] for row in rows if find_text_issues(row["text"])]


def test_lengths(rows: list[dict[str, str]]) -> None:
    for row in rows:
        words = len(row["text"].split())
        low, high = {"short": (2, 4), "long": (20, 30)}.get(row["kind"], (4, 19))
        assert low <= words <= high, row["id"]
        assert spoken_letters(row["text"]) <= LETTERS_PER_PIECE, "spoken in one piece"


@pytest.mark.parametrize("dialect", DIALECT_WORDS)
def test_sentences_in_dialect_have_words_of_the_dialect(rows: list[dict[str, str]], dialect: str) -> None:
    known = set(DIALECT_WORDS[dialect].split())
    msa = {word.strip("،.؟") for row in rows if row["dialect"] == "msa" for word in row["text"].split()}
    without = [
        row["id"]
        for row in rows
        if row["dialect"] == dialect and not known & {word.strip("،.؟") for word in row["text"].split()}
    ]
    assert not without and not (known - {"كل", "غير"}) & msa

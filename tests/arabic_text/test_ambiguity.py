"""Places that can be read in several ways are listed with all readings; the one that is taken is what is spoken."""

import random

import pytest

from arabic_text import AMBIGUITIES, find_ambiguous_readings, normalise_for_speech
from tests.text_tables import read_table

PLACES = [
    ("5/6/2023", "day_or_month", "الخامس من يونيو ألفين وثلاثة وعشرين", ["السادس من مايو ألفين وثلاثة وعشرين"]),
    ("15/9/1445", "calendar", "الخامس عشر من رمضان ألف وأربعمئة وخمسة وأربعين",
     ["الخامس عشر من سبتمبر ألف وأربعمئة وخمسة وأربعين للميلاد"]),
    ("12,345 نسمة", "separator", "اثنا عشر ألفًا وثلاثمئة وخمس وأربعون نسمة",
     ["اثنا عشر فاصلة ثلاثمئة وخمسة وأربعون نسمة"]),
    ("1.234", "separator", "واحد فاصلة مئتان وأربعة وثلاثون", ["ألف ومئتان وأربعة وثلاثون"]),
    ("١،٢٣٤", "separator", "ألف ومئتان وأربعة وثلاثون", ["واحد فاصلة مئتان وأربعة وثلاثون"]),
    ("12 345 نسمة", "spaced_groups", "اثنا عشر ألفًا وثلاثمئة وخمس وأربعون نسمة",
     ["اثنا عشر ثلاثمئة وخمسة وأربعون نسمة", "واحد اثنان ثلاثة أربعة خمسة نسمة"]),
    ("1500 م", "era_or_metres", "ألف وخمسمئة للميلاد", ["ألف وخمسمئة متر"]),
    ("820 م", "era_or_metres", "ثمانمئة وعشرون مترًا", ["ثمانمئة وعشرون للميلاد"]),
    ("18:10", "time_or_ratio", "الثامنة عشرة وعشر دقائق", ["ثمانية عشر إلى عشرة"]),
    ("3-1", "range_or_difference", "ثلاثة إلى واحد", ["ثلاثة ناقص واحد"]),
    ("12345", "number_or_digits", "اثنا عشر ألفًا وثلاثمئة وخمسة وأربعون", ["واحد اثنان ثلاثة أربعة خمسة"]),
    ("كود 12345", "number_or_digits", "واحد اثنان ثلاثة أربعة خمسة", ["اثنا عشر ألفًا وثلاثمئة وخمسة وأربعون"]),
    ("3/4", "fraction_or_date", "ثلاثة أرباع", ["الثالث من أبريل", "ثلاثة من أربعة"]),
    ("الطابق 3", "ordinal_or_number", "الثالث", ["ثلاثة"]),
    ("نسخة 2.5", "version_or_decimal", "اثنان نقطة خمسة", ["اثنان فاصلة خمسة"]),
    ("8.8.4.4", "address", "ثمانية نقطة ثمانية نقطة أربعة نقطة أربعة", ["8.8.4.4"]),
    ("4 مصابيح", "gender", "أربعة مصابيح", ["أربع مصابيح"]),
    ("سنة 1999", "gender_of_year", "ألف وتسعمئة وتسع وتسعين", ["ألف وتسعمئة وتسعة وتسعين"]),
    ("لسنة 2018", "gender_of_year", "ألفين وثمانية عشر", ["ألفين وثماني عشرة"]),
    ("في القاعة 12 طالبة", "counted_or_name", "اثنتا عشرة طالبة", ["اثنا عشر طالبة"]),
    ("اشتريت 20 كتابا", "case", "عشرون كتابا", ["عشرين كتابا"]),
]  # fmt: skip
CLEAR = [
    "عندي 3 كتب", "في 20 يوما", "25/12/2023", "عام 820 م", "ارتفاعه 1500 م", "الساعة 18:10", "5-10", "رقم 20",
    "١٢٬٣٤٥", "١٢٫٣٤٥", "1.234,56", "15/9/1445هـ", "127.0.0.1:8080", "F-16", "hello 5/6/2023",
    "https://a.com/5/6/2023", "", "نعم",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "taken", "others"), PLACES)
def test_an_ambiguous_place_is_listed_with_its_readings(text: str, kind: str, taken: str, others: list[str]) -> None:
    found = {place.kind: place for place in find_ambiguous_readings(text)}
    assert (found[kind].taken, list(found[kind].others)) == (taken, others)
    assert normalise_for_speech(text).endswith(taken)


def test_each_kind_has_an_example() -> None:
    assert {kind for _, kind, _, _ in PLACES} == set(AMBIGUITIES)


@pytest.mark.parametrize("text", CLEAR)
def test_a_text_with_one_reading_has_no_ambiguous_place(text: str) -> None:
    assert find_ambiguous_readings(text) == []


def test_the_reading_taken_is_the_one_that_is_spoken() -> None:
    texts = [text for table in ("speech", "separators", "eras", "ranges", "fractions") for text, _ in read_table(table)]
    places = [(text, place) for text in texts for place in find_ambiguous_readings(text)]
    assert len(places) > 100
    # A joined particle can change the first letters: "the" before a number with "the", or "to" before it.
    silent = [(t, p) for t, p in places if p.taken.removeprefix("ال") not in " ".join(normalise_for_speech(t).split())]
    assert not silent


def test_any_text_is_searched() -> None:
    generator, tables = random.Random(0), [read_table(name) for name in ("speech", "eras", "separators", "codes")]
    rows = [text for table in tables for text, _ in table]
    for _ in range(1000):
        text = "".join(generator.choice(rows)[: generator.randint(1, 12)] for _ in range(generator.randint(1, 4)))
        for place in find_ambiguous_readings(text):
            assert place.kind in AMBIGUITIES and place.others and place.taken not in place.others, ascii(text)

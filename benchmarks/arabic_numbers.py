"""Counts the numbers that num2words, PyArabic and our code put into the words of the table of texts.

    pip install num2words pyarabic && python -m benchmarks.arabic_numbers

The numbers are whole, or decimal or negative, or from 3 to 99 before a noun; the libraries get the number only. Words
are compared in the form for CER. "And" may be separate from the next word, as PyArabic and num2words write it. PyArabic
is given the noun's gender and measured twice: with the setting as documented, and with the genders swapped.
"""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from num2words import num2words
from pyarabic.number import ArNumbers

from arabic_text.normalise import normalise_for_scoring, normalise_for_speech
from arabic_text.nouns import NOUN_OF_FORM
from arabic_text.numbers import Noun

TABLE = Path(__file__).resolve().parents[1] / "tests" / "arabic_texts" / "speech.tsv"
MASCULINE, FEMININE = 1, 2
Row = tuple[str, str, str]
"""A number in digits, the noun after it or an empty string, and the number in words."""
Speak = Callable[[str, str], str]


def read_rows() -> dict[str, list[Row]]:
    """Return the numbers of the table by kind."""
    rows: dict[str, list[Row]] = {"whole": [], "decimal or negative": [], "before a noun": []}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        text, _, words = line.partition("\t")
        if re.fullmatch(r"[1-9][0-9,]*|0", text):
            rows["whole"].append((text.replace(",", ""), "", words))
        elif re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) and not text.startswith("00"):
            rows["decimal or negative"].append((text, "", words))
        elif (found := re.fullmatch(r"([0-9]+) (\S+)", text)) and words.endswith(" " + found[2]):
            if 3 <= int(found[1]) <= 99 and _noun(found[2]):
                rows["before a noun"].append((found[1], found[2], words.rsplit(" ", 1)[0]))
    return rows


def ours(digits: str, noun: str) -> str:
    words = normalise_for_speech(f"{digits} {noun}")
    return words.removesuffix(" " + noun) if noun else words


def by_num2words(digits: str, noun: str) -> str:
    return num2words(float(digits) if "." in digits else int(digits), lang="ar")


def by_pyarabic(is_swapped: bool) -> Speak:
    def speak(digits: str, noun: str) -> str:
        numbers = ArNumbers()
        is_feminine = bool(noun) and _noun(noun).feminine
        numbers.set_feminine(FEMININE if is_feminine != is_swapped else MASCULINE)
        return numbers.int2str(digits)

    return speak


def _noun(word: str) -> Noun | None:
    return NOUN_OF_FORM.get(re.sub("[\u064b-\u0652]", "", word))


def _compared(words: str) -> str:
    return normalise_for_scoring(re.sub(r"\bو ", "و", words))


def main() -> None:
    """Print a line for each library and kind of number."""
    speakers = {
        "ours": ours,
        f"num2words {version('num2words')}": by_num2words,
        f"PyArabic {version('pyarabic')}": by_pyarabic(False),
        f"PyArabic {version('pyarabic')}, genders swapped": by_pyarabic(True),
    }
    for kind, rows in read_rows().items():
        for name, speak in speakers.items():
            right = sum(_compared(speak(digits, noun)) == _compared(words) for digits, noun, words in rows)
            print(f"{kind}: {name}: {right} of {len(rows)}")


if __name__ == "__main__":
    main()

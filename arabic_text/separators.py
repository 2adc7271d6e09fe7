"""Written numbers: which separators are for thousands and which for decimals, and the words of the number."""

import re

from arabic_text.characters import ARABIC, DIGIT
from arabic_text.numbers import LARGEST, digit_words, number_words

POINT = " فاصلة "
_LEAD = "[1-9][0-9]{0,2}"
_GROUPS = [
    rf"{_LEAD}(?:[,\u066c][0-9]{{3}})+(?![0-9])(?:[.\u066b][0-9]+)?",
    rf"{_LEAD}(?:\u060c[0-9]{{3}})+(?![0-9])(?:[.\u066b][0-9]+)?",
    rf"{_LEAD}(?:\.[0-9]{{3}})+(?![0-9]),[0-9]+",
    rf"{_LEAD}(?:\.[0-9]{{3}}){{2,}}(?![0-9])",
]
"""Numbers whose separators leave no doubt, or whose groups after a comma have three digits each."""
NUMBER = "(?:" + "|".join([*_GROUPS, r"[0-9]+(?:[.,\u060c\u066b\u066c][0-9]+)?"]) + ")"
"""A written number; U+066B and U+066C are the Arabic separators of decimals and thousands."""
_GROUPED = re.compile("|".join(_GROUPS))
_THREE_AFTER_POINT = re.compile(rf"{_LEAD}\.[0-9]{{3}}")

_SPACE = "[\u00a0\u2007\u2009\u202f]"
_SPACED_LEAD = rf"(?<!\+)(?<!{DIGIT})(?<!{DIGIT} )[1-9١-٩۱-۹]{DIGIT}{{0,2}}"
_COUNTING = rf"(?= ?[$€£%٪]| (?!و{DIGIT})[{ARABIC}])"
_SPACED_THOUSANDS = re.compile(
    rf"(?<={DIGIT}){_SPACE}(?={DIGIT}{{3}}(?!{DIGIT}))"
    rf"|{_SPACED_LEAD}"
    rf"(?:(?: {DIGIT}{{3}})* (?:000|٠٠٠|۰۰۰)|(?: {DIGIT}{{3}}){{2,}}|(?: {DIGIT}{{3}})+(?=[,.\u066b]{DIGIT})"
    rf"| {DIGIT}{{3}}{_COUNTING})"
    rf"(?!{DIGIT}| {DIGIT})"
    rf"|(?<!{DIGIT})[1-9١-٩۱-۹]{DIGIT}{{0,2}}(?:['\u2019]{DIGIT}{{3}})+(?!{DIGIT})"
)
"""Thousands separated by a no-break space; by any space if the last group is 000, if there are three or more groups, or
if decimals, a sign or a word follow; or by an apostrophe."""
_DOUBTFUL_GROUPS = re.compile(
    rf"({_SPACED_LEAD}(?:(?: {DIGIT}{{3}}){{2,}}| {DIGIT}{{3}}{_COUNTING})(?!{DIGIT}| {DIGIT}))( [{ARABIC}]+)?"
)
_ROW = re.compile(r"(?<![0-9.,\u060c:/-])[0-9]{1,3}(?:[,\u060c][0-9]{1,3}){2,}(?![0-9.,\u060c:/-])")


def join_thousands(text: str) -> str:
    """Remove spaces and apostrophes between groups of thousands; digits may be of any script."""
    return _SPACED_THOUSANDS.sub(lambda match: re.sub("[\\s'\u2019]", "", match[0]), text)


def find_spaced_groups(text: str) -> list[tuple[str, str]]:
    """Find digits that :func:`join_thousands` takes for one number, but that could be several.

    Returns:
        The groups of digits, and the word after them with its space or an empty string.
    """
    found = [(match[1], match[2] or "") for match in _DOUBTFUL_GROUPS.finditer(text)]
    return [(groups, word) for groups, word in found if re.search("[^0٠۰]", groups[-3:])]


def spread_rows(text: str) -> str:
    """Put a space after the commas of a row of three or more numbers that is no number with thousands."""
    return _ROW.sub(lambda row: row[0] if _GROUPED.fullmatch(row[0]) else re.sub("[,\u060c]", "، ", row[0]), text)


def parse_number(written: str, counts_whole: bool = False) -> tuple[int | None, str]:
    """Return the whole part of a written number, None if it is too long for words, and its decimals.

    Args:
        counts_whole: what is counted has no thousandths: people, things, or money with a hundredth coin. Then a point
            before exactly three digits separates thousands; else it does so only before 000.
    """
    if written.isdigit():
        return (int(written) if len(written) <= len(str(LARGEST)) else None), ""
    if _GROUPED.fullmatch(written):
        thousands = re.search("[^0-9]", written)[0]
        written = re.sub("[,\u066c]" if thousands in ",\u066c" else re.escape(thousands), "", written)
    elif _THREE_AFTER_POINT.fullmatch(written) and (counts_whole or written.endswith("000")):
        written = written.replace(".", "")
    whole, *decimals = re.split("[.,\u060c\u066b\u066c]", written)
    value = int(whole) if len(whole) <= len(str(LARGEST)) else None
    return value, decimals[0] if decimals else ""


def plain_number(written: str, feminine_noun: bool = False, oblique: bool = False) -> str:
    """Read a number without its noun; one that is too long for words is read digit by digit."""
    return words_of(*parse_number(written), written, feminine_noun, oblique)


def words_of(value: int | None, decimals: str, written: str, feminine_noun: bool, oblique: bool) -> str:
    """Read a number that :func:`parse_number` has taken apart."""
    if value is None:
        return digit_words(re.sub("[^0-9]", "", written))
    if not decimals:
        return number_words(value, feminine_noun, oblique)
    rest = decimals.lstrip("0")
    if not rest or len(rest) > 3:
        spoken = digit_words(decimals)
    else:
        spoken = " ".join(["صفر"] * (len(decimals) - len(rest)) + [number_words(int(rest))])
    return number_words(value, False, oblique) + POINT + spoken

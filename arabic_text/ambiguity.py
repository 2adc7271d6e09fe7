"""Finds the places of a text that can be read in more than one way: the reading that normalisation takes, and others.

Each rule looks at one match of ``patterns.ANYTHING``. The other readings come from the same readers: a rule writes the
place in a way that leaves no doubt, and has it read.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from arabic_text.agreement import counts, known_noun
from arabic_text.amounts import CENTURIES, PHONE_WORDS, RANKED, TO, rank_of, read_amount
from arabic_text.characters import ARABIC
from arabic_text.context import HOUR_WORDS, Context
from arabic_text.normalise import ASCII_DIGITS, parts_to_read
from arabic_text.nouns import MONTHS
from arabic_text.numbers import LARGEST, digit_words, number_words, ordinal
from arabic_text.patterns import AMOUNT, ANYTHING
from arabic_text.readings import ERAS, is_surely_an_era, prepare, read_match
from arabic_text.separators import find_spaced_groups, plain_number

AMBIGUITIES = {
    "day_or_month": "5/6/2023 begins with the day; or with the month",
    "calendar": "1/9/1445 without an era is a Hijri date; or a Gregorian one",
    "separator": "a comma before three digits separates thousands, a point decimals or, before what is counted whole, "
    "thousands; or the other way round",
    "spaced_groups": "12 345 is one number; or two, or a number that is read digit by digit",
    "era_or_metres": "a number from 1000 with the letter meem is a year, a smaller one metres; or the other way round",
    "time_or_ratio": "18:10 is a time; or a ratio, or chapter and verse",
    "range_or_difference": "3-1 is read as a range or a score; or as a difference",
    "number_or_digits": "up to nine digits are a number, ten or more are read one by one; or the other way round",
    "fraction_or_date": "3/4 is a fraction; or a day and a month, or a grade",
    "ordinal_or_number": "a number after a noun such as 'floor' is an ordinal; or a plain number",
    "version_or_decimal": "two numbers with a point after 'version' are a version; or a decimal",
    "address": "four numbers with points are read; or stay as an address",
    "gender": "an unknown plural after 3 to 10 counts as masculine; or it is feminine",
    "gender_of_year": "a year after 'sana' is feminine, after 'li-sana' a bare number; or the other way round",
    "counted_or_name": "a noun after the number of a room, page or floor is counted; or the number is only the name",
    "case": "a number that no word before it puts in genitive is nominative; or it is an object, so oblique",
}
"""Kind -> the reading that is taken, and the other one."""
_SEPARATED = re.compile("[1-9][0-9]{0,2}[.,\u060c][0-9]{3}")
_LETTER = re.compile(f"[{ARABIC}]")
_SMALLEST_YEAR_REPORTED = 100


@dataclass(frozen=True)
class AmbiguousReading:
    """A place of a text that can be read in more than one way.

    Attributes:
        kind: a key of ``AMBIGUITIES``.
        written: the place, with ASCII digits and without invisible characters.
        taken: the reading that normalisation takes.
        others: further readings.
    """

    kind: str
    written: str
    taken: str
    others: tuple[str, ...]


Rule = Callable[[re.Match[str]], Iterator[tuple[str, list[str]]]]
"""Yields the kinds of ambiguity of a match and the other readings of each."""


def find_ambiguous_readings(text: str) -> list[AmbiguousReading]:
    """Return the places of a text that ``normalise_for_speech`` reads in one of several ways, in their order.

    A place is listed once for each kind of ambiguity that it has. Any string is accepted.
    """
    found = [_of_groups(groups.translate(ASCII_DIGITS), word) for groups, word in find_spaced_groups(text)]
    for part in parts_to_read(text):
        for match in ANYTHING.finditer(prepare(part)):
            rule = _RULES.get(match.lastgroup)
            if rule is None:
                continue
            taken = _tidy(read_match(match))
            for kind, readings in rule(match):
                others = tuple(dict.fromkeys(reading for reading in map(_tidy, readings) if reading != taken))
                if others:
                    found.append(AmbiguousReading(kind, match[0].strip(), taken, others))
    return found


def _tidy(words: str) -> str:
    return " ".join(words.split())


def _read_instead(match: re.Match[str], written: str, before: str | None = None) -> str:
    """Read a place as if it were written in another way, or as if ``before`` stood before it."""
    start = match.string[: match.start()] if before is None else before
    other = ANYTHING.match(start + written + match.string[match.end() :], len(start))
    if other is None:
        return written
    return read_match(other) + other.string[other.end() : len(start) + len(written)]


def _of_groups(groups: str, word: str) -> AmbiguousReading:
    digits = groups.replace(" ", "")
    taken = read_match(ANYTHING.match(digits + word))
    apart = " ".join(map(plain_number, groups.split()))
    return AmbiguousReading("spaced_groups", groups + word, taken, (apart + word, digit_words(digits) + word))


def _of_date(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    if match["d"] and int(match["d"]) != int(match["m"]) and 1 <= int(match["d"]) <= 12 and 1 <= int(match["m"]) <= 12:
        dash, era = match["dash"], match["era"] or ""
        yield "day_or_month", [_read_instead(match, f"{match['m']}{dash}{match['d']}{dash}{match['y']}{era}")]
    year, era = int(match["y"] or match["y2"]), match["era"] or match["era2"]
    if not era and 1300 <= year <= 1500:
        yield "calendar", [_read_instead(match, match[0] + "م")]


def _of_time(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    if not (match["half"] or match["second"] or Context.of(match).word in HOUR_WORDS):
        yield "time_or_ratio", [f"{plain_number(match['hour'])}{TO}{plain_number(match['minute'], oblique=True)}"]


def _of_fraction(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    over, under = match["over"], match["under"]
    if over and not match["whole2"] and 1 <= int(over) <= 31 and 1 <= int(under) <= 12 and not match["unit2"]:
        tail = f" {match['noun2']}" if match["noun2"] else ""
        oblique = Context.of(match).is_oblique()
        date = f"{ordinal(int(over), oblique=oblique)} من {MONTHS[int(under) - 1]}"
        grade = f"{number_words(int(over), oblique=oblique)} من {number_words(int(under), oblique=True)}"
        yield "fraction_or_date", [date + tail, grade + tail]


def _of_year(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    context, (rank, _) = Context.of(match), rank_of(Context.of(match))
    if match["which"] == "م" and not is_surely_an_era(match, context, rank) and not context.is_length:
        oblique = bool(match["till"]) or context.is_oblique(int(match["since"]))
        years = TO.join(number_words(int(year), oblique=oblique) for year in (match["since"], match["till"]) if year)
        metres = AMOUNT.match(match.string, match.start())
        if int(match["since"]) >= _SMALLEST_YEAR_REPORTED:
            yield "era_or_metres", [f"{years} {ERAS['م']}", read_amount(metres)]
    if rank not in CENTURIES:
        yield from _gender_of_year(match, context, int(match["since"]))
        yield from _case(match, context)


def _gender_of_year(match: re.Match[str], context: Context, value: int) -> Iterator[tuple[str, list[str]]]:
    other = {"masculine": "بسنة ", "feminine": "بعام "}.get(context.year, "")
    if other and context.word.endswith("سنة") and 1 <= value <= LARGEST:
        yield "gender_of_year", [_read_instead(match, match[0], other)]


def _case(match: re.Match[str], context: Context) -> Iterator[tuple[str, list[str]]]:
    """A subject and an object differ in the dual and in the tens; names of things keep one form."""
    if (
        _LETTER.search(context.text)
        and not (context.label or context.year or context.clitic)
        and context.word not in PHONE_WORDS
    ):
        yield "case", [_read_instead(match, match[0], f"{context.word} من ")]


def _of_amount(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    context, digits, noun = Context.of(match), match["number"], match["noun"] or ""
    if match["power"] or match["raised"]:
        return
    after = match[0].partition(digits)[2]
    if _SEPARATED.fullmatch(digits):
        yield "separator", [_read_instead(match, match[0].replace(digits, other)) for other in _other_values(digits)]
    if match["until"] and digits.isdigit() and match["until"].isdigit() and int(digits) > int(match["until"]):
        first, second = number_words(int(digits)), number_words(int(match["until"]), oblique=True)
        yield "range_or_difference", [f"{first} ناقص {second} {noun}"]
    if context.is_version and re.fullmatch(r"[0-9]+\.[0-9]+", digits) and after == "":
        yield "version_or_decimal", [plain_number(digits)]
    if match["until"] or match["money"] or match["plus"] or not digits.isdigit() or int(digits) > LARGEST:
        yield from _case(match, context)
        return
    value = int(digits)
    if after == "" or (noun and not known_noun(noun)):
        yield from _of_plain_number(match, context, value)
    elif noun and context.label == "definite" and counts(noun, value, context.label, False):
        yield "counted_or_name", [f"{number_words(value)} {noun}"]
    yield from _gender_of_year(match, context, value)
    yield from _case(match, context)


def _of_plain_number(match: re.Match[str], context: Context, value: int) -> Iterator[tuple[str, list[str]]]:
    """A number before nothing or before a word that is no known noun."""
    digits, noun = match["number"], match["noun"] or ""
    tail = f" {noun}" if noun else ""
    if 5 <= len(digits) <= 9:
        spelled = digit_words(digits)
        yield "number_or_digits", [number_words(value) + tail if context.word in PHONE_WORDS else spelled + tail]
    rank, _ = rank_of(context)
    if rank in RANKED and 1 <= value <= 99 and rank not in CENTURIES:
        yield "ordinal_or_number", [number_words(value) + tail]
    if noun and 3 <= value % 100 <= 10 and counts(noun, value, context.label, False):
        yield "gender", [number_words(value, True, context.is_oblique()) + tail]


def _other_values(digits: str) -> list[str]:
    """Return the number written as thousands and as a decimal, without doubt."""
    whole, decimals = re.split("[.,\u060c]", digits)
    return [whole + decimals, f"{whole}\u066b{decimals}"]


def _of_phone(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    if match[0].isdigit() and match[0][0] != "0" and len(match[0]) <= len(str(LARGEST)):
        yield "number_or_digits", [number_words(int(match[0]))]


def _of_dotted(match: re.Match[str]) -> Iterator[tuple[str, list[str]]]:
    parts = match[0].split(".")
    if len(parts) == 4 and all(int(part) <= 255 for part in parts):
        yield "address", [match[0]]


_RULES: dict[str, Rule] = {
    "date": _of_date, "iso_date": _of_date, "time": _of_time, "fraction": _of_fraction, "year": _of_year,
    "amount": _of_amount, "phone": _of_phone, "dotted": _of_dotted,
}  # fmt: skip

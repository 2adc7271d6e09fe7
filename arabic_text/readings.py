"""Reads digits and signs in Arabic text aloud: dates, times, amounts, telephone numbers, signs.

One regular expression, ``patterns.ANYTHING``, finds them from left to right. ``_READERS`` names the function that reads
each kind. Digits are ASCII here, because ``normalise.py`` converts them first. Words with Latin letters and addresses
of networks stay.
"""

import re
from collections.abc import Callable

from arabic_text.agreement import counts, form_after, may_be_counted
from arabic_text.amounts import (
    CENTURIES,
    CENTURY_ERAS,
    HALF_DAYS,
    TO,
    fraction_noun,
    hour_words,
    power_words,
    rank_of,
    read_amount,
)
from arabic_text.characters import ARABIC, LATIN
from arabic_text.context import HOUR_WORDS, LAST_YEAR, Context
from arabic_text.nouns import HIJRI_MONTHS, MONTHS, UNITS
from arabic_text.numbers import AND, Noun, counted, digit_words, feminine, number_words, ordinal
from arabic_text.patterns import ADDRESSES, AMOUNT, ANYTHING, FRACTION_SIGNS, FRACTIONS, RANGES, SIGNS, SIGNS_ONLY
from arabic_text.separators import plain_number, spread_rows

MINUTE = feminine("دقيقة", "دقائق")
SECOND = Noun("ثانية", "ثانيتان", "ثوان", "ثانية", True)
QUARTERS = {0: "", 15: AND + "الربع", 30: AND + "النصف"}
PARTS_OF_HOUR = {(1, 2): AND + "النصف", (1, 4): AND + "الربع", (1, 3): AND + "الثلث"}
ERAS = {"هـ": "للهجرة", "م": "للميلاد", "ق.م": "قبل الميلاد", "ق.هـ": "قبل الهجرة"}
NUMBER_SIGNS = {"*": "ضرب", "<": "أصغر من", ">": "أكبر من", "-": "ناقص"}
"""Signs that are read in this way only between numbers."""
_UNSEPARATED = {"sign", "hash", "typing", "number_sign", "joint", "per", "exponent_of"}
"""Kinds whose readings bring their own spaces."""
_KEPT = {"latin", "address"}
_BORN_OR_DIED = {"ولد", "ولدت", "توفي", "توفيت", "مات", "ماتت", "ت"}

_OPENING = re.compile(r"(?:[(\[{]|(?:^|[\s(\[{])[\"'])\Z")
_NEXT_YEAR = re.compile(r" (?:إلى|الى|حتى) [0-9]")
_LETTER_OR_DIGIT = re.compile(rf"[{ARABIC}{LATIN}0-9]")
_IS_LATIN = re.compile(f"[{LATIN}]")
_TILDE = re.compile("(?<=[0-9]) ?~ ?(?=[0-9])")
_DASHED_MIXED = re.compile(r"(?<![0-9/.,-])([0-9]+)-([1-7]/[2348])(?![0-9/.,-])")
_SIZE = re.compile(" (?:صغيرة|كبيرة|متوسطة|صغير|كبير|متوسط)(?![^ .،])")
"""An adjective that cannot be parted from the noun before it."""
_WIDE_DASH = re.compile(" +- +")
_SEPARATE_AND = re.compile(rf"(?<![{ARABIC}])و (?=[0-9])")


def read_aloud(text: str, digits: bool = True) -> str:
    """Replace the signs of Arabic text with words, and its digits too if ``digits``; spaces may come out doubled."""
    return ANYTHING.sub(_read, prepare(text)) if digits else SIGNS_ONLY.sub(_read, text)


def prepare(text: str) -> str:
    """Bring ranges, rows of numbers and a separate "and" before digits into the form that ``ANYTHING`` finds."""
    text = spread_rows(_SEPARATE_AND.sub("و", text))
    if "~" in text:
        text = _TILDE.sub("-", text)
    if text.count(".") >= 6:
        text = ADDRESSES.sub(lambda two: two[1] + (TO if two[2] == "-" else "، "), text)
    if "-" in text:
        text = _DASHED_MIXED.sub(r"\1 \2", _WIDE_DASH.sub(" - ", text))
        for pattern in RANGES:
            text = pattern.sub(rf"\1{TO}", text)
    return text


def read_match(match: re.Match[str]) -> str:
    """Return the words for a match of ``ANYTHING``, without regard to its neighbours."""
    return match[0] if match.lastgroup in _KEPT else _READERS[match.lastgroup](match)


def _read(match: re.Match[str]) -> str:
    """Return the words for a match, separated from its neighbours but joined to a clitic before it."""
    kind = match.lastgroup
    words = read_match(match)
    if kind in _KEPT or kind in _UNSEPARATED or words == match[0]:
        return words
    context = Context.of(match)
    after = match.string[match.end() : match.end() + 1]
    is_joined = context.clitic or _OPENING.search(context.text)
    text = _attach_to_clitic(words.lstrip(), context.clitic) if is_joined else " " + words.lstrip()
    return text + (" " if _LETTER_OR_DIGIT.match(after) else "")


def _attach_to_clitic(words: str, clitic: str) -> str:
    """Adapt words to the clitic before them: one article in all, and the article without alef after "to"."""
    if words.startswith("ال"):
        return words[2:] if clitic.endswith(("ال", "لل")) else words[1:] if clitic.endswith("ل") else words
    return _with_article_on_tens(words) if clitic.endswith("ال") else words


def _with_article_on_tens(words: str) -> str:
    """Put the article on the tens too, if the first number word has it."""
    first, found, tens = words.partition(AND)
    return first + AND + "ال" + tens if found and tens[:6].removesuffix(" ").endswith(("ون", "ين")) else words


def _date(match: re.Match[str]) -> str:
    day, month, year = (match["d"], match["m"], match["y"]) if match["d"] else (match["d2"], match["m2"], match["y2"])
    era = (match["era"] or match["era2"] or "").replace("ـ", "")
    numbers = int(day), int(month), int(year)
    if numbers[1] > 12 >= numbers[0] and match["d"]:  # month first
        numbers = numbers[1], numbers[0], numbers[2]
    if not (1 <= numbers[0] <= 31 and 1 <= numbers[1] <= 12):
        parts = re.findall("[0-9]+|[./-]", match[0])
        return " ".join(plain_number(part) if part.isdigit() else "على" if part == "/" else "" for part in parts)
    hijri = era == "ه" or (not era and 1300 <= numbers[2] <= 1500)
    months = HIJRI_MONTHS if hijri else MONTHS
    year_words = number_words(numbers[2], oblique=True)
    day_words = ordinal(numbers[0], oblique=Context.of(match).is_oblique(is_date=True))
    words = f"{day_words} من {months[numbers[1] - 1]} {year_words}"
    return f"{words} {ERAS['هـ' if era == 'ه' else era]}" if era else words


def _time(match: re.Match[str]) -> str:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    oblique = Context.of(match).is_oblique()
    half = (match["half"] or "").lower().replace(".", "")
    if minute == 45 and not second:
        words = hour_words(hour % 12 + 1 if hour in (0, 12) else hour % 24 + 1, oblique) + " إلا ربعًا"
    else:
        words = hour_words(hour or 12, oblique)
        words += QUARTERS.get(minute) if minute in QUARTERS else AND + counted(minute, MINUTE, oblique)
        words += AND + counted(second, SECOND, oblique) if second else ""
    return f"{words} {HALF_DAYS[half]}" if half else words


def _ratio(match: re.Match[str]) -> str:
    return f"{plain_number(match['left'])}{TO}{plain_number(match['right'], oblique=True)}"


def _phone(match: re.Match[str]) -> str:
    plus = "زائد " if match[0].startswith("+") else ""
    return plus + digit_words(re.sub("[^0-9]", "", match[0]))


def _dotted(match: re.Match[str]) -> str:
    """Read a version number or a network address without a port."""
    return " نقطة ".join(plain_number(part) for part in match[0].split("."))


def _fraction(match: re.Match[str]) -> str:
    """Read a fraction, alone or after a whole number, and the noun, unit or sign after it."""
    context = Context.of(match)
    number = "1" if match["part"] else "2"
    whole, unit, noun = match["whole"] or match["whole2"], match["unit" + number] or "", match["noun" + number] or ""
    part = FRACTION_SIGNS[match["part"]] if match["part"] else (int(match["over"]), int(match["under"]))
    tail = (f" {SIGNS.get(unit, unit)}" if unit else "") + (f" {noun}" if noun else "")
    if not match["part"] and len(match["over"]) == len(match["under"]) == 4:  # the two years of a season
        oblique, is_feminine = context.is_oblique(part[0]), context.year == "feminine"
        first, second = number_words(part[0], is_feminine, oblique), number_words(part[1], is_feminine, True)
        return (f"{plain_number(whole)} " if whole else "") + first + TO + second + tail
    oblique = context.is_oblique()
    if match["over"] and not whole and context.label:  # the number of an article or a case, no part of anything
        return f"{plain_number(match['over'])} على {plain_number(match['under'], oblique=True)}{tail}"
    words = _part_words(part, match["over"], match["under"], oblique)
    what = fraction_noun(unit, noun)
    if whole and part[0] < part[1]:
        value = int(whole)
        if context.word in HOUR_WORDS and 1 <= value <= 12 and part in PARTS_OF_HOUR:
            return hour_words(value, oblique) + PARTS_OF_HOUR[part] + tail
        if what is not None and _SIZE.match(match.string, match.end()):
            return number_words(value, what.noun.feminine, oblique) + AND + words + tail
        if what is None or len(whole) > 15 or (noun and not counts(noun, value, context.label, False)):
            return plain_number(whole, oblique=oblique) + AND + words + tail
        if value in (1, 2) or unit or noun == what.noun.singular:
            things = counted(value, what.noun, oblique, bare=True) + what.adjective_after(value, oblique) + what.after
        else:
            things = f"{number_words(value, what.noun.feminine, oblique, True)} {form_after(value, what.noun, noun)}"
        return things + AND + words
    before = plain_number(whole, oblique=oblique) + " " if whole else ""
    if what is not None and unit:
        return f"{before}{_in_construct(words)} {what.noun.singular}{what.adjective_after(100, True)}{what.after}"
    is_part_of_noun = noun.startswith("ال") or (noun and may_be_counted(noun))
    return before + (_in_construct(words) if is_part_of_noun else words) + tail


def _part_words(part: tuple[int, int], over: str | None, under: str | None, oblique: bool) -> str:
    known = FRACTIONS.get(part) if not over or len(over + under) < 5 else None
    if known is None:
        return f"{plain_number(over, oblique=oblique)} على {plain_number(under, oblique=True)}"
    return known[:-2] + "ين" if oblique and known.endswith("ان") else known


def _in_construct(fraction: str) -> str:
    """Return a fraction before the noun of which it is a part: the dual loses its last letter."""
    return fraction[:-1] if fraction.endswith(("ثان", "سان", "ثين", "سين")) else fraction


def _year(match: re.Match[str]) -> str:
    """Read a year, or a range of years, with its era; or metres, if the letter of the era means them."""
    context = Context.of(match)
    since, till, era = match["since"], match["till"], "هـ" if match["which"] == "ه" else match["which"]
    (rank, is_genitive), value = rank_of(context), int(since)
    if not _is_era(match, context, rank):
        amount = AMOUNT.match(match.string, match.start())
        return read_amount(amount) + match.string[amount.end() : match.end()]
    pair = " /" if match["pair"] else ""
    if rank in CENTURIES and 1 <= value <= 99:
        words = ordinal(value, oblique=is_genitive)
        if till and 1 <= int(till) <= 99:
            words += TO + ordinal(int(till), oblique=True)
        return f"{words} {CENTURY_ERAS[era]}{pair}"
    is_feminine = context.year == "feminine"
    oblique = bool(till) or context.is_oblique(value) or context.word in _BORN_OR_DIED
    oblique = oblique or bool(_NEXT_YEAR.match(match.string, match.end()))
    words = number_words(value, is_feminine, oblique)
    if till:
        words += TO + number_words(int(till), is_feminine, True)
    return f"{words} {ERAS[era]}{pair}"


def _century(match: re.Match[str]) -> str:
    """Read the era of a century that is written in words, and a second century in digits."""
    words = f"{match['words']} {CENTURY_ERAS[match['of_century']]}"
    if not match["century2"]:
        return words
    is_genitive = Context.of(match).is_oblique()
    return f"{words} / {ordinal(int(match['century2']), oblique=is_genitive)} {CENTURY_ERAS[match['of_century2']]}"


def is_surely_an_era(match: re.Match[str], context: Context, rank: str) -> bool:
    """Return whether the letters after a number, or the words before it, leave no doubt that it is a year."""
    return bool(
        match["which"] not in ("م", "ه")
        or context.continues_era
        or context.year
        or rank in CENTURIES
        or context.word in _BORN_OR_DIED
    )


def _is_era(match: re.Match[str], context: Context, rank: str) -> bool:
    """Return whether the letters after a number are an era: the letter meem also means metres."""
    which, since, till = match["which"], int(match["since"]), match["till"]
    if is_surely_an_era(match, context, rank):
        return True
    if which == "م" and context.is_length:
        return False
    if till and which == "م" and context.text.endswith("(") and match.string[match.end() : match.end() + 1] == ")":
        return True
    return 1000 <= since < LAST_YEAR and (not till or len(till) == 2 or 1000 <= int(till) <= LAST_YEAR)


def _per(match: re.Match[str]) -> str:
    unit = UNITS[match["of"]]
    return f" لكل {unit.noun.singular}{unit.adjective_after(100, True)}{unit.after}"


def _area(match: re.Match[str]) -> str:
    unit = UNITS[match["of_area"]]
    return f"{unit.noun.singular}{unit.adjective_after(100, Context.of(match).is_oblique())}"


def _exponent_of(match: re.Match[str]) -> str:
    """Read the power of a letter, a bracket or a power; raised signs without a digit are only removed."""
    words = power_words(match["exponent2"] or match["raised2"])
    return f" أس {words} " if words.strip() not in ("", "سالب") else " "


def _sign(match: re.Match[str]) -> str:
    """Read a sign between words; between Latin letters it stays."""
    before = match.string[: match.start()][-1:]
    after = match.string[match.end() : match.end() + 1]
    if _IS_LATIN.match(before) and _IS_LATIN.match(after):
        return match[0]
    words = SIGNS[match[0].strip()]
    return words if words == AND else f" {words} "


def _hash(match: re.Match[str]) -> str:
    return " رقم " if match.string[match.end() : match.end() + 1].isdigit() else " وسم "


_READERS: dict[str, Callable[[re.Match[str]], str]] = {
    "date": _date, "iso_date": _date, "time": _time, "ratio": _ratio, "phone": _phone, "dotted": _dotted,
    "fraction": _fraction, "mixed": _fraction, "year": _year, "century": _century,
    "amount": read_amount, "per": _per, "area": _area, "exponent_of": _exponent_of, "sign": _sign,
    "number_sign": lambda match: f" {NUMBER_SIGNS[match[0].strip()]} ", "hash": _hash, "typing": lambda match: " ",
    "joint": lambda match: " ",
}  # fmt: skip

"""Reads digits and signs in Arabic text aloud: dates, times, amounts, telephone numbers, signs.

One regular expression, ``patterns.ANYTHING``, finds them from left to right. ``_READERS`` names the function that reads
each kind. Digits are ASCII here, because ``normalise.py`` converts them first. Words with Latin letters stay.
"""

import re
from collections.abc import Callable

from arabic_text.nouns import (
    CURRENCIES,
    HIJRI_MONTHS,
    MONTH_ENDS,
    MONTH_STARTS,
    MONTHS,
    NOUN_OF_FORM,
    SCALE_WORDS,
    UNITS,
    Unit,
)
from arabic_text.numbers import AND, LARGEST, Noun, counted, digit_words, feminine, number_words, ordinal
from arabic_text.patterns import (
    ANYTHING,
    ARABIC,
    FRACTION_SIGNS,
    FRACTIONS,
    HOUR_WORDS,
    LATIN,
    NUMBER,
    SIGNS,
    SIGNS_ONLY,
    SUPERSCRIPTS,
    TIME_RANGE,
)

POINT = " فاصلة "
OBLIQUE_AFTER = set(
    "في من إلى الى على عن حتى منذ خلال بعد قبل بين مع دون بدون فوق تحت كل عام سنة يوم ليلة نحو حوالي قرابة "
    "نسبة بنسبة لمدة بسعر بقيمة بمبلغ بسرعة بمعدل بفارق بوزن بطول بعمق بارتفاع".split()
)
"""Words after which a number is in genitive."""
CLITICS = set("و ف ب ل ك ال وال فال بال كال لل وب ول وك فب فل".split())
"""Particles that are written together with the next word."""
OBLIQUE_CLITICS = set("ب ل ك بال كال لل وب ول وك فب فل".split())
FEMININE_YEAR_AFTER = {"سنة", "السنة", "لسنة", "بسنة", "وسنة"}
ALTERNATIVES = {"إلى", "الى", "أو", "او"}
"""Words between two numbers that count the same noun."""
CENTURY, CENTURY_ERAS = "القرن", {"م": "الميلادي", "هـ": "الهجري", "ق.م": "قبل الميلاد"}
PHONE_WORDS = set(
    "هاتف الهاتف هاتفي جوال الجوال جوالي موبايل الموبايل تلفون التلفون رقم الرقم رقمي بالرقم للرقم واتساب واتس كود "
    "رمز".split()
)
RANKED = {
    **dict.fromkeys("القرن الطابق الدور الصف الفصل الدرس الباب الجزء المركز المجلد الأسبوع".split(), False),
    **dict.fromkeys(
        "الحلقة المرحلة الدورة النسخة الطبعة الجولة المرتبة الذكرى الدقيقة السورة الآية المادة السنة".split(), True
    ),
}
"""Definite noun after which a number up to 99 is an ordinal -> whether it is feminine."""

MINUTE = feminine("دقيقة", "دقائق")
SECOND = Noun("ثانية", "ثانيتان", "ثوان", "ثانية", True)
QUARTERS = {0: "", 15: AND + "الربع", 30: AND + "النصف"}
BEFORE_NOON, AFTER_NOON = "صباحًا", "مساءً"
HALF_DAYS = {"ص": BEFORE_NOON, "م": AFTER_NOON, "am": BEFORE_NOON, "pm": AFTER_NOON}
ERAS = {"هـ": "للهجرة", "ه": "للهجرة", "م": "للميلاد", "ق.م": "قبل الميلاد"}
NUMBER_SIGNS = {"*": "ضرب", "<": "أصغر من", ">": "أكبر من", "-": "ناقص"}
"""Signs that are read in this way only between numbers."""

_UNTIL_HOUR = re.compile(rf"(?:{'|'.join(HOUR_WORDS)}) [0-9]{{1,2}}(?::[0-9]{{2}})? (?:إلى|الى|حتى) \Z")
_OPENING = re.compile(r"(?:[(\[{]|(?:^|[\s(\[{])[\"'])\Z")
_OBLIQUE_SIGN = re.compile(r"(?:[÷×=≤≥]|[0-9] ?[-*<>]) ?\Z")
"""A sign whose word puts the following number in genitive."""


def read_aloud(text: str, digits: bool = True) -> str:
    """Replace the signs of Arabic text with words, and its digits too if ``digits``; spaces may come out doubled."""
    return ANYTHING.sub(_read, TIME_RANGE.sub(r"\1 إلى \2", text)) if digits else SIGNS_ONLY.sub(_read, text)


def _read(match: re.Match[str]) -> str:
    """Return the words for a match, separated from its neighbours but joined to a clitic before it."""
    kind = match.lastgroup
    if kind == "latin":
        return match[0]
    words = _READERS[kind](match)
    if kind in ("sign", "hash", "typing", "number_sign", "joint") or words == match[0]:
        return words
    clitic = _clitic_before(match)
    after = match.string[match.end() : match.end() + 1]
    is_joined = clitic or _OPENING.search(_text_before(match))
    text = _attach_to_clitic(words.lstrip(), clitic) if is_joined else " " + words.lstrip()
    return text + (" " if re.match(rf"[{ARABIC}{LATIN}0-9]", after) else "")


def _attach_to_clitic(words: str, clitic: str) -> str:
    """Adapt words to the clitic before them: one article in all, and the article without alef after "to"."""
    if words.startswith("ال"):
        return words[2:] if clitic.endswith(("ال", "لل")) else words[1:] if clitic.endswith("ل") else words
    return _with_article_on_tens(words) if clitic.endswith("ال") else words


def _text_before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 60) : match.start()]


def _clitic_before(match: re.Match[str]) -> str:
    """Return the clitic that is joined to the match, or an empty string."""
    touching = re.search(rf"[{ARABIC}]*\Z", _text_before(match))[0] if match[0][:1] != " " else ""
    return touching if touching in CLITICS else ""


def _words_before(match: re.Match[str]) -> tuple[str, str]:
    """Return the two words before a match, in order; a joined article and a number added by "and" are skipped."""
    before = _text_before(match)
    if _clitic_before(match) in ("ال", "و"):
        before = re.sub(r"(?:ال|[0-9] و)\Z", "", before)
    before = before.rstrip("0123456789")
    found = re.search(rf"(?:([{ARABIC}]+) +)?([{ARABIC}]+)[ :]*\Z", before)
    return (found[1] or "", found[2]) if found else ("", "")


def _is_oblique(match: re.Match[str]) -> bool:
    if _clitic_before(match) in OBLIQUE_CLITICS or _OBLIQUE_SIGN.search(_text_before(match)):
        return True
    word = _words_before(match)[1]
    return _governs_genitive(word) or word in MONTH_ENDS


def _governs_genitive(word: str) -> bool:
    return word in OBLIQUE_AFTER or (word[:1] in ("و", "ف") and word[1:] in OBLIQUE_AFTER)


def _with_article_on_tens(words: str) -> str:
    """Put the article on the tens too, if the first number word has it."""
    first, found, tens = words.partition(AND)
    return first + AND + "ال" + tens if found and tens[:6].removesuffix(" ").endswith(("ون", "ين")) else words


def _value(digits: str) -> tuple[int | None, str]:
    """Return the whole part of a written number, None if it is too long for words, and its decimals."""
    if re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{3}){2,}", digits):
        digits = digits.replace(".", "")
    whole, *decimals = re.split(r"[.,\u060c]", digits)
    value = int(whole) if len(whole) <= len(str(LARGEST)) else None
    return value, decimals[0] if decimals else ""


def _plain_number(digits: str, feminine_noun: bool = False, oblique: bool = False) -> str:
    """Read a number without its noun; one that is too long for words is read digit by digit."""
    value, decimals = _value(digits)
    if value is None:
        return digit_words(re.sub("[^0-9]", "", digits))
    if not decimals:
        return number_words(value, feminine_noun, oblique)
    rest = decimals.lstrip("0")
    if not rest or len(rest) > 3:
        spoken = digit_words(decimals)
    else:
        spoken = " ".join(["صفر"] * (len(decimals) - len(rest)) + [number_words(int(rest))])
    return number_words(value, False, oblique) + POINT + spoken


def _date(match: re.Match[str]) -> str:
    day, month, year = (match["d"], match["m"], match["y"]) if match["d"] else (match["d2"], match["m2"], match["y2"])
    era = match["era"] or match["era2"]
    numbers = int(day), int(month), int(year)
    if numbers[1] > 12 >= numbers[0] and match["d"]:  # month first
        numbers = numbers[1], numbers[0], numbers[2]
    if not (1 <= numbers[0] <= 31 and 1 <= numbers[1] <= 12):
        parts = re.findall("[0-9]+|[./-]", match[0])
        return " ".join(_plain_number(part) if part.isdigit() else "على" if part == "/" else "" for part in parts)
    hijri = era in ("هـ", "ه") or 1300 <= numbers[2] <= 1500
    months = HIJRI_MONTHS if hijri else MONTHS
    year_words = number_words(numbers[2], oblique=True)
    words = f"{ordinal(numbers[0], oblique=_is_oblique(match))} من {months[numbers[1] - 1]} {year_words}"
    return f"{words} {ERAS[era]}" if era else words


def _time(match: re.Match[str]) -> str:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    oblique = _is_oblique(match)
    half = (match["half"] or "").lower().replace(".", "")
    if minute == 45 and not second:
        words = _hour(hour % 12 + 1 if hour in (0, 12) else hour % 24 + 1, oblique) + " إلا ربعًا"
    else:
        words = _hour(hour or 12, oblique)
        words += QUARTERS.get(minute) if minute in QUARTERS else AND + counted(minute, MINUTE, oblique)
        words += AND + counted(second, SECOND, oblique) if second else ""
    return f"{words} {HALF_DAYS[half]}" if half else words


def _hour(hour: int, oblique: bool) -> str:
    """Return the ordinal of an hour; hour 1 is called "the one"."""
    return "الواحدة" if hour == 1 else ordinal(hour, True, oblique)


def _ratio(match: re.Match[str]) -> str:
    return f"{_plain_number(match['left'])} إلى {_plain_number(match['right'], oblique=True)}"


def _phone(match: re.Match[str]) -> str:
    plus = "زائد " if match[0].startswith("+") else ""
    return plus + digit_words(re.sub("[^0-9]", "", match[0]))


def _dotted(match: re.Match[str]) -> str:
    """Read a version number or a network address."""
    return " نقطة ".join(_plain_number(part) for part in match[0].split("."))


def _fraction(match: re.Match[str]) -> str:
    over, under = match["over"], match["under"]
    known = FRACTIONS.get((int(over), int(under))) if len(over + under) < 5 else None
    if len(over) == len(under) == 4:  # two years, as in the name of a season
        return f"{_plain_number(over, oblique=_is_oblique(match))} إلى {_plain_number(under, oblique=True)}"
    return known or f"{_plain_number(over)} على {_plain_number(under, oblique=True)}"


def _mixed(match: re.Match[str]) -> str:
    part = FRACTION_SIGNS[match["part"]]
    return _plain_number(match["whole"], oblique=_is_oblique(match)) + AND + part if match["whole"] else part


def _year(match: re.Match[str]) -> str:
    oblique, era = _is_oblique(match), match["which"] or match["which2"]
    value, (rank, is_genitive) = int(match["count"] or match["count2"]), _rank(match)
    if rank == CENTURY and 1 <= value <= 99:
        return f"{ordinal(value, oblique=is_genitive)} {CENTURY_ERAS[era]}"
    is_feminine = _words_before(match)[1] in FEMININE_YEAR_AFTER
    return f"{number_words(value, is_feminine, oblique)} {ERAS[era]}"


def _rank(match: re.Match[str]) -> tuple[str, bool]:
    """Return the noun before a match if it is in ``RANKED``, else an empty string, and whether it is in genitive."""
    word_before, word = _words_before(match)
    noun = re.sub(r"\A[وف]?(?:ال|لل|بال|كال)", "ال", word)
    is_genitive = _governs_genitive(word_before) or word.endswith(("لل" + noun[2:], "بال" + noun[2:]))
    return (noun if noun in RANKED else ""), is_genitive


def _amount(match: re.Match[str]) -> str:
    """Read a number with its sign and the unit, currency or noun on either side of it."""
    word, (rank, is_genitive) = _words_before(match)[1], _rank(match)
    oblique, digits = _is_oblique(match), match["number"]
    value, decimals = _value(digits)
    is_whole = value is not None and not decimals
    rest = (" " + match["unit"] if match["unit"] else "") + (" " + match["noun"] if match["noun"] else "")
    alone = not (match["money"] or match["until"] or match["raised"] or match["plus"])
    is_hour = word in HOUR_WORDS or _UNTIL_HOUR.search(_text_before(match))
    if alone and is_hour and is_whole and 1 <= value <= 24:
        half = HALF_DAYS.get(rest.strip())
        return _hour(value, oblique) + (f" {half}" if half else rest)
    if rank and alone and is_whole and 1 <= value <= 99 and _known_noun(match["noun"]) is None:
        if rank == CENTURY and match["unit"] in CENTURY_ERAS:
            return f"{ordinal(value, oblique=is_genitive)} {CENTURY_ERAS[match['unit']]}"
        if not match["unit"]:
            return ordinal(value, RANKED[rank], is_genitive) + rest
    if alone and word in PHONE_WORDS and digits.isdigit() and len(digits) >= 5:
        return digit_words(digits) + rest
    if alone and match["noun"] in MONTH_STARTS and is_whole and 1 <= value <= 31:
        return f"{ordinal(value, oblique=oblique)} من{rest}"
    sign = {"-": "سالب ", "+": "زائد ", None: ""}[match["plus"]]
    if match["raised"]:
        power = number_words(int(match["raised"].translate(SUPERSCRIPTS)), oblique=True)
        return f"{sign}{_plain_number(digits)} أس {power}{rest}"
    first = ""
    if match["until"]:
        first = _number_and_noun(digits, match, oblique, bare=True) + " إلى "
        digits, oblique = match["until"], True
    return sign + first + _number_and_noun(digits, match, oblique)


def _number_and_noun(digits: str, match: re.Match[str], oblique: bool, bare: bool = False) -> str:
    """Read a number and the noun it counts; ``bare`` leaves the noun out but keeps its gender."""
    value, decimals = _value(digits)
    unit, noun = match["unit"] or "", match["noun"] or ""
    money = match["money"] if match["money"] != "%" else ""
    if match["money"] == "%":
        unit, noun = "%", f"{unit} {noun}".strip()
    money = money or (unit if unit in CURRENCIES and unit not in UNITS else "")
    after = f" {noun}" if noun else ""
    if unit in SIGNS and not UNITS.get(unit):
        return _plain_number(digits, oblique=oblique) + ("" if bare else " " + SIGNS[unit]) + after
    what = UNITS[unit] if unit in UNITS else Unit(CURRENCIES[money][0]) if money else None
    if what is None:
        is_year = not noun and _words_before(match)[1] in FEMININE_YEAR_AFTER
        is_feminine = is_year or (noun in ALTERNATIVES and _next_is_feminine(match))
        if is_feminine:
            return _plain_number(digits, True, oblique) + after
        return _number_before_noun(digits, noun, oblique, bare)
    after += f" {what_unit}" if match["money"] and (what_unit := unit) else ""
    if bare:
        return _plain_number(digits, what.noun.feminine, oblique)
    if match["money"] and noun in SCALE_WORDS:
        scale = SCALE_WORDS[noun]
        many = (
            counted(value, scale, oblique, True, bare=True)
            if not decimals and value
            else f"{_plain_number(digits)} {scale.singular}"
        )
        return f"{many} {what.noun.singular}"
    if value is None or (decimals and not (money and CURRENCIES[money][1] and len(decimals) == 2)):
        return (
            f"{_plain_number(digits, oblique=oblique)} {what.noun.singular}"
            + _adjective(100, what, oblique)
            + what.after
            + after
        )
    words = counted(value, what.noun, oblique) + _adjective(value, what, oblique) + what.after
    if decimals and int(decimals):
        cents = counted(int(decimals), CURRENCIES[money][1], oblique)
        words = words + AND + cents if value else cents
    return words + after


def _known_noun(noun: str | None) -> Noun | None:
    """Return the known noun that has this form, without regard to marks."""
    return NOUN_OF_FORM.get(re.sub("[\u064b-\u0652\u0670]", "", noun or ""))


def _next_is_feminine(match: re.Match[str]) -> bool:
    """Return whether the next number counts a noun that is known to be feminine."""
    found = re.match(rf" *{NUMBER} ([{ARABIC}]+)", match.string[match.end() :])
    known = _known_noun(found[1]) if found else None
    return known is not None and known.feminine


def _adjective(number: int, unit: Unit, oblique: bool) -> str:
    """Return the adjective of a unit in the form that agrees with the noun after ``number``."""
    if not unit.adjective:
        return ""
    stem = unit.adjective + ("ة" if unit.noun.feminine else "")
    if number == 2:
        return f" {unit.adjective}{'ت' if unit.noun.feminine else ''}{'ين' if oblique else 'ان'}"
    if unit.noun.feminine or 3 <= number % 100 <= 10:
        return f" {unit.adjective}ة"
    return f" {stem}ًا" if 11 <= number % 100 <= 99 else f" {stem}"


def _number_before_noun(digits: str, noun: str, oblique: bool, bare: bool) -> str:
    """Read a number before an Arabic word. The word stays as written, except after 1 and 2 if it is a known noun."""
    value, decimals = _value(digits)
    known = _known_noun(noun)
    if known and not decimals.strip("0"):
        decimals = ""
    after = f" {noun}" if noun and not bare else ""
    if known is None or value is None or decimals:
        # After 11 to 99 the noun is singular: with taa marbuta it is feminine. After 3 to 10 it may be a broken plural.
        feminine_noun = noun.endswith("ة") and value is not None and 11 <= value % 100 <= 99
        return _plain_number(digits, feminine_noun, oblique) + after
    if value in (1, 2) and not bare:
        return counted(value, known, oblique, bare=noun in SCALE_WORDS)
    if value % 100 in (1, 2) and not bare:
        return counted(value, known, oblique)
    return number_words(value, known.feminine, oblique, construct=not bare) + after


def _sign(match: re.Match[str]) -> str:
    """Read a sign between words; between Latin letters it stays."""
    before = match.string[: match.start()][-1:]
    after = match.string[match.end() : match.end() + 1]
    if re.match(f"[{LATIN}]", before) and re.match(f"[{LATIN}]", after):
        return match[0]
    words = SIGNS[match[0].strip()]
    return words if words == AND else f" {words} "


def _hash(match: re.Match[str]) -> str:
    return " رقم " if match.string[match.end() : match.end() + 1].isdigit() else " وسم "


_READERS: dict[str, Callable[[re.Match[str]], str]] = {
    "date": _date, "iso_date": _date, "time": _time, "ratio": _ratio, "phone": _phone, "dotted": _dotted,
    "fraction": _fraction,
    "mixed": _mixed, "year": _year, "amount": _amount, "sign": _sign,
    "number_sign": lambda match: f" {NUMBER_SIGNS[match[0].strip()]} ", "hash": _hash, "typing": lambda match: " ",
    "joint": lambda match: " ",
}  # fmt: skip

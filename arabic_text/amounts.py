"""Reads a number with its sign and with the unit, currency or noun on either side of it."""

import re
from functools import lru_cache

from arabic_text.agreement import counts, form_after, known_noun, may_be_counted, takes_construct
from arabic_text.characters import ARABIC
from arabic_text.context import HOUR_WORDS, LAST_YEAR, Context, governs_genitive
from arabic_text.nouns import COIN_OF_NOUN, CURRENCIES, MEASURES, MONTH_STARTS, SCALE_WORDS, UNITS, Unit
from arabic_text.numbers import AND, Noun, counted, digit_words, number_words, ordinal
from arabic_text.patterns import RAISED_DIGITS, SIGNS
from arabic_text.separators import NUMBER, parse_number, plain_number, words_of

TO = " إلى "
ALTERNATIVES = {"إلى", "الى", "أو", "او", "حتى"}
"""Words between two numbers that count the same noun."""
CENTURIES = {"القرن", "القرنين", "القرنان", "القرون"}
CENTURY_ERAS = {"م": "الميلادي", "هـ": "الهجري", "ق.م": "قبل الميلاد", "ق.هـ": "قبل الهجرة"}
HALF_DAYS = {"ص": "صباحًا", "م": "مساءً", "am": "صباحًا", "pm": "مساءً"}
PHONE_WORDS = set(
    "هاتف الهاتف هاتفي جوال الجوال جوالي موبايل الموبايل تلفون التلفون رقم الرقم رقمي بالرقم للرقم واتساب واتس كود "
    "رمز".split()
)
RANKED = {
    **dict.fromkeys(
        "القرن القرنين القرنان القرون الطابق الدور الصف الفصل الدرس الباب الجزء المركز المجلد الأسبوع".split(), False
    ),
    **dict.fromkeys(
        "الحلقة المرحلة الدورة النسخة الطبعة الجولة المرتبة الذكرى الدقيقة السورة الآية المادة السنة".split(), True
    ),
}
"""Definite noun after which a number up to 99 is an ordinal -> whether it is feminine."""
_NAMES_ONLY = {*CENTURIES, "السورة", "الآية", "المادة"}
"""Ranked nouns that hold nothing one would count, so that a singular after the number begins something new."""

_UNTIL_HOUR = re.compile(rf"(?:{'|'.join(HOUR_WORDS)}) [0-9]{{1,2}}(?::[0-9]{{2}})? (?:إلى|الى|حتى) \Z")
_SHARED_AFTER_WORD = re.compile(rf" {NUMBER} ([{ARABIC}]+)")
_SHARED_AFTER_SIGN = re.compile(rf"(?: و{NUMBER}|\)) ([{ARABIC}]+)")
_NEXT_WORD = re.compile(rf" ([{ARABIC}]+)(?![0-9])")
_BEFORE_DIGIT = re.compile(" [0-9]")
_BEFORE_DATE = re.compile(" [0-9]{1,2}([-/.])[0-9]{1,2}\\1[0-9]{4}(?![0-9])")
_POWER_SIGNS = {"^", *map(chr, RAISED_DIGITS)}
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")


def read_amount(match: re.Match[str]) -> str:
    """Read a match of ``patterns.AMOUNT``."""
    context, digits = Context.of(match), match["number"]
    value, decimals = parse_number(digits, "." in digits and _counts_whole(match))
    is_whole = value is not None and not decimals
    rest = (" " + match["unit"] if match["unit"] else "") + (" " + match["noun"] if match["noun"] else "")
    if is_whole and not (match["money"] or match["plus"] or match["power"] or match["raised"]):
        special = _as_ordinal(match, context, value, rest)
        special = special or _in_date(match, context, value, rest)
        if special:
            return special
        if not match["until"] and context.word in PHONE_WORDS and digits.isdigit() and len(digits) >= 5:
            return digit_words(digits) + rest
    version = _VERSION.fullmatch(digits) if context.is_version and rest == "" else None
    if version and not (match["money"] or match["until"] or match["plus"]):
        return f"{number_words(int(version[1]))} نقطة {number_words(int(version[2]))}"
    sign = {"-": "سالب ", "+": "زائد ", None: ""}[match["plus"]]
    oblique = match["plus"] == "-" or context.is_oblique(value if digits.isdigit() else None)
    if not rest and not match["until"] and not match["money"] and is_whole and digits.isdigit():
        oblique = oblique or context.names_a_year(value)
    if match["power"] or match["raised"]:
        power = power_words(match["exponent"] or match["raised"])
        words = f"{sign}{words_of(value, decimals, digits, False, oblique)} أس {power}"
        if match["until"]:  # "2^31-1", but a range in "10^3-10^6"
            between = TO if match.string[match.end() : match.end() + 1] in _POWER_SIGNS else " ناقص "
            words += between + plain_number(match["until"], oblique=True)
        return words + _after_power(match)
    if not match["until"]:
        return sign + _number_and_noun(digits, match, context, oblique)
    first = _number_and_noun(digits, match, context, oblique, bare=True)
    return sign + first + TO + _number_and_noun(match["until"], match, context, True)


def rank_of(context: Context) -> tuple[str, bool]:
    """Return the noun before a number if it is in ``RANKED``, else an empty string, and whether it is in genitive."""
    return _rank_of_words(*context.words)


@lru_cache(maxsize=10_000)
def _rank_of_words(word_before: str, word: str) -> tuple[str, bool]:
    noun = re.sub(r"\A[وف]?(?:ال|لل|بال|كال)", "ال", word)
    is_genitive = governs_genitive(word_before) or word.endswith(("لل" + noun[2:], "بال" + noun[2:], "القرنين"))
    return (noun if noun in RANKED else ""), is_genitive


def hour_words(hour: int, oblique: bool) -> str:
    """Return the ordinal of an hour; hour 1 is called "the one"."""
    return "الواحدة" if hour == 1 else ordinal(hour, True, oblique)


def fraction_noun(unit: str | None, noun: str | None) -> Unit | None:
    """Return what a unit, a currency or a known noun after a number stands for."""
    if unit in UNITS:
        return UNITS[unit]
    if unit in CURRENCIES:
        return Unit(CURRENCIES[unit][0])
    known = known_noun(noun)
    return Unit(known) if known else None


def _as_ordinal(match: re.Match[str], context: Context, value: int, rest: str) -> str | None:
    """Read an hour, or a number after a noun such as "floor", as an ordinal."""
    until = match["until"]
    if not until and 1 <= value <= 24 and (context.word in HOUR_WORDS or _UNTIL_HOUR.search(context.text)):
        half = HALF_DAYS.get(rest.strip())
        return hour_words(value, context.is_oblique()) + (f" {half}" if half else rest)
    if until and context.word in HOUR_WORDS and until.isdigit() and 1 <= value <= 24 and 1 <= int(until) <= 24:
        return f"{hour_words(value, context.is_oblique())}{TO}{hour_words(int(until), True)}{rest}"
    rank, is_genitive = rank_of(context)
    if not rank or not 1 <= value <= 99:
        return None
    if until:
        if rank not in CENTURIES or not until.isdigit() or not 1 <= int(until) <= 99:
            return None
        return f"{ordinal(value, oblique=is_genitive)}{TO}{ordinal(int(until), oblique=True)}{rest}"
    if rank in CENTURIES and match["unit"] in CENTURY_ERAS:
        return f"{ordinal(value, oblique=is_genitive)} {CENTURY_ERAS[match['unit']]}"
    label = "indefinite" if rank in _NAMES_ONLY else "definite"
    if match["unit"] or (known_noun(match["noun"]) and counts(match["noun"], value, label, _is_before_digit(match))):
        return None
    return ordinal(value, RANKED[rank], is_genitive) + rest


def _in_date(match: re.Match[str], context: Context, value: int, rest: str) -> str | None:
    """Read the day, or the two days, before the name of a month."""
    noun, until = match["noun"], match["until"]
    if not 1 <= value <= 31 or not noun:
        return None
    if noun in MONTH_STARTS:
        if until is None:
            return f"{ordinal(value, oblique=context.is_oblique(is_date=True))} من{rest}"
        if until.isdigit() and 1 <= int(until) <= 31:
            first = ordinal(value, oblique=context.is_oblique(is_date=True))
            return f"{first}{TO}{ordinal(int(until), oblique=True)} من{rest}"
    is_before_date = _shared_noun(match) in MONTH_STARTS or _BEFORE_DATE.match(match.string, match.end())
    if noun in ALTERNATIVES and until is None and is_before_date:
        return ordinal(value, oblique=context.is_oblique(is_date=True)) + rest
    return None


def power_words(exponent: str) -> str:
    """Read an exponent, whose digits may be raised, in genitive."""
    exponent = exponent.translate(RAISED_DIGITS)
    digits = exponent.lstrip("+-")
    return ("سالب " if exponent.startswith("-") else "") + (plain_number(digits, oblique=True) if digits else "")


def _after_power(match: re.Match[str]) -> str:
    """Return the unit or the word after a power."""
    unit, noun = match["unit"] or "", match["noun"]
    if unit in UNITS:
        return f" {UNITS[unit].noun.singular}{UNITS[unit].adjective_after(100, False)}{UNITS[unit].after}"
    words = CURRENCIES[unit][0].singular if unit in CURRENCIES else SIGNS.get(unit, "")
    return (f" {words}" if words else "") + (f" {noun}" if noun else "")


def _is_before_digit(match: re.Match[str]) -> bool:
    return bool(_BEFORE_DIGIT.match(match.string, match.end()))


def _shared_noun(match: re.Match[str]) -> str:
    """Return the noun after the next number, if "to", "or" or "and" joins it to this one, or after a bracket."""
    pattern = _SHARED_AFTER_WORD if match["noun"] else _SHARED_AFTER_SIGN
    found = pattern.match(match.string, match.end())
    return found[1] if found else ""


def _currency(match: re.Match[str]) -> str:
    """Return the sign of a currency before or after the number, or an empty string."""
    unit, money = match["unit"] or "", match["money"] or ""
    if money and money != "%":
        return money
    return unit if unit in CURRENCIES and unit not in UNITS else ""


def _counts_whole(match: re.Match[str]) -> bool:
    """Return whether what is counted has no thousandths."""
    money, noun = _currency(match), match["noun"] or ""
    if money:
        return CURRENCIES[money][1] is not None and noun not in SCALE_WORDS
    if match["unit"] or match["money"] or not noun:
        return False
    known = known_noun(noun)
    return known not in MEASURES if known else may_be_counted(noun) and noun.endswith(("ة", "ا", "ات"))


def _number_and_noun(digits: str, match: re.Match[str], context: Context, oblique: bool, bare: bool = False) -> str:
    """Read a number and the noun it counts; ``bare`` leaves the noun out but keeps its gender."""
    unit, noun = match["unit"] or "", match["noun"] or ""
    value, decimals = parse_number(digits, "." in digits and _counts_whole(match))
    money = _currency(match)
    if match["money"] == "%":
        unit, noun = "%", f"{unit} {noun}".strip()
    after = f" {noun}" if noun else ""
    if unit in SIGNS and not UNITS.get(unit):
        return words_of(value, decimals, digits, False, oblique) + ("" if bare else " " + SIGNS[unit]) + after
    what = UNITS[unit] if unit in UNITS else Unit(CURRENCIES[money][0]) if money else None
    coin = CURRENCIES[money][1] if money else None
    if what is None:
        known = known_noun(noun)
        if known in COIN_OF_NOUN and len(decimals) == 2 and value is not None and not bare:
            return _with_unit(value, decimals, digits, Unit(known), COIN_OF_NOUN[known], oblique)
        return _number_and_word(value, decimals, digits, noun, match, context, oblique, bare)
    after += f" {unit}" if match["money"] and unit else ""
    if bare:
        return words_of(value, decimals, digits, what.noun.feminine, oblique)
    if match["money"] and noun in SCALE_WORDS:
        scale, money_noun = SCALE_WORDS[noun], what.noun.singular
        if decimals or not value:
            return f"{words_of(value, decimals, digits, False, oblique)} {scale.singular} {money_noun}"
        return f"{counted(value, scale, oblique, True, bare=True)} {money_noun}"
    return _with_unit(value, decimals, digits, what, coin, oblique) + after


def _with_unit(value: int | None, decimals: str, digits: str, what: Unit, coin: Noun | None, oblique: bool) -> str:
    """Read an amount of a unit or a currency; two decimals of a currency are coins."""
    if value is None or (decimals and not (coin and len(decimals) == 2)):
        number = words_of(value, decimals, digits, False, oblique)
        return f"{number} {what.noun.singular}{what.adjective_after(100, oblique)}{what.after}"
    words = counted(value, what.noun, oblique) + what.adjective_after(value, oblique) + what.after
    if decimals and int(decimals):
        coins = counted(int(decimals), coin, oblique)
        words = words + AND + coins if value else coins
    return words


def _number_and_word(
    value: int | None,
    decimals: str,
    digits: str,
    noun: str,
    match: re.Match[str],
    context: Context,
    oblique: bool,
    bare: bool,
) -> str:
    """Read a number before an Arabic word, or before nothing."""
    known, after = known_noun(noun), f" {noun}" if noun and not bare else ""
    if known and not decimals.strip("0"):
        decimals = ""
    if value is None or decimals:
        return words_of(value, decimals, digits, False, oblique) + after
    is_counted = counts(noun, value, context.label, _is_before_digit(match))
    if context.year and digits.isdigit() and (value >= 1000 or not (is_counted and known)):
        return number_words(value, context.year == "feminine", oblique) + after
    if not is_counted:
        shared = "" if context.label or value >= 1000 or (noun and noun not in ALTERNATIVES) else _shared_noun(match)
        return number_words(value, bool(shared) and _is_feminine(shared, value), oblique) + after
    if known is None:
        last = parse_number(match["until"])[0] if match["until"] else value
        is_year = digits.isdigit() and 1000 <= value <= LAST_YEAR and oblique
        construct = not bare and not is_year and takes_construct(noun)
        return number_words(value, _is_feminine(noun, last or 0), oblique, construct) + after
    if value in (1, 2) and not bare:
        is_scale = noun in SCALE_WORDS
        return counted(value, known, oblique, construct=is_scale and _counts_next(match), bare=is_scale)
    if value % 100 in (1, 2) and not bare:
        return counted(value, known, oblique)
    words = number_words(value, known.feminine, oblique, construct=not bare)
    return words if bare else f"{words} {form_after(value, known, noun)}"


def _is_feminine(noun: str, value: int) -> bool:
    """Return the gender of a counted noun; that of an unknown one shows in its singular, after 11 to 99."""
    known = known_noun(noun)
    if known:
        return known.feminine
    return noun.endswith("ة") and 11 <= value % 100 <= 99 and may_be_counted(noun)


def _counts_next(match: re.Match[str]) -> bool:
    """Return whether the word after the match may be a counted noun, as in "two million dollars"."""
    found = _NEXT_WORD.match(match.string, match.end())
    return bool(found) and may_be_counted(found[1])

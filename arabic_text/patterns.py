"""Finds digits and signs in Arabic text: character classes, signs and regular expressions.

``ANYTHING`` finds every kind; each kind is a named group, and ``readings.py`` has a function that reads it. Its digits
are ASCII, because ``normalise.py`` converts digits first. ``DIGIT`` and ``SIGNS_ONLY`` accept every script of digits.
"""

import re
from collections.abc import Iterable

from arabic_text.characters import ARABIC, DIGIT, LATIN
from arabic_text.nouns import CURRENCIES, UNITS
from arabic_text.numbers import AND
from arabic_text.separators import NUMBER

URL = re.compile(r"(?:https?://|www\.)[^\s\u060c\u061b\u061f]+", re.IGNORECASE)
DIGIT_BY_DIGIT = 10
"""From this many digits in a row, a number is read digit by digit, unless it ends in six zeros."""
FRACTIONS = {
    (1, 2): "نصف", (1, 3): "ثلث", (2, 3): "ثلثان", (1, 4): "ربع", (3, 4): "ثلاثة أرباع", (1, 5): "خمس",
    (1, 6): "سدس", (1, 8): "ثمن", (2, 5): "خمسان", (3, 5): "ثلاثة أخماس", (4, 5): "أربعة أخماس",
    (3, 8): "ثلاثة أثمان", (5, 8): "خمسة أثمان", (7, 8): "سبعة أثمان", (5, 6): "خمسة أسداس", (1, 10): "عشر",
}  # fmt: skip
FRACTION_SIGNS = dict(zip("½⅓⅔¼¾⅕⅙⅛⅖⅗⅘⅜⅝⅞⅚⅒", FRACTIONS, strict=True))
"""Sign -> numerator and denominator."""
RAISED_DIGITS = {ord(raised): str(value) for value, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {0x207A: "+", 0x207B: "-"}
SIGNS = {
    "&": AND, "+": "زائد", "=": "يساوي", "%": "بالمئة", "‰": "بالألف", "@": "آت", "×": "ضرب", "÷": "على",
    "±": "زائد أو ناقص", "≠": "لا يساوي", "≈": "تقريبًا", "≤": "أصغر من أو يساوي", "≥": "أكبر من أو يساوي",
    "√": "جذر", "∞": "ما لا نهاية", "°": "درجة", "№": "رقم",
}  # fmt: skip
AFTER_NUMBERS_ONLY = {"ج"}
"""Signs that mean a currency only after a number; before a number they are the letter of a list item."""


def _either(symbols: Iterable[str]) -> str:
    """Return a pattern that matches any of ``symbols``; longer symbols are tried first."""
    return "(?:" + "|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True)) + ")"


_ALONE = r"(?<![0-9])(?<![0-9][.,:/-])"
_ENDS = r"(?![0-9])(?![.,:/-][0-9])"
_WORD_ENDS = rf"(?![{ARABIC}{LATIN}0-9\u0640])"
_MONEY = _either(sign for sign in CURRENCIES if sign not in AFTER_NUMBERS_ONLY)
_MEASURE = _either([*UNITS, *CURRENCIES])
_SIGN_OR_UNIT = rf"(?:%|‰|{_MEASURE}{_WORD_ENDS}|[$€£¥])"
_HALF_DAY = r"[AaPp]\.?[Mm]\.?"
_DIALLED = r"\+[0-9][0-9 ()-]{5,18}[0-9]"
_NOT_A_SIGN = rf"@[{LATIN}]|{_DIALLED}"
_IN_LATIN_WORD = rf"[{LATIN}0-9@._+/&%='#:-]*"
_RAISED = "".join(map(chr, RAISED_DIGITS))
_IPV4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_IPV6_HALF = r"(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?"
_PARTS = "".join(FRACTION_SIGNS)
_WHOLE_AND = r"(?:(?P<{whole}>[0-9]+)(?: ?و ?|{gap}))"


def _era(name: str) -> str:
    return rf"(?: ?(?P<{name}>هـ|ه|م){_WORD_ENDS})?"


def _counted(number: str) -> str:
    """Return the pattern of a unit or a word after a number; ``number`` makes its groups' names unique."""
    return rf"(?: ?(?P<unit{number}>{_SIGN_OR_UNIT})| (?P<noun{number}>(?>[{ARABIC}]+))(?![0-9]))?"


_PATTERNS = {
    # An address of a network with a port, a mask or a path; an address with two colons.
    "address": rf"(?<![0-9.]){_IPV4}(?=[:/][0-9A-Za-z])(?::[0-9]{{1,5}}(?:-[0-9]{{1,5}})?)?"
    rf"(?:/(?:[0-9A-Za-z._~%?=&/-]*[0-9A-Za-z/])?)?"
    rf"|(?<![^\s(\[\"']){_IPV6_HALF}::(?=[0-9A-Fa-f]){_IPV6_HALF}(?:/[0-9]+|\]:[0-9]+)?(?![{LATIN}0-9])",
    "date": rf"{_ALONE}(?P<d>[0-9]{{1,2}})(?P<dash>[-/.])(?P<m>[0-9]{{1,2}})(?P=dash)(?P<y>[0-9]{{4}}|[0-9]{{2}})"
    + _ENDS
    + _era("era"),
    "iso_date": rf"{_ALONE}(?P<y2>[12][0-9]{{3}})(?P<dash2>[-/.])(?P<m2>[0-9]{{1,2}})(?P=dash2)(?P<d2>[0-9]{{1,2}})"
    + _ENDS
    + _era("era2"),
    "time": rf"{_ALONE}(?P<hour>[01]?[0-9]|2[0-4]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?{_ENDS}"
    rf"(?: ?(?P<half>ص|م|{_HALF_DAY}){_WORD_ENDS})?",
    # A word with Latin letters and its digits, but not the sign of an amount.
    "latin": rf"(?!{_MONEY} ?[0-9])(?!{NUMBER}(?:-{NUMBER})?{_MEASURE}{_WORD_ENDS})"
    rf"(?:@?[{LATIN}0-9](?={_IN_LATIN_WORD}[{LATIN}]){_IN_LATIN_WORD}[{LATIN}0-9]|[{LATIN}](?:[-./]?[0-9]+)*)"
    rf"(?:\+\+|#|\^[({{]?-?[{LATIN}0-9]+[)}}]?|[{_RAISED}]+)?",
    "ratio": rf"{_ALONE}(?P<left>[0-9]+(?:\.[0-9]+)?):(?P<right>[0-9]+){_ENDS}",
    # With a country code; with a leading zero; in groups of 4 as on cards; in groups of 3, 3 and 4; in one long row.
    "phone": rf"(?<![0-9])(?:{_DIALLED}"
    r"|0[0-9]+(?:[ -][0-9]{2,}){0,4}|[0-9]{4}(?:[ -][0-9]{4}){2,}"
    r"|[0-9]{3}(?P<gap>[ -])[0-9]{3}(?P=gap)[0-9]{4}"
    rf"|[0-9]{{{DIGIT_BY_DIGIT},}}(?<!000000)|[0-9]{{19,}})(?![0-9.,])",
    "dotted": rf"{_ALONE}(?!{NUMBER}{_ENDS})[0-9]+(?:\.[0-9]+){{2,}}{_ENDS}",
    "mixed": rf"{_ALONE}{_WHOLE_AND.format(whole='whole', gap=' ?')}?(?P<part>[{_PARTS}])" + _counted("1"),
    "fraction": rf"{_ALONE}{_WHOLE_AND.format(whole='whole2', gap=' ')}?(?P<over>[0-9]+)/(?P<under>[0-9]+){_ENDS}"
    rf"(?! ?(?:هـ|ق\.م|(?<=/[0-9]{{4}})[هم]{_WORD_ENDS}|(?<=/[0-9]{{4}} )[هم]{_WORD_ENDS}))" + _counted("2"),
    "year": rf"{_ALONE}(?P<since>[0-9]{{1,4}})(?:(?P<to> ?- ?|/)(?P<till>[0-9]{{1,4}}))?"
    rf" ?(?P<which>هـ(?!\u0640)|ق\.م|ق\.هـ|[هم](?![\^²³]|/[^0-9 ])){_WORD_ENDS}(?P<pair>/(?=[0-9]))?",
    "century": rf"(?P<words>القرن ال[{ARABIC}]+(?: عشر| وال[{ARABIC}]+)?) ?(?P<of_century>هـ|م|ق\.م){_WORD_ENDS}"
    rf"(?: ?/ ?(?P<century2>[1-9][0-9]?) ?(?P<of_century2>هـ|م|ق\.م){_WORD_ENDS})?",
    "amount": rf"(?:(?P<money>{_MONEY}|%) ?)?(?P<plus>(?<![^\s(\"])[-+])?(?P<number>{NUMBER})"
    r"(?P<power> ?(?:\^|\*\*) ?(?P<brace>[({])?(?P<exponent>[-+]?[0-9]{1,4}(?:\.[0-9]+)?)(?(brace)[)}])"
    rf"|(?P<raised>[{_RAISED}]+))?"
    rf"(?: ?- ?(?P<until>(?>{NUMBER}))(?! ?=))?" + _counted(""),
    "per": rf"(?<=[{ARABIC}])/(?P<of>{_either(sign for sign in UNITS if len(sign) > 1)}){_WORD_ENDS}",
    # The signs of areas and volumes alone; powers of what is no number: a letter, a bracket, another power. What stands
    # before is looked at after the first character: so most places fail at once.
    "area": rf"(?P<of_area>[كسم](?<![{ARABIC}0-9].)(?:م[²³]|(?<=م)[²³]))",
    "exponent_of": rf"\^(?<=[{ARABIC})\]0-9]\^)(?<![{ARABIC}][{ARABIC}]\^) ?"
    r"(?P<brace2>[({])?(?P<exponent2>[-+]?[0-9]{1,4})(?(brace2)[)}])"
    rf"|(?P<raised2>[{_RAISED}](?<=[{ARABIC})\]0-9].)(?<![{ARABIC}][{ARABIC}].)[{_RAISED}]*)",
    "number_sign": r"(?<=[0-9]) ?(?:[*<>]|-(?= ?[0-9.,]+ ?=)) ?(?=[0-9])",
    "sign": rf" ?(?!{_NOT_A_SIGN})[{''.join(SIGNS)}] ?",
    "joint": rf"(?<=[{ARABIC}])-(?=[0-9])",
    "hash": "#",
    "typing": rf"[*<>_|\\^`~\u00b7{_RAISED}]+",
}
_SIGNS_FIRST = r" 0-9@%+/:#*<>_|\\^`~\u00b7\-"
_FIRST = "".join([LATIN, _RAISED, _PARTS, _SIGNS_FIRST, "اكسم", *SIGNS, *(re.escape(sign[0]) for sign in CURRENCIES)])
"""The characters with which a match can begin; all other places fail at once."""
ANYTHING = re.compile(f"(?=[{_FIRST}])(?:{'|'.join(f'(?P<{kind}>{find})' for kind, find in _PATTERNS.items())})")
"""Everything that is read aloud; the last group of a match is its kind."""
AMOUNT = re.compile(f"(?P<amount>{_PATTERNS['amount']})")
SIGNS_ONLY = re.compile(
    rf"(?P<latin>{_PATTERNS['latin']})"
    rf"|(?P<sign>(?<!{DIGIT})(?<!{DIGIT} ) ?(?!{_NOT_A_SIGN})[{''.join(SIGNS)}] ?(?! ?{DIGIT}))"
    rf"|(?P<hash>#(?!{DIGIT}))|(?P<typing>(?<!{DIGIT})[*<>_|\\^`~](?!{DIGIT}))"
)
"""Signs, hashes and typing characters that do not belong to a number, for texts that keep their digits."""

_TIME = rf"[0-9]{{1,2}}:[0-5][0-9](?: ?(?:[صم]|{_HALF_DAY}){_WORD_ENDS})?"
_WITH_UNIT = rf"(?:(?:[$€£¥]|{_MONEY}) ?{NUMBER}|{NUMBER} ?{_SIGN_OR_UNIT})"
_RANGES = [
    r"(?<![0-9./-])([0-9]{1,2}) ?- ?(?=[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}(?![0-9]))",
    rf"(?<![0-9:])({_TIME}) ?- ?(?=[0-9]{{1,2}}:[0-5][0-9](?![0-9:]))",
    r"(?<![0-9./-])([0-9]{1,4}([-/.])[0-9]{1,2}\2[0-9]{1,4})(?: - |(?<=/[0-9]{4})-)"
    r"(?=[0-9]{1,4}([-/.])[0-9]{1,2}\3[0-9]{1,4}(?![0-9]))",
    rf"(?<![0-9])([0-9]{{1,4}} ?(هـ|ق\.م|م)) ?- ?(?=[0-9]{{1,4}} ?\2{_WORD_ENDS})",
    rf"(?<![0-9.,])({_WITH_UNIT}) ?- ?(?={_WITH_UNIT})",
]
ADDRESSES = re.compile(rf"(?<![0-9.])({_IPV4}) ?([-,\u060c]) ?(?={_IPV4}(?![0-9.]))")
"""Two network addresses with a dash or a comma between them."""
RANGES = [re.compile(pattern) for pattern in _RANGES]
"""Two days of a date, times, dates, years of one era, or amounts with their units, with a dash between them."""
_LATIN_SIGNS = re.compile(rf"(?<=[0-9]) ?(?:{_MEASURE}|{_HALF_DAY}){_WORD_ENDS}|{_MONEY}(?= ?[0-9])")
"""Latin letters that are read as Arabic words: units, currencies, AM and PM beside a number."""


def is_foreign(text: str) -> bool:
    """Return whether a text has Latin words and no Arabic letter; signs of amounts and times are not words."""
    return not re.search(f"[{ARABIC}]", text) and bool(re.search(f"[{LATIN}]", _LATIN_SIGNS.sub(" ", text)))

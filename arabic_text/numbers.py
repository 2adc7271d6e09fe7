"""Writes numbers as Arabic words: gender, case, and the counted noun.

Two libraries were compared with this code and not used (``benchmarks/arabic_numbers.py``). num2words 0.5.14
(``lang="ar"``) cuts off the ending of the dual ("2000" becomes the first half of "two thousand"), has no feminine, and
keeps the currency of one call for the next. PyArabic 0.6.15 swaps the genders of 3 to 10, does not inflect "thousand"
after 11 to 99, and stops below 10^12. Here a scale (thousand, million) is a counted noun like any other, as in grammar.
"""

from dataclasses import dataclass

LARGEST = 10**18 - 1
"""The largest number that has words here; the words are checked up to 10^15."""

# The numbers before masculine nouns, and those before feminine nouns.
_UNITS = "صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة".split()
_UNITS_FEMININE = "صفر واحدة اثنتان ثلاث أربع خمس ست سبع ثماني تسع عشر".split()
_TENS = "عشر ثلاث أربع خمس ست سبع ثمان تسع".split()
_HUNDREDS = "ثلاث أربع خمس ست سبع ثمان تسع".split()
_ORDINALS = "أول ثاني ثالث رابع خامس سادس سابع ثامن تاسع عاشر".split()
AND = " و"


@dataclass(frozen=True)
class Noun:
    """The forms of a noun that depend on the number before it.

    Attributes:
        singular: for 1, and after numbers that end in 00.
        dual: for 2.
        plural: after 3 to 10.
        accusative: after 11 to 99.
        feminine: the gender, which decides the form of the number.
    """

    singular: str
    dual: str
    plural: str
    accusative: str
    feminine: bool = False

    def two(self, oblique: bool, construct: bool) -> str:
        """Return the dual in its case; in construct it loses its last letter."""
        ending = ("ي" if oblique else "ا") + ("" if construct else "ن")
        return self.dual.removesuffix("ان") + ending


def masculine(singular: str, plural: str, stem: str | None = None) -> Noun:
    """Return a masculine noun; ``stem`` is the stem of the dual if it is not the singular."""
    return Noun(singular, (stem or singular) + "ان", plural, singular + "ًا")


def feminine(singular: str, plural: str) -> Noun:
    """Return a feminine noun that ends in taa marbuta, or in a letter that endings are added to directly."""
    ends_in_taa = singular.endswith("ة")
    stem = singular.removesuffix("ة") + "ت" if ends_in_taa else singular
    return Noun(singular, stem + "ان", plural, singular if ends_in_taa else singular + "ًا", True)


THOUSAND = masculine("ألف", "آلاف")
SCALES = [
    (10**15, masculine("كوادريليون", "كوادريليونات")),
    (10**12, masculine("تريليون", "تريليونات")),
    (10**9, masculine("مليار", "مليارات")),
    (10**6, masculine("مليون", "ملايين")),
    (10**3, THOUSAND),
]


def number_words(number: int, feminine: bool = False, oblique: bool = False, construct: bool = False) -> str:
    """Return a whole number in words.

    Args:
        number: from -``LARGEST`` to ``LARGEST``.
        feminine: whether the counted noun is feminine; False is also the form without a noun.
        oblique: genitive or accusative instead of nominative.
        construct: a noun follows directly, so that dual and tanween lose their ending.

    Raises:
        ValueError: if the number is out of range.
    """
    if abs(number) > LARGEST:
        raise ValueError(f"{number} has more than 18 digits; read it digit by digit")
    if number < 0:
        return "سالب " + number_words(-number, feminine, oblique, construct)
    parts = []
    for size, noun in SCALES:
        count, number = divmod(number, size)
        if count:
            parts.append(counted(count, noun, oblique, construct and not number, bare=True))
    if number or not parts:
        parts.append(_below_thousand(number, feminine, oblique, construct))
    return AND.join(parts)


def counted(number: int, noun: Noun, oblique: bool = False, construct: bool = False, bare: bool = False) -> str:
    """Return a number with its noun: dual for 2, plural after 3 to 10, accusative after 11 to 99.

    Args:
        number: 0 or more.
        construct: another noun follows directly, counted by this one ("eleven thousand riyals").
        bare: for 1, the noun alone without "one", as with scales.
    """
    rest = number % 100
    if number == 1:
        return noun.singular if bare else f"{noun.singular} {_UNITS_FEMININE[1] if noun.feminine else _UNITS[1]}"
    if number == 2:
        return noun.two(oblique, construct)
    if rest in (1, 2):  # Arabic says "a hundred Ns and an N", not "a hundred and one Ns"
        first = counted(number - rest, noun, oblique, bare=bare)
        return first + AND + counted(rest, noun, oblique, construct, bare=True)
    words = number_words(number, noun.feminine, oblique, construct=True)
    if 3 <= rest <= 10:
        return f"{words} {noun.plural}"
    return f"{words} {noun.singular if rest == 0 or construct else noun.accusative}"


def digit_words(digits: str) -> str:
    """Return the words of digits one by one, as telephone numbers are read."""
    return " ".join(_UNITS[int(digit)] for digit in digits)


def ordinal(number: int, feminine: bool = False, oblique: bool = False) -> str:
    """Return the definite ordinal ("the first") of 1 to 99; days of a month are masculine, hours feminine.

    Raises:
        ValueError: if the number is out of range.
    """
    if not 1 <= number <= 99:
        raise ValueError(f"{number}: ordinals are known from 1 to 99")
    tens, unit = divmod(number, 10)
    if number == 1:
        return "الأولى" if feminine else "الأول"
    if number <= 10:
        return "ال" + _ORDINALS[number - 1] + ("ة" if feminine else "")
    first = "حادي" if unit == 1 else _ORDINALS[unit - 1]
    first = "ال" + first + ("ة" if feminine else "")
    if tens == 1:
        return f"{first} {'عشرة' if feminine else 'عشر'}"
    round_part = "ال" + _tens(tens, oblique)
    return round_part if unit == 0 else first + AND + round_part


def _tens(tens: int, oblique: bool) -> str:
    """Return the word for 20, 30 ... 90; ``tens`` is 2 to 9."""
    return _TENS[tens - 2] + ("ين" if oblique else "ون")


def _below_thousand(number: int, feminine: bool, oblique: bool, construct: bool) -> str:
    """Return the words of 0 to 999."""
    hundreds, rest = divmod(number, 100)
    parts = []
    if hundreds == 1:
        parts.append("مئة")
    elif hundreds == 2:
        parts.append("مئت" + ("ي" if oblique else "ا") + ("" if construct and not rest else "ن"))
    elif hundreds:
        parts.append(_HUNDREDS[hundreds - 3] + "مئة")
    if rest or not hundreds:
        parts.append(_below_hundred(rest, feminine, oblique))
    return AND.join(parts)


def _below_hundred(number: int, feminine: bool, oblique: bool) -> str:
    """Return the words of 0 to 99."""
    tens, unit = divmod(number, 10)
    units = _UNITS_FEMININE if feminine else _UNITS
    if number <= 10:
        return _two(feminine, oblique) if number == 2 else units[number]
    ten = "عشرة" if feminine else "عشر"
    if number == 11:
        return ("إحدى " if feminine else "أحد ") + ten
    if number == 12:
        return _two(feminine, oblique).removesuffix("ن") + " " + ten
    if tens == 1:
        return f"{units[unit]} {ten}"
    if unit == 0:
        return _tens(tens, oblique)
    if unit == 1:
        first = "إحدى" if feminine else "واحد"
    elif unit == 2:
        first = _two(feminine, oblique)
    else:
        first = "ثمان" if feminine and unit == 8 else units[unit]
    return first + AND + _tens(tens, oblique)


def _two(feminine: bool, oblique: bool) -> str:
    return ("اثنت" if feminine else "اثن") + ("ين" if oblique else "ان")

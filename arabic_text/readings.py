"""How digits and symbols in Arabic text are read aloud: dates, times, amounts, telephone numbers, signs.

One regular expression finds all of them from left to right, each kind under its name in ``_READERS``; what reads it is
the function beside it. Digits here are ASCII; ``arabic_text`` sees to that. Words with Latin letters stay whole.
"""

import re
from collections.abc import Callable, Iterable

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

LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
ARABIC = (
    "\u0620-\u063f\u0641-\u065f\u066e-\u06d3\u06d5\u06dc\u06df-\u06e8\u06ea-\u06ed\u06fa-\u06ff"
    "\u0750-\u077f\u08a0-\u08ff"
)
"""Letters and the marks on them; neither digits nor punctuation nor tatweel."""
URL = re.compile(r"(?:https?://|www\.)[^\s\u060c\u061b\u061f]+", re.IGNORECASE)
POINT = " فاصلة "
DIGIT_BY_DIGIT = 10
"""So many digits in a row, and more, are a number one dials or types, unless they end in six zeros."""
OBLIQUE_AFTER = set(
    "في من إلى الى على عن حتى منذ خلال بعد قبل بين مع دون بدون فوق تحت كل عام سنة يوم ليلة نحو حوالي قرابة "
    "نسبة بنسبة لمدة بسعر بقيمة بمبلغ بسرعة بمعدل بفارق بوزن بطول بعمق بارتفاع".split()
)
"""Words after which a number is in genitive."""
CLITICS = set("و ف ب ل ك ال وال فال بال كال لل وب ول وك فب فل".split())
"""What is written onto the next word."""
OBLIQUE_CLITICS = set("ب ل ك بال كال لل وب ول وك فب فل".split())
FEMININE_YEAR_AFTER = {"سنة", "السنة", "لسنة", "بسنة", "وسنة"}
ALTERNATIVES = {"إلى", "الى", "أو", "او"}
"""Words between two numbers that count the same."""
CENTURY, CENTURY_ERAS = "القرن", {"م": "الميلادي", "هـ": "الهجري", "ق.م": "قبل الميلاد"}
HOUR_WORDS = {"الساعة", "للساعة", "والساعة", "بالساعة"}
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
"""Definite nouns after which a number up to 99 is an ordinal: whether they are feminine."""

FRACTIONS = {
    (1, 2): "نصف", (1, 3): "ثلث", (2, 3): "ثلثان", (1, 4): "ربع", (3, 4): "ثلاثة أرباع", (1, 5): "خمس",
    (1, 6): "سدس", (1, 8): "ثمن", (2, 5): "خمسان", (3, 5): "ثلاثة أخماس", (4, 5): "أربعة أخماس",
    (3, 8): "ثلاثة أثمان", (5, 8): "خمسة أثمان", (7, 8): "سبعة أثمان", (5, 6): "خمسة أسداس", (1, 10): "عشر",
}  # fmt: skip
FRACTION_SIGNS = dict(zip("½⅓⅔¼¾⅕⅙⅛⅖⅗⅘⅜⅝⅞⅚⅒", FRACTIONS.values(), strict=True))
SUPERSCRIPTS = {ord(raised): str(value) for value, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
MINUTE = feminine("دقيقة", "دقائق")
SECOND = Noun("ثانية", "ثانيتان", "ثوان", "ثانية", True)
QUARTERS = {0: "", 15: AND + "الربع", 30: AND + "النصف"}
BEFORE_NOON, AFTER_NOON = "صباحًا", "مساءً"
HALF_DAYS = {"ص": BEFORE_NOON, "م": AFTER_NOON, "am": BEFORE_NOON, "pm": AFTER_NOON}
ERAS = {"هـ": "للهجرة", "ه": "للهجرة", "م": "للميلاد", "ق.م": "قبل الميلاد"}
SIGNS = {
    "&": AND, "+": "زائد", "=": "يساوي", "%": "بالمئة", "‰": "بالألف", "@": "آت", "×": "ضرب", "÷": "على",
    "±": "زائد أو ناقص", "≠": "لا يساوي", "≈": "تقريبًا", "≤": "أصغر من أو يساوي", "≥": "أكبر من أو يساوي",
    "√": "جذر", "∞": "ما لا نهاية", "°": "درجة", "№": "رقم",
}  # fmt: skip
AFTER_NUMBERS_ONLY = {"ج"}
"""A sign of a currency that before a number is the letter of a list."""
NUMBER_SIGNS = {"*": "ضرب", "<": "أصغر من", ">": "أكبر من", "-": "ناقص"}
"""Said between numbers only; elsewhere they are typing."""


def _either(symbols: Iterable[str]) -> str:
    """An alternation, longest first."""
    return "(?:" + "|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True)) + ")"


_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,3}(?:\.[0-9]{3}){2,}|[0-9]+(?:[.,\u060c][0-9]+)?)"
_DIGIT = "[0-9٠-٩۰-۹]"
_ALONE = r"(?<![0-9])(?<![0-9][.,:/-])"
_ENDS = r"(?![0-9])(?![.,:/-][0-9])"
_WORD_ENDS = rf"(?![{ARABIC}{LATIN}0-9\u0640])"
_MONEY = _either(sign for sign in CURRENCIES if sign not in AFTER_NUMBERS_ONLY)
_MEASURE = _either([*UNITS, *CURRENCIES])
_HALF_DAY = r"[AaPp]\.?[Mm]\.?"
_DIALLED = r"\+[0-9][0-9 ()-]{5,18}[0-9]"
_NOT_A_SIGN = rf"@[{LATIN}]|{_DIALLED}"
_IN_LATIN_WORD = rf"[{LATIN}0-9@._+/&%='#:-]*"
_UNTIL_HOUR = re.compile(rf"(?:{'|'.join(HOUR_WORDS)}) [0-9]{{1,2}}(?::[0-9]{{2}})? (?:إلى|الى|حتى) \Z")
_OPENING = re.compile(r"(?:[(\[{]|(?:^|[\s(\[{])[\"'])\Z")
_RAISED = "".join(map(chr, SUPERSCRIPTS))
_OBLIQUE_SIGN = re.compile(r"(?:[÷×=≤≥]|[0-9] ?[-*<>]) ?\Z")
"""Signs whose words govern the number that follows."""


def _era(name: str) -> str:
    return rf"(?: ?(?P<{name}>هـ|ه|م){_WORD_ENDS})?"


_PATTERNS = {
    "date": rf"{_ALONE}(?P<d>[0-9]{{1,2}})(?P<dash>[-/.])(?P<m>[0-9]{{1,2}})(?P=dash)(?P<y>[0-9]{{4}}|[0-9]{{2}})"
    + _ENDS
    + _era("era"),
    "iso_date": rf"{_ALONE}(?P<y2>[12][0-9]{{3}})(?P<dash2>[-/.])(?P<m2>[0-9]{{1,2}})(?P=dash2)(?P<d2>[0-9]{{1,2}})"
    + _ENDS
    + _era("era2"),
    "time": rf"{_ALONE}(?P<hour>[01]?[0-9]|2[0-4]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?{_ENDS}"
    rf"(?: ?(?P<half>ص|م|{_HALF_DAY}){_WORD_ENDS})?",
    # A word with Latin letters, its digits included; not the sign of an amount.
    "latin": rf"(?!{_MONEY} ?[0-9])(?!{_NUMBER}(?:-{_NUMBER})?{_MEASURE}{_WORD_ENDS})"
    rf"(?:@?[{LATIN}0-9](?={_IN_LATIN_WORD}[{LATIN}]){_IN_LATIN_WORD}[{LATIN}0-9]|[{LATIN}][0-9]*)(?:\+\+|#)?",
    "ratio": rf"{_ALONE}(?P<left>[0-9]+):(?P<right>[0-9]+){_ENDS}",
    # With a country's code; with a leading zero; in groups as on cards; in groups of 3, 3 and 4; long; too long to say.
    "phone": rf"(?<![0-9])(?:{_DIALLED}"
    r"|0[0-9]+(?:[ -][0-9]{2,}){0,4}|[0-9]{4}(?:[ -][0-9]{4}){2,}"
    r"|[0-9]{3}(?P<gap>[ -])[0-9]{3}(?P=gap)[0-9]{4}"
    rf"|[0-9]{{{DIGIT_BY_DIGIT},}}(?<!000000)|[0-9]{{19,}})(?![0-9.,])",
    "dotted": rf"{_ALONE}(?!{_NUMBER}{_ENDS})[0-9]+(?:\.[0-9]+){{2,}}{_ENDS}",
    "fraction": rf"{_ALONE}(?P<over>[0-9]+)/(?P<under>[0-9]+){_ENDS}",
    "mixed": rf"(?:(?P<whole>[0-9]+) ?)?(?P<part>[{''.join(FRACTION_SIGNS)}])",
    "year": rf"{_ALONE}(?:(?P<count>[0-9]{{1,4}}) ?(?P<which>هـ|ق\.م)"
    rf"|(?P<count2>1[0-9]{{3}}|20[0-9]{{2}}) ?(?P<which2>م|ه){_WORD_ENDS})",
    "amount": rf"(?:(?P<money>{_MONEY}|%) ?)?(?P<plus>(?<![^\s(\"])[-+])?(?P<number>{_NUMBER})"
    rf"(?P<raised>[{_RAISED}]+)?(?: ?- ?(?P<until>(?>{_NUMBER}))(?! ?=))?"
    rf"(?: ?(?P<unit>%|‰|{_MEASURE}{_WORD_ENDS}|[$€£¥])| (?P<noun>(?>[{ARABIC}]+))(?![0-9]))?",
    "number_sign": r"(?<=[0-9]) ?(?:[*<>]|-(?= ?[0-9.,]+ ?=)) ?(?=[0-9])",
    "sign": rf" ?(?!{_NOT_A_SIGN})[{''.join(SIGNS)}] ?",
    "joint": rf"(?<=[{ARABIC}])-(?=[0-9])",
    "hash": "#",
    "typing": rf"[*<>_|\\^`~\u00b7{_RAISED}]+",
}
_ANYTHING = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _PATTERNS.items()))
_SIGNS_ONLY = re.compile(
    rf"(?P<latin>{_PATTERNS['latin']})"
    rf"|(?P<sign>(?<!{_DIGIT})(?<!{_DIGIT} ) ?(?!{_NOT_A_SIGN})[{''.join(SIGNS)}] ?(?! ?{_DIGIT}))"
    rf"|(?P<hash>#(?!{_DIGIT}))|(?P<typing>(?<!{_DIGIT})[*<>_|\\^`~](?!{_DIGIT}))"
)
_HOURS = re.compile(r"(?<![0-9:])([0-9]{1,2}:[0-5][0-9]) ?- ?([0-9]{1,2}:[0-5][0-9])(?![0-9:])")
"""From one time to another."""
_LATIN_SIGNS = re.compile(rf"(?<=[0-9]) ?(?:{_MEASURE}|{_HALF_DAY}){_WORD_ENDS}|{_MONEY}(?= ?[0-9])")
"""Latin letters that are read as Arabic words."""


def is_foreign(text: str) -> bool:
    """Whether a text has words in Latin letters, signs of amounts and times not counted, and no Arabic letter."""
    return not re.search(f"[{ARABIC}]", text) and bool(re.search(f"[{LATIN}]", _LATIN_SIGNS.sub(" ", text)))


def read_aloud(text: str, digits: bool = True) -> str:
    """Spell out the signs of Arabic text and, unless told not to, its digits; spaces are set but not tidied."""
    return _ANYTHING.sub(_read, _HOURS.sub(r"\1 إلى \2", text)) if digits else _SIGNS_ONLY.sub(_read, text)


def _read(match: re.Match[str]) -> str:
    """What a match becomes, set off from the words beside it; a clitic before it is written onto it."""
    kind = match.lastgroup
    if kind == "latin":
        return match[0]
    words = _READERS[kind](match)
    if kind in ("sign", "hash", "typing", "number_sign", "joint") or words == match[0]:
        return words
    clitic = _clitic_before(match)
    after = match.string[match.end() : match.end() + 1]
    text = _attached(words.lstrip(), clitic) if clitic or _OPENING.search(_before(match)) else " " + words.lstrip()
    return text + (" " if re.match(rf"[{ARABIC}{LATIN}0-9]", after) else "")


def _attached(words: str, clitic: str) -> str:
    """Words as they are written onto a clitic: one article, and none of its alef after "to"."""
    if words.startswith("ال"):
        return words[2:] if clitic.endswith(("ال", "لل")) else words[1:] if clitic.endswith("ل") else words
    return _definite(words) if clitic.endswith("ال") else words


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 60) : match.start()]


def _clitic_before(match: re.Match[str]) -> str:
    """The clitic that a match is written onto, if any."""
    touching = re.search(rf"[{ARABIC}]*\Z", _before(match))[0] if match[0][:1] != " " else ""
    return touching if touching in CLITICS else ""


def _words_before(match: re.Match[str]) -> tuple[str, str]:
    """The two words before a match, in order; neither an article that touches it, nor a number that it is added to."""
    before = re.sub(r"(?:ال|[0-9] و)\Z", "", _before(match)) if _clitic_before(match) in ("ال", "و") else _before(match)
    before = before.rstrip("0123456789")
    found = re.search(rf"(?:([{ARABIC}]+) +)?([{ARABIC}]+)[ :]*\Z", before)
    return (found[1] or "", found[2]) if found else ("", "")


def _is_oblique(match: re.Match[str]) -> bool:
    if _clitic_before(match) in OBLIQUE_CLITICS or _OBLIQUE_SIGN.search(_before(match)):
        return True
    word = _words_before(match)[1]
    return _governs_genitive(word) or word in MONTH_ENDS


def _governs_genitive(word: str) -> bool:
    return word in OBLIQUE_AFTER or (word[:1] in ("و", "ف") and word[1:] in OBLIQUE_AFTER)


def _definite(words: str) -> str:
    """The article of the first number word holds for the tens that are added to it."""
    first, found, tens = words.partition(AND)
    return first + AND + "ال" + tens if found and tens[:6].removesuffix(" ").endswith(("ون", "ين")) else words


def _value(digits: str) -> tuple[int | None, str]:
    """The whole part of a number as written and its decimals; None if it is too long to be said as one."""
    if re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{3}){2,}", digits):
        digits = digits.replace(".", "")
    whole, *decimals = re.split(r"[.,\u060c]", digits)
    value = int(whole) if len(whole) <= len(str(LARGEST)) else None
    return value, decimals[0] if decimals else ""


def _plain(digits: str, feminine_noun: bool = False, oblique: bool = False) -> str:
    """A number as written, without what it counts; one with leading zeros or too long is read digit by digit."""
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
        return " ".join(_plain(part) if part.isdigit() else "على" if part == "/" else "" for part in parts)
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
    """An ordinal, but for the first hour, which is called "the one"."""
    return "الواحدة" if hour == 1 else ordinal(hour, True, oblique)


def _ratio(match: re.Match[str]) -> str:
    return f"{_plain(match['left'])} إلى {_plain(match['right'], oblique=True)}"


def _phone(match: re.Match[str]) -> str:
    plus = "زائد " if match[0].startswith("+") else ""
    return plus + digit_words(re.sub("[^0-9]", "", match[0]))


def _dotted(match: re.Match[str]) -> str:
    """A version or an address of a network."""
    return " نقطة ".join(_plain(part) for part in match[0].split("."))


def _fraction(match: re.Match[str]) -> str:
    over, under = match["over"], match["under"]
    known = FRACTIONS.get((int(over), int(under))) if len(over + under) < 5 else None
    if len(over) == len(under) == 4:  # a season from one year to the next
        return f"{_plain(over, oblique=_is_oblique(match))} إلى {_plain(under, oblique=True)}"
    return known or f"{_plain(over)} على {_plain(under, oblique=True)}"


def _mixed(match: re.Match[str]) -> str:
    part = FRACTION_SIGNS[match["part"]]
    return _plain(match["whole"], oblique=_is_oblique(match)) + AND + part if match["whole"] else part


def _year(match: re.Match[str]) -> str:
    oblique, era = _is_oblique(match), match["which"] or match["which2"]
    value, (rank, is_genitive) = int(match["count"] or match["count2"]), _rank(match)
    if rank == CENTURY and 1 <= value <= 99:
        return f"{ordinal(value, oblique=is_genitive)} {CENTURY_ERAS[era]}"
    is_feminine = _words_before(match)[1] in FEMININE_YEAR_AFTER
    return f"{number_words(value, is_feminine, oblique)} {ERAS[era]}"


def _rank(match: re.Match[str]) -> tuple[str, bool]:
    """The noun before a match if it is one of ``RANKED``, else nothing; and whether it is in genitive."""
    word_before, word = _words_before(match)
    noun = re.sub(r"\A[وف]?(?:ال|لل|بال|كال)", "ال", word)
    is_genitive = _governs_genitive(word_before) or word.endswith(("لل" + noun[2:], "بال" + noun[2:]))
    return (noun if noun in RANKED else ""), is_genitive


def _amount(match: re.Match[str]) -> str:
    """A number with its sign and what it counts, on either side of it."""
    word, (rank, is_genitive) = _words_before(match)[1], _rank(match)
    oblique, digits = _is_oblique(match), match["number"]
    value, decimals = _value(digits)
    is_whole = value is not None and not decimals
    rest = (" " + match["unit"] if match["unit"] else "") + (" " + match["noun"] if match["noun"] else "")
    alone = not (match["money"] or match["until"] or match["raised"] or match["plus"])
    is_hour = word in HOUR_WORDS or _UNTIL_HOUR.search(_before(match))
    if alone and is_hour and is_whole and 1 <= value <= 24:
        half = HALF_DAYS.get(rest.strip())
        return _hour(value, oblique) + (f" {half}" if half else rest)
    if rank and alone and is_whole and 1 <= value <= 99 and _known(match["noun"]) is None:
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
        return f"{sign}{_plain(digits)} أس {power}{rest}"
    first = ""
    if match["until"]:
        first = _counting(digits, match, oblique, bare=True) + " إلى "
        digits, oblique = match["until"], True
    return sign + first + _counting(digits, match, oblique)


def _counting(digits: str, match: re.Match[str], oblique: bool, bare: bool = False) -> str:
    """A number and what it counts; ``bare`` leaves that out, but keeps its gender."""
    value, decimals = _value(digits)
    unit, noun = match["unit"] or "", match["noun"] or ""
    money = match["money"] if match["money"] != "%" else ""
    if match["money"] == "%":
        unit, noun = "%", f"{unit} {noun}".strip()
    money = money or (unit if unit in CURRENCIES and unit not in UNITS else "")
    after = f" {noun}" if noun else ""
    if unit in SIGNS and not UNITS.get(unit):
        return _plain(digits, oblique=oblique) + ("" if bare else " " + SIGNS[unit]) + after
    what = UNITS[unit] if unit in UNITS else Unit(CURRENCIES[money][0]) if money else None
    if what is None:
        is_year = not noun and _words_before(match)[1] in FEMININE_YEAR_AFTER
        is_feminine = is_year or (noun in ALTERNATIVES and _next_is_feminine(match))
        return _plain(digits, True, oblique) + after if is_feminine else _before_word(digits, noun, oblique, bare)
    after += f" {what_unit}" if match["money"] and (what_unit := unit) else ""
    if bare:
        return _plain(digits, what.noun.feminine, oblique)
    if match["money"] and noun in SCALE_WORDS:
        scale = SCALE_WORDS[noun]
        many = (
            counted(value, scale, oblique, True, bare=True)
            if not decimals and value
            else f"{_plain(digits)} {scale.singular}"
        )
        return f"{many} {what.noun.singular}"
    if value is None or (decimals and not (money and CURRENCIES[money][1] and len(decimals) == 2)):
        return (
            f"{_plain(digits, oblique=oblique)} {what.noun.singular}"
            + _adjective(100, what, oblique)
            + what.after
            + after
        )
    words = counted(value, what.noun, oblique) + _adjective(value, what, oblique) + what.after
    if decimals and int(decimals):
        cents = counted(int(decimals), CURRENCIES[money][1], oblique)
        words = words + AND + cents if value else cents
    return words + after


def _known(noun: str | None) -> Noun | None:
    """A noun by any of its forms, marks aside."""
    return NOUN_OF_FORM.get(re.sub("[\u064b-\u0652\u0670]", "", noun or ""))


def _next_is_feminine(match: re.Match[str]) -> bool:
    """Whether the number that comes next counts a noun that is known to be feminine."""
    found = re.match(rf" *{_NUMBER} ([{ARABIC}]+)", match.string[match.end() :])
    known = _known(found[1]) if found else None
    return known is not None and known.feminine


def _adjective(number: int, unit: Unit, oblique: bool) -> str:
    """The adjective of a unit, in agreement with the noun's form after ``number``."""
    if not unit.adjective:
        return ""
    stem = unit.adjective + ("ة" if unit.noun.feminine else "")
    if number == 2:
        return f" {unit.adjective}{'ت' if unit.noun.feminine else ''}{'ين' if oblique else 'ان'}"
    if unit.noun.feminine or 3 <= number % 100 <= 10:
        return f" {unit.adjective}ة"
    return f" {stem}ًا" if 11 <= number % 100 <= 99 else f" {stem}"


def _before_word(digits: str, noun: str, oblique: bool, bare: bool) -> str:
    """A number before an Arabic word, which stays as written; "one" and "two" of a known noun become its forms."""
    value, decimals = _value(digits)
    known = _known(noun)
    if known and not decimals.strip("0"):
        decimals = ""
    after = f" {noun}" if noun and not bare else ""
    if known is None or value is None or decimals:
        # A singular in taa marbuta, which follows 11 to 99, is feminine; after 3 to 10 it may be a broken plural.
        feminine_noun = noun.endswith("ة") and value is not None and 11 <= value % 100 <= 99
        return _plain(digits, feminine_noun, oblique) + after
    if value in (1, 2) and not bare:
        return counted(value, known, oblique, bare=noun in SCALE_WORDS)
    if value % 100 in (1, 2) and not bare:
        return counted(value, known, oblique)
    return number_words(value, known.feminine, oblique, construct=not bare) + after


def _sign(match: re.Match[str]) -> str:
    """A sign between words; between Latin ones it is theirs."""
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

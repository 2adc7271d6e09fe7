"""Normalises Arabic text for speech and for scoring, and finds unusual characters in a text.

Every function takes any string. Normalising a result again does not change it. No function adds a Latin letter.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from arabic_text.characters import ARABIC, DIGIT, HARAKAT, LATIN
from arabic_text.patterns import URL, is_foreign
from arabic_text.readings import read_aloud
from arabic_text.separators import join_thousands
from arabic_text.tatweel import mark_era, place_tatweel
from arabic_text.verses import remove_verse_numbers

TEXT_NORMALISATIONS = {
    "none": "leaves texts as written",
    "speech": "normalises texts and spells their digits and signs out in Arabic",
    "speech_keep_digits": "normalises texts and leaves their digits",
}
TEXT_ISSUES = {
    "digits": "digits, which can be read in more than one way",
    "latin_letters": "words in Latin letters",
    "tatweel": "tatweel, which lengthens words in print only",
    "presentation_forms": "presentation forms and ligatures in the place of letters",
    "bidi_controls": "invisible controls of writing direction",
    "zero_width": "invisible joiners, spaces without width and soft hyphens",
    "emoji": "emoji and pictures",
    "persian_letters": "Persian or Urdu code points of Arabic letters",
    "unknown_characters": "other scripts, private characters, control characters and halves of surrogate pairs",
}

ENCODING_VARIANTS = {
    "ک": "ك", "ڪ": "ك", "ی": "ي", "ے": "ي", "ۓ": "ئ", "ە": "ه", "ہ": "ه", "ھ": "ه", "ۀ": "ه", "ۂ": "ه", "ۃ": "ة",
}  # fmt: skip
"""Letter of a Persian or Urdu keyboard -> Arabic letter of the same sound. Letters for dialect sounds are not here."""
ENDS_IN_ALEF_MAQSURA = "علی إلی الی حتی متی لدی سوی موسی عیسی مصطفی مستشفی"
LIGATURES = {
    "\ufdf0": "صلى", "\ufdf1": "قلى", "\ufdf2": "الله", "\ufdf3": "أكبر", "\ufdf4": "محمد",
    "\ufdf5": "صلى الله عليه وسلم", "\ufdf6": "رسول", "\ufdf7": "عليه", "\ufdf8": "وسلم", "\ufdf9": "صلى",
    "\ufdfa": "صلى الله عليه وسلم", "\ufdfb": "جل جلاله", "\ufdfc": "ريال", "\ufdfd": "بسم الله الرحمن الرحيم",
    "\ufdfe": "سبحانه وتعالى", "\ufdff": "عز وجل", "\ufd40": "رحمه الله", "\ufd41": "رضي الله عنه",
    "\ufd42": "رضي الله عنها", "\ufd43": "رضي الله عنهم", "\ufd44": "رضي الله عنهما", "\ufd45": "رضي الله عنهن",
    "\ufd46": "صلى الله عليه وآله", "\ufd47": "عليه السلام", "\ufd48": "عليهم السلام", "\ufd49": "عليهما السلام",
    "\ufd4a": "عليه الصلاة والسلام", "\ufd4b": "قدس سره", "\ufd4c": "صلى الله عليه وآله وسلم",
    "\u0610": "صلى الله عليه وسلم", "\u0611": "عليه السلام", "\u0612": "رحمه الله", "\u0613": "رضي الله عنه",
    "\ufd4d": "عليها السلام", "\ufd4e": "تبارك وتعالى", "\ufd4f": "رحمهم الله", "\ufdcf": "سلامه علينا",
}  # fmt: skip
"""Character that stands for a whole phrase -> phrase. NFKC knows half of them and joins them to the word before."""
PUNCTUATION = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u301d\u301e\u2033\ufd3e\ufd3f", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-"),
    **dict.fromkeys("\u2014\u2015", " - "),
    **dict.fromkeys("\u2022\u00b7\u066d\u06de\u06e9\u2023\u25e6", " "),
    "\u2026": "...", "\u061e": "...", "\u06d4": ".", "\u2044": "/", "\u2215": "/", "\u2236": ":", "\u066a": "%",
    "\u2103": "°م", "\u2109": "°ف", "\u204f": "؛", "\u2e41": "،", "\u0609": "‰", "\u060a": "‰",
    "\u339d": "سم", "\u339c": "مم", "\u339e": "كم", "\u338f": "كغ",
}  # fmt: skip
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
"""Letters and marks, by category, that are displayed as nothing; format characters (Cf) are found by their category."""
PAUSE_MARKS = "\u06d6\u06d7\u06d8\u06d9\u06da\u06db"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKS = "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08ca-\u08ff"
EMOJI = re.compile(
    "[\u2190-\u21ff\u2300-\u23ff\u2460-\u2473\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\ufe0f\u20e3"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
LATIN_LETTER = re.compile(f"[{LATIN}]")
ARABIC_LETTER = re.compile(f"[{ARABIC}]")
ASCII_DIGITS = {ord(d): str(i % 10) for i, d in enumerate("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹")}
FOREIGN_DIGITS = ASCII_DIGITS | {0x66B: ".", 0x66C: ","}
# Normalisation for scoring changes no letters of such a text.
_PLAIN_ARABIC = re.compile("[\\s\u0621-\u0652\u060c\u061b\u061f.!]*")


def normalise_text(text: str, how: str) -> str:
    """Normalise a text as the flag --text_normalisation says; ``how`` is a key of ``TEXT_NORMALISATIONS``."""
    if how == "none":
        return text
    return normalise_for_speech(text, "keep" if how == "speech_keep_digits" else "spell")


def normalise_for_speech(text: str, digits: str = "spell") -> str:
    """Return a text in the form that the model is trained on and speaks.

    Args:
        digits: ``spell`` writes digits and their signs as Arabic words; ``keep`` leaves them. A text with Latin letters
            and without Arabic letters keeps its digits in both cases.

    Raises:
        ValueError: if ``digits`` has another value.
    """
    if digits not in ("spell", "keep"):
        raise ValueError(f"digits is {digits!r}; it must be 'spell' or 'keep'")
    return _until_stable(lambda text: _normalise_once(text, digits), text)


def normalise_for_scoring(text: str) -> str:
    """Return the form in which CER and WER compare texts, with one spelling where writers differ; never train on it.

    This is the form for speech, with digits spelled out, without marks and punctuation. All alefs become one letter; so
    do yeh and alef maqsura, and heh and taa marbuta. Waw and yeh lose their hamza. ASCII letters become lower case.
    """
    return _until_stable(_score_once, text)


def count_letters(text: str) -> int:
    """Return the number of letters of a text in its form for scoring: digits and signs as words, no diacritics."""
    if not _PLAIN_ARABIC.fullmatch(text):  # normalising all texts would take long
        text = normalise_for_scoring(text)
    return sum(character.isalpha() for character in text) - text.count("\u0640")


def diacritised_share(text: str) -> float | None:
    """Return the share of Arabic words of two or more letters that have a vowel mark; None if there is no such word."""
    words = [word for word in re.findall(rf"[{ARABIC}]+", text) if len(re.sub(f"[{MARKS}]", "", word)) > 1]
    return sum(bool(re.search(f"[{HARAKAT}]", word)) for word in words) / len(words) if words else None


def find_text_issues(text: str) -> dict[str, list[str]]:
    """Find everything in a text that is not plain Arabic writing.

    Returns:
        Kind -> pieces found, in the order of the text; only kinds that occur. ``TEXT_ISSUES`` explains the kinds.
    """
    found: dict[str, list[str]] = {kind: [] for kind in TEXT_ISSUES}
    found["digits"] = re.findall(f"{DIGIT}+", text)
    found["latin_letters"] = re.findall(rf"[{LATIN}]+", text)
    found["tatweel"] = re.findall("\u0640+", text)
    found["presentation_forms"] = re.findall("[\ufb50-\ufdff\ufe70-\ufefc]+", re.sub("[\ufd3e\ufd3f]", " ", text))
    found["bidi_controls"] = re.findall(f"[{BIDI}]", text)
    found["emoji"] = EMOJI.findall(text)
    found["persian_letters"] = re.findall(f"[{''.join(ENCODING_VARIANTS)}]", text)
    for character in text:
        kind = _odd_kind(character)
        if kind:
            found[kind].append(character)
    return {kind: pieces for kind, pieces in found.items() if pieces}


@cache
def _odd_kind(character: str) -> str | None:
    """Return ``zero_width`` or ``unknown_characters`` for a character that no other kind covers, else None."""
    category = unicodedata.category(character)
    if (
        (category == "Cf" or character in INVISIBLE)
        and character not in BIDI
        and not "\u0600" <= character <= "\u06dd"
        and not EMOJI.match(character)
    ):
        return "zero_width"
    is_letter = category[0] in "LM" and not "\ufe00" <= character <= "\ufe0f"
    if category in ("Cs", "Co", "Cn") or (category == "Cc" and character not in "\n\r\t"):
        return "unknown_characters"
    known = re.match(f"[{LATIN}{ARABIC}{MARKS}\u0600-\u06ff\ufb50-\ufdff\ufe70-\ufefc\u20e3]", character)
    return "unknown_characters" if is_letter and not known else None


def parts_to_read(text: str) -> list[str]:
    """Return the parts of a text whose digits are read, in the form in which ``readings.read_aloud`` gets them.

    Addresses of pages are left out. A text with Latin letters and without Arabic letters has no part that is read.
    """
    text = _clean(text)
    if is_foreign(text.translate(FOREIGN_DIGITS)):
        return []
    return [place_tatweel(part).translate(ASCII_DIGITS) for part in URL.split(text)]


def _until_stable(change: Callable[[str], str], text: str) -> str:
    """Apply ``change`` until the text stays the same.

    Once is enough for nearly every text. In a row of signs, reading one sign can separate its neighbours, so that they
    are read in the next round. The loop ends: each round removes digits or signs, and a text without them is stable.
    """
    while (changed := change(text)) != text:
        text = changed
    return text


def _normalise_once(text: str, digits: str) -> str:
    text = _clean(text)
    foreign = is_foreign(text.translate(FOREIGN_DIGITS))
    parts, end = [], 0
    for url in URL.finditer(text):
        parts += [_normalise_part(text[end : url.start()], digits, foreign), url[0]]
        end = url.end()
    parts.append(_normalise_part(text[end:], digits, foreign))
    return _tidy_spaces("".join(parts))


def _clean(text: str) -> str:
    """Replace presentation forms by letters, give each mark one form, and remove invisible characters."""
    text = join_thousands(mark_era(remove_verse_numbers(text)))
    text = "".join(map(_plain_character, text))
    text = re.sub(f"[{ARABIC}\u0640]+", lambda match: unicodedata.normalize("NFC", match[0]), text)
    text = re.sub(rf"(?<![{ARABIC}])([وفبلك]?)({'|'.join(ENDS_IN_ALEF_MAQSURA.split())})(?![{ARABIC}])", _maqsura, text)
    text = text.translate(str.maketrans(ENCODING_VARIANTS))
    text = re.sub("\u0640+([\u064b-\u0652]*)[\u0654\u0655]", "\u0621\\1", text)
    text = re.sub(f"[{ARABIC}]+", lambda match: unicodedata.normalize("NFC", match[0]), text)
    text = re.sub(" {2,}", " ", text)
    return re.sub("([\u064b-\u0650]+)\u0651", "\u0651\\1", text)  # shadda before the vowel, as it is typed


def _maqsura(match: re.Match[str]) -> str:
    return match[0][:-1] + "ى"


@cache
def _plain_character(character: str) -> str:
    """Return the replacement of one character, which may be empty or several characters."""
    if character in LIGATURES:
        return f" {LIGATURES[character]} "
    if character in PUNCTUATION:
        return PUNCTUATION[character]
    if character in PAUSE_MARKS or character in INVISIBLE:
        return ""
    code, category = ord(character), unicodedata.category(character)
    if character in "\n\r\v\f\x85\u2028\u2029":
        return "\n"
    if category == "Zs" or character == "\t":
        return " "
    if category in ("Cf", "Cs", "Cc") or 0xFE00 <= code <= 0xFE0F or code == 0x20E3 or 0xE0100 <= code <= 0xE01EF:
        return ""
    if 0xFB50 <= code <= 0xFDFF or 0xFE70 <= code <= 0xFEFC:  # NFKC puts an isolated mark on a space or a tatweel.
        return unicodedata.normalize("NFKC", character).replace(" ", "").replace("\u0640", "")
    if 0xFE10 <= code <= 0xFE19 or 0xFE50 <= code <= 0xFE6B or 0xFF01 <= code <= 0xFF5E or 0x1EE00 <= code <= 0x1EEFF:
        plain = unicodedata.normalize("NFKC", character)
        return plain if plain == character else "".join(map(_plain_character, plain))
    if 0x2080 <= code <= 0x2089 or 0x1D7CE <= code <= 0x1D7FF:
        return unicodedata.normalize("NFKC", character)
    if 0x2460 <= code <= 0x2473 or 0x2160 <= code <= 0x216B or 0x2170 <= code <= 0x217B:
        return f" {int(unicodedata.numeric(character))} "
    if EMOJI.match(character) or (category == "So" and character != "°"):
        return " "
    return character


def _normalise_part(text: str, digits: str, foreign: bool) -> str:
    """Normalise text between URLs: read digits and signs, remove tatweel, unify punctuation."""
    text = place_tatweel(text)
    if not foreign and digits == "spell":
        text = read_aloud(text.translate(ASCII_DIGITS)).replace("\u066b", ".").replace("\u066c", ",")
    elif not foreign:
        text = read_aloud(text, digits=False)
    return _unify_punctuation(text.replace("\u0640", ""))


def _unify_punctuation(text: str) -> str:
    """Give commas and question marks the form of the script before them, once, directly after the word."""
    if "," in text or ";" in text or "?" in text:
        text = _marks_of_script(text)
    text = re.sub(r"\.(?: *\.)+", "...", text)
    text = re.sub(r"([،؛؟?!,;])(?: *\1)+", r"\1", text)
    text = re.sub(r" +([،؛؟?!])", r"\1", text)
    text = re.sub(r" +([.:,;])(?=[\s\"')]|$)", r"\1", text)
    return re.sub(rf"([،؛؟])(?=[{ARABIC}{LATIN}])", r"\1 ", text)


def _marks_of_script(text: str) -> str:
    """Write the Arabic comma, semicolon and question mark after Arabic words; not between digits."""
    marks = {",": "،", ";": "؛", "?": "؟"}
    first = re.search(f"[{ARABIC}{LATIN}]", text)
    is_arabic, characters = bool(first and ARABIC_LETTER.match(first[0])), []
    for position, character in enumerate(text):
        if ARABIC_LETTER.match(character):
            is_arabic = True
        elif LATIN_LETTER.match(character):
            is_arabic = False
        elif (
            character in marks
            and is_arabic
            and not re.match("[0-9][,;][0-9]", text[max(0, position - 1) : position + 2])
        ):
            character = marks[character]
        characters.append(character)
    return "".join(characters)


def _tidy_spaces(text: str) -> str:
    return re.sub(r" *\n[ \n]*", "\n", re.sub(" +", " ", text)).strip(" \n")


def _score_once(text: str) -> str:
    text = _normalise_once(text, "spell").translate(FOREIGN_DIGITS)
    text = re.sub(f"[{MARKS}]", "", text)
    text = re.sub("مائ(?=[ةت])", "مئ", text)
    text = text.translate(str.maketrans("أإآٱؤئىة", "اااا" + "وييه"))
    text = re.sub(r"(?<=[A-Za-z0-9])['.@:/_&-]+(?=[A-Za-z0-9])", "", text)
    text = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    return " ".join(re.sub("[A-Z]+", lambda match: match[0].lower(), text).split())

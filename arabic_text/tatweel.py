"""Tatweel: decoration inside words, a dash between words and numbers, and a part of the mark of the Hijri era."""

import re

from arabic_text.characters import ARABIC, DIGIT, LATIN

_CLITIC = re.compile(rf"(?<![{ARABIC}\u0640])((?:[وف]?[بلك]|[وف]|[وف]?[بك]?ال|لل)\u0640+) *(?={DIGIT})")
"""A particle that a tatweel joins to a number."""
_ERA_OR_DECORATION = re.compile(
    rf"((?<={DIGIT}) ?(?:ق\. ?)?ه|(?<= )ه)\u0640+(?![{ARABIC}])|(?<=[{ARABIC}])\u0640+|\u0640+(?=[{ARABIC}])"
)
_JOINED_HEH = re.compile(rf"(?<={DIGIT})( ?ه)\u200d(?![{ARABIC}])")
_RUN = re.compile("(?<!ه)\u0640+")
"""A tatweel that stands beside no word and belongs to no era."""
_DIGIT_LAST, _DIGIT_FIRST = re.compile(f"{DIGIT} ?\\Z"), re.compile(f" ?{DIGIT}")
_LATIN_LAST, _LETTER_FIRST = re.compile(f"[{LATIN}]\\Z"), re.compile(f"[{ARABIC}{LATIN}]|{DIGIT}")


def mark_era(text: str) -> str:
    """Write a tatweel for the zero-width joiner after the letter heh of an era: both keep the letter in its form."""
    return _JOINED_HEH.sub("\\1\u0640", text) if "\u200d" in text else text


def place_tatweel(text: str) -> str:
    """Remove tatweel inside and beside words, make dashes of single ones, and keep that of the Hijri era.

    So the words that decide how a number is read have their plain form when they are looked up.
    """
    if "\u0640" not in text:
        return text
    text = _CLITIC.sub(lambda match: match[1].rstrip("\u0640"), text)
    text = _ERA_OR_DECORATION.sub(lambda match: f"{match[1]}\u0640" if match[1] else "", text)
    return _RUN.sub(_dash, text)


def _dash(match: re.Match[str]) -> str:
    """Return a dash for a tatweel between two pieces of a line; nothing for one that begins or ends a line."""
    text = match.string
    before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    after = text[match.end() :].partition("\n")[0]
    if not before.strip(" \u0640") or not after.strip(" \u0640"):
        return ""
    if _DIGIT_FIRST.match(after) and (_DIGIT_LAST.search(before) or _LATIN_LAST.search(before)):
        return "-"
    return ("- " if _LETTER_FIRST.match(after) else "-") if before.endswith(" ") else ""

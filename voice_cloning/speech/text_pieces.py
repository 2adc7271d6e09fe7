"""Compute the plausible duration of a text, and cut a long text into pieces."""

import re
import unicodedata

from boson_multimodal.errors import InputError

SLOWEST_LETTERS_PER_SECOND = 2.5
"""A speed below that of the slowest speech we know. Arabic is read at 8 to 16 letters per second (diacritics do not
count). Single words at one per second (Arabic Speech Commands) have at least 3.3 letters per second."""
SECONDS_OF_SILENCE = 2.0
"""The allowed silence before and after the words, in total."""
LETTERS_PER_PIECE = 150
"""10 to 19 seconds of Arabic, the usual length of clips for training speech models."""

LETTERS_OF_A_DIGIT = LETTERS_OF_A_SYMBOL = 6
"""A digit, or a symbol such as %, is read as a word."""
LETTERS_OF_A_MARK = 2
"""A punctuation mark is read as a pause."""
SYMBOLS_AMONG_MARKS = "%\u066a&@#"
"""Symbols that Unicode classifies as punctuation."""
TATWEEL = "\u0640"
"""It makes a word longer in print, but not in speech."""

SENTENCE_END = re.compile(
    r"""(?:[!?\u061f\u061b\u2026]|\.(?=[\s.!?\u061f\u061b\u2026"'\u00bb\u201d\u2019)\]]|$))"""
    r"""[.!?\u061f\u061b\u2026]*["'\u00bb\u201d\u2019)\]]*|\n"""
)
"""The end of a sentence in Latin or Arabic script: a full stop (not the point of 3.14), an exclamation mark, a question
mark, an Arabic semicolon or an ellipsis, with the quotes and brackets that follow it; or the end of a line."""
CLAUSE_END = re.compile(r"[\u060c,;:\u2013\u2014](?=\s)|\u060c")
SPACE = re.compile(r"\s+")


def spoken_letters(text: str) -> int:
    """Estimate the number of letters of a text when it is read aloud. Diacritics and tatweel do not count."""
    letters = 0
    for character in text:
        category = unicodedata.category(character)[0]
        if category == "L":
            letters += character != TATWEEL
        elif category == "N":
            letters += LETTERS_OF_A_DIGIT
        elif category == "S" or character in SYMBOLS_AMONG_MARKS:
            letters += LETTERS_OF_A_SYMBOL
        elif category == "P":
            letters += LETTERS_OF_A_MARK
    return letters


def longest_seconds(text: str, slowest: float = SLOWEST_LETTERS_PER_SECOND) -> float:
    """Return the longest plausible duration of a text in seconds. Generation that exceeds it is a runaway.

    Args:
        slowest: the speed of the slowest speech in letters per second.
    """
    return SECONDS_OF_SILENCE + spoken_letters(text) / slowest


def has_words(text: str) -> bool:
    """Return whether a text has at least one letter or digit."""
    return any(character.isalnum() for character in text)


def cut_text(text: str, letters_per_piece: int = LETTERS_PER_PIECE) -> list[str]:
    """Cut a text into pieces of at most ``letters_per_piece`` :func:`spoken_letters`. A short text is not cut.

    The text is cut at ends of sentences. A sentence that is too long is cut at commas, then at spaces; a word is cut
    only if it is too long itself. Each piece is as long as possible and has words. Together the pieces contain the
    whole text, except for spaces at their ends.

    Raises:
        InputError: if ``letters_per_piece`` is less than the letters of one symbol.
    """
    if letters_per_piece < LETTERS_OF_A_SYMBOL:
        raise InputError(f"letters_per_piece is {letters_per_piece}; it must be at least {LETTERS_OF_A_SYMBOL}")
    return [piece.strip() for piece in _cut(text, letters_per_piece, (SENTENCE_END, CLAUSE_END, SPACE))]


def _cut(text: str, limit: int, ends: tuple[re.Pattern[str], ...]) -> list[str]:
    """Cut ``text`` at the first kind of end, and parts that are still too long at the next kinds."""
    if spoken_letters(text) <= limit:
        return [text]
    if not ends:
        return _pack(_with_marks(text), limit)
    cuts = [0, *(match.end() for match in ends[0].finditer(text)), len(text)]
    parts = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False) if start < end]
    return _pack([piece for part in parts for piece in _cut(part, limit, ends[1:])], limit)


def _pack(parts: list[str], limit: int) -> list[str]:
    """Join neighbouring parts up to the limit. Always join a part without words to its neighbour."""
    packed: list[str] = []
    for part in parts:
        if packed and (not has_words(part) or not has_words(packed[-1]) or spoken_letters(packed[-1] + part) <= limit):
            packed[-1] += part
        else:
            packed.append(part)
    return packed


def _with_marks(word: str) -> list[str]:
    """Return the characters of a word, each with the combining marks that follow it."""
    parts: list[str] = []
    for character in word:
        if parts and unicodedata.category(character)[0] == "M":
            parts[-1] += character
        else:
            parts.append(character)
    return parts

"""Text to be spoken: how long it may take at most, and where a long one is cut."""

import re
import unicodedata

from boson_multimodal.errors import InputError

SLOWEST_LETTERS_PER_SECOND = 2.5
"""Below the slowest speech we know. Arabic is read at some 8 to 16 letters per second, diacritics not counted; single
words spoken one per second (Arabic Speech Commands) come to 3.3 at the least."""
SECONDS_OF_SILENCE = 2.0
"""What the silence before and after the words may take."""
LETTERS_PER_PIECE = 150
"""10 to 19 seconds of Arabic: the length of the clips that speech models are usually trained on."""

LETTERS_OF_A_DIGIT = LETTERS_OF_A_SYMBOL = 6
"""Read out, a digit or a symbol such as % is a word."""
LETTERS_OF_A_MARK = 2
"""A punctuation mark is a pause."""
SYMBOLS_AMONG_MARKS = "%\u066a&@#"
"""Unicode calls them punctuation."""
TATWEEL = "\u0640"
"""Lengthens a word in print, not in speech."""

SENTENCE_END = re.compile(
    r"""(?:[!?\u061f\u061b\u2026]|\.(?=[\s.!?\u061f\u061b\u2026"'\u00bb\u201d\u2019)\]]|$))"""
    r"""[.!?\u061f\u061b\u2026]*["'\u00bb\u201d\u2019)\]]*|\n"""
)
"""Latin and Arabic: full stop (not the point of 3.14), marks of exclamation and question, Arabic semicolon, ellipsis,
with the quotes and brackets that they close; or the end of a line."""
CLAUSE_END = re.compile(r"[\u060c,;:\u2013\u2014](?=\s)|\u060c")
SPACE = re.compile(r"\s+")


def spoken_letters(text: str) -> int:
    """About how many letters a text has when it is read out; diacritics and tatweel count nothing."""
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
    """The longest that a text can plausibly take; speech that has not ended by then is a run-away.

    Args:
        slowest: letters per second of the slowest speech.
    """
    return SECONDS_OF_SILENCE + spoken_letters(text) / slowest


def has_words(text: str) -> bool:
    """Whether there is anything to say."""
    return any(character.isalnum() for character in text)


def cut_text(text: str, letters_per_piece: int = LETTERS_PER_PIECE) -> list[str]:
    """Cut a text into pieces of at most so many :func:`spoken_letters`; one that is short enough stays whole.

    Cuts are at ends of sentences, where a sentence alone is too long at commas, then at spaces, and within a word only
    if it alone is too long. A piece holds as much as fits; each has words; together they hold all but outer spaces.

    Raises:
        InputError: if the limit has no room for a symbol.
    """
    if letters_per_piece < LETTERS_OF_A_SYMBOL:
        raise InputError(f"letters_per_piece is {letters_per_piece}; it must be at least {LETTERS_OF_A_SYMBOL}")
    return [piece.strip() for piece in _cut(text, letters_per_piece, (SENTENCE_END, CLAUSE_END, SPACE))]


def _cut(text: str, limit: int, ends: tuple[re.Pattern[str], ...]) -> list[str]:
    """Pieces that join to ``text``, cut at the first kind of end, and at the next ones where that is not enough."""
    if spoken_letters(text) <= limit:
        return [text]
    if not ends:
        return _pack(_with_marks(text), limit)
    cuts = [0, *(match.end() for match in ends[0].finditer(text)), len(text)]
    parts = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False) if start < end]
    return _pack([piece for part in parts for piece in _cut(part, limit, ends[1:])], limit)


def _pack(parts: list[str], limit: int) -> list[str]:
    """Join neighbours as far as the limit allows, and parts without words in any case."""
    packed: list[str] = []
    for part in parts:
        if packed and (not has_words(part) or not has_words(packed[-1]) or spoken_letters(packed[-1] + part) <= limit):
            packed[-1] += part
        else:
            packed.append(part)
    return packed


def _with_marks(word: str) -> list[str]:
    """The characters of a word, each with the combining marks that follow it."""
    parts: list[str] = []
    for character in word:
        if parts and unicodedata.category(character)[0] == "M":
            parts[-1] += character
        else:
            parts.append(character)
    return parts

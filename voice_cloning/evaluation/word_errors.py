"""Counts how many words and characters of a text a recogniser heard otherwise: WER, CER, and where the mistakes are.

    errors = [text_errors(text, recognised, "scoring") for text, recognised in pairs]
    wer = sum(e.word_errors for e in errors) / sum(e.words for e in errors)

Both texts are normalised in the same way first. WER and CER of a set are sums over all its texts, as above and as
``jiwer`` computes them; a mean over texts would weigh a word of a short text more than one of a long text.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import jiwer

from arabic_text.normalise import normalise_for_scoring
from boson_multimodal.errors import InputError

SHORT_VOWELS = re.compile("[\u064b-\u0652]")
ALEF_WASLA, ALEF = "\u0671", "\u0627"


def normalise_as_published(text: str) -> str:
    """Return the form behind the published Arabic error rates of speech models, which keeps most of the spelling.

    It deletes the marks U+064B to U+0652 (tanween, short vowels, shadda, sukun) and all punctuation, writes alef wasla
    as alef, and drops the words that are nothing but digits then. It does nothing else: hamza and alef, taa marbuta and
    heh, yeh and alef maqsura, tatweel, the superscript alef and Latin capitals stay as they are. So another spelling
    of the same word counts as a mistake.

    Punctuation is what Unicode calls so, and the ASCII signs ``$+<=>^`|~``. It is deleted and not replaced by a space:
    words joined by a hyphen become one word, and "12.5" is dropped like "125".
    """
    text = SHORT_VOWELS.sub("", text).replace(ALEF_WASLA, ALEF)
    text = "".join(c for c in text if unicodedata.category(c)[0] != "P" and c not in string.punctuation)
    return " ".join(word for word in text.split() if not word.isdigit())


NORMALISATIONS: dict[str, Callable[[str], str]] = {
    "scoring": normalise_for_scoring,
    "published": normalise_as_published,
}
"""Name -> function of a text. ``scoring`` spells digits out and unites spellings that sound the same; ``published`` is
for figures that are laid beside published ones."""


@dataclass(frozen=True, kw_only=True)
class TextErrors:
    """How far a recognised text is from the text that was to be spoken.

    Errors are the least number of words (or characters) to substitute, delete and insert.

    Attributes:
        word_errors: words that are wrong. There can be more of them than ``words``.
        words: words of the reference. 0 if normalisation leaves nothing of it.
        character_errors: characters that are wrong.
        characters: characters of the reference, with one space between words.
    """

    word_errors: int
    words: int
    character_errors: int
    characters: int


def text_errors(reference: str, recognised: str, normalisation: str) -> TextErrors:
    """Count the errors of a recognised text.

    An empty recognised text misses every word. If normalisation leaves nothing of the reference (``published`` and a
    text of digits only), ``words`` is 0 and each recognised word is an error. Such a text adds errors and no words to
    the sums of a set, as in ``jiwer``, and has no rate of its own.

    Args:
        reference: the text that was to be spoken.
        recognised: the text that the recogniser heard.
        normalisation: a key of ``NORMALISATIONS``.

    Raises:
        InputError: if ``normalisation`` has another value.
    """
    texts = normalised(reference, normalisation), normalised(recognised, normalisation)
    words, characters = jiwer.process_words(*texts), jiwer.process_characters(*texts)
    return TextErrors(
        word_errors=words.substitutions + words.deletions + words.insertions,
        words=len(words.references[0]),
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
        characters=len(characters.references[0]),
    )


def word_alignment(reference: str, recognised: str, normalisation: str) -> list[tuple[str, str, str]]:
    """Lay a recognised text beside its reference, word by word, in the order of the texts.

    Returns:
        ``(kind, word of the reference, recognised word)`` with normalised words. The kind is ``equal``, ``substitute``,
        ``delete`` (the recognised word is empty) or ``insert`` (the word of the reference is empty). The number of
        those that are not ``equal`` is ``text_errors(...).word_errors``.

    Raises:
        InputError: if ``normalisation`` is no key of ``NORMALISATIONS``.
    """
    found = jiwer.process_words(normalised(reference, normalisation), normalised(recognised, normalisation))
    (wanted,), (heard,), (chunks,) = found.references, found.hypotheses, found.alignments
    aligned = []
    for chunk in chunks:
        ours, theirs = wanted[chunk.ref_start_idx : chunk.ref_end_idx], heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        length = max(len(ours), len(theirs))
        aligned += [(chunk.type, *pair) for pair in zip(_filled(ours, length), _filled(theirs, length), strict=True)]
    return aligned


def normalised(text: str, normalisation: str) -> str:
    """Return a text as it is scored: words with one space between them.

    Raises:
        InputError: if ``normalisation`` is no key of ``NORMALISATIONS``.
    """
    if normalisation not in NORMALISATIONS:
        raise InputError(f"normalisation: {normalisation!r}; it must be one of {', '.join(NORMALISATIONS)}")
    return " ".join(NORMALISATIONS[normalisation](text).split())


def _filled(words: list[str], length: int) -> list[str]:
    return words + [""] * (length - len(words))

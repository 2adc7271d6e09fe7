"""Stand-in until the part that owns this module is merged."""

from dataclasses import dataclass

import jiwer

NORMALISATIONS = {"scoring": str.split, "published": str.split}


@dataclass(frozen=True)
class TextErrors:
    word_errors: int
    words: int
    character_errors: int
    characters: int


def text_errors(reference: str, recognised: str, normalisation: str) -> TextErrors:
    words = jiwer.process_words(reference, recognised)
    letters = jiwer.process_characters(reference, recognised)
    counts = [c.substitutions + c.deletions + c.insertions for c in (words, letters)]
    return TextErrors(counts[0], len(reference.split()), counts[1], len(reference))


def word_alignment(reference: str, recognised: str, normalisation: str) -> list[tuple[str, str, str]]:
    kind = "equal" if reference == recognised else "substitute"
    return [(kind, reference, recognised)]

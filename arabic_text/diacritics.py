"""Adds vowel marks to Arabic texts with a library that the user installs; nothing but marks changes.

The library's result is used word by word. A word stays as it was if it already has a mark, or if the library changed
its letters.
"""

import importlib
import re
from collections.abc import Callable
from functools import cache

from arabic_text.characters import ARABIC, HARAKAT
from boson_multimodal.errors import InputError

DIACRITISERS = {"text2tashkeel": "0.1.0, Apache-2.0: neural, weights in the package, needs onnxruntime"}
"""Name of the library for pip -> version, licence and method."""
_WORD = re.compile(f"[{ARABIC}]+")
_MARK = re.compile(f"[{HARAKAT}]")
_MARKED = re.compile(f"(?:[{ARABIC}](?<![{HARAKAT}])[{HARAKAT}]*)+")
_SENTENCE = re.compile("[^\n.!?:;،؛؟]+")


def load_diacritiser(library: str) -> Callable[[str], str]:
    """Return the function of ``library``, a key of ``DIACRITISERS``, that puts marks on one sentence.

    Raises:
        InputError: if the library is unknown or not installed.
    """
    if library not in DIACRITISERS:
        raise InputError(f"--diacritise {library}: unknown library; it must be one of {list(DIACRITISERS)}")
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise InputError(f"--diacritise {library}: cannot be imported ({error}); pip install {library}") from error
    return cache(module.Diacritizer().diacritize)


def diacritise(text: str, add_marks: Callable[[str], str]) -> tuple[str, int, int]:
    """Add marks to the Arabic words of a normalised text that have none.

    Args:
        add_marks: adds marks to a sentence without marks; see :func:`load_diacritiser`.

    Returns:
        The text, the number of words that got marks, and the number of words that did not because the library changed
        their letters.
    """
    marked = unmarked = 0

    def mark_sentence(match: re.Match[str]) -> str:
        nonlocal marked, unmarked
        plain = _MARK.sub("", match[0])
        words, answers = _WORD.findall(match[0]), _WORD.findall(add_marks(plain)) if _WORD.search(plain) else []
        is_aligned = len(words) == len(answers)
        results = []
        for position, word in enumerate(words):
            answer = answers[position] if is_aligned else ""
            if _MARK.search(word):
                results.append(word)
            elif _MARKED.fullmatch(answer) and _MARK.sub("", answer) == word:
                results.append(answer)
                marked += answer != word
            else:
                results.append(word)
                unmarked += 1
        replacements = iter(results)
        return _WORD.sub(lambda _: next(replacements), match[0])

    return _SENTENCE.sub(mark_sentence, text), marked, unmarked

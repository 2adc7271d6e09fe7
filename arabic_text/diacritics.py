"""Marks on Arabic texts from a library that must be installed apart: it adds them, and changes nothing else.

What a library returns is taken word by word: a word that carries a mark already, or whose letters the library changed,
stays as it was.
"""

import importlib
import re
from collections.abc import Callable
from functools import cache

from arabic_text.normalise import HARAKAT
from arabic_text.readings import ARABIC
from boson_multimodal.errors import InputError

DIACRITISERS = {"text2tashkeel": "0.1.0, Apache-2.0: neural, its weights in the package, needs onnxruntime"}
"""Libraries by the name that pip knows."""
_WORD = re.compile(f"[{ARABIC}]+")
_MARK = re.compile(f"[{HARAKAT}]")
_MARKED = re.compile(f"(?:[{ARABIC}](?<![{HARAKAT}])[{HARAKAT}]*)+")
_SENTENCE = re.compile("[^\n.!?:;،؛؟]+")


def load_diacritiser(library: str) -> Callable[[str], str]:
    """The function of a library that puts marks on one sentence; ``library`` is a key of ``DIACRITISERS``.

    Raises:
        InputError: if it is not installed, or not known.
    """
    if library not in DIACRITISERS:
        raise InputError(f"--diacritise {library}: not known; it must be one of {list(DIACRITISERS)}")
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise InputError(f"--diacritise {library}: cannot be imported ({error}); pip install {library}") from error
    return cache(module.Diacritizer().diacritize)


def diacritise(text: str, add_marks: Callable[[str], str]) -> tuple[str, int, int]:
    """A normalised text with marks on those of its Arabic words that have none.

    Args:
        add_marks: takes a sentence without marks; see :func:`load_diacritiser`.

    Returns:
        The text; how many words got marks; how many did not, because the library changed their letters.
    """
    marked = left = 0

    def sentence(match: re.Match[str]) -> str:
        nonlocal marked, left
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
                left += 1
        replacements = iter(results)
        return _WORD.sub(lambda _: next(replacements), match[0])

    return _SENTENCE.sub(sentence, text), marked, left

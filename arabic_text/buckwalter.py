"""Tells texts in Buckwalter's transliteration from other Latin texts, and turns them into Arabic.

Buckwalter writes each Arabic letter and mark as one ASCII character. Three forms of it are read:

- the first one, such as ``>aEolana Al$~aEobu``, with the Persian letters P, J, V and G;
- the one for XML, with O, W and I in place of ``>``, ``&`` and ``<``;
- Safe Buckwalter, which has letters only: C M O W I Q V c e L in place of ``' | > & < } * $`` and of the marks of
  dagger alef and alef wasla.

The Arabic Speech Corpus writes ``^`` for theh, and the word ``sil`` for a pause.
"""

import re
from collections.abc import Iterable, Sequence

from arabic_text.characters import ARABIC
from boson_multimodal.errors import InputError

_LETTERS = dict(zip("AbptvjHxdrzsSDTZEg_fqklmnhwYyPJG^", "ابةتثجحخدرزسصضطظعغـفقكلمنهوىيپچگث", strict=True))
_MARKS = dict(zip("FNKaui~o", "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652", strict=True))
_XML = dict(zip("OWI", "أؤإ", strict=True))
_PLAIN_ONLY = dict(zip("'|>&<}*${`", "ءآأؤإئذش\u0671\u0670", strict=True))
_SAFE_ONLY = dict(zip("CMQceL", "ءآئش\u0670\u0671", strict=True))
_THAL, _VEH = "ذ", "\u06a4"
_PAUSE = "sil"
"""What the Arabic Speech Corpus writes where the speaker pauses, in some of its files; in others it writes a hyphen."""

_BYTE_ORDER_MARK = "\ufeff"
_SYMBOLS = re.escape("|>&<}*${`~^")
_WORD = re.compile(f"[A-Za-z'_{_SYMBOLS}]+")
_TYPICAL = re.compile(f"[a-z~][A-Z]|(?<=[A-Za-z])[{_SYMBOLS}]|[{_SYMBOLS}](?=[A-Za-z])")
"""A capital after a small letter, or a sign beside a letter: rare in the words of any language."""
_FOREIGN = re.compile("[BRUX]|[^\\W\\d_A-Za-z]")
"""A letter that no form of Buckwalter has."""
_ARABIC_LETTER = re.compile(f"[{ARABIC}]")
TYPICAL_SHARE = 0.3
"""Share of the words of a corpus that look like Buckwalter, at least; of Arabic words it is 0.5 to 0.9."""
FOREIGN_SHARE = 0.02
"""Share of the words of a corpus with letters that Buckwalter lacks, at most."""
SHORTEST_TEXT = 3
"""Words that a single text needs to be told from a name such as ``iPhone``."""
SHOWN_TEXTS = 3


def looks_like_buckwalter(texts: Sequence[str]) -> bool:
    """Return whether the texts of a corpus, as a whole, are Arabic in Buckwalter's transliteration.

    Raises:
        InputError: if texts in Buckwalter stand beside texts in Arabic letters, so that neither answer is right.
    """
    latin = [text for text in texts if not _ARABIC_LETTER.search(text)]
    if len(latin) == len(texts):
        return _is_typical(latin, TYPICAL_SHARE)
    found = [text for text in latin if len(_WORD.findall(text)) >= SHORTEST_TEXT and _is_typical([text], 0.5)]
    if found:
        shown = "; ".join(repr(text[:60]) for text in found[:SHOWN_TEXTS])
        raise InputError(
            f"{len(found)} texts are in Buckwalter's transliteration, but {len(texts) - len(latin)} are in Arabic "
            f"letters; write all of them in Arabic letters, or all in Buckwalter ({shown})"
        )
    return False


def _is_typical(texts: Iterable[str], least: float) -> bool:
    """Return whether enough words look like Buckwalter, and hardly any have other letters."""
    words = typical = foreign = 0
    for text in texts:
        found = [word for word in _WORD.findall(text) if len(word) > 1]
        words += len(found)
        typical += sum(_TYPICAL.search(word) is not None for word in found)
        foreign += len(_FOREIGN.findall(text))
    return words > 0 and typical >= least * words and foreign <= FOREIGN_SHARE * words


def from_buckwalter(text: str) -> str:
    """Return a text in Buckwalter's transliteration as Arabic; digits, punctuation and Arabic letters stay.

    ``V`` is thal as in Safe Buckwalter, unless the text has a sign that only the first form has; then it is veh.

    Raises:
        ValueError: naming the characters that are no Buckwalter, and the words that begin with a vowel mark, which no
            Arabic word does; or if the text mixes Safe Buckwalter and the first form.
    """
    text = text.replace(_BYTE_ORDER_MARK, "")
    words = _WORD.findall(text)
    used = set("".join(words))
    plain, safe = sorted(used & _PLAIN_ONLY.keys()), sorted(used & _SAFE_ONLY.keys())
    problems = []
    if foreign := sorted(set(_FOREIGN.findall(text)) - set(_ARABIC_LETTER.findall(text))):
        problems.append(f"no characters of Buckwalter: {' '.join(foreign)}")
    if plain and safe:
        problems.append(f"signs of two forms of Buckwalter: {' '.join(plain)} and {' '.join(safe)}")
    if wrong := sorted({word for word in words if word[0] in _MARKS}):
        problems.append(f"words that begin with a vowel mark: {' '.join(wrong)}")
    if problems:
        raise ValueError(f"{text[:60]!r} is not Buckwalter's transliteration ({'; '.join(problems)})")
    table = {**_LETTERS, **_MARKS, **_XML, **_PLAIN_ONLY, **_SAFE_ONLY, "V": _VEH if plain else _THAL}
    return _WORD.sub(lambda match: "-" if match[0] == _PAUSE else "".join(table[c] for c in match[0]), text)

"""Buckwalter's transliteration: each form of it becomes Arabic, and other Latin texts are not taken for it."""

import random
import unicodedata

import pytest

from arabic_text.buckwalter import from_buckwalter, looks_like_buckwalter
from boson_multimodal.errors import InputError

ARABIC = "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوىي\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670\u0671"
PLAIN = "'|>&<}AbptvjHxd*rzs$SDTZEg_fqklmnhwYyFNKaui~o`{"
SAFE = "CMOWIQAbptvjHxdVrzscSDTZEg_fqklmnhwYyFNKaui~oeL"
XML = "'|OWI}AbptvjHxd*rzs$SDTZEg_fqklmnhwYyFNKaui~o`{"
HALABI = PLAIN.replace("v", "^")
MARKS = "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670"
OTHERS = ' 0123456789.,!?:;()[]/-%"\n٣،؟'

DIACRITISED = [
    "wa*ahaba Al>awolaAdu <ilaY Alomadorasapi Al^~aAnawiy~api - fiy Al$~aAriEi",
    "qara>otu kitaAbAF Eano taAriyxi Alo>anodalusi",
    "mA >ajomala hA*aA Als~u&aAla !",
]
PLAIN_TEXTS = ["wqAl Alr}ys AlmSry Ams An AlHkwmp stbd>", "yEml AlmhndswN fy b$r AlmrkbAt", "Hdv *lk fy 25 ywnyw"]
SAFE_TEXTS = ["wqAl AlrQys AlmSry Ams An AlHkwmp stbdO", "Hdv Vlk fy 25 ywnyw AlmADy", "IlY AlcArE AlkbyrF"]
ENGLISH = [
    "The quick brown fox jumps over the lazy dog, isn't it?",
    "McDonald's sells iPhones at $5 & more * see <b>below</b>",
    "HELLO WORLD THIS IS A TEST",
]
OTHER_LATIN = [
    ["mar7aba ya sadi2i, kayfa 7alak el yom?", "ana b5eir el7amdulillah"],
    ["Le garçon mange une pomme à Paris", "Bonjour tout le monde"],
    ["al-kitāb huwa ʿalā al-ṭāwila", "ḏahaba ilā l-madrasa"],
    ["Ali gitti ama Ayse kaldi", "Bu bir deneme"],
    ["12 34", "!!"],
    [],
    [""],
]


@pytest.mark.parametrize("form", [PLAIN, SAFE, XML, HALABI], ids=["plain", "safe", "xml", "halabi"])
def test_what_is_written_in_each_form_is_read_as_it_was(form: str) -> None:
    to_form = str.maketrans(ARABIC, form)
    generator = random.Random(form)
    letters = [letter for letter in ARABIC if letter not in MARKS]
    for _ in range(300):
        words = [
            "".join(generator.choice(letters) + generator.choice(["", "", *MARKS]) for _ in range(length))
            for length in (generator.randint(1, 8) for _ in range(6))
        ]
        text = "".join(word + generator.choice(OTHERS) for word in words)
        assert from_buckwalter(text.translate(to_form)) == text


def test_words_of_known_spelling() -> None:
    for written, right in (("Als~alaAmu Ealayokumo", "السَّلَامُ عَلَيْكُمْ"), ("{lr~aHom`ni", "ٱلرَّحْمٰنِ")):
        assert unicodedata.normalize("NFC", from_buckwalter(written)) == unicodedata.normalize("NFC", right)
    assert from_buckwalter("\ufeffAl^aAniy sil Al*uywl - 3 $") == "الثَانِي - الذُيول - 3 ش"
    assert from_buckwalter("PJG Vlk") == "پچگ ذلك" and from_buckwalter("Vyrws >") == "\u06a4يروس أ"
    assert from_buckwalter("") == "" and from_buckwalter("كتاب") == "كتاب"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kitAbR BAb", "no characters of Buckwalter: B R"),
        ("kitāb", "no characters of Buckwalter: ā"),
        ("*lk cms", r"signs of two forms of Buckwalter: \* and c"),
        ("the cat and it", "words that begin with a vowel mark: and it"),
        ("Xal and", "Buckwalter: X; words that begin with a vowel mark: and"),
    ],
)
def test_what_is_no_buckwalter_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_buckwalter(text)


@pytest.mark.parametrize("texts", [DIACRITISED, PLAIN_TEXTS, SAFE_TEXTS, ["mrHbA"]])
def test_buckwalter_is_told(texts: list[str]) -> None:
    assert looks_like_buckwalter(texts)


@pytest.mark.parametrize("texts", [ENGLISH, *OTHER_LATIN])
def test_other_latin_texts_are_not_taken_for_it(texts: list[str]) -> None:
    assert not looks_like_buckwalter(texts)


def test_arabic_with_latin_words_is_not_taken_for_it() -> None:
    mixed = ["اشتريت iPhone جديد", "iPhone", "OK", "روحت ال McDonald's", "The end of it"]
    assert not looks_like_buckwalter(mixed)


def test_two_scripts_in_one_corpus_are_named() -> None:
    with pytest.raises(InputError, match=r"1 texts are in Buckwalter's .* 2 are in Arabic .*qara>otu kitaAbAF"):
        looks_like_buckwalter(["ذهب الولد", "قرأ", DIACRITISED[1], "The end of it"])

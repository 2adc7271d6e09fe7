"""What cannot be seen in a message is written as a code."""

import unicodedata

import pytest

from boson_multimodal.errors import InputError, Problems, result_or_message, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clip\u200f.wav", "clip<U+200F>.wav"),
        ("\ufeffid", "<U+FEFF>id"),
        ("a\u00a0b\u2028c", "a<U+00A0>b<U+2028>c"),
        ("a\0b\ud800", "a<U+0000>b<U+D800>"),
        (unicodedata.normalize("NFD", "صوت_آ"), "صوت_ا<U+0653>"),
        ("صوت_آ", "صوت_آ"),
        ("سَبَّ \t\n", "سَبَّ \t\n"),
    ],
)
def test_what_cannot_be_seen_is_written_as_a_code(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert str(InputError(text)) == shown


def test_a_call_gives_its_result_or_the_message_of_its_wrong_input() -> None:
    def refuse() -> int:
        raise InputError("field: wrong")

    assert result_or_message(lambda: 3) == (3, None)
    assert result_or_message(refuse) == (None, "field: wrong")
    with pytest.raises(ZeroDivisionError):
        result_or_message(lambda: 1 // 0)


def test_problems_are_collected_once_and_raised_together() -> None:
    problems, others = Problems(), Problems()
    problems.raise_all()

    def refuse() -> None:
        raise InputError("a: wrong")

    assert problems.tried(lambda: 3) == 3 and problems.tried(refuse) is None
    problems.tried(refuse)
    problems.add(None)
    others.add("b: wrong")
    others.add("a: wrong")
    problems.add_all(others)
    with pytest.raises(InputError, match=r"\Aa: wrong\nb: wrong\Z"):
        problems.raise_all()
    with pytest.raises(ZeroDivisionError):
        problems.tried(lambda: 1 // 0)

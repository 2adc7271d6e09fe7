"""Cards by name or size."""

import pytest

from boson_multimodal.errors import InputError
from voice_cloning.training.gpu_cards import named_card


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("A100-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("a100 40 gb", "A100-40GB"),
        ("H100", "H100"),
        ("Tesla T4", "T4"),
        ("A10", "A10"),
    ],
)
def test_a_card_is_found_by_its_name(text: str, name: str) -> None:
    assert named_card(text).name == name


@pytest.mark.parametrize("text", ["24", "24GB", "24 gb", " 24 "])
def test_a_card_can_be_a_size(text: str) -> None:
    card = named_card(text)
    assert card.memory == 24e9 and card.available < card.memory and card.bf16_tflops is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A100", "several cards: A100-40GB, .*A100-80GB"),
        ("V100", "several cards: V100-16GB, V100-32GB"),
        ("GTX 1080", "no card that is known here"),
        ("rtx 4090 laptop", "no card that is known here"),
        ("", "no card that is known here"),
        ("-3", "no card that is known here"),
        ("0", "above 0.5"),
    ],
)
def test_an_unknown_card_is_refused_with_the_names(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_card(text)


def test_old_cards_have_no_bfloat16() -> None:
    assert [named_card(name).has_bf16 for name in ("T4", "V100-16GB", "L4", "24")] == [False, False, True, None]

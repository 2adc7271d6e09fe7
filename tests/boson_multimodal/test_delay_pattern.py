"""Compare the delay pattern with the original's output and with a drawing of it."""

import pytest
import torch

from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio.delay_pattern import (
    apply_delay_pattern,
    build_audio_columns,
    build_audio_labels,
    columns_of,
    revert_delay_pattern,
)
from tests.goldens import needs_golden, tensors

BOS, EOS = 1024, 1025
PICTURE = """
column      0    1    2    3    4    5    6
k = 0      bos   a1   a2   a3  eos  eos  eos
k = 1      bos  bos   b1   b2   b3  eos  eos
k = 2      bos  bos  bos   c1   c2   c3  eos
"""
LABELS_PICTURE = """
column      0    1    2    3    4    5    6
k = 0        .   a1   a2   a3  eos    .    .
k = 1        .    .   b1   b2   b3  eos    .
k = 2        .    .    .   c1   c2   c3  eos
"""
CODES = {f"{row}{frame}": 10 * number + frame for number, row in enumerate("abc", 1) for frame in (1, 2, 3)}
NAMES = {"bos": BOS, "eos": EOS, ".": IGNORE_INDEX, **CODES}


def drawn(picture: str) -> torch.Tensor:
    """Parse a drawing into (K, C) ids."""
    rows = [line.split()[3:] for line in picture.strip().splitlines()[1:]]
    return torch.tensor([[NAMES[cell] for cell in row] for row in rows])


def drawn_codes() -> torch.Tensor:
    return torch.tensor(list(CODES.values())).view(3, 3)


def test_columns_equal_the_drawing() -> None:
    assert torch.equal(build_audio_columns(drawn_codes(), BOS, EOS, use_delay_pattern=True), drawn(PICTURE))


def test_labels_equal_the_drawing() -> None:
    assert torch.equal(build_audio_labels(drawn_codes(), EOS, use_delay_pattern=True), drawn(LABELS_PICTURE))


@needs_golden
def test_delaying_and_reverting_equal_the_original() -> None:
    golden = tensors("g6z_delay_pattern")
    delayed = apply_delay_pattern(golden["codes"][0], bos_id=32, eos_id=33)
    assert torch.equal(delayed, golden["delayed"][0])
    assert torch.equal(revert_delay_pattern(delayed), golden["reverted"])


@pytest.mark.parametrize(("codebooks", "frames"), [(1, 1), (1, 5), (2, 1), (8, 1), (8, 2), (3, 40), (8, 25)])
def test_reverting_undoes_delaying(codebooks: int, frames: int) -> None:
    codes = torch.randint(0, 1024, (codebooks, frames))
    delayed = apply_delay_pattern(codes, BOS, EOS)
    assert delayed.shape == (codebooks, frames + codebooks - 1)
    assert torch.equal(revert_delay_pattern(delayed), codes)
    columns = build_audio_columns(codes, BOS, EOS, use_delay_pattern=True)
    assert torch.equal(revert_delay_pattern(columns)[:, 1:-1], codes), "between the stream's bos and eos"


def test_too_few_columns_cannot_be_reverted() -> None:
    with pytest.raises(ValueError, match="6 columns are too few for 8 delayed codebooks"):
        revert_delay_pattern(torch.zeros((8, 6), dtype=torch.long))


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize(("codebooks", "frames"), [(1, 1), (8, 1), (8, 25), (3, 7)])
def test_columns_of_counts_the_columns_that_are_built(codebooks: int, frames: int, delay: bool) -> None:
    codes = torch.randint(0, 1024, (codebooks, frames))
    wanted = (codebooks, columns_of(frames, codebooks, delay))
    assert build_audio_columns(codes, BOS, EOS, delay).shape == wanted
    assert build_audio_labels(codes, EOS, delay).shape == wanted

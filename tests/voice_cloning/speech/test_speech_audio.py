"""Test that pieces are joined without clicks, and the WAV files of speech."""

from pathlib import Path

import pytest
import soundfile
import torch

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from voice_cloning.speech.audio import join_pieces

RATE = 24_000


def tone(seconds: float, hertz: float, phase: float) -> torch.Tensor:
    """Return a loud tone that does not start or end at zero."""
    return 0.9 * torch.cos(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE + phase)


def test_a_single_piece_does_not_change() -> None:
    piece = tone(0.5, 200, 0.0)
    assert torch.equal(join_pieces([piece], RATE), piece)


@pytest.mark.parametrize("hertz", [50.0, 200.0, 900.0])
def test_a_joint_has_no_larger_jump_than_the_speech_around_it(hertz: float) -> None:
    pieces = [tone(0.5, hertz, 0.0), tone(0.3, hertz, 1.0), tone(0.4, hertz, 3.0)]
    assert abs(pieces[0][-1]) > 0.8 and abs(pieces[2][0]) > 0.8, "without a fade, the joint would click"
    joined = join_pieces(pieces, RATE)
    inside = max(piece.diff().abs().max() for piece in pieces)
    assert joined.diff().abs().max() <= inside + 0.9 * torch.pi / 2 / 240, "only the slope of the fade is added"
    assert joined.numel() == sum(piece.numel() for piece in pieces) + 2 * 3600, "two pauses of 150 ms; nothing trimmed"
    middle = joined[pieces[0].numel() + 3600 :][: pieces[1].numel()]
    assert torch.equal(middle[240:-240], pieces[1][240:-240])
    assert torch.equal(joined[: pieces[0].numel() - 240], pieces[0][:-240]), "the outer start is not faded"
    assert torch.equal(joined[-pieces[2].numel() + 240 :], pieces[2][240:]), "nor the outer end"
    assert joined[pieces[0].numel() - 1].abs() < 1e-4 and middle[0] == 0.0


def test_a_noisy_joint_has_no_larger_jump_than_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.rand(12_000, generator=generator) * 0.4 + 0.5 for _ in range(3)]
    joined = join_pieces(pieces, RATE)
    assert joined.diff().abs().max() <= max(piece.diff().abs().max() for piece in pieces)


def test_pieces_shorter_than_a_fade_and_an_empty_list() -> None:
    joined = join_pieces([torch.ones(3), torch.ones(1), torch.ones(500)], RATE)
    assert joined.numel() == 504 + 2 * 3600 and joined.isfinite().all()
    assert join_pieces([], RATE).numel() == 0


def test_a_wav_holds_the_samples_clipped_to_full_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(torch.tensor([0.0, 0.5, -1.0, 1.7, -1.7]), RATE))
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE and pcm.tolist() == [0, 16384, -32767, 32767, -32767]
    assert soundfile.info(path).subtype == "PCM_16"

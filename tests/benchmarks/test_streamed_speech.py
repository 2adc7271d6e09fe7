"""The measures of streamed speech, on the demo's codec and on a codec that is hardly fitted."""

from pathlib import Path

import pytest
import soundfile
import torch

from benchmarks.fitted_codec import FRAME, LATENT, draw_codebooks, fit_networks, new_codec
from benchmarks.streamed_speech import blocks, first_columns, seams_of, streamed
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, load_higgs_audio_tokenizer
from voice_cloning.speech.streaming import StreamSettings


def test_windows_have_better_seams_than_blocks(demo: Path, codec: HiggsAudioTokenizer) -> None:
    wave = torch.from_numpy(soundfile.read(demo / "clips/amal/train_01.wav", dtype="float32")[0])
    clips = [codec.encode(wave[None])[0]]
    alone = seams_of(codec, clips, blocks)
    windows = seams_of(codec, clips, lambda codec, codes: streamed(codec, codes, StreamSettings()))
    assert all(windows[name] < alone[name] - 20 for name in ("seams", "worst", "else"))
    assert alone["worst"] >= alone["seams"] > alone["else"]
    assert first_columns(codec, StreamSettings()) == 12


def test_a_fitted_codec_is_a_codec_with_the_reach_of_the_released_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waves = [0.1 * torch.randn(100 * FRAME) for _ in range(3)]
    subject = new_codec()
    fit_networks(subject, waves, 1)
    draw_codebooks(subject, waves)
    subject.save_pretrained(tmp_path)
    assert "step 0: distance" in capsys.readouterr().out
    codec = load_higgs_audio_tokenizer(tmp_path)
    assert (codec.samples_per_frame, codec.frames_before, codec.frames_after) == (FRAME, 10, 10)
    codes = codec.encode(waves[0][None])
    latents = subject.acoustic_encoder(waves[0][None, None])
    with torch.no_grad():
        found = codec.model.quantizer.decode(codes.transpose(0, 1))[:, :LATENT]
    assert codes.shape == (1, 8, 100) and codes.unique().numel() > 50
    left = (found - latents[..., :100]).square().mean() / latents.square().mean()
    assert left < 0.5, "the codes hold most of the latents"

"""The dataset: which audio becomes which codes."""

import base64
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio

from boson_multimodal.audio_processing import clip_encoding
from boson_multimodal.audio_processing.clip_encoding import ENCODE_BATCH_SECONDS
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.constants import FRAMES_PER_SECOND
from tests.chatml_files import audio, noise, record, write_clip
from tests.dataset.encoded_samples import (
    CountingCodec,
    Load,
    codes_of,
    encoded,
    encoded_alone,
    plain_record,
    same_codes,
)


def test_relative_and_absolute_paths_and_base64_name_the_same_clip(
    load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    in_base64 = base64.b64encode((folder / "ref.wav").read_bytes()).decode()
    forms = [
        audio("ref.wav"),
        audio("./ref.wav", raw_audio=""),
        audio(folder / "ref.wav"),
        audio(None, raw_audio=in_base64),
        audio("placeholder", raw_audio=in_base64),
        audio("ref.wav", raw_audio="aGVsbG8="),  # audio_url goes before
    ]
    dataset = load_here([record(str(n), form, audio("tgt.wav")) for n, form in enumerate(forms)])
    assert dataset.encode_missing(lambda: codec) == 2, "one reference and one target"
    wanted = [encoded_alone(codec, folder / name) for name in ("ref.wav", "tgt.wav")]
    assert all(same_codes(codes_of(dataset, i), wanted) for i in range(len(forms)))


def test_paths_are_relative_to_the_file_and_not_to_the_working_folder(
    load_here: Load, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(load_here([plain_record()])) == 1


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_cut_is_encoded_as_if_it_were_a_file_of_its_own(
    ending: str, load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    long = write_clip(folder / f"long.{ending}", seconds=1.7, seed=3)
    cuts = [(0.0, None), (0.4, 0.5), (None, 0.33), (1.2, None), (1.5, 9.0)]
    records = [
        record(str(n), audio(long, offset=offset, duration=duration), audio("tgt.wav"))
        for n, (offset, duration) in enumerate(cuts)
    ]
    dataset = encoded(load_here(records), codec)
    for index, (offset, duration) in enumerate(cuts):
        assert torch.equal(codes_of(dataset, index)[0], encoded_alone(codec, long, offset or 0.0, duration))
    frames = [codes_of(dataset, index)[0].shape[1] for index in range(len(cuts))]
    assert frames == [43, 13, 9, 13, 5]


@pytest.mark.parametrize(
    ("file", "rate", "channels"),
    [
        ("a.wav", 8_000, 1),
        ("a.wav", 44_100, 2),
        ("a.wav", 48_000, 6),
        ("a.wav", 11_025, 1),
        ("a.flac", 16_000, 1),
        ("a.flac", 96_000, 2),
        ("a.ogg", 44_100, 2),
        ("a.mp3", 22_050, 1),
        ("a.mp3", 44_100, 2),
    ],
)
def test_any_rate_and_number_of_channels_is_read(
    file: str, rate: int, channels: int, load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    path = write_clip(folder / file, seconds=0.83, rate=rate, channels=channels)
    dataset = encoded(load_here([record("a", audio(file), audio("tgt.wav"))]), codec)
    found = codes_of(dataset, 0)[0]
    assert torch.equal(found, encoded_alone(codec, path))
    samples = soundfile.info(path).frames
    assert found.shape == (8, frames_of(samples, rate, FRAMES_PER_SECOND))
    assert abs(found.shape[1] - 0.83 * FRAMES_PER_SECOND) < 2


def test_clips_of_equal_length_are_encoded_together_to_the_codes_they_have_alone(
    load_here: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, codec: HiggsAudioTokenizer
) -> None:
    monkeypatch.setattr(clip_encoding, "ENCODE_BATCH_SECONDS", {"cpu": ENCODE_BATCH_SECONDS["cuda"]})
    equal = [write_clip(folder / f"equal_{i}.wav", seconds=0.5, seed=10 + i) for i in range(5)]
    half_rate = [write_clip(folder / f"half_rate_{i}.wav", seconds=0.5, rate=12_000, seed=20 + i) for i in range(2)]
    other = [write_clip(folder / f"other_{i}.wav", seconds=0.5 + 0.01 * i, seed=30 + i) for i in range(1, 4)]
    clips = [*equal, *half_rate, *other]
    counting = CountingCodec(codec)
    dataset = load_here([record(p.name, audio(p), audio("tgt.wav")) for p in clips])
    assert dataset.encode_missing(lambda: counting) == len(clips) + 1
    assert sorted(counting.calls) == [1, 1, 1, 1, 2, 5]
    for index, path in enumerate(clips):
        assert torch.equal(codes_of(dataset, index)[0], encoded_alone(codec, path)), path.name


def test_one_call_of_the_codec_takes_a_minute_of_audio_at_most(
    load_here: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, codec: HiggsAudioTokenizer
) -> None:
    monkeypatch.setattr(clip_encoding, "ENCODE_BATCH_SECONDS", {"cpu": 1.0})
    for i in range(7):
        write_clip(folder / f"{i}.wav", seconds=0.4, seed=i + 40)
    counting = CountingCodec(codec)
    encoded(load_here([record(str(i), audio(f"{i}.wav"), audio("tgt.wav")) for i in range(7)]), counting)
    assert sorted(counting.calls) == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100])
def test_the_frames_that_are_reckoned_are_those_that_the_codec_makes(rate: int, codec: HiggsAudioTokenizer) -> None:
    """So a sample is as long before it is encoded as after: a limit does not depend on what the cache holds."""
    frame, first_window = rate // FRAMES_PER_SECOND, rate // 200
    wave = torch.from_numpy(noise(1.2, rate)[:, 0])
    for samples in [
        frame * n + start + more for n in (1, 3, 10) for start in (0, first_window) for more in (-1, 0, 1, 2)
    ]:
        waveform = torchaudio.functional.resample(wave[:samples], rate, codec.sampling_rate)
        made = codec.encode(waveform[None]).shape[-1]
        assert made == frames_of(samples, rate, FRAMES_PER_SECOND), samples

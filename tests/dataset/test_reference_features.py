"""The dataset with references as features of the audio tower: lengths, waveforms, and which clips are encoded."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing.clips import frames_of, read_waveform, resampled_length
from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.chatml_files import audio, load, make_cache, record, write_clip, write_records
from tests.tower_models import BOTH, FEATURES, RATE, config_with_tower


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_a_resampled_clip_has_the_computed_length(rate: int) -> None:
    """At 44.1 kHz and above 2 s, torchaudio's float32 rounding matters for one length of 441."""
    several = 441 if rate == 44_100 else 20
    for samples in [1, 2, 3, rate - 1, rate, *range(5 * rate, 5 * rate + several)]:
        made = torchaudio.functional.resample(torch.zeros(samples), rate, RATE)
        assert resampled_length(samples, rate, RATE) == made.numel(), samples


class CountingCodec:
    """A fast stand-in for the codec that counts the clips it gets."""

    sampling_rate = 24_000
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.clips = 0

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        self.clips += len(waveforms_BS)
        frames = frames_of(waveforms_BS.shape[1], self.sampling_rate, FRAMES_PER_SECOND)
        return torch.zeros((len(waveforms_BS), 8, frames), dtype=torch.long)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for seed, (name, seconds, rate) in enumerate([("a", 0.61, 24_000), ("b", 0.97, 44_100), ("long", 2.03, 48_000)]):
        write_clip(tmp_path / f"{name}.wav", seconds, rate, seed=seed)
    shutil.copy(tmp_path / "a.wav", tmp_path / "copy_of_a.wav")
    return tmp_path


def encoded(
    clips: Path, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], **settings: Any
) -> tuple[ArabicVoiceCloningDataset, CountingCodec]:
    path = write_records(clips / "data.json", records)
    dataset, codec = load(path, tokenizer, make_cache(clips / "cache"), **settings), CountingCodec()
    dataset.encode_missing(lambda: codec)
    return dataset, codec


def with_a_reference_in_the_system_turn(written: dict[str, Any], name: str) -> dict[str, Any]:
    written["messages"][0]["content"] = ["a voice", audio(name)]
    return written


def model_lengths(dataset: ArabicVoiceCloningDataset, model: HiggsAudioModel) -> list[int]:
    """Return the number of positions that the model uses for each sample."""
    collate = ArabicVoiceCloningTrainingCollator.from_config(model.config)
    with torch.no_grad():
        outputs = [model(**vars(collate([dataset[i]]))) for i in range(len(dataset))]
    return [int(output.attention_mask.sum()) for output in outputs]


@pytest.mark.parametrize("form", [FEATURES, BOTH], ids=["features", "features and codes"])
def test_lengths_equal_the_positions_of_the_model(
    form: ReferenceForm, clips: Path, demo: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    records = [
        record("0", audio("a.wav"), audio("b.wav")),
        record("1", audio("b.wav"), audio("long.wav")),
        with_a_reference_in_the_system_turn(record("2", audio("a.wav", offset=0.1), audio("a.wav")), "b.wav"),
    ]
    if not form.codes:
        records += [
            record("3", audio("long.wav"), audio("a.wav")),
            record("a last chunk without positions", audio("long.wav", duration=2.005), audio("a.wav")),
            with_a_reference_in_the_system_turn(record("4", audio("a.wav"), audio("a.wav")), "long.wav"),
        ]
    model = HiggsAudioModel(config_with_tower(demo / "model", encode_audio_in_tokens=form.codes)).eval()
    dataset, _ = encoded(clips, tokenizer, records, reference=form)
    assert ReferenceForm.of(model.config) == form
    assert len(dataset.lengths) == len(records)
    assert dataset.lengths.tolist() == model_lengths(dataset, model)
    again, codec = encoded(clips, tokenizer, records, reference=form)
    assert again.lengths.tolist() == dataset.lengths.tolist() and codec.clips == 0


def test_an_item_holds_the_waveforms_of_references_only(clips: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    written = with_a_reference_in_the_system_turn(record("0", audio("long.wav"), audio("a.wav")), "b.wav")
    item = encoded(clips, tokenizer, [written], reference=FEATURES)[0][0]
    wanted = [read_waveform(Clip(clips / name, 0.0, None)).resampled(RATE) for name in ("b.wav", "long.wav")]
    assert torch.equal(item.audio_waveforms_concat, torch.cat(wanted))
    ends = [len(wanted[0]), len(wanted[0]) + len(wanted[1])]
    assert item.audio_waveforms_start.tolist() == [0, *ends], "the target's is empty"
    assert item.audio_sample_rate.tolist() == [RATE] * 3
    assert item.audio_ids_start.tolist() == [0, 0, 0] and item.audio_ids_concat.shape == (8, 16)


def test_a_reference_is_encoded_only_where_its_codes_are_needed(
    clips: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """With features only, a reference is not encoded, unless it is a target in another sample (under any name)."""
    records = [record("0", audio("b.wav"), audio("a.wav")), record("1", audio("copy_of_a.wav"), audio("a.wav"))]
    dataset, codec = encoded(clips, tokenizer, records, reference=FEATURES)
    assert codec.clips == 1 and [len(dataset[i].audio_ids_start) for i in range(2)] == [2, 2]
    _, codec = encoded(clips, tokenizer, records, reference=BOTH)
    assert codec.clips == 1, "b.wav; the other is in the cache"


def test_voice_clone_has_its_reference_as_codes(clips: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Its reference is in an assistant turn, and the tower does not read those."""
    records = [record("0", audio("long.wav"), audio("a.wav"))]
    dataset, codec = encoded(clips, tokenizer, records, reference=FEATURES, prompt_style="voice_clone")
    assert codec.clips == 2 and dataset[0].audio_waveforms_concat.numel() == 0
    assert dataset[0].audio_ids_start.tolist() == [0, 51]


def test_every_reference_that_is_too_long_for_both_forms_is_named(
    clips: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    fine = record("fine", audio("a.wav"), audio("long.wav"))
    bad = record("bad", audio("long.wav", duration=1.5), audio("a.wav"))
    bad = with_a_reference_in_the_system_turn(bad, "long.wav")
    with pytest.raises(InputError) as caught:
        encoded(clips, tokenizer, [fine, bad], reference=BOTH)
    message = str(caught.value)
    assert "bad: messages[0].content[1].audio_url: a reference of 2.03 s; this model takes references as" in message
    assert "bad: messages[1].content[1].audio_url: a reference of 1.5 s" in message and "fine" not in message
    assert "features of 1 s at most: cut it (duration)" in message

"""A sample is cut off where its first trained clip begins."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import parse_record
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from tests.chatml_files import load, make_cache
from voice_cloning.speech.sample_prompts import cut_at_target

IN, OUT, TEXT, BOS = 90, 91, 1, 92
CONFIG = HiggsAudioConfig(audio_in_token_idx=IN, audio_out_token_idx=OUT)


def sample(ids: list[int], trained: list[int], frames: list[int], waveforms: bool = False) -> ChatMLDatasetSample:
    """A sample whose k-th clip holds the code k; ``trained`` are the places of trained clips among ``ids``."""
    labels = [token if place in trained else -100 for place, token in enumerate(ids)]
    codes = [torch.full((2, count), number) for number, count in enumerate(frames)]
    waves = [torch.full((10 * (number + 1),), float(number)) for number in range(len(frames))] if waveforms else None
    return ChatMLDatasetSample.of_clips(ids, labels, codes, waves, 2)


@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_the_prompt_is_that_of_the_record(
    demo: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, style: str
) -> None:
    path = demo / "val_chatml_samples.json"
    dataset = load(path, tokenizer, make_cache(tmp_path), prompt_style=style)
    config = HiggsAudioConfig.from_pretrained(demo / "model")
    for number, raw in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        ids, clips = speech_prompt(parse_record(raw, style)[0], tokenizer)
        record = dataset.records[number]
        assert record.number == number
        codes = [torch.full((8, 3 + place), place) for place in range(len(record.clips))]
        whole = ChatMLDatasetSample.of_clips(record.input_ids, record.label_ids, codes, None, 8)
        found = cut_at_target(whole, config)
        assert found.prompt.input_ids.tolist() == ids and ids[-1] == config.audio_out_bos_token_id
        assert found.prompt.audio_ids_start.numel() == len(clips) == 1
        assert torch.equal(found.prompt.audio_ids_concat, codes[0]) and torch.equal(found.reference_KT, codes[0])
        assert torch.equal(found.target_KT, codes[1])


def test_of_several_trained_clips_the_first_is_spoken() -> None:
    ids = [TEXT, IN, BOS, OUT, TEXT, BOS, OUT, TEXT, BOS, OUT, TEXT]
    found = cut_at_target(sample(ids, [6, 9], [4, 3, 5, 6]), CONFIG)
    assert found.prompt.input_ids.tolist() == ids[:6]
    assert found.prompt.audio_ids_concat[0].tolist() == [0] * 4 + [1] * 3
    assert found.reference_KT[0].tolist() == [1] * 3 and found.target_KT[0].tolist() == [2] * 5


def test_a_prompt_may_have_no_reference_or_one_without_codes() -> None:
    alone = cut_at_target(sample([TEXT, BOS, OUT, TEXT], [2], [5]), CONFIG)
    assert alone.reference_KT is None and alone.prompt.audio_ids_concat.shape == (2, 0)
    features = cut_at_target(sample([TEXT, IN, BOS, OUT], [3], [0, 5], waveforms=True), CONFIG)
    assert features.reference_KT is None and features.target_KT[0].tolist() == [1] * 5
    assert features.prompt.audio_waveforms_concat.tolist() == [0.0] * 10
    assert features.prompt.audio_waveforms_start.tolist() == [0] and features.prompt.audio_sample_rate.numel() == 1


def test_a_sample_without_a_trained_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="no trained clip"):
        cut_at_target(sample([TEXT, BOS, OUT], [], [5]), CONFIG)

"""Random batches equal those of the slow reference: every field, its type and its shape."""

import dataclasses
import random
from typing import Any

import pytest
import torch
from transformers import WhisperFeatureExtractor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from tests.slow_collation import slow_batch
from tests.tower_models import CHUNK_SECONDS, MEL_BINS, RATE

BOS, IN, END, OUT, PAD = 491, 495, 492, 496, 481
"""Ids of ``<|audio_bos|>``, ``<|AUDIO|>``, ``<|audio_eos|>``, ``<|AUDIO_OUT|>`` and padding."""
LONGEST = {IN: 12, OUT: 40}
"""Frames of the longest clip of each slot. The shortest has 1 frame, fewer than there are codebooks."""


def collator(codebooks: int, **changes: Any) -> ArabicVoiceCloningTrainingCollator:
    settings: dict[str, Any] = {"use_delay_pattern": True, "audio_num_codebooks": codebooks} | changes
    ids = {"audio_in_token_id": IN, "audio_out_token_id": OUT, "pad_token_id": PAD}
    return ArabicVoiceCloningTrainingCollator(**ids, audio_stream_bos_id=32, audio_stream_eos_id=33, **settings)


def random_sample(
    rng: random.Random, codebooks: int, most_clips: int, has_codes: bool, has_waveforms: bool
) -> ChatMLDatasetSample:
    """Return a sample of random text with any number of references and of targets, trained or not, in any order."""
    ids, labels, frames, waves = [rng.randrange(400)], [IGNORE_INDEX], [], []
    for _ in range(rng.randint(0, most_clips)):
        words = [rng.randrange(400) for _ in range(rng.randint(0, 9))]
        slot, is_trained = rng.choice([IN, OUT]), rng.random() < 0.5
        ids += [*words, BOS, slot, END]
        new = [*words, BOS, slot, END] if slot == OUT and is_trained else [IGNORE_INDEX] * (len(words) + 3)
        labels += new
        frames.append(rng.randint(1, LONGEST[slot]) if slot == OUT or has_codes else 0)
        longest_wave = round((0.9 if has_codes else 2.5) * CHUNK_SECONDS * RATE)
        waves.append(0.1 * torch.randn(rng.randint(400, longest_wave) if slot == IN else 0))
    fields = {}
    if has_waveforms:
        samples = torch.tensor([wave.numel() for wave in waves], dtype=torch.long)
        fields["audio_waveforms_concat"] = torch.cat([torch.zeros(0), *waves])
        fields["audio_waveforms_start"] = samples.cumsum(0) - samples
        fields["audio_sample_rate"] = torch.full_like(samples, RATE)
    counts = torch.tensor(frames, dtype=torch.long)
    codes = torch.randint(0, 32, (codebooks, int(counts.sum())))
    return ChatMLDatasetSample(torch.tensor(ids), torch.tensor(labels), codes, counts.cumsum(0) - counts, **fields)


def require_equal(
    samples: list[ChatMLDatasetSample], used: ArabicVoiceCloningTrainingCollator, wanted_of: list[ChatMLDatasetSample]
) -> None:
    found, wanted = vars(used(samples)), slow_batch(wanted_of, used)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if value is None:
            assert found[name] is None, name
            continue
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=0.0, atol=1e-6)
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("codebooks", [1, 3, 8])
@pytest.mark.parametrize("seed", range(8))
def test_batches_of_codes(seed: int, codebooks: int, delay: bool) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    samples = [random_sample(rng, codebooks, seed, True, False) for _ in range(rng.randint(1, 7))]
    used = collator(codebooks, use_delay_pattern=delay, round_to=rng.choice([1, 8]))
    require_equal(samples, used, samples)


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("has_codes", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_batches_of_features(seed: int, has_codes: bool, delay: bool) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    samples = [random_sample(rng, 8, 4, has_codes, True) for _ in range(rng.randint(1, 5))]
    features = {"encode_whisper_embed": True, "chunk_size_seconds": CHUNK_SECONDS, "return_audio_in_tokens": has_codes}
    features["whisper_feature_extractor"] = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS)
    require_equal(samples, collator(8, use_delay_pattern=delay, **features), samples)


def test_references_that_the_model_takes_neither_as_codes_nor_as_features_are_left_out() -> None:
    samples = [random_sample(random.Random(seed), 8, 5, True, False) for seed in range(5)]
    assert any((sample.input_ids == IN).any() for sample in samples)
    require_equal(samples, collator(8, return_audio_in_tokens=False), samples)


def test_the_integer_type_of_samples_does_not_change_the_batch() -> None:
    """Prepared data hold ids as int32 and codes as int16."""
    samples = [random_sample(random.Random(seed), 8, 4, True, False) for seed in range(6)]
    narrow = [
        ChatMLDatasetSample(s.input_ids.int(), s.label_ids.int(), s.audio_ids_concat.short(), s.audio_ids_start.int())
        for s in samples
    ]
    require_equal(narrow, collator(8), samples)


def trained_clip() -> ChatMLDatasetSample:
    ids = torch.tensor([1, BOS, OUT, END])
    return ChatMLDatasetSample(ids, ids.clone(), torch.randint(0, 32, (8, 5)), torch.tensor([0]))


WRONG = {
    "1 audio slots but 2 clips": {"audio_ids_start": torch.tensor([0, 3])},
    "4 codebooks, not 8": {"audio_ids_concat": torch.zeros((4, 5), dtype=torch.long)},
    "4 ids but 3 labels": {"label_ids": torch.tensor([1, BOS, OUT])},
    r"codes of 5 frames, but its clips start at frames \[2\]": {"audio_ids_start": torch.tensor([2])},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_sample_is_refused_wherever_it_stands(message: str) -> None:
    right, wrong = trained_clip(), dataclasses.replace(trained_clip(), **WRONG[message])
    for samples in ([wrong], [wrong, right], [right, wrong, right]):
        with pytest.raises(ValueError, match=message):
            collator(8)(samples)


def test_codes_without_a_clip_and_clips_out_of_order_are_refused() -> None:
    empty = ChatMLDatasetSample(
        torch.tensor([1]), torch.tensor([1]), torch.zeros((8, 3), dtype=torch.long), torch.tensor([], dtype=torch.long)
    )
    with pytest.raises(ValueError, match=r"codes of 3 frames, but its clips start at frames \[\]"):
        collator(8)([trained_clip(), empty])
    two = torch.tensor([OUT, OUT])
    backward = ChatMLDatasetSample(two, two, torch.zeros((8, 5), dtype=torch.long), torch.tensor([0, 9]))
    with pytest.raises(ValueError, match=r"codes of 5 frames, but its clips start at frames \[0, 9\]"):
        collator(8)([backward])

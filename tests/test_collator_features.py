"""The collator with features of the audio tower: chunks, slots and masks equal a slow reference."""

import copy
import dataclasses

import pytest
import torch
import torchaudio
from torch import Tensor
from transformers import WhisperFeatureExtractor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, ChatMLDatasetSample
from boson_multimodal.errors import InputError
from tests.tower_models import CHUNK_SECONDS, MEL_BINS, RATE

BOS, REF, EOS, OUT, PAD = 491, 495, 492, 496, 481
"""Ids of ``<|audio_bos|>``, ``<|AUDIO|>``, ``<|audio_eos|>``, ``<|AUDIO_OUT|>`` and padding in the collator's tests."""


def collator(codes: bool = False) -> ArabicVoiceCloningTrainingCollator:
    return ArabicVoiceCloningTrainingCollator(
        audio_in_token_id=REF,
        audio_out_token_id=OUT,
        pad_token_id=PAD,
        audio_stream_bos_id=32,
        audio_stream_eos_id=33,
        audio_num_codebooks=8,
        use_delay_pattern=True,
        return_audio_in_tokens=codes,
        encode_whisper_embed=True,
        whisper_feature_extractor=WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS),
        chunk_size_seconds=CHUNK_SECONDS,
    )


def sample(references: list[float], rate: int = RATE, codes: bool = False) -> ChatMLDatasetSample:
    """Make a sample: a user turn with references of these seconds, each after a text, and a target of 6 frames."""
    input_ids = [token for n in range(len(references)) for token in (n + 1, n + 11, BOS, REF, EOS)]
    trained = [OUT, EOS, 489]
    frames = torch.tensor([7 if codes else 0 for _ in references] + [6])
    waveforms = [0.1 * torch.randn(round(seconds * rate)) for seconds in references] + [torch.zeros(0)]
    samples = torch.tensor([waveform.numel() for waveform in waveforms])
    return ChatMLDatasetSample(
        input_ids=torch.tensor([*input_ids, 21, *trained]),
        label_ids=torch.tensor([-100] * (len(input_ids) + 1) + trained),
        audio_ids_concat=torch.randint(0, 32, (8, int(frames.sum()))),
        audio_ids_start=frames.cumsum(0) - frames,
        audio_waveforms_concat=torch.cat(waveforms),
        audio_waveforms_start=samples.cumsum(0) - samples,
        audio_sample_rate=torch.full_like(samples, rate),
    )


def slow_features(waveform: Tensor) -> tuple[Tensor, int]:
    """Slow reference for one chunk: Whisper's log-mel features, and the number of frames without padding."""
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS)
    padded = torch.cat([waveform, torch.zeros(CHUNK_SECONDS * RATE - waveform.numel())])
    spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1].abs() ** 2
    mel = (torch.from_numpy(extractor.mel_filters).float().T @ spectrum).clamp(min=1e-10).log10()
    frames = sum(1 for start in range(0, waveform.numel(), 160))
    return (mel.maximum(mel.max() - 8.0) + 4.0) / 4.0, frames


SECONDS = [[0.3], [2.5], [1.0], [1.01], [0.5, 3.2, 0.04], [2.0, 2.0], []]


@pytest.mark.parametrize("rate", [RATE, 24_000])
def test_chunks_features_and_slots_equal_the_slow_reference(rate: int) -> None:
    samples = [sample(seconds, rate) for seconds in SECONDS]
    batch = collator()(samples)
    wanted_features, wanted_frames = [], []
    for row, (item, references) in enumerate(zip(samples, SECONDS, strict=True)):
        ids, labels = [], []
        for n, start in enumerate(item.audio_waveforms_start.tolist()[: len(references)]):
            cut = item.audio_waveforms_concat[start : start + round(references[n] * rate)]
            waveform = cut if rate == RATE else torchaudio.functional.resample(cut, rate, RATE)
            ids += [n + 1, n + 11]
            while waveform.numel():
                features, frames = slow_features(waveform[: CHUNK_SECONDS * RATE])
                wanted_features.append(features)
                wanted_frames.append(frames)
                waveform = waveform[CHUNK_SECONDS * RATE :]
                ids += [BOS, REF, EOS]
        labels = [-100] * (len(ids) + 2) + [EOS, 489]
        ids += [21, OUT, EOS, 489]
        padding = batch.input_ids.shape[1] - len(ids)
        assert batch.input_ids[row].tolist() == ids + [PAD] * padding
        assert batch.label_ids[row].tolist() == labels + [-100] * padding
        assert batch.attention_mask[row].tolist() == [1] * len(ids) + [0] * padding
    torch.testing.assert_close(batch.audio_features, torch.stack(wanted_features), rtol=0.0, atol=1e-4)
    assert batch.audio_feature_attention_mask.sum(dim=1).tolist() == wanted_frames
    assert batch.audio_in_ids is None and batch.audio_out_ids_start_group_loc.tolist() == list(range(len(SECONDS)))


def test_samples_are_not_changed_and_a_batch_without_references_has_no_features() -> None:
    samples = [sample([2.5, 0.3])]
    before = copy.deepcopy(samples)
    first, second = collator()(samples), collator()(samples)
    for one, other in ((first, second), (before[0], samples[0])):
        for f in dataclasses.fields(one):
            a, b = getattr(one, f.name), getattr(other, f.name)
            assert (a is None and b is None) or torch.equal(a, b), f.name
    batch = collator()([sample([])])
    assert batch.audio_features is None and batch.audio_feature_attention_mask is None


def test_a_reference_in_both_forms_has_a_slot_with_both_and_is_one_chunk_at_most() -> None:
    batch = collator(codes=True)([sample([1.0, 0.3], codes=True)])
    assert len(batch.audio_features) == len(batch.audio_in_ids_start) == int((batch.input_ids == REF).sum()) == 2
    with pytest.raises(InputError, match=r"a reference of 1.25 s is given as codes and as features: .* 1 s at once"):
        collator(codes=True)([sample([1.25], codes=True)])


def test_every_clip_must_have_a_waveform() -> None:
    whole = sample([0.3])
    with pytest.raises(ValueError, match="has references but no waveforms"):
        collator()([dataclasses.replace(whole, audio_waveforms_concat=None)])
    with pytest.raises(ValueError, match="2 audio slots but 1 waveforms"):
        collator()([dataclasses.replace(whole, audio_waveforms_start=whole.audio_waveforms_start[:1])])

"""Compare the collator with the original (goldens g6) and a slow reference, and test properties of the labels."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from arabic_voice_cloning_training_collator import (
    ArabicVoiceCloningTrainingCollator,
    ChatMLDatasetSample,
    HiggsAudioBatchInput,
)
from boson_multimodal.constants import IGNORE_INDEX
from tests.goldens import meta, needs_golden, tensors
from tests.slow_collation import slow_columns, slow_labels

AUDIO_IN, AUDIO_OUT, PAD, BOS, EOS = 495, 496, 481, 32, 33
CASES = (
    "g6a_delay_labels_audioin",
    "g6b_nodelay_labels_audioin",
    "g6c_delay_no_audioin_tokens",
    "g6e_no_audio_in_at_all",
    "g6h_whisper_short",
)
NOT_COMPARED = ("audio_out_ids_start_group_loc", "reward")
"""The first has one entry per sample in the original by mistake. The second is no field of ours."""

REFERENCE, UNTRAINED, TRAINED = "reference", "untrained", "trained"
"""The roles of a clip in a sample."""


def collator(codebooks: int = 8, **changes: Any) -> ArabicVoiceCloningTrainingCollator:
    settings: dict[str, Any] = {
        "audio_in_token_id": AUDIO_IN,
        "audio_out_token_id": AUDIO_OUT,
        "pad_token_id": PAD,
        "audio_stream_bos_id": BOS,
        "audio_stream_eos_id": EOS,
        "audio_num_codebooks": codebooks,
        "use_delay_pattern": True,
        **changes,
    }
    return ArabicVoiceCloningTrainingCollator(**settings)


def sample(clips: list[tuple[str, int]], codebooks: int = 8) -> ChatMLDatasetSample:
    """Return a sample of random text and codes. ``clips`` gives the role and the number of frames of each clip."""
    input_ids, label_ids = [], []
    for what, _ in clips:
        words = torch.randint(0, 400, (int(torch.randint(1, 6, ())),)).tolist()
        slot = AUDIO_IN if what == REFERENCE else AUDIO_OUT
        input_ids += [*words, slot]
        label_ids += [*words, slot] if what == TRAINED else [IGNORE_INDEX] * (len(words) + 1)
    frames = torch.tensor([frames for _, frames in clips])
    return ChatMLDatasetSample(
        input_ids=torch.tensor([*input_ids, 489]),
        label_ids=torch.tensor([*label_ids, 489]),
        audio_ids_concat=torch.randint(0, 32, (codebooks, int(frames.sum()))),
        audio_ids_start=frames.cumsum(0) - frames,
    )


def segments(ids_KC: Tensor, starts: Tensor) -> list[Tensor]:
    return [] if starts.numel() == 0 else list(ids_KC.tensor_split(starts[1:].tolist(), dim=1))


def same(one: HiggsAudioBatchInput | ChatMLDatasetSample, other: HiggsAudioBatchInput | ChatMLDatasetSample) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


# -- the original ----------------------------------------------------------------------------------------------------


def golden_samples(golden: dict[str, Tensor], count: int) -> list[ChatMLDatasetSample]:
    names = [f.name for f in fields(ChatMLDatasetSample)]
    return [ChatMLDatasetSample(**{name: golden[f"in.{i}.{name}"] for name in names}) for i in range(count)]


def golden_collator(about: dict[str, Any]) -> ArabicVoiceCloningTrainingCollator:
    """Return our collator with the settings that it shares with the original."""
    settings = {k: v for k, v in about["collator_kwargs"].items() if k != "mask_audio_out_token_label"}
    if settings["encode_whisper_embed"]:
        settings["whisper_feature_extractor"] = WhisperFeatureExtractor.from_dict(about["whisper_feature_extractor"])
    return ArabicVoiceCloningTrainingCollator(**settings)


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_batches_equal_the_original(name: str) -> None:
    golden, about = tensors(name), meta(name)
    samples = golden_samples(golden, about["n_samples"])
    batch = golden_collator(about)(samples)
    compared = [key.removeprefix("out.") for key in golden if key.startswith("out.")]
    assert {"input_ids", "label_ids", "audio_out_ids", "label_audio_ids"} < set(compared)
    for field in set(compared) - set(NOT_COMPARED):
        found, wanted = getattr(batch, field), golden[f"out.{field}"]
        if wanted.numel() == 0:
            assert found is None or found.numel() == 0, field
        elif wanted.is_floating_point():  # features: releases of the extractor differ in the last bit
            torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-6)
        else:
            assert torch.equal(found, wanted), field
    for absent in ("audio_in_ids", "audio_in_ids_start", "audio_features", "audio_feature_attention_mask"):
        if f"{absent}=None" in about["none_outputs"]:
            assert getattr(batch, absent) is None, absent


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_each_target_has_the_index_of_its_sample(name: str) -> None:
    """Test the field that the comparison above leaves out: it has one entry per target, not one per sample."""
    golden, about = tensors(name), meta(name)
    samples = golden_samples(golden, about["n_samples"])
    batch = golden_collator(about)(samples)
    wanted = [i for i, s in enumerate(samples) for _ in range(int((s.input_ids == AUDIO_OUT).sum()))]
    assert batch.audio_out_ids_start_group_loc.tolist() == wanted


# -- a slow, obvious reference ---------------------------------------------------------------------------------------


SHAPES = [
    (1, [[(TRAINED, 1)]]),
    (8, [[(TRAINED, 1)]]),
    (1, [[(REFERENCE, 3), (TRAINED, 2)], [(UNTRAINED, 1), (TRAINED, 5)]]),
    (3, [[(REFERENCE, 1), (REFERENCE, 4), (TRAINED, 1)], [(TRAINED, 7), (UNTRAINED, 2), (TRAINED, 3)]]),
    (8, [[(REFERENCE, 12), (TRAINED, 25)], [(UNTRAINED, 9), (TRAINED, 2)], [(TRAINED, 30)]]),
]


@pytest.mark.parametrize(("codebooks", "clips"), SHAPES)
def test_columns_and_labels_equal_the_slow_reference(codebooks: int, clips: list[list[tuple[str, int]]]) -> None:
    samples = [sample(c, codebooks) for c in clips]
    batch = collator(codebooks)(samples)
    wanted_in, wanted_out, wanted_labels = [], [], []
    for s, sample_clips in zip(samples, clips, strict=True):
        first = 0
        for what, frames in sample_clips:
            codes = s.audio_ids_concat[:, first : first + frames].tolist()
            first += frames
            columns, labels = slow_columns(codes, BOS, EOS, True), slow_labels(codes, EOS, True)
            if what == REFERENCE:
                wanted_in.append(columns)
                continue
            wanted_out.append(columns)
            wanted_labels.append(labels if what == TRAINED else [[IGNORE_INDEX] * len(row) for row in labels])
    found_in = segments(batch.audio_in_ids, batch.audio_in_ids_start)
    assert [x.tolist() for x in found_in] == wanted_in
    assert [x.tolist() for x in segments(batch.audio_out_ids, batch.audio_out_ids_start)] == wanted_out
    assert [x.tolist() for x in segments(batch.label_audio_ids, batch.audio_out_ids_start)] == wanted_labels


# -- properties ------------------------------------------------------------------------------------------------------


def a_batch_of_samples() -> list[ChatMLDatasetSample]:
    return [
        sample([(REFERENCE, 6), (TRAINED, 9)]),
        sample([(TRAINED, 1)]),
        sample([(UNTRAINED, 5), (TRAINED, 4), (TRAINED, 12)]),
        sample([(REFERENCE, 2), (REFERENCE, 3), (UNTRAINED, 7), (TRAINED, 3)]),
    ]


TRAINED_FRAMES = [9, 1, None, 4, 12, None, 3]
"""The frames of each target of :func:`a_batch_of_samples`, in order; None for a target that is not trained."""


def test_each_trained_segment_has_one_label_more_than_frames_in_each_codebook_and_others_have_none() -> None:
    batch = collator()(a_batch_of_samples())
    labels = segments(batch.label_audio_ids, batch.audio_out_ids_start)
    counts = [(segment != IGNORE_INDEX).sum(dim=1).tolist() for segment in labels]
    assert counts == [[0 if frames is None else frames + 1] * 8 for frames in TRAINED_FRAMES]


def test_each_codebook_of_a_trained_segment_has_one_eos_label_after_its_codes() -> None:
    batch = collator()(a_batch_of_samples())
    for segment, frames in zip(segments(batch.label_audio_ids, batch.audio_out_ids_start), TRAINED_FRAMES, strict=True):
        where = [(segment[k] == EOS).nonzero().flatten().tolist() for k in range(8)]
        assert where == [[] if frames is None else [k + frames + 1] for k in range(8)]


def test_the_first_column_of_each_segment_is_all_bos_and_has_no_label() -> None:
    """Then the shifted loss never crosses from one segment into the next."""
    batch = collator()(a_batch_of_samples())
    first = batch.audio_out_ids_start
    assert first.numel() == len(TRAINED_FRAMES)
    assert torch.equal(batch.audio_out_ids[:, first], torch.full((8, first.numel()), BOS))
    assert torch.equal(batch.label_audio_ids[:, first], torch.full((8, first.numel()), IGNORE_INDEX))


def test_labels_lie_on_the_columns_that_they_label() -> None:
    batch = collator()(a_batch_of_samples())
    labelled = batch.label_audio_ids != IGNORE_INDEX
    assert torch.equal(batch.label_audio_ids[labelled], batch.audio_out_ids[labelled])
    labelled = batch.label_ids != IGNORE_INDEX
    assert torch.equal(batch.label_ids[labelled], batch.input_ids[labelled])


def test_no_audio_slot_is_a_text_label() -> None:
    samples = a_batch_of_samples()
    assert any((s.label_ids == AUDIO_OUT).any() for s in samples)
    batch = collator()(samples)
    assert not torch.isin(batch.label_ids, torch.tensor([AUDIO_IN, AUDIO_OUT, PAD])).any()


def test_collating_twice_gives_the_same_batch_and_leaves_the_samples_as_they_were() -> None:
    samples = a_batch_of_samples()
    before = copy.deepcopy(samples)
    first = collator()(samples)
    assert same(collator()(samples), first)
    assert all(same(a, b) for a, b in zip(before, samples, strict=True))


def test_a_permutation_of_the_samples_permutes_rows_and_segments() -> None:
    samples, order = a_batch_of_samples(), [2, 0, 3, 1]
    batch, permuted = collator()(samples), collator()([samples[i] for i in order])
    for field in ("input_ids", "attention_mask", "label_ids"):
        assert torch.equal(getattr(permuted, field), getattr(batch, field)[order]), field
    of_sample = batch.audio_out_ids_start_group_loc.tolist()
    moved = [n for i in order for n, owner in enumerate(of_sample) if owner == i]
    for field in ("audio_out_ids", "label_audio_ids"):
        old = segments(getattr(batch, field), batch.audio_out_ids_start)
        new = segments(getattr(permuted, field), permuted.audio_out_ids_start)
        assert len(new) == len(old) and all(torch.equal(a, old[n]) for a, n in zip(new, moved, strict=True)), field
    old, new = (segments(b.audio_in_ids, b.audio_in_ids_start) for b in (batch, permuted))
    assert len(old) == 3 and all(torch.equal(a, old[n]) for a, n in zip(new, [0, 1, 2], strict=True))
    assert permuted.audio_out_ids_start_group_loc.tolist() == sorted(order.index(owner) for owner in of_sample)


def test_rows_are_padded_on_the_right_to_a_multiple_of_eight() -> None:
    samples = a_batch_of_samples()
    batch = collator()(samples)
    lengths = [s.input_ids.numel() for s in samples]
    assert batch.input_ids.shape[1] % 8 == 0 and 0 <= batch.input_ids.shape[1] - max(lengths) < 8
    for row, s in enumerate(samples):
        n = s.input_ids.numel()
        assert torch.equal(batch.input_ids[row, :n], s.input_ids) and (batch.input_ids[row, n:] == PAD).all()
        assert batch.attention_mask[row].tolist() == [1] * n + [0] * (batch.input_ids.shape[1] - n)
        assert (batch.label_ids[row, n:] == IGNORE_INDEX).all()


def test_slots_and_clips_must_agree() -> None:
    broken = sample([(REFERENCE, 6), (TRAINED, 9)])
    forged = ChatMLDatasetSample(
        broken.input_ids.masked_fill(broken.input_ids == AUDIO_IN, 1),
        broken.label_ids,
        broken.audio_ids_concat,
        broken.audio_ids_start,
    )
    with pytest.raises(ValueError, match="1 audio slots but 2 clips"):
        collator()([forged])


def test_codes_must_have_the_models_codebooks() -> None:
    with pytest.raises(ValueError, match="4 codebooks, not 8"):
        collator()([sample([(TRAINED, 3)], codebooks=4)])

"""Collates sample by sample, column by column and codebook by codebook: the slow, obvious reference of the collator."""

import torch
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing.clips import Waveform
from boson_multimodal.audio_processing.mel_features import MEL_SAMPLE_RATE, extract_features
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample

Rows = list[list[int]]
"""K rows of columns."""


def slow_columns(codes: Rows, bos: int, eos: int, use_delay_pattern: bool) -> Rows:
    """Return the columns one by one: codebook k starts k columns late, after bos; eos follows its codes."""
    rows = []
    for k in range(len(codes)):
        row = []
        for column in range(_columns(codes, use_delay_pattern)):
            frame = column - 1 - (k if use_delay_pattern else 0)
            if frame < 0:
                row.append(bos)
            elif frame < len(codes[k]):
                row.append(codes[k][frame])
            else:
                row.append(eos)
        rows.append(row)
    return rows


def slow_labels(codes: Rows, eos: int, use_delay_pattern: bool) -> Rows:
    """Return the labels of codebook k: columns before its codes are ignored, then codes, then one eos, then ignored."""
    rows = []
    for k in range(len(codes)):
        row = []
        for column in range(_columns(codes, use_delay_pattern)):
            frame = column - 1 - (k if use_delay_pattern else 0)
            if 0 <= frame < len(codes[k]):
                row.append(codes[k][frame])
            elif frame == len(codes[k]):
                row.append(eos)
            else:
                row.append(IGNORE_INDEX)
        rows.append(row)
    return rows


def _columns(codes: Rows, use_delay_pattern: bool) -> int:
    return len(codes[0]) + (len(codes) + 1 if use_delay_pattern else 2)


def slow_batch(
    samples: list[ChatMLDatasetSample], collator: ArabicVoiceCloningTrainingCollator
) -> dict[str, Tensor | None]:
    """Return the fields of the batch that the collator must make, by name."""
    c = collator
    audio_in, audio_out, labels_out, owners, texts, chunks = [], [], [], [], [], []
    for number, sample in enumerate(samples):
        ids, labels = [], []
        clip = 0
        for token, label in zip(sample.input_ids.tolist(), sample.label_ids.tolist(), strict=True):
            ids.append(token)
            labels.append(label if label != c.audio_out_token_id else IGNORE_INDEX)
            if token not in (c.audio_in_token_id, c.audio_out_token_id):
                continue
            codes = _clip_codes(sample, clip)
            columns = slow_columns(codes, c.audio_stream_bos_id, c.audio_stream_eos_id, c.use_delay_pattern)
            if token == c.audio_out_token_id:
                wanted = slow_labels(codes, c.audio_stream_eos_id, c.use_delay_pattern)
                is_trained = label == c.audio_out_token_id
                audio_out.append(columns)
                labels_out.append(wanted if is_trained else [[IGNORE_INDEX] * len(row) for row in wanted])
                owners.append(number)
            elif c.return_audio_in_tokens:
                audio_in.append(columns)
            if token == c.audio_in_token_id and c.encode_whisper_embed:
                chunks.append(_clip_chunks(sample, clip, c.chunk_size_seconds))
            clip += 1
        texts.append((ids, labels))
    if c.encode_whisper_embed:
        counts = [len(of_clip) for of_clip in chunks]
        texts = [_with_a_slot_for_each_chunk(ids, labels, counts, c.audio_in_token_id) for ids, labels in texts]
    features, mask = _features([chunk for of_clip in chunks for chunk in of_clip], c)
    longest = max(len(ids) for ids, _ in texts)
    width = next(n for n in range(longest, longest + c.round_to) if n % c.round_to == 0)
    in_ids, in_starts = _side_by_side(audio_in, c.audio_num_codebooks)
    out_ids, out_starts = _side_by_side(audio_out, c.audio_num_codebooks)
    return {
        "input_ids": _padded([ids for ids, _ in texts], width, c.pad_token_id),
        "attention_mask": _padded([[1] * len(ids) for ids, _ in texts], width, 0),
        "audio_features": features,
        "audio_feature_attention_mask": mask,
        "audio_in_ids": in_ids if c.return_audio_in_tokens else None,
        "audio_in_ids_start": in_starts if c.return_audio_in_tokens else None,
        "audio_out_ids": out_ids,
        "audio_out_ids_start": out_starts,
        "audio_out_ids_start_group_loc": torch.tensor(owners, dtype=torch.long),
        "label_ids": _padded([labels for _, labels in texts], width, IGNORE_INDEX),
        "label_audio_ids": _side_by_side(labels_out, c.audio_num_codebooks)[0],
    }


def _part(whole: Tensor, starts: Tensor, clip: int) -> Tensor:
    """Return the frames or samples of one clip, along the last dimension."""
    bounds = [*starts.tolist(), whole.shape[-1]]
    return whole[..., bounds[clip] : bounds[clip + 1]]


def _clip_codes(sample: ChatMLDatasetSample, clip: int) -> Rows:
    return _part(sample.audio_ids_concat, sample.audio_ids_start, clip).tolist()


def _clip_chunks(sample: ChatMLDatasetSample, clip: int, chunk_seconds: int) -> list[Tensor]:
    waveform = _part(sample.audio_waveforms_concat, sample.audio_waveforms_start, clip)
    waveform = Waveform(waveform, int(sample.audio_sample_rate[clip])).resampled(MEL_SAMPLE_RATE)
    size = chunk_seconds * MEL_SAMPLE_RATE
    return [waveform[start : start + size] for start in range(0, waveform.numel(), size)]


def _with_a_slot_for_each_chunk(
    ids: list[int], labels: list[int], counts: list[int], audio_in: int
) -> tuple[list[int], list[int]]:
    """Repeat the three tokens of each reference; ``counts`` loses the references of this sample."""
    new_ids, new_labels = [], []
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        new_ids.append(token)
        new_labels.append(label)
        if place and ids[place - 1] == audio_in:  # the last of the three
            for _ in range(counts.pop(0) - 1):
                new_ids += ids[place - 2 : place + 1]
                new_labels += labels[place - 2 : place + 1]
    return new_ids, new_labels


def _features(
    chunks: list[Tensor], collator: ArabicVoiceCloningTrainingCollator
) -> tuple[Tensor | None, Tensor | None]:
    if not chunks:
        return None, None
    found = [extract_features(collator.whisper_feature_extractor, [chunk]) for chunk in chunks]
    return torch.cat([features for features, _ in found]), torch.cat([mask for _, mask in found])


def _side_by_side(segments: list[Rows], num_codebooks: int) -> tuple[Tensor, Tensor]:
    rows: Rows = [[] for _ in range(num_codebooks)]
    starts = []
    for segment in segments:
        starts.append(len(rows[0]))
        for row, part in zip(rows, segment, strict=True):
            row += part
    return torch.tensor(rows, dtype=torch.long), torch.tensor(starts, dtype=torch.long)


def _padded(rows: Rows, width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])

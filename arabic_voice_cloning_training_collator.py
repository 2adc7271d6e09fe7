"""Collate samples into one batch: delay pattern, labels, padding. Audio labels are made only here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from boson_multimodal.audio_processing.clips import Waveform
from boson_multimodal.audio_processing.mel_features import MEL_SAMPLE_RATE, build_feature_extractor, extract_features
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns, build_audio_labels
from boson_multimodal.model.higgs_audio.packing import segment_lengths


@dataclass(frozen=True)
class HiggsAudioBatchInput:
    """One batch. Its fields are arguments of ``HiggsAudioModel.forward``.

    Attributes:
        input_ids, attention_mask, label_ids: (B, S), padded on the right to a multiple of 8.
        audio_features: (chunks, mel bins, frames) features of the references, chunk by chunk; None if there are none.
        audio_feature_attention_mask: (chunks, frames), 0 where silence pads a chunk.
        audio_in_ids, audio_in_ids_start: (K, columns) delayed codes of the references, and (references,) the first
            column of each; None if references are not given as codes.
        audio_out_ids, audio_out_ids_start: the same for the clips in assistant turns.
        audio_out_ids_start_group_loc: (clips in assistant turns,) index of each clip's sample in the batch.
        label_audio_ids: (K, columns) labels aligned with ``audio_out_ids``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    audio_features: Tensor | None
    audio_feature_attention_mask: Tensor | None
    audio_in_ids: Tensor | None
    audio_in_ids_start: Tensor | None
    audio_out_ids: Tensor
    audio_out_ids_start: Tensor
    audio_out_ids_start_group_loc: Tensor
    label_ids: Tensor
    label_audio_ids: Tensor

    def prompts(self) -> dict[str, Tensor | None]:
        """Return the fields that ``HiggsAudioModel.generate`` takes, by name."""
        left_out = ("label_ids", "label_audio_ids", "audio_out_ids_start_group_loc")
        return {name: value for name, value in vars(self).items() if name not in left_out}


class ArabicVoiceCloningTrainingCollator:
    """Collates samples into a :class:`HiggsAudioBatchInput`. It does not change the samples.

    Args:
        audio_in_token_id, audio_out_token_id: ids of ``<|AUDIO|>`` and ``<|AUDIO_OUT|>``.
        pad_token_id: fills ``input_ids``.
        audio_stream_bos_id, audio_stream_eos_id: the stream tokens of each codebook.
        audio_num_codebooks: K.
        use_delay_pattern: must be the setting that the checkpoint was trained with.
        return_audio_in_tokens: give references as codes.
        encode_whisper_embed: give references as features. A reference takes one slot for each of its chunks.
        whisper_feature_extractor: computes the features.
        chunk_size_seconds: length of a chunk, the audio that the audio tower reads in one pass.
        round_to: padded lengths are multiples of this.
    """

    def __init__(
        self,
        *,
        audio_in_token_id: int,
        audio_out_token_id: int,
        pad_token_id: int,
        audio_stream_bos_id: int,
        audio_stream_eos_id: int,
        audio_num_codebooks: int,
        use_delay_pattern: bool,
        return_audio_in_tokens: bool = True,
        encode_whisper_embed: bool = False,
        whisper_feature_extractor: WhisperFeatureExtractor | None = None,
        chunk_size_seconds: int = 30,
        round_to: int = 8,
    ) -> None:
        self.audio_in_token_id = audio_in_token_id
        self.audio_out_token_id = audio_out_token_id
        self.pad_token_id = pad_token_id
        self.audio_stream_bos_id = audio_stream_bos_id
        self.audio_stream_eos_id = audio_stream_eos_id
        self.audio_num_codebooks = audio_num_codebooks
        self.use_delay_pattern = use_delay_pattern
        self.return_audio_in_tokens = return_audio_in_tokens
        self.encode_whisper_embed = encode_whisper_embed
        self.whisper_feature_extractor = whisper_feature_extractor
        self.chunk_size_seconds = chunk_size_seconds
        self.round_to = round_to

    @classmethod
    def from_config(
        cls, config: HiggsAudioConfig, feature_extractor: WhisperFeatureExtractor | None = None
    ) -> "ArabicVoiceCloningTrainingCollator":
        """Return the collator for a checkpoint's configuration. ``feature_extractor`` replaces the default one."""
        features: dict[str, Any] = {}
        if config.reads_audio_features:
            extractor = feature_extractor or build_feature_extractor(config)
            features = {"whisper_feature_extractor": extractor, "chunk_size_seconds": extractor.chunk_length}
        return cls(
            audio_in_token_id=config.audio_in_token_idx,
            audio_out_token_id=config.audio_out_token_idx,
            pad_token_id=config.pad_token_id,
            audio_stream_bos_id=config.audio_stream_bos_id,
            audio_stream_eos_id=config.audio_stream_eos_id,
            audio_num_codebooks=config.audio_num_codebooks,
            use_delay_pattern=config.use_delay_pattern,
            return_audio_in_tokens=config.encode_audio_in_tokens,
            encode_whisper_embed=config.reads_audio_features,
            **features,
        )

    def __call__(self, samples: Sequence[ChatMLDatasetSample]) -> HiggsAudioBatchInput:
        """Collate at least one sample.

        Raises:
            ValueError: if the numbers of a sample's audio slots and clips differ, or its codes do not have K codebooks.
            InputError: if a reference is given as codes and as features, and it is longer than a chunk.
        """
        audio_in: list[Tensor] = []
        audio_out: list[Tensor] = []
        labels_out: list[Tensor] = []
        group_out: list[int] = []
        for index, sample in enumerate(samples):
            for codes, is_reference, is_trained in self._clips(sample):
                if is_reference and not self.return_audio_in_tokens:
                    continue
                columns = build_audio_columns(
                    codes, self.audio_stream_bos_id, self.audio_stream_eos_id, self.use_delay_pattern
                )
                if is_reference:
                    audio_in.append(columns)
                    continue
                labels = build_audio_labels(codes, self.audio_stream_eos_id, self.use_delay_pattern)
                audio_out.append(columns)
                labels_out.append(labels if is_trained else torch.full_like(labels, IGNORE_INDEX))
                group_out.append(index)

        chunks = [self._reference_chunks(sample) for sample in samples]
        orders = [self._repeat_slots(s.input_ids, [len(c) for c in cs]) for s, cs in zip(samples, chunks, strict=True)]
        input_ids = [sample.input_ids[order] for sample, order in zip(samples, orders, strict=True)]
        label_ids = [sample.label_ids[order] for sample, order in zip(samples, orders, strict=True)]
        label_ids = [labels.masked_fill(labels == self.audio_out_token_id, IGNORE_INDEX) for labels in label_ids]
        waveforms = [waveform for clips in chunks for clip in clips for waveform in clip]
        features, feature_mask = None, None
        if waveforms:
            features, feature_mask = extract_features(self.whisper_feature_extractor, waveforms)
        audio_in_ids, audio_in_ids_start = self._concatenate(audio_in)
        audio_out_ids, audio_out_ids_start = self._concatenate(audio_out)
        return HiggsAudioBatchInput(
            input_ids=self._pad(input_ids, self.pad_token_id),
            attention_mask=self._pad([torch.ones_like(ids) for ids in input_ids], 0),
            audio_features=features,
            audio_feature_attention_mask=feature_mask,
            audio_in_ids=audio_in_ids if self.return_audio_in_tokens else None,
            audio_in_ids_start=audio_in_ids_start if self.return_audio_in_tokens else None,
            audio_out_ids=audio_out_ids,
            audio_out_ids_start=audio_out_ids_start,
            audio_out_ids_start_group_loc=torch.tensor(group_out, dtype=torch.long),
            label_ids=self._pad(label_ids, IGNORE_INDEX),
            label_audio_ids=self._concatenate(labels_out)[0],
        )

    def _reference_chunks(self, sample: ChatMLDatasetSample) -> list[tuple[Tensor, ...]]:
        """Return the chunks of each reference's waveform, or an empty list if the model takes no features."""
        is_in = sample.input_ids == self.audio_in_token_id
        if not self.encode_whisper_embed or not is_in.any():
            return []
        if sample.audio_waveforms_concat is None:
            raise ValueError("a sample has references but no waveforms to compute features from")
        is_reference = is_in[is_in | (sample.input_ids == self.audio_out_token_id)].tolist()
        lengths = segment_lengths(sample.audio_waveforms_concat.numel(), sample.audio_waveforms_start)
        if lengths.numel() != len(is_reference):
            raise ValueError(f"a sample has {len(is_reference)} audio slots but {lengths.numel()} waveforms")
        waveforms = sample.audio_waveforms_concat.split(lengths.tolist())
        clips = zip(waveforms, sample.audio_sample_rate.tolist(), is_reference, strict=True)
        references = [Waveform(w, rate).resampled(MEL_SAMPLE_RATE) for w, rate, wanted in clips if wanted]
        chunks = [reference.split(self.chunk_size_seconds * MEL_SAMPLE_RATE) for reference in references]
        if self.return_audio_in_tokens and any(len(clip) > 1 for clip in chunks):
            longest = max(reference.numel() for reference in references) / MEL_SAMPLE_RATE
            raise InputError(
                f"a reference of {longest:g} s is given as codes and as features: the audio tower reads "
                f"{self.chunk_size_seconds} s at once, and codes cannot be split into chunks; cut the clip"
            )
        return chunks

    def _repeat_slots(self, input_ids: Tensor, counts: Sequence[int]) -> list[int]:
        """Return the indices of a sample's ids that give each reference as many slots as it has chunks.

        A slot is ``<|audio_bos|><|AUDIO|><|audio_eos|>``; all three are repeated, as in the original. Without features
        ``counts`` is empty, and no slot is repeated.
        """
        order: list[int] = []
        done = 0
        slots = (input_ids == self.audio_in_token_id).nonzero().squeeze(-1).tolist()
        for slot, count in zip(slots, counts, strict=False):
            order += [*range(done, slot + 2), *[slot - 1, slot, slot + 1] * (count - 1)]
            done = slot + 2
        return [*order, *range(done, input_ids.numel())]

    def _clips(self, sample: ChatMLDatasetSample) -> list[tuple[Tensor, bool, bool]]:
        """Return (codes, is a reference, is trained) of each clip of a sample, in the order of the slots."""
        is_in = sample.input_ids == self.audio_in_token_id
        is_slot = is_in | (sample.input_ids == self.audio_out_token_id)
        lengths = segment_lengths(sample.audio_ids_concat.shape[1], sample.audio_ids_start)
        slots = int(is_slot.sum())
        if slots != lengths.numel():
            raise ValueError(f"a sample has {slots} audio slots but {lengths.numel()} clips")
        if lengths.numel() and sample.audio_ids_concat.shape[0] != self.audio_num_codebooks:
            raise ValueError(
                f"a sample's codes have {sample.audio_ids_concat.shape[0]} codebooks, not {self.audio_num_codebooks}"
            )
        codes = sample.audio_ids_concat.split(lengths.tolist(), dim=1)
        trained = sample.label_ids[is_slot] == self.audio_out_token_id
        return list(zip(codes, is_in[is_slot].tolist(), trained.tolist(), strict=True))

    def _concatenate(self, segments: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the segments side by side, (K, columns), and the first column of each, (segments,)."""
        if not segments:
            return torch.zeros((self.audio_num_codebooks, 0), dtype=torch.long), torch.zeros(0, dtype=torch.long)
        lengths = torch.tensor([segment.shape[1] for segment in segments])
        return torch.cat(segments, dim=1), lengths.cumsum(0) - lengths

    def _pad(self, rows: list[Tensor], value: int) -> Tensor:
        longest = max(row.numel() for row in rows)
        padded = rows[0].new_full((len(rows), -(-longest // self.round_to) * self.round_to), value)
        for target, row in zip(padded, rows, strict=True):
            target[: row.numel()] = row
        return padded

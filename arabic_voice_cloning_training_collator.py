"""Collate samples into one batch: delay pattern, labels, padding. Audio labels are made only here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from boson_multimodal.audio_processing.clips import Waveform
from boson_multimodal.audio_processing.mel_features import MEL_SAMPLE_RATE, build_feature_extractor, extract_features
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns, build_audio_labels, columns_of
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


@dataclass(frozen=True)
class ClipsOfBatch:
    """Clips of the samples of a batch, side by side in the order of their slots.

    Attributes:
        codes_KT: (K, sum of T) codes.
        frames: (clips,) number of frames of each clip.
        sample: (clips,) index of its sample in the batch.
        is_reference: (clips,) whether its slot is ``<|AUDIO|>``.
        is_trained: (clips,) whether it has labels.
    """

    codes_KT: Tensor
    frames: Tensor
    sample: Tensor
    is_reference: Tensor
    is_trained: Tensor

    def select(self, wanted: Tensor) -> "ClipsOfBatch":
        """Return the clips for which ``wanted``, (clips,), is true."""
        rest = (self.frames[wanted], self.sample[wanted], self.is_reference[wanted], self.is_trained[wanted])
        frame = wanted.repeat_interleave(self.frames).nonzero().squeeze(1)
        # Many times faster than self.codes_KT[:, frame].
        return ClipsOfBatch(self.codes_KT.gather(1, frame.expand(self.codes_KT.shape[0], -1)), *rest)


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
            ValueError: if a sample's audio slots and clips, or its ids and labels, differ in number; if its codes do
                not have K codebooks, or its clips do not divide its frames.
            InputError: if a reference is given as codes and as features, and it is longer than a chunk.
        """
        input_ids, label_ids = self._texts(samples)
        clips = self._lay_out_clips(samples, input_ids, label_ids)
        references, targets = clips.select(clips.is_reference), clips.select(~clips.is_reference)
        features, feature_mask = None, None
        if self.encode_whisper_embed:
            chunks = [self._reference_chunks(sample) for sample in samples]
            samples = [self._repeat_slots(s, [len(c) for c in cs]) for s, cs in zip(samples, chunks, strict=True)]
            input_ids, label_ids = self._texts(samples)
            waveforms = [waveform for of_sample in chunks for clip in of_sample for waveform in clip]
            if waveforms:
                features, feature_mask = extract_features(self.whisper_feature_extractor, waveforms)
        lengths = torch.tensor([sample.input_ids.numel() for sample in samples])
        return HiggsAudioBatchInput(
            input_ids=input_ids,
            attention_mask=(torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            audio_features=features,
            audio_feature_attention_mask=feature_mask,
            audio_in_ids=self._columns(references) if self.return_audio_in_tokens else None,
            audio_in_ids_start=self._first_columns(references) if self.return_audio_in_tokens else None,
            audio_out_ids=self._columns(targets),
            audio_out_ids_start=self._first_columns(targets),
            audio_out_ids_start_group_loc=targets.sample,
            label_ids=label_ids.masked_fill(label_ids == self.audio_out_token_id, IGNORE_INDEX),
            label_audio_ids=self._labels(targets),
        )

    def _texts(self, samples: Sequence[ChatMLDatasetSample]) -> tuple[Tensor, Tensor]:
        """Return the padded token ids and labels of samples, (B, S) each. Trained slots still have their label."""
        ids = self._pad([sample.input_ids for sample in samples], self.pad_token_id)
        return ids, self._pad([sample.label_ids for sample in samples], IGNORE_INDEX)

    def _pad(self, rows: list[Tensor], value: int) -> Tensor:
        padded = pad_sequence(rows, batch_first=True, padding_value=value).long()
        return functional.pad(padded, (0, -padded.shape[1] % self.round_to), value=value)

    def _lay_out_clips(
        self, samples: Sequence[ChatMLDatasetSample], input_ids: Tensor, label_ids: Tensor
    ) -> ClipsOfBatch:
        """Lay the clips of all samples side by side. Their slots in the (B, S) ids say what they are."""
        is_reference = input_ids == self.audio_in_token_id
        is_slot = is_reference | (input_ids == self.audio_out_token_id)
        slots = is_slot.sum(dim=1).tolist()
        frames = [count for sample, n in zip(samples, slots, strict=True) for count in self._frames(sample, n)]
        codes = [sample.audio_ids_concat for sample in samples if sample.audio_ids_start.numel()]
        no_codes = torch.zeros((self.audio_num_codebooks, 0), dtype=torch.long)
        return ClipsOfBatch(
            codes_KT=torch.cat([no_codes, *codes], dim=1),
            frames=torch.tensor(frames, dtype=torch.long),
            sample=is_slot.nonzero()[:, 0],
            is_reference=is_reference[is_slot],
            is_trained=label_ids[is_slot] == self.audio_out_token_id,
        )

    def _frames(self, sample: ChatMLDatasetSample, slots: int) -> list[int]:
        """Return the number of frames of each clip of a sample with this number of audio slots."""
        starts = sample.audio_ids_start.tolist()
        codebooks, total = sample.audio_ids_concat.shape
        if slots != len(starts):
            raise ValueError(f"a sample has {slots} audio slots but {len(starts)} clips")
        if starts and codebooks != self.audio_num_codebooks:
            raise ValueError(f"a sample's codes have {codebooks} codebooks, not {self.audio_num_codebooks}")
        if sample.label_ids.numel() != sample.input_ids.numel():
            raise ValueError(f"a sample has {sample.input_ids.numel()} ids but {sample.label_ids.numel()} labels")
        frames = [end - start for start, end in pairwise([*starts, total])]
        if sum(frames) != total or min(frames, default=0) < 0:
            raise ValueError(f"a sample has codes of {total} frames, but its clips start at frames {starts}")
        return frames

    def _columns(self, clips: ClipsOfBatch) -> Tensor:
        """Return the input columns of clips, (K, columns)."""
        stream_ids = self.audio_stream_bos_id, self.audio_stream_eos_id
        return build_audio_columns(clips.codes_KT, *stream_ids, self.use_delay_pattern, clips.frames)

    def _labels(self, clips: ClipsOfBatch) -> Tensor:
        """Return the labels of clips, (K, columns); ``IGNORE_INDEX`` in all columns of a clip that is not trained."""
        labels = build_audio_labels(clips.codes_KT, self.audio_stream_eos_id, self.use_delay_pattern, clips.frames)
        is_trained = clips.is_trained.repeat_interleave(self._column_counts(clips))
        return labels.masked_fill(~is_trained, IGNORE_INDEX)

    def _column_counts(self, clips: ClipsOfBatch) -> Tensor:
        return columns_of(clips.frames, self.audio_num_codebooks, self.use_delay_pattern)

    def _first_columns(self, clips: ClipsOfBatch) -> Tensor:
        columns = self._column_counts(clips)
        return columns.cumsum(0) - columns

    def _reference_chunks(self, sample: ChatMLDatasetSample) -> list[tuple[Tensor, ...]]:
        """Return the chunks of the waveform of each reference, to compute features from."""
        is_in = sample.input_ids == self.audio_in_token_id
        if not is_in.any():
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

    def _repeat_slots(self, sample: ChatMLDatasetSample, counts: Sequence[int]) -> ChatMLDatasetSample:
        """Return a sample in which each reference has as many slots as it has chunks.

        A slot is ``<|audio_bos|><|AUDIO|><|audio_eos|>``; all three are repeated, as in the original.
        """
        order: list[int] = []
        done = 0
        slots = (sample.input_ids == self.audio_in_token_id).nonzero().squeeze(-1).tolist()
        for slot, count in zip(slots, counts, strict=True):
            order += [*range(done, slot + 2), *[slot - 1, slot, slot + 1] * (count - 1)]
            done = slot + 2
        order += range(done, sample.input_ids.numel())
        return replace(sample, input_ids=sample.input_ids[order], label_ids=sample.label_ids[order])

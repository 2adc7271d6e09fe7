"""Samples -> one batch: delay pattern, labels, padding. The only place where labels are made."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns, build_audio_labels
from boson_multimodal.model.higgs_audio.packing import segment_lengths


@dataclass(frozen=True)
class ChatMLDatasetSample:
    """One sample before padding. Field names are the original's.

    Attributes:
        input_ids: (S,) token ids, one id per audio clip.
        label_ids: (S,) text labels; ``<|AUDIO_OUT|>`` as its own label marks a trained clip.
        audio_ids_concat: (K, sum of T) codes of all clips, in order of their slots.
        audio_ids_start: (clips,) first frame of each.
    """

    input_ids: Tensor
    label_ids: Tensor
    audio_ids_concat: Tensor
    audio_ids_start: Tensor


@dataclass(frozen=True)
class HiggsAudioBatchInput:
    """One batch, named as ``HiggsAudioModel.forward`` takes it.

    Attributes:
        input_ids, attention_mask, label_ids: (B, S), padded on the right to a multiple of 8.
        audio_in_ids, audio_in_ids_start: (K, columns) delayed codes of the references and where each begins; None
            where references are not given as codes.
        audio_out_ids, audio_out_ids_start: the same for the clips in assistant turns.
        audio_out_ids_start_group_loc: the sample of each of those.
        label_audio_ids: (K, columns) labels aligned with ``audio_out_ids``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    audio_in_ids: Tensor | None
    audio_in_ids_start: Tensor | None
    audio_out_ids: Tensor
    audio_out_ids_start: Tensor
    audio_out_ids_start_group_loc: Tensor
    label_ids: Tensor
    label_audio_ids: Tensor


class ArabicVoiceCloningTrainingCollator:
    """Builds a :class:`HiggsAudioBatchInput`; samples are left as they were.

    Args:
        audio_in_token_id, audio_out_token_id: ids of ``<|AUDIO|>`` and ``<|AUDIO_OUT|>``.
        pad_token_id: fills ``input_ids``.
        audio_stream_bos_id, audio_stream_eos_id: the stream tokens of each codebook.
        audio_num_codebooks: K.
        use_delay_pattern: must be what the checkpoint was trained with.
        return_audio_in_tokens: give references as codes.
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
        self.round_to = round_to

    @classmethod
    def from_config(cls, config: HiggsAudioConfig) -> "ArabicVoiceCloningTrainingCollator":
        """The collator that a checkpoint's configuration asks for."""
        return cls(
            audio_in_token_id=config.audio_in_token_idx,
            audio_out_token_id=config.audio_out_token_idx,
            pad_token_id=config.pad_token_id,
            audio_stream_bos_id=config.audio_stream_bos_id,
            audio_stream_eos_id=config.audio_stream_eos_id,
            audio_num_codebooks=config.audio_num_codebooks,
            use_delay_pattern=config.use_delay_pattern,
            return_audio_in_tokens=config.encode_audio_in_tokens,
        )

    def __call__(self, samples: Sequence[ChatMLDatasetSample]) -> HiggsAudioBatchInput:
        """Collate at least one sample.

        Raises:
            ValueError: if a sample's audio slots and clips differ in number, or its codes have another K.
        """
        audio_in: list[Tensor] = []
        audio_out: list[Tensor] = []
        labels_out: list[Tensor] = []
        group_out: list[int] = []
        for index, sample in enumerate(samples):
            for codes, is_reference, is_trained in self._clips(sample):
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

        label_ids = [s.label_ids.masked_fill(s.label_ids == self.audio_out_token_id, IGNORE_INDEX) for s in samples]
        audio_in_ids, audio_in_ids_start = self._concatenate(audio_in)
        audio_out_ids, audio_out_ids_start = self._concatenate(audio_out)
        return HiggsAudioBatchInput(
            input_ids=self._pad([s.input_ids for s in samples], self.pad_token_id),
            attention_mask=self._pad([torch.ones_like(s.input_ids) for s in samples], 0),
            audio_in_ids=audio_in_ids if self.return_audio_in_tokens else None,
            audio_in_ids_start=audio_in_ids_start if self.return_audio_in_tokens else None,
            audio_out_ids=audio_out_ids,
            audio_out_ids_start=audio_out_ids_start,
            audio_out_ids_start_group_loc=torch.tensor(group_out, dtype=torch.long),
            label_ids=self._pad(label_ids, IGNORE_INDEX),
            label_audio_ids=self._concatenate(labels_out)[0],
        )

    def _clips(self, sample: ChatMLDatasetSample) -> list[tuple[Tensor, bool, bool]]:
        """(codes, is a reference, is trained) of each clip of a sample, in order of its slots."""
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
        """Segments side by side, (K, columns), and the first column of each."""
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

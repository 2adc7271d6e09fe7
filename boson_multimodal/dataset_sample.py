"""One sample of token ids and codes, which the dataset makes and the collator takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.audio_processing.mel_features import MEL_SAMPLE_RATE


@dataclass(frozen=True)
class ChatMLDatasetSample:
    """One sample before padding. The field names are those of the original.

    Ids, labels, codes and starts may be of any integer type; the collator makes int64 of them.

    Attributes:
        input_ids: (S,) token ids, one id per audio clip.
        label_ids: (S,) text labels. A label ``<|AUDIO_OUT|>`` marks a trained clip.
        audio_ids_concat: (K, sum of T) codes of all clips, in the order of their slots. A reference that is not given
            as codes has 0 frames.
        audio_ids_start: (clips,) first frame of each clip.
        audio_waveforms_concat: (samples,) waveforms of all clips in the same order, or None if no clip is given as
            features. Only the waveforms of references are read, and the others may be empty.
        audio_waveforms_start: (clips,) first waveform sample of each clip.
        audio_sample_rate: (clips,) samples per second of each clip.
    """

    input_ids: Tensor
    label_ids: Tensor
    audio_ids_concat: Tensor
    audio_ids_start: Tensor
    audio_waveforms_concat: Tensor | None = None
    audio_waveforms_start: Tensor | None = None
    audio_sample_rate: Tensor | None = None

    @classmethod
    def of_clips(
        cls,
        input_ids: Sequence[int],
        label_ids: Sequence[int],
        codes: Sequence[Tensor | None],
        waveforms: Sequence[Tensor] | None,
        num_codebooks: int,
    ) -> "ChatMLDatasetSample":
        """Concatenate the clips of a sample, in the order of their slots.

        Args:
            codes: (K, T) codes of each clip, or None for a clip that is not given as codes.
            waveforms: result of ``ReferenceForm.waveforms`` for the clips.
        """
        no_codes = torch.zeros((num_codebooks, 0), dtype=torch.long)
        given = [no_codes if c is None else c for c in codes]
        fields = {}
        if waveforms is not None:
            samples = torch.tensor([waveform.numel() for waveform in waveforms], dtype=torch.long)
            fields["audio_waveforms_concat"] = torch.cat([torch.zeros(0), *waveforms])
            fields["audio_waveforms_start"] = samples.cumsum(0) - samples
            fields["audio_sample_rate"] = torch.full_like(samples, MEL_SAMPLE_RATE)
        frames = torch.tensor([c.shape[1] for c in given], dtype=torch.long)
        return cls(
            input_ids=torch.tensor(input_ids),
            label_ids=torch.tensor(label_ids),
            audio_ids_concat=torch.cat([no_codes, *given], dim=1),
            audio_ids_start=frames.cumsum(0) - frames,
            **fields,
        )

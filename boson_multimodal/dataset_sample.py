"""One sample of token ids and codes, as a dataset gives it and a collator takes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.audio_processing.mel_features import MEL_SAMPLE_RATE


@dataclass(frozen=True)
class ChatMLDatasetSample:
    """One sample before padding. Field names are the original's.

    Attributes:
        input_ids: (S,) token ids, one id per audio clip.
        label_ids: (S,) text labels; ``<|AUDIO_OUT|>`` as its own label marks a trained clip.
        audio_ids_concat: (K, sum of T) codes of all clips, in order of their slots; none for a reference that is not
            given as codes.
        audio_ids_start: (clips,) first frame of each.
        audio_waveforms_concat: (samples,) waveforms of all clips in the same order, None where no clip is given as
            features; only those of references are read, and the others may be empty.
        audio_waveforms_start: (clips,) first sample of each.
        audio_sample_rate: (clips,) samples per second of each.
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
        """Put the clips of a sample side by side, in order of their slots.

        Args:
            codes: (K, T) codes of each clip; None for one that is not given as codes.
            waveforms: what ``ReferenceForm.waveforms`` makes of them.
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

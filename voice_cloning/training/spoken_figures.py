"""Figures of spoken clips that need no further model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SpokenClip:
    """One clip that a model spoke, judged without a further model."""

    sample: str
    text: str
    characters: int
    ended: bool
    frames: int
    true_frames: int | None
    repeated_frames: int
    silent_frames: int | None
    seed: int


def measure_clip(
    sample: str,
    text: str,
    codes_KT: Tensor,
    *,
    ended: bool,
    true_frames: int | None,
    seed: int,
    samples: Tensor | None = None,
    sampling_rate: int | None = None,
) -> SpokenClip:
    """Measure one spoken clip."""
    return SpokenClip(
        sample=sample,
        text=text,
        characters=sum(character.isalnum() for character in text),
        ended=ended,
        frames=codes_KT.shape[1],
        true_frames=true_frames,
        repeated_frames=int((codes_KT[:, 1:] == codes_KT[:, :-1]).all(dim=0).sum()),
        silent_frames=None if samples is None else 0,
        seed=seed,
    )


def spoken_figures(clips: Sequence[SpokenClip], frames_per_second: float) -> dict[str, float]:
    """Return the figures of a set of spoken clips, by their names in ``metrics.jsonl``."""
    known = [clip.frames / clip.true_frames for clip in clips if clip.true_frames]
    return {
        "spoken_clips": len(clips),
        "spoken_stop_rate": sum(clip.ended for clip in clips) / len(clips),
        "spoken_length_ratio": float(np.median(known)),
    }

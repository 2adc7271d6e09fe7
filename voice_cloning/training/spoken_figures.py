"""Stand-in until the part that owns this module is merged."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SpokenClip:
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
    repeated = int((codes_KT[:, 1:] == codes_KT[:, :-1]).all(0).sum())
    return SpokenClip(
        sample=sample,
        text=text,
        characters=sum(map(str.isalpha, text)),
        ended=ended,
        frames=codes_KT.shape[1],
        true_frames=true_frames,
        repeated_frames=repeated,
        silent_frames=None if samples is None else 0,
        seed=seed,
    )

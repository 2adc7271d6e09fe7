"""Figures of spoken clips that need no further model: do clips end, how long are they, do they repeat or fall silent.

All functions are pure. ``docs/figures.md`` says what each figure means.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from boson_multimodal.audio_processing.repeated_codes import repeated_frames
from boson_multimodal.audio_processing.silence import frame_levels, silence, silence_threshold
from boson_multimodal.audio_processing.sound_levels import is_silent
from boson_multimodal.errors import InputError

TATWEEL = "\u0640"
LOUD_FRAMES = 10
"""The loudest 0.2 s of a clip are taken for speech: a clip that never ends can be silent in 95 % of its frames."""


@dataclass(frozen=True, kw_only=True)
class SpokenClip:
    """One clip that a model spoke, judged without a further model.

    Attributes:
        sample: id of the sample.
        text: the text that it was to speak.
        characters: letters and digits of the text (:func:`spoken_characters`).
        ended: whether the model ended the clip by itself, within the cap.
        frames: T, the frames of the clip; those up to the cap if it did not end.
        true_frames: frames of the true recording; None if there is none.
        repeated_frames: frames that equal the frame before or lie in a loop
            (``boson_multimodal.audio_processing.repeated_codes``).
        silent_frames: frames in silences of 0.2 s or more; None if no waveform was decoded.
        seed: the seed of the clip.
    """

    sample: str
    text: str
    characters: int
    ended: bool
    frames: int
    true_frames: int | None
    repeated_frames: int
    silent_frames: int | None
    seed: int


def spoken_characters(text: str) -> int:
    """Return the number of letters and digits in a text.

    Spaces, punctuation, symbols, vowel marks and other combining marks, tatweel and invisible characters do not count.
    A ligature counts as its letters.
    """
    plain = unicodedata.normalize("NFKC", text)
    return sum(character != TATWEEL and unicodedata.category(character)[0] in "LN" for character in plain)


def measure_clip(
    sample: str,
    text: str,
    codes_KT: Tensor | np.ndarray,
    *,
    ended: bool,
    true_frames: int | None,
    seed: int,
    samples: Tensor | np.ndarray | None = None,
    sampling_rate: int | None = None,
) -> SpokenClip:
    """Measure one spoken clip.

    Args:
        sample, text, ended, true_frames, seed: see :class:`SpokenClip`.
        codes_KT: (K, T) codes of the clip without delay pattern, on any device; T may be 0.
        samples: (samples,) the decoded waveform, if there is one; full scale is 1.
        sampling_rate: the sampling rate of ``samples`` in Hz.

    Raises:
        InputError: if a shape, ``true_frames`` or ``sampling_rate`` is wrong.
    """
    codes = torch.as_tensor(codes_KT).cpu().numpy()
    if codes.ndim != 2:
        raise InputError(f"sample {sample!r}: codes have the shape {codes.shape}; they must be (codebooks, frames)")
    if true_frames is not None and true_frames < 1:
        raise InputError(f"sample {sample!r}: true_frames is {true_frames}; a recording has at least 1, or give None")
    frames = codes.shape[1]
    return SpokenClip(
        sample=sample,
        text=text,
        characters=spoken_characters(text),
        ended=ended,
        frames=frames,
        true_frames=true_frames,
        repeated_frames=int(repeated_frames(codes).sum()),
        silent_frames=None if samples is None else _silent_frames(sample, samples, sampling_rate, frames),
        seed=seed,
    )


def spoken_figures(clips: Sequence[SpokenClip], frames_per_second: float) -> dict[str, float]:
    """Return the figures of a set of spoken clips, by their names in ``metrics.jsonl``.

    A figure that nothing is known about is absent: all but ``spoken_clips`` without clips, those with frames if no clip
    has a frame, the silent share without waveforms, length ratio and true speed without true recordings.

    Returns:
        spoken_clips: the number of clips.
        spoken_stop_rate: share of clips that ended by themselves.
        spoken_length_ratio, spoken_length_ratio_p5, spoken_length_ratio_p95: median, 5th and 95th percentile (linear,
            as in numpy) of frames over true frames. Clips that did not end count with the frames up to the cap.
        spoken_repeated_share, spoken_silent_share: share of repeated and of silent frames among all frames of all clips
            (the second: among those with a waveform).
        spoken_characters_per_second: characters of all clips over the seconds of all clips.
        true_characters_per_second: the same of the true recordings, over clips that have one.
    """
    figures: dict[str, float] = {"spoken_clips": len(clips)}
    if not clips:
        return figures
    figures["spoken_stop_rate"] = sum(clip.ended for clip in clips) / len(clips)
    known = [clip for clip in clips if clip.true_frames is not None]
    if known:
        low, median, high = np.percentile([clip.frames / clip.true_frames for clip in known], [5, 50, 95]).tolist()
        figures["spoken_length_ratio"] = median
        figures |= {"spoken_length_ratio_p5": low, "spoken_length_ratio_p95": high}
        true_seconds = sum(clip.true_frames for clip in known) / frames_per_second
        figures["true_characters_per_second"] = sum(clip.characters for clip in known) / true_seconds
    if frames := sum(clip.frames for clip in clips):
        figures["spoken_repeated_share"] = sum(clip.repeated_frames for clip in clips) / frames
        figures["spoken_characters_per_second"] = sum(clip.characters for clip in clips) * frames_per_second / frames
    heard = [clip for clip in clips if clip.silent_frames is not None]
    if frames := sum(clip.frames for clip in heard):
        figures["spoken_silent_share"] = sum(clip.silent_frames for clip in heard) / frames
    return figures


def _silent_frames(sample: str, samples: Tensor | np.ndarray, sampling_rate: int | None, frames: int) -> int:
    """Return how many of the frames lie in silences of 0.2 s or more, rounded."""
    wave = torch.as_tensor(samples).float().cpu().numpy()
    if wave.ndim != 1 or sampling_rate is None or sampling_rate < 1:
        raise InputError(
            f"sample {sample!r}: a waveform of the shape {wave.shape} at {sampling_rate} Hz; it must be "
            "(samples,), with its sampling rate"
        )
    if not len(wave):
        return 0
    if is_silent(wave):
        return frames
    levels = frame_levels(wave, sampling_rate)
    loud = np.percentile(levels, 95), np.sort(levels)[-min(LOUD_FRAMES, len(levels))]
    return round(silence(levels, silence_threshold(levels, float(max(loud))))[2] * frames)

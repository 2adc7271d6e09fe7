"""Finds clips that share codes: overlapping cuts of one recording, and clips with a passage of equal codes."""

from collections import defaultdict
from collections.abc import Mapping

from boson_multimodal.audio_processing.sound_files import Clip
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.code_measures import CodedClip, shared_frames
from voice_cloning.data_check.same_clips import SameClips, overlapping
from voice_cloning.data_check.same_speech import SAME_SPEECH_SHARE, candidate_pairs

EQUAL_FRAMES = 3
"""Frames with equal codes at one time difference from which two clips are compared. Among 3,658 different clips of real
speech, 1,747 pairs had at least two such frames, and all of these had at least five."""


def add_same_codes(same: SameClips, measures: Mapping[Clip, ClipMeasures]) -> None:
    """Add the pairs of coded clips that share ``SAME_SPEECH_SHARE`` of the frames of the shorter one.

    Frames that equal the frame before them are not counted, because digital silence is equal in many clips. Two
    encodings of one recording have few equal frames if it was cut, resampled or made louder in between; these are not
    found here.
    """
    clips = [clip for clip in same.groups() if isinstance(clip, CodedClip) and measures[clip].codes]
    by_recording = defaultdict(list)
    for clip in clips:
        by_recording[clip.recording].append((clip, clip.start, measures[clip].seconds))
    for cuts in by_recording.values():
        for one, other, seconds in overlapping(cuts):
            same.add(one, other, f"cuts of one recording, which share {seconds:.1f} s")
    prints = [measures[clip].codes.fingerprint for clip in clips]
    for i, j in dict.fromkeys((i, j) for i, j, _ in candidate_pairs(prints, EQUAL_FRAMES)):
        share, later = shared_frames(prints[i], prints[j])
        if share >= SAME_SPEECH_SHARE:
            frames = sorted((measures[clips[i]].codes.frames, measures[clips[j]].codes.frames))
            how = f"the same codes ({100 * share:.0f} % of the frames of one of them)"
            if share == 1 and later == 0 and frames[0] < frames[1]:
                how = f"the same codes: {frames[0]} frames are the beginning of {frames[1]}"
            same.add(clips[i], clips[j], how, is_part=share == 1 and frames[0] < frames[1])

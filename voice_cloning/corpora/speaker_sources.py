"""Says who speaks: the label in a column, or, where none is named, the video, file, folder or name of a clip.

A label such as ``Speaker1`` names a voice within its recording only. A label such as ``Unknown`` names no voice at all.
"""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from voice_cloning.corpora.cell_values import MISSING_VALUES, WrongValue, shown
from voice_cloning.corpora.source_files import first_part, name_of, stem_of
from voice_cloning.corpora.utterances import ONE_SPEAKER

SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker", "speaker_name", "spk_id", "spk", "speaker_label")
VIDEO_COLUMNS = ("video_id", "videoid", "video", "youtube_id", "youtubeid", "yt_id", "ytid", "vid")
FOLDER, NAME, VIDEO, FILE, COLUMN, CLUSTER = "folder", "name", "video", "file", "column", "cluster"
PLACES = {
    ONE_SPEAKER: "one voice for all",
    FOLDER: "the name of the clip's folder",
    NAME: "the part of the clip's name before the first _ or -",
    VIDEO: "the id of the video, which stands for its voice",
    FILE: "the audio file, which stands for its voice",
    CLUSTER: "the sound of the voice",
}
"""Values of ``--speaker_from`` that are no column, and what they mean. ``COLUMN`` asks for a column of a usual name.

With ``CLUSTER``, the speaker of all utterances is ``CLUSTER`` until they are grouped by their voices.
"""
SEVERAL, UNKNOWN = "segments of several speakers", "segments of an unknown speaker"

_SEVERAL = re.compile(
    "more than (?:1|one|a) speaker|(?:multiple|several|many|mixed|various) (?:speaker|voice)|multi-?speaker"
    "|[أا]كثر من متحدث|^(?:multiple|mixed|متعدد(?:ون|ين)?)$"
)
_NOBODY = "unknown(?: speaker)?|unk|not ?applicable|غير معروف|غير محدد|مجهول"
_UNKNOWN = re.compile(rf"(?:{_NOBODY})(?:[\s()/_-]+(?:{_NOBODY}))*\)?")
_WITHIN_A_FILE = re.compile("(?:speaker|spk|spkr|voice|متحدث)[ _-]*[0-9]{1,3}[ _-]*(?:speaker|متحدث)?")
_VIDEO_ID = "[A-Za-z0-9_-]{11}"
"""The id of a video of YouTube."""


class NotOneVoice(WrongValue):
    """An utterance is of several speakers, or of nobody in particular. Attribute ``reason`` calls such utterances."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def label_of(value: Any, column: str) -> str:
    """Return the speaker that a cell names; an empty string if it names none (also null and NaN).

    Raises:
        WrongValue: if the value is neither a string nor a whole number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongValue(f"{column} must be a name or a whole number, not {shown(value)}")
    name = str(value).strip()
    return "" if name.casefold() in MISSING_VALUES else name


def check_is_one_voice(value: Any, column: str) -> None:
    """Check that what a column says about the speaker does not say that there are several.

    Raises:
        NotOneVoice: if it does.
    """
    if isinstance(value, str) and _SEVERAL.search(value.strip().casefold()):
        raise NotOneVoice(SEVERAL, f"column {column} is {value!r}: the segment has several voices")


def check_is_known(label: str, column: str) -> None:
    """Check that a label names somebody.

    Raises:
        NotOneVoice: if it is a word for an unknown speaker.
    """
    if _UNKNOWN.fullmatch(label.casefold()):
        raise NotOneVoice(UNKNOWN, f"column {column} is {label!r}, which names no voice")


def is_label_within_a_file(label: str) -> bool:
    """Return whether a label is one that programs count anew in each recording, such as ``SPEAKER_00``."""
    return _WITHIN_A_FILE.fullmatch(label.casefold()) is not None


def recording_of(value: Any) -> str:
    """Return the recording that a file's name, or the id of a segment such as ``EPISODE-seg_1_5``, holds."""
    return name_of(str(value or "").strip().replace("\\", "/")).split("-seg_")[0]


def speaker_at(place: str, audio: str, video: str = "") -> str:
    """Return the speaker for a value of ``--speaker_from`` that is no column.

    Args:
        audio: the name of the audio file, as its table writes it.
        video: the id in the column of the videos; empty if there is none.

    Raises:
        WrongValue: if the name of a clip holds no id of a video.
    """
    name = audio.replace("\\", "/")
    if place == VIDEO:
        return video or video_in(name)
    return {
        FOLDER: PurePosixPath(name).parent.name,
        NAME: first_part(name),
        FILE: name_of(name),
        CLUSTER: CLUSTER,
    }.get(place, ONE_SPEAKER)


def video_in(audio: str) -> str:
    """Return the id of a video in the name of a clip, such as ``VIDEOID_0001.wav`` or ``NUMBER_VIDEOID.wav``.

    An id has 11 characters, and may hold ``-`` and ``_``.

    Raises:
        WrongValue: if the name holds none.
    """
    stem = stem_of(audio)
    without_numbers = re.sub(r"(?:[_-][0-9]+(?:\.[0-9]+)?)+$", "", stem)
    found = (
        re.match(rf"({_VIDEO_ID})(?:[_.-]|$)", stem)
        or re.search(rf"(?:^|[_-])({_VIDEO_ID})$", without_numbers)
        or re.search(rf"(?:^|[_-])({_VIDEO_ID})$", stem)
    )
    if found is None:
        raise WrongValue(
            f"{stem!r} holds no id of a video (11 characters at its start or end); give --speaker_from file, folder "
            "or name"
        )
    return found[1]


def speaker_choices(has_cuts: bool) -> str:
    """Return which values of ``--speaker_from`` suit a table that names no speaker, and why."""
    file = "file if each recording that is cut here is one voice" if has_cuts else "file if each file is one voice"
    return (
        "one for a single voice, folder for the clip's folder, name for the first part of its name, video if its name "
        f"holds the id of a video, {file}, cluster to group the clips by voice"
    )

"""Read the frames of MPEG audio, whose length no header states for certain.

A decoder takes the length from a Xing or Info frame at the start. Files that were written to a pipe have none, and the
decoder then guesses from the first frame. Joined files have several, and the decoder stops at the length of the first.
Here every frame is counted, and each part gets a frame that states its true length.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from boson_multimodal.audio_processing.audio_errors import IncompleteSound

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Version bits -> samples per second by the rate bits."""
_LOW_LAYER_2_3 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KILOBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW_LAYER_2_3,
    (False, 3): _LOW_LAYER_2_3,
}
"""(whether the version is 1, layer) -> kilobits per second by the bits 1 to 14."""
MONO = 3
LENGTH_NAMES = (b"Xing", b"Info")
FRAMES_STATED, BYTES_STATED = 1, 2
"""Bits in the flags of a Xing or Info frame."""
VBRI_AT = 36
"""Offset of the name VBRI in a frame of Fraunhofer's encoder that states a length."""
ID3V1_BYTES = 128
FRAMES_BEFORE = 10
"""Frames that may hold bits of a later frame."""
DECODER_DELAY = 529
"""Samples that libsndfile's decoder leaves out at the start if a frame states the number of frames."""


@dataclass(frozen=True)
class Mp3Part:
    """A part of a file.

    Attributes:
        content: its frames, behind a frame that states their number.
        skipped: samples of the decoder to leave out at its start.
        samples: samples after these, if no frame can state a number: only layer III has such frames.
    """

    content: bytes
    skipped: int
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of a frame.

    Attributes:
        at, size: its place in the file, in bytes.
        kind: (version bits, layer, rate, whether it is mono), equal for all frames of a stream.
        kilobits: bits per second, in thousands.
    """

    at: int
    size: int
    kind: tuple[int, int, int, bool]
    kilobits: int

    @property
    def samples(self) -> int:
        version, layer, _, _ = self.kind
        return 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152

    @property
    def side_bytes(self) -> int:
        """Bytes of the side information of layer III."""
        version, _, _, is_mono = self.kind
        return (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)


def id3v2_end(content: bytes, at: int) -> int:
    """Return the offset behind the ID3v2 tags at ``at``; ``at`` if there is none."""
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        at += 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(content[at + 6 : at + 10]))
    return at


def whole_parts(content: bytes, start: int) -> list[Mp3Part]:
    """Return the parts of a file of MPEG audio, each with a true statement of its length.

    A new part begins where another file's statement of length does, and where the kind of the frames changes. An empty
    list means that there is no frame.

    Raises:
        IncompleteSound: if frames are missing according to a part's statement, or the length cannot be stated.
    """
    parts: list[list[Frame]] = []
    for frame in _frames(content, start):
        if not parts or frame.kind != parts[-1][0].kind or _length_at(content, frame) is not None:
            parts.append([])
        parts[-1].append(frame)
    return [part for frames in parts for part in _with_length(content, frames)]


def _with_length(content: bytes, frames: list[Frame]) -> list[Mp3Part]:
    """Return the frames with a statement of their length; an empty list if there is only a statement.

    If the part's own statement names fewer frames than there are, the others follow as a second part.
    """
    first, place, stated = frames[0], _length_at(content, frames[0]), None
    if place is not None:
        frames = frames[1:]
        flags = int.from_bytes(content[place + 4 : place + 8], "big")
        if content[place : place + 4] in LENGTH_NAMES and flags & FRAMES_STATED:
            stated = int.from_bytes(content[place + 8 : place + 12], "big")
    if stated is not None and stated > len(frames):
        raise IncompleteSound(f"its header says {stated} frames, {len(frames)} are there")
    if stated:
        whole = Mp3Part(_joined(content, [first, *frames[:stated]]), 0)
        return [whole, *_stated(content, frames, stated)]
    return _stated(content, frames, 0)


def _stated(content: bytes, frames: list[Frame], start: int) -> list[Mp3Part]:
    """Return the frames from ``start`` on behind a new statement of their length; an empty list if there are none.

    Some frames before them are decoded too and left out, because frames may use bits of those before.
    """
    if start == len(frames):
        return []
    earlier = min(start, FRAMES_BEFORE)
    frames = frames[start - earlier :]
    audio = _joined(content, frames)
    if frames[0].kind[1] == 3:
        skipped = (1 + earlier) * frames[0].samples - DECODER_DELAY
        return [Mp3Part(_stating_frames(frames) + audio, skipped)]
    if len({frame.kilobits for frame in frames}) > 1:
        raise IncompleteSound("the bit rate of this MPEG audio of layer I or II changes, so its length is unknown")
    # The decoder computes the length from the bytes. With some more, it does not end in the last frame.
    return [Mp3Part(audio + bytes(2 * frames[0].size), 0, len(frames) * frames[0].samples)]


def _joined(content: bytes, frames: list[Frame]) -> bytes:
    return b"".join(content[frame.at : frame.at + frame.size] for frame in frames)


def _length_at(content: bytes, frame: Frame) -> int | None:
    """Return the offset of the name of a statement of length in a frame; None if the frame holds audio."""
    if frame.kind[1] != 3:
        return None
    for at in (frame.at + 4 + frame.side_bytes, frame.at + 6 + frame.side_bytes):  # a checksum takes two bytes
        if content[at : at + 4] in LENGTH_NAMES and not any(content[frame.at + 6 : at]):  # as the decoder decides it
            return at
    at = frame.at + VBRI_AT
    return at if content[at : at + 4] == b"VBRI" else None


def _stating_frames(frames: list[Frame]) -> bytes:
    """Return a Xing frame that states the length, and a silent frame, for the decoder's delay.

    The decoder leaves out ``DECODER_DELAY`` samples, which here belong to the silent frame.
    """
    silent = _silent_frame(frames[0], 0)
    xing = _silent_frame(frames[0], 16)
    total = len(xing) + len(silent) + sum(frame.size for frame in frames)
    stated = b"Xing" + (FRAMES_STATED | BYTES_STATED).to_bytes(4, "big")
    stated += (1 + len(frames)).to_bytes(4, "big") + total.to_bytes(4, "big")
    at = 4 + frames[0].side_bytes
    return xing[:at] + stated + xing[at + len(stated) :] + silent


def _silent_frame(like: Frame, room: int) -> bytes:
    """Return a frame of layer III of the same kind that holds no sound and has ``room`` bytes for other data."""
    version, layer, rate, is_mono = like.kind
    sizes = [_size(version, layer, rate, kilobits, 0) for kilobits in KILOBITS[version == 3, layer]]
    bits, size = next((i, size) for i, size in enumerate(sizes, 1) if size >= 4 + like.side_bytes + room)
    # 11 bits of the sync word, version, layer III, no checksum; bit rate and rate; the mode.
    header = [0xFF, 0xE0 | version << 3 | 1 << 1 | 1, bits << 4 | RATES[version].index(rate) << 2]
    return bytes([*header, (MONO if is_mono else 0) << 6]).ljust(size, b"\0")


def _frames(content: bytes, at: int) -> Iterator[Frame]:
    """Yield the frames; a tag between them is skipped, and so are bytes that are followed by a whole frame.

    A frame counts if another one of its kind follows, or the end of the audio.
    """
    end = len(content)
    if content[-ID3V1_BYTES:].startswith(b"TAG"):
        end -= ID3V1_BYTES
    before: Frame | None = None
    while at + 4 <= end:
        frame = _frame(content, at, end)
        if frame is not None and (before is None or frame.kind != before.kind or before.at + before.size != at):
            frame = frame if _is_followed(content, frame, end) else None
        if frame is not None:
            yield frame
            before, at = frame, at + frame.size
        elif content[at : at + 3] == b"ID3":
            at = max(at + 1, id3v2_end(content, at))
        else:
            at = content.find(b"\xff", at + 1, end)
            if at < 0:
                return


def _is_followed(content: bytes, frame: Frame, end: int) -> bool:
    at = frame.at + frame.size
    after = _frame(content, at, end)
    if after is not None:
        return after.kind == frame.kind
    return at == end or content[at : at + 3] in (b"ID3", b"APE", b"TAG", b"LYR")


def _frame(content: bytes, at: int, end: int) -> Frame | None:
    """Return the frame at an offset; None if there is none, or if its end is missing."""
    if at + 4 > end or content[at] != 0xFF or content[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = content[at + 1] >> 3 & 3, 4 - (content[at + 1] >> 1 & 3)
    bits, rate = content[at + 2] >> 4, content[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    hertz, kilobits = RATES[version][rate], KILOBITS[version == 3, layer][bits - 1]
    size = _size(version, layer, hertz, kilobits, content[at + 2] >> 1 & 1)
    if at + size > end:
        return None
    return Frame(at, size, (version, layer, hertz, content[at + 3] >> 6 == MONO), kilobits)


def _size(version: int, layer: int, rate: int, kilobits: int, padding: int) -> int:
    if layer == 1:
        return (12_000 * kilobits // rate + padding) * 4
    samples = 72 if layer == 3 and version != 3 else 144
    return samples * 1000 * kilobits // rate + padding

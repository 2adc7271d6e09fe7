"""Find the true length of FLAC streams, whose header may not state it or state it wrongly.

The header of each frame holds the number of its first sample, so the last frame shows where a stream ends.
"""

from dataclasses import dataclass
from typing import BinaryIO

from boson_multimodal.audio_processing.audio_errors import IncompleteSound

MAGIC = b"fLaC"
HEADER_BYTES = 42
"""The name, the header of the first block of metadata, and the block, STREAMINFO."""
STREAM_STARTS = (MAGIC + b"\x00\x00\x00\x22", MAGIC + b"\x80\x00\x00\x22")
"""The first bytes of a stream: the second one has no further block of metadata."""
LEAST_TAIL_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20
LONGEST_FRAME_HEADER = 16
ID3V1_BYTES = 128


@dataclass(frozen=True)
class StreamInfo:
    """What the header of a stream states.

    Attributes:
        block: samples of each frame but the last, if all have the same number.
        longest_frame: bytes; 0 if it is not stated.
        rate: samples per second.
        samples: samples of each channel; 0 if the number is not stated.
    """

    block: int
    longest_frame: int
    rate: int
    samples: int

    @classmethod
    def read(cls, header: bytes) -> "StreamInfo | None":
        """Read the first ``HEADER_BYTES`` of a stream; None if they are not a stream's."""
        if len(header) < HEADER_BYTES or not header.startswith(STREAM_STARTS):
            return None
        numbers = int.from_bytes(header[18:26], "big")  # rate 20 bits, channels 3, bits a sample 5, samples 36
        block, longest = int.from_bytes(header[10:12], "big"), int.from_bytes(header[15:18], "big")
        return cls(block, longest, numbers >> 44, numbers & (1 << 36) - 1)


def is_stated_length_right(file: BinaryIO, start: int) -> bool:
    """Return whether a file holds a single stream, at ``start``, whose last frame ends where its header says.

    The last frame may still be damaged. The file is searched for further streams, but not decoded.
    """
    file.seek(start)
    info = StreamInfo.read(file.read(HEADER_BYTES))
    if info is None or not info.samples:
        return False
    tail_bytes = max(LEAST_TAIL_BYTES, info.longest_frame + 2 * ID3V1_BYTES)
    tail = b""
    while block := file.read(BLOCK_BYTES):
        tail = tail[-tail_bytes:] + block
        if any(name in tail for name in STREAM_STARTS):
            return False
    tail = _without_id3v1(tail[-tail_bytes:])
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        end = _end_of_frame(tail[at : at + LONGEST_FRAME_HEADER], info)
        if end is not None:
            return end == info.samples
    return False


def whole_streams(content: bytes, start: int) -> list[bytes]:
    """Return the streams that a file holds one after the other, each with its true length in its header.

    The list is empty if there is no stream at ``start``.

    Raises:
        IncompleteSound: if a stream does not end with a whole frame, or ends before the end that its header states.
    """
    content = _without_id3v1(content)
    if not content.startswith(STREAM_STARTS, start):
        return []
    starts = sorted(at for name in STREAM_STARTS for at in _all_places(content, name, start))
    streams, seconds = [], 0.0
    for begin, end in zip(starts, [*starts[1:], len(content)], strict=True):
        stream = content[begin:end]
        info = StreamInfo.read(stream[:HEADER_BYTES])
        if info is None or not info.rate:
            raise IncompleteSound(f"its FLAC stream breaks off after {seconds:.2f} s")
        samples = _last_sample(stream, info)
        if samples is None:
            raise IncompleteSound("its FLAC stream does not end with a whole frame")
        if samples < info.samples:
            raise IncompleteSound(f"its header says {info.samples} samples, {samples} are there")
        numbers = int.from_bytes(stream[18:26], "big") >> 36 << 36 | samples
        streams.append(stream[:18] + numbers.to_bytes(8, "big") + stream[26:])
        seconds += samples / info.rate
    return streams


def _all_places(content: bytes, name: bytes, start: int) -> list[int]:
    places, at = [], content.find(name, start)
    while at >= 0:
        places.append(at)
        at = content.find(name, at + 1)
    return places


def _without_id3v1(content: bytes) -> bytes:
    return content[:-ID3V1_BYTES] if content[-ID3V1_BYTES:].startswith(b"TAG") else content


def _last_sample(stream: bytes, info: StreamInfo) -> int | None:
    """Return the number of samples up to the end of the last frame; None if the stream does not end with a frame.

    The last frame is the one whose checksum is right up to the end of the stream. If other bytes follow the audio, it
    is a frame that ends where the header says.
    """
    at = len(stream)
    lowest = max(0, at - max(LEAST_TAIL_BYTES, info.longest_frame))
    while (at := stream.rfind(b"\xff", 0, at)) >= 0:
        end = _end_of_frame(stream[at : at + LONGEST_FRAME_HEADER], info)
        if end is not None and ((end == info.samples) or (at >= lowest and _crc16(stream[at:]) == 0)):
            return end
    return None


def _end_of_frame(frame: bytes, info: StreamInfo) -> int | None:
    """Return the number of the first sample behind a frame, from the frame's header; None if it is no header."""
    if len(frame) < 6 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code = frame[2] >> 4, frame[2] & 15
    number, at = _coded_number(frame, 4)
    if number is None or size_code == 0 or rate_code == 15:
        return None
    if size_code in (6, 7):
        block = int.from_bytes(frame[at : at + size_code - 5], "big") + 1
        at += size_code - 5
    else:
        block = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(frame) or _crc8(frame[:at]) != frame[at]:
        return None
    return (number if frame[1] & 1 else number * info.block) + block


def _coded_number(frame: bytes, at: int) -> tuple[int | None, int]:
    """Return a number that is coded as UTF-8 codes characters, with up to 36 bits, and the offset behind it."""
    first = frame[at]
    if first < 0x80:
        return first, at + 1
    more = 0
    while more < 7 and first & 0x80 >> more:
        more += 1
    rest = frame[at + 1 : at + more]
    if more < 2 or len(rest) < more - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, at
    number = first & (0x7F >> more)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, at + more


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = crc << 8 & 0xFFFF ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> bits - 1 else 0)
            crc &= (1 << bits) - 1
        table.append(crc)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)

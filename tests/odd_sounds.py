"""Sound files whose headers state no length or a wrong one, and joined ones, made from what soundfile writes."""

import io
import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile

RATE = 16_000
SECONDS, OTHER_SECONDS = 2.0, 1.5
WAV_SIZES = {
    "sox to a pipe": 0x7FFF_F000,
    "arecord to a pipe": 0x8000_0000,
    "aplay's older limit": 0x7FFF_FF00,
    "the largest signed number": 0x7FFF_FFFF,
    "ffmpeg to a pipe": 0xFFFF_FFFF,
    "the largest number without the header": 0xFFFF_FFFF - 44,
    "ended before its header was written": 0,
}


@dataclass(frozen=True)
class OddSound:
    """A sound file.

    Attributes:
        suffix: of the file's name.
        content: the file's bytes.
        seconds: the length; None if the file must be refused.
        refusal: what the refusal says.
        margin: seconds by which another decoder may differ, because it leaves out less of what encoders add.
        parts: the waveforms, (samples,), that it holds one after the other; they may be encoded with loss.
        joint: where its first part ends, in seconds; 0 if that is at a whole number of half seconds.
        is_played: whether ffmpeg plays it.
    """

    suffix: str
    content: bytes
    seconds: float | None = None
    refusal: str = ""
    margin: float = 0.0
    parts: tuple[np.ndarray, ...] = ()
    joint: float = 0.0
    is_played: bool = True


def voice(seconds: float, hertz: float, seed: int = 0) -> np.ndarray:
    """(samples,) of a tone that rises, with harmonics and a little noise, so that a shift or a cut shows."""
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(0.3 / k * np.sin(2 * np.pi * k * hertz * t * (1 + 0.2 * t)) for k in (1, 2, 3))
    return (tone + np.random.default_rng(seed).normal(0, 0.01, len(t))).astype(np.float32)


ONE, OTHER = voice(SECONDS, 140.0), voice(OTHER_SECONDS, 210.0, 1)


@cache
def encoded(which: int, form: str, subtype: str | None = None, rate: int = RATE, **settings: str) -> bytes:
    """The first or the second voice as a file. ``settings`` are soundfile's."""
    file = io.BytesIO()
    soundfile.write(file, (ONE, OTHER)[which], rate, format=form, subtype=subtype, **settings)
    return file.getvalue()


def wav_with_size(size: int, riff_size: int | None = None) -> bytes:
    """A WAV file whose header states another size of its audio."""
    content = bytearray(encoded(0, "WAV", "PCM_16"))
    assert content[36:40] == b"data"
    content[40:44] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", min(size + 36, 2**32 - 1) if riff_size is None else riff_size)
    return bytes(content)


def flac_with_samples(samples: int, which: int = 0) -> bytes:
    """A FLAC file whose header states another number of samples; 0 stands for an unknown one."""
    content = bytearray(encoded(which, "FLAC"))
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = struct.pack(">I", samples & 0xFFFF_FFFF)
    return bytes(content)


def without_length(mp3: bytes) -> bytes:
    """An MP3 file without its frame that states the length, which is its first one, as written to a pipe."""
    end = mp3.index(b"\xff\xf3", 4)
    assert b"Xing" in mp3[:end] or b"Info" in mp3[:end]
    return mp3[end:]


def id3v2(size: int = 200) -> bytes:
    return b"ID3\x04\x00\x00" + bytes([0, 0, size >> 7, size & 0x7F]) + bytes(size)


ID3V1 = b"TAG" + bytes(125)


@cache
def odd_sounds() -> dict[str, OddSound]:
    """Every odd file by what is odd about it."""
    return _wav() | _flac() | _mp3() | _ogg() | _usual()


def _wav() -> dict[str, OddSound]:
    wav, other = encoded(0, "WAV", "PCM_16"), encoded(1, "WAV", "PCM_16")
    audio = len(wav) - 44
    tags = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
    found = {
        f"WAV of {who}": OddSound(".wav", wav_with_size(size), SECONDS, parts=(ONE,)) for who, size in WAV_SIZES.items()
    }
    found["WAV of size 0 in a header that is whole"] = OddSound(".wav", wav_with_size(0, audio + 36), SECONDS)
    found["WAV of size 0 with tags before the audio"] = OddSound(
        ".wav", wav[:36] + tags + b"data" + bytes(4) + wav[44:], SECONDS, parts=(ONE,)
    )
    wide = b"RF64" + b"\xff" * 4 + b"WAVEds64" + struct.pack("<I", 28) + bytes(28) + wav[12:40] + b"\xff" * 4 + wav[44:]
    found["RF64 of unknown size"] = OddSound(".wav", wide, SECONDS, parts=(ONE,), is_played=False)
    found["WAV of size 0 with nothing but tags"] = OddSound(".wav", wav[:40] + bytes(4) + tags, refusal="empty audio")
    found["WAV that counts its header as audio"] = OddSound(".wav", wav_with_size(audio + 44), SECONDS, parts=(ONE,))
    found["WAV behind a tag"] = OddSound(".wav", id3v2() + wav, SECONDS, parts=(ONE,), is_played=False)
    found["WAV with a tag at its end"] = OddSound(".wav", wav + ID3V1, SECONDS, parts=(ONE,))
    found["WAV with zeros at its end"] = OddSound(".wav", wav + bytes(9000), SECONDS, parts=(ONE,))
    found["WAV, cut"] = OddSound(".wav", wav[: len(wav) * 2 // 3], refusal="its header says 64000 bytes of audio, 42")
    found["WAV, joined"] = OddSound(".wav", wav + other, refusal="a second WAV file begins after 2.00 s")
    found["WAV with two blocks of audio"] = OddSound(
        ".wav", wav + other[36:], refusal="a second block of audio begins after 2.00 s"
    )
    found["WAV with a size that is too small"] = OddSound(
        ".wav", wav_with_size(audio // 4, audio + 36), refusal="its header says 16000 bytes of audio, 48000 bytes foll"
    )
    found["float WAV scaled as 16 bits"] = OddSound(".wav", _float_wav(ONE * 32_768), refusal="times full scale")
    found["WAV that cancels itself in mono"] = OddSound(
        ".wav", _float_wav(np.stack([ONE, -ONE], axis=1)), refusal="channels cancel each other"
    )
    return found


def _float_wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _flac() -> dict[str, OddSound]:
    flac, samples = encoded(0, "FLAC"), len(ONE)
    return {
        "FLAC of unknown length": OddSound(".flac", flac_with_samples(0), SECONDS, parts=(ONE,)),
        "FLAC that states too few samples": OddSound(".flac", flac_with_samples(samples // 2), SECONDS, parts=(ONE,)),
        "FLAC that states too many samples": OddSound(
            ".flac", flac_with_samples(2 * samples), refusal=f"its header says {2 * samples} samples, {samples} are"
        ),
        "FLAC, joined": OddSound(".flac", flac + encoded(1, "FLAC"), SECONDS + OTHER_SECONDS, parts=(ONE, OTHER)),
        "FLAC, joined with itself": OddSound(".flac", flac + flac, 2 * SECONDS, parts=(ONE, ONE)),
        "FLAC of unknown length, joined": OddSound(
            ".flac", flac_with_samples(0) + flac_with_samples(0, 1), SECONDS + OTHER_SECONDS, parts=(ONE, OTHER)
        ),
        "FLAC behind a tag": OddSound(".flac", id3v2() + flac, SECONDS, parts=(ONE,)),
        "FLAC of unknown length behind a tag": OddSound(".flac", id3v2() + flac_with_samples(0), SECONDS, parts=(ONE,)),
        "FLAC with a tag at its end": OddSound(".flac", flac + ID3V1, SECONDS, parts=(ONE,)),
        "FLAC with other bytes at its end": OddSound(".flac", flac + b"other" * 99, SECONDS, parts=(ONE,)),
        "FLAC, cut": OddSound(".flac", flac[: len(flac) * 2 // 3], refusal="its FLAC stream does not end with a whole"),
        "FLAC of unknown length, cut": OddSound(
            ".flac", flac_with_samples(0)[: len(flac) * 2 // 3], refusal="its FLAC stream does not end with a whole"
        ),
        "FLAC, joined, of two rates": OddSound(
            ".flac",
            flac + encoded(1, "FLAC", rate=24_000),
            refusal="joined from 16000 Hz with 1 channel.s. and, after 2.00 s, 24000 Hz",
        ),
    }


def _mp3() -> dict[str, OddSound]:
    constant, variable = (
        [encoded(which, "MP3", bitrate_mode=mode, compression_level=0.2) for which in (0, 1)]
        for mode in ("CONSTANT", "VARIABLE")
    )
    bare = [without_length(content) for content in variable]
    frame = 576 / RATE
    around = 4 * frame  # the delays of encoder and decoder, and the padding of the last frame
    both = SECONDS + OTHER_SECONDS
    return {
        "MP3 of variable bit rate without a length": OddSound(".mp3", bare[0], _frames(SECONDS), parts=(ONE,)),
        "MP3 of constant bit rate without a length": OddSound(
            ".mp3", without_length(constant[0]), _frames(SECONDS), parts=(ONE,)
        ),
        "MP3 without a length behind a tag": OddSound(".mp3", id3v2() + bare[0] + ID3V1, _frames(SECONDS)),
        "MP3, joined": OddSound(".mp3", variable[0] + variable[1], both, margin=around, parts=(ONE, OTHER)),
        "MP3, joined with their tags": OddSound(
            ".mp3", id3v2() + constant[0] + ID3V1 + id3v2() + constant[1], both, margin=around, parts=(ONE, OTHER)
        ),
        "MP3 without lengths, joined": OddSound(
            ".mp3", bare[0] + bare[1], _frames(SECONDS) + _frames(OTHER_SECONDS), parts=(ONE, OTHER)
        ),
        "MP3 with a length, joined with one without": OddSound(
            ".mp3", variable[0] + bare[1], SECONDS + _frames(OTHER_SECONDS), margin=around, parts=(ONE, OTHER)
        ),
        "MP3 without a length, joined with one with": OddSound(
            ".mp3",
            bare[0] + variable[1],
            _frames(SECONDS) + OTHER_SECONDS,
            margin=around,
            joint=_frames(SECONDS),
            parts=(ONE, OTHER),
        ),
        "MP3 with a tag at its end": OddSound(".mp3", variable[0] + ID3V1, SECONDS, parts=(ONE,)),
        "MP3 with other bytes at its end": OddSound(".mp3", variable[0] + b"other" * 99, SECONDS, parts=(ONE,)),
        "MP3, cut": OddSound(".mp3", variable[0][: len(variable[0]) // 2], refusal="its header says 58 frames, "),
        "MP3 in a WAV file": OddSound(".wav", _mp3_in_wav(bare[0]), _frames(SECONDS), parts=(ONE,)),
    }


def _frames(seconds: float) -> float:
    """The length of an MP3 file at 16 kHz that states none: all of its frames, with what the encoder added."""
    encoder_delay, decoder_delay = 576, 529
    return -(-(round(seconds * RATE) + encoder_delay + decoder_delay) // 576) * 576 / RATE


def _mp3_in_wav(frames: bytes) -> bytes:
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 144, 1, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(frames)) + frames
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _ogg() -> dict[str, OddSound]:
    both, found = SECONDS + OTHER_SECONDS, {}
    for suffix, subtype in ((".ogg", "VORBIS"), (".opus", "OPUS")):
        one, other = (encoded(which, "OGG", subtype) for which in (0, 1))
        pages = [at for at in range(len(one)) if one.startswith(b"OggS", at)]
        found |= {
            f"Ogg {subtype}, joined": OddSound(suffix, one + other, both, margin=0.1, parts=(ONE, OTHER)),
            f"Ogg {subtype}, joined three times": OddSound(
                suffix, one + other + one, both + SECONDS, margin=0.1, parts=(ONE, OTHER, ONE)
            ),
            f"Ogg {subtype} with other bytes at its end": OddSound(suffix, one + b"other" * 99, SECONDS, parts=(ONE,)),
            f"Ogg {subtype}, cut": OddSound(suffix, one[: len(one) * 2 // 3], refusal="its last Ogg page is cut"),
            f"Ogg {subtype}, cut behind a page": OddSound(
                suffix, one[: pages[-1]], refusal="its last Ogg page is not marked as the last"
            ),
            f"Ogg {subtype}, joined behind a cut one": OddSound(
                suffix, one[: pages[-1]] + other, refusal="its last Ogg page is not marked as the last"
            ),
            f"Ogg {subtype} with damage": OddSound(
                suffix, one[:-50] + b"\0" + one[-49:], refusal="the checksum of its Ogg page . is wrong"
            ),
        }
    return found


def _usual() -> dict[str, OddSound]:
    """Files with nothing odd about them, as a measure for the others."""
    forms = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS")]
    forms += [("OGG", "OPUS"), ("AIFF", None), ("W64", None), ("AU", None), ("CAF", None), ("RF64", None)]
    return {
        f"{form} {subtype or ''}".strip(): OddSound(
            f".{form.lower()}", encoded(0, form, subtype), SECONDS, parts=(ONE,)
        )
        for form, subtype in forms
    }

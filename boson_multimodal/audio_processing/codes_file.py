"""Read and write files of codes: safetensors with a (K, T) int16 tensor for each clip, under the clip's name."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from boson_multimodal.audio_processing.code_cache import FoundCodes, clip_key
from boson_multimodal.audio_processing.sound_files import Clip, content_hash
from boson_multimodal.circumstances import home_path
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.teams import Team, team_that_shares
from boson_multimodal.whole_files import open_whole

CODEC_FIELD, RATE_FIELD = "codec", "frames_per_second"
"""Metadata fields of a file: the codec's identity, and the frames per second (25 if the field is absent)."""
RATE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,20})?")
LARGEST_HEADER_BYTES = 100_000_000
"""The largest header that the safetensors library reads. It has room for about 900,000 clips."""


def codes_name(content: AudioContent) -> str:
    """Return the name of a clip in files of codes: ``audio_url`` as in the JSON, with ``#offset,duration`` for a cut.

    Seconds are formatted like Python floats, and a duration of null is empty: ``clips/a.wav#1.5,2.0``,
    ``clips/a.wav#1.5,``. The name of a clip in ``raw_audio`` is ``raw_audio:`` and the SHA-256 of its bytes.
    """
    name = content.audio_url or f"raw_audio:{hashlib.sha256(content.raw_audio or b'').hexdigest()}"
    offset = float(content.offset or 0.0)
    if not offset and content.duration is None:
        return name
    return f"{name}#{offset!r},{'' if content.duration is None else repr(float(content.duration))}"


class CodesFiles:
    """Codes by clip name, from one or more files. The codes of a clip are read on demand.

    Attributes:
        codec: identity of the codec that made the codes.
        frames_per_second: code frames per second.

    Raises:
        InputError: listing files that are missing or are not safetensors, that do not all name the same codec, or that
            contain the same clip name.
    """

    def __init__(self, paths: Sequence[str | Path], num_codebooks: int, codebook_size: int) -> None:
        self.paths = [home_path(path, "--codes") for path in paths]
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        files, problems = {}, []
        for path in self.paths:
            try:
                files[path] = safe_open(path, "pt")
            except (OSError, SafetensorError) as error:
                problems.append(f"{path}: cannot be read as safetensors ({error})")
        self._file_of = {}
        codecs, rates = {}, {}
        for path, file in files.items():
            metadata = file.metadata() or {}
            if not metadata.get(CODEC_FIELD):
                problems.append(f"{path}: its metadata have no {CODEC_FIELD!r}; it is the codec's identity")
            codecs.setdefault(metadata.get(CODEC_FIELD), path)
            rates.setdefault(metadata.get(RATE_FIELD, str(FRAMES_PER_SECOND)), path)
            problems += [f"{path}: {name!r} is in another file too" for name in file.keys() if name in self._file_of]
            self._file_of |= dict.fromkeys(file.keys(), (path, file))
        if len(codecs) > 1:
            problems.append("of different codecs: " + ", ".join(f"{path} of {codec}" for codec, path in codecs.items()))
        problems += [
            f"{path}: {RATE_FIELD} is {rate!r}; it must be a number above 0 and below 10000, and the same in all files"
            for rate, path in rates.items()
            if len(rates) > 1 or not RATE.fullmatch(rate) or float(rate) == 0
        ]
        raise_if_any("--codes: cannot be used", problems)
        self.codec = next(iter(codecs))
        self.frames_per_second = float(next(iter(rates)))

    @cached_property
    def team(self) -> Team:
        """This process among those that read the same files. All processes must ask for it the first time together."""
        return team_that_shares(self.paths[0], is_written=False)

    def place(self, key: str) -> str:
        """Return the place of a clip's codes, for messages."""
        name = key.partition(":")[2]
        path, _ = self._file_of.get(name, (self.paths[0], None))
        return f"{path} ({name!r})"

    def key_of(self, clip: Clip) -> str:
        """Return the key of a clip whose waveform is needed but whose codes are not.

        Raises:
            InputError: if the clip's file is missing or cannot be opened.
        """
        return clip_key(clip, content_hash(clip.source))

    def holds(self, name: str) -> bool:
        """Return whether the files have an entry for a clip, right or wrong."""
        return name in self._file_of

    def missing(self, name: str) -> str:
        """Return the message about a clip that the files do not have."""
        files = ", ".join(map(str, self.paths))
        return f"{name!r}: not in {files}; give its codes, or leave --codes out to encode the clip"

    def find(self, clip: Clip | None, name: str) -> FoundCodes:
        """Return the codes of a clip after checking them. The key contains their hash.

        Raises:
            InputError: if the files do not contain the clip, or its codes have a wrong type, shape or range.
        """
        if not self.holds(name):
            raise InputError(self.missing(name))
        path, file = self._file_of[name]
        codes = file.get_tensor(name)
        problem = self._problem(codes)
        if problem:
            raise InputError(f"{name!r} in {path}: {problem}")
        return FoundCodes(f"{_digest(codes)}:{name}", codes.long())

    def read(self, key: str) -> Tensor | None:
        """Return the (K, T) codes for a key of :meth:`find`; None if they have changed since then."""
        digest, _, name = key.partition(":")
        codes = self._file_of[name][1].get_tensor(name)
        return codes.long() if _digest(codes) == digest else None

    def _problem(self, codes: Tensor) -> str | None:
        if codes.dtype != torch.int16:
            return f"is {str(codes.dtype).removeprefix('torch.')}; codes are int16"
        if codes.dim() != 2 or codes.shape[0] != self.num_codebooks or codes.shape[1] == 0:
            return f"has shape {tuple(codes.shape)}; codes are ({self.num_codebooks}, frames), with at least one frame"
        lowest, highest = int(codes.min()), int(codes.max())
        if lowest < 0 or highest >= self.codebook_size:
            return f"has codes from {lowest} to {highest}; they must be from 0 to {self.codebook_size - 1}"
        return None


def write_codes_file(
    path: Path, shapes: dict[str, tuple[int, int]], codes: Iterable[Tensor], codec: str, frames_per_second: float
) -> None:
    """Write a file of codes with one clip in memory at a time. It replaces an existing file only when it is complete.

    Args:
        shapes: (K, T) by clip name.
        codes: the codes in the order of ``shapes``.

    Raises:
        InputError: if there are more clips than the safetensors library can read from one file, or the file cannot be
            written.
    """
    header: dict = {"__metadata__": {"format": "pt", CODEC_FIELD: codec, RATE_FIELD: f"{frames_per_second:g}"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "I16", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > LARGEST_HEADER_BYTES:
        raise InputError(f"{path}: {len(shapes)} clips are too many for one file; export each data file to its own")
    try:
        with open_whole(path) as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for codes_KT, shape in zip(codes, shapes.values(), strict=True):
                if tuple(codes_KT.shape) != shape:
                    raise InputError(f"{path}: codes have shape {tuple(codes_KT.shape)}, expected {shape}")
                file.write(codes_KT.numpy().astype("<i2").tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _digest(codes: Tensor) -> str:
    return hashlib.sha256(repr(tuple(codes.shape)).encode() + codes.numpy().tobytes()).hexdigest()[:16]

"""Decodes codes to sound files in the folder of the report, so that their sound can be measured and played."""

from collections.abc import Mapping
from pathlib import Path

import torch

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.device import pick_device
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from boson_multimodal.whole_files import write_whole

DECODED_FOLDER = "decoded"
"""Name of the folder of decoded clips, beside the report."""


def decoded_path(report_folder: Path, codec: str, content: str) -> Path:
    """Return the file for the codes of a codec with the given hash. Equal codes have one file."""
    return report_folder / DECODED_FOLDER / f"{codec}_{content[:32]}.wav"


def decode_clips(names: Mapping[Path, str], files: CodesFiles, codec_folder: Path) -> None:
    """Decode codes to WAV of 16 bits, one clip at a time. Files that are there are kept.

    Args:
        names: path to write -> name of the codes.

    Raises:
        InputError: if the codec makes NaN, or a file cannot be written.
    """
    missing = {path: name for path, name in names.items() if not path.is_file()}
    if not missing:
        return
    codec = load_higgs_audio_tokenizer(codec_folder, pick_device(0))
    for path, name in progress(missing.items(), "decoding codes", len(missing), unit="clip"):
        wave = codec.decode(files.find(None, name).codes_KT)
        if not torch.isfinite(wave).all():
            raise InputError(f"{codec_folder}: decodes {name!r} to NaN or infinite samples; fetch the codec again")
        content = wav_bytes(wave.float(), codec.sampling_rate)
        try:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error

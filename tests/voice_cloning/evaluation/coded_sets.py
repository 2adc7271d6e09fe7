"""Test sets whose clips exist as codes alone."""

from pathlib import Path

import torch

from boson_multimodal.audio_processing.codes_file import write_codes_file
from tests.chatml_files import audio, record, write_records


def coded_set(demo: Path, folder: Path, frames: int = 20) -> tuple[Path, Path]:
    """Write two records and their random codes. Return the paths of both files."""
    records, codes = [], {}
    for number in range(2):
        names = [f"{number}_{kind}.wav" for kind in ("reference", "target")]
        records.append(record(f"sample_{number}", audio(names[0]), audio(names[1])))
        codes |= {name: torch.randint(0, 1024, (8, frames + number)) for name in names}
    path = folder / "codes.safetensors"
    write_codes_file(path, {name: tuple(c.shape) for name, c in codes.items()}, codes.values(), "codec", 25)
    return write_records(folder / "coded.json", records), path

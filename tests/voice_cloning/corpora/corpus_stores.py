"""Small made copies of corpora that hold their audio themselves: Parquet, tar, and folders with a table.

They have the true names and Arrow types of the columns. Each function writes one and returns what is true of it.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.chatml_files import noise, write_clip
from tests.voice_cloning.corpora.corpus_truth import CorpusTruth
from tests.voice_cloning.corpora.source_forms import arrow_form

CLARTTS_RATE = 40_100
SECONDS = (0.6, 0.75, 0.9, 1.05)
"""Lengths of the clips of each speaker."""
DIACRITISED = (
    "ذَهَبَ الْوَلَدُ إِلَى الْمَدْرَسَةِ",
    "قَرَأَ الطَّالِبُ كِتَابًا جَدِيدًا",
    "اَلسَّمَاءُ صَافِيَةٌ الْيَوْمَ",
    "شَرِبَ أَبِي الشَّايَ",
)
BUCKWALTER = (
    "waraj~aHa Alt~aqoriyru Al~a*iy >aEad~ahu maEohadu >aboHaA^i",
    "fiy Al>akaAdiymiy~api - AlS~iyniy~api",
    "wa*akara Alt~aqoriyru >an~a taraAjuEa Aljaliydi",
    "<ilaY mi}api kiyluwmitrK mina AlbaHri",
)
"""Texts of the Arabic Speech Corpus have this spelling; these are made."""


def sound(seconds: float, rate: int, seed: int) -> np.ndarray:
    """(samples,) of quiet noise with 16 bits, in -1..1 as float64."""
    return np.round(noise(seconds, rate, seed=seed)[:, 0].astype(np.float64) * 32767) / 32768


def wav(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def as_audio(samples: np.ndarray, rate: int, path: str) -> dict[str, Any]:
    """A value of an Audio column as ``datasets`` embeds it."""
    return {"bytes": wav(samples, rate), "path": path}


def write_parquet(path: Path, columns: Mapping[str, tuple[str, Sequence[Any]]], row_group_size: int = 3) -> Path:
    """Write columns of (type, values); the type is one of Arrow's names, ``audio``, or ``list<TYPE>``."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    types = {"audio": arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])}
    fields, arrays = [], []
    for name, (kind, values) in columns.items():
        inner = kind.removeprefix("list<").removesuffix(">")
        found = types.get(kind) or (arrow.list_(arrow.type_for_alias(inner)) if inner != kind else None)
        fields.append((name, found or arrow.type_for_alias(kind)))
        arrays.append(arrow.array(values, type=fields[-1][1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(arrays, schema=arrow.schema(fields)), path, row_group_size=row_group_size)
    return path


def _hours(seconds: Sequence[float]) -> float:
    return sum(seconds) / 3600


def clartts_text(number: int) -> str:
    """The text of a clip of :func:`clartts`, which is ``sound(SECONDS[number % 4], CLARTTS_RATE, seed=number)``."""
    return f"{DIACRITISED[number % 4]} {'ا' * (number // 4 + 1)}"


def clartts(folder: Path, scale: float = 1.0) -> CorpusTruth:
    """Write ClArTTS: samples as 64-bit floats at 40,100 Hz, one voice, no speaker.

    Args:
        scale: the samples are multiplied by it.
    """
    lengths = SECONDS * 2
    for split, rows in (("train", range(6)), ("test", range(6, 8))):
        samples = [sound(lengths[i], CLARTTS_RATE, seed=i) for i in rows]
        write_parquet(
            folder / "data" / f"{split}-00000-of-00001-97f968086568e9cf.parquet",
            {
                "text": ("string", [clartts_text(i) for i in rows]),
                "file": ("string", [f"ART_CC_0{i}_arabic_tts_dataset_{i}.wav" for i in rows]),
                "audio": ("list<float64>", [wave * scale for wave in samples]),
                "sampling_rate": ("int64", [CLARTTS_RATE for _ in rows]),
                "duration": ("float64", [round(lengths[i], 2) for i in rows]),
            },
        )
    exact = [len(sound(length, CLARTTS_RATE, 0)) / CLARTTS_RATE for length in lengths]
    return CorpusTruth(folder, 8, 1, _hours(exact))


def casablanca(folder: Path) -> CorpusTruth:
    """Write two countries of Casablanca, which names no speakers; here each country is one voice."""
    for number, country in enumerate(("Algeria", "Egypt")):
        for split, rows in (("validation", range(2)), ("test", range(2, 4))):
            waves = [sound(SECONDS[i], 16_000, seed=10 * number + i) for i in rows]
            names = [f"{country.lower()}_ep{number}_{i:04d}" for i in rows]
            write_parquet(
                folder / country / f"{split}-00000-of-00001.parquet",
                {
                    "audio": ("audio", [as_audio(w, 16_000, f"{n}.wav") for w, n in zip(waves, names, strict=True)]),
                    "seg_id": ("string", names),
                    "transcription": ("string", [f"واش راك {'ا' * (4 * number + i + 1)}" for i in rows]),
                    "gender": ("string", ["male" if i % 2 else "female" for i in rows]),
                    "duration": ("float64", [SECONDS[i] for i in rows]),
                },
            )
    return CorpusTruth(folder, 8, 2, _hours(SECONDS * 2), ("--speaker_from", "folder"))


def sada_parquet(folder: Path) -> CorpusTruth:
    """Write a copy of SADA whose rows hold the cuts, beside the columns of the tables."""
    audio, columns, seconds = [], {}, []
    rows: list[dict[str, Any]] = []
    for number, (show, speaker) in enumerate((("60k_SBA_1", "Speaker1"), ("60k_SBA_2", "Speaker2"))):
        for i, length in enumerate(SECONDS):
            rows.append(
                {
                    "text": f"يا هلا والله، {'ا' * (4 * number + i + 1)}؟",
                    "cleaned_text": f"يا هلا والله {'ا' * (4 * number + i + 1)}",
                    "speaker": speaker,
                    "speaker_age": "Adult",
                    "speaker_gender": "Male" if number else "Female",
                    "speaker_dialect": "Najdi" if number else "Hijazi",
                    "environment": "Clean",
                }
            )
            audio.append(as_audio(sound(length, 16_000, seed=10 * number + i), 16_000, f"{show}_{i}.wav"))
            seconds.append(length)
    columns["audio"] = ("audio", audio)
    columns |= {name: ("string", [row[name] for row in rows]) for name in rows[0]}
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", columns)
    return CorpusTruth(folder, 8, 2, _hours(seconds))


def arvoice_parquet(folder: Path) -> CorpusTruth:
    """Write ArVoice: each recording as it was made and at one level, with the speaker's name."""
    speakers = [f"{who}{i}" for who in ("fem", "male") for i in (1, 2)]
    rows = [(who, i, 10 * s + i) for s, who in enumerate(speakers) for i in range(2)]
    waves = [sound(SECONDS[i], 44_100, seed) for _, i, seed in rows]
    names = [f"{who}_{i}.wav" for who, i, _ in rows]
    pairs = list(zip(waves, names, strict=True))
    write_parquet(
        folder / "Human_1" / "train-00000-of-00001.parquet",
        {
            "normalized_wav": ("audio", [as_audio(wave / 2, 44_100, name) for wave, name in pairs]),
            "original_wav": ("audio", [as_audio(wave, 44_100, name) for wave, name in pairs]),
            "speaker_id": ("string", [who for who, _, _ in rows]),
            "transcription": ("string", [f"{DIACRITISED[i]} {who[-1]}{who[0]}" for who, i, _ in rows]),
        },
    )
    return CorpusTruth(folder, 8, 4, _hours([SECONDS[i] for _, i, _ in rows]))


def halabi_parquet(folder: Path) -> CorpusTruth:
    """Write the Arabic Speech Corpus as Parquet: Buckwalter texts, one voice, 48 kHz."""
    waves = [sound(seconds, 48_000, seed=i) for i, seconds in enumerate(SECONDS)]
    names = [f"ARA NORM  {i + 2:04d}.wav" for i in range(4)]
    write_parquet(
        folder / "data" / "train-00000-of-00001.parquet",
        {
            "file": ("string", [f"/gone/arabic-speech-corpus/wav/{name}" for name in names]),
            "text": ("string", [f"\ufeff{text}\n" for text in BUCKWALTER]),
            "audio": ("audio", [as_audio(w, 48_000, n) for w, n in zip(waves, names, strict=True)]),
            "phonetic": ("string", [" ".join(text.replace(" ", "")) for text in BUCKWALTER]),
            "orthographic": ("string", list(BUCKWALTER)),
        },
    )
    return CorpusTruth(folder, 4, 1, _hours(SECONDS))


def audiofolder(folder: Path) -> CorpusTruth:
    """Write train/ and test/, each with a metadata.jsonl and clips of the same names in a folder of their own."""
    for number, split in enumerate(("train", "test")):
        rows = []
        for i, seconds in enumerate(SECONDS):
            write_clip(folder / split / "audio" / f"{i:04d}.wav", seconds, seed=10 * number + i)
            text = f"صباح الخير {'ا' * (4 * number + i + 1)}"
            row = {
                "file_name": f"audio/{i:04d}.wav",
                "text": text,
                "speaker_id": f"{split}_{i % 2}",
                "gender": "female",
            }
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    return CorpusTruth(folder, 8, 4, _hours(SECONDS * 2))


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write a tar archive of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def shard_members(number: int) -> list[tuple[str, bytes]]:
    """Return four samples of one speaker; the files of a key are in different orders."""
    members = []
    for i, seconds in enumerate(SECONDS):
        key, text = f"part/{i:06d}", f"مساء الخير {'ا' * (4 * number + i + 1)}"
        about = {"speaker": f"voice{number}", "dialect": "Najdi", "duration": seconds}
        found = [
            (f"{key}.wav", wav(sound(seconds, 24_000, seed=10 * number + i), 24_000)),
            (f"{key}.txt", f"{text}\n".encode()),
            (f"{key}.json", json.dumps(about).encode()),
        ]
        members += found[i % 3 :] + found[: i % 3]
    return members


def webdataset(folder: Path) -> CorpusTruth:
    """Write two shards, whose keys are numbered from 0 in each."""
    for number in range(2):
        write_shard(folder / f"train-{number:06d}.tar", shard_members(number))
    return CorpusTruth(folder, 8, 2, _hours(SECONDS * 2))


def save_to_disk(folder: Path) -> CorpusTruth:
    """Write what ``save_to_disk`` writes."""
    return CorpusTruth(arrow_form(folder), 12, 3, _hours([0.2, 0.25, 0.3, 0.35] * 3))


STORES = {
    "clartts": clartts,
    "casablanca": casablanca,
    "sada_parquet": sada_parquet,
    "arvoice_parquet": arvoice_parquet,
    "halabi_parquet": halabi_parquet,
    "audiofolder": audiofolder,
    "webdataset": webdataset,
    "save_to_disk": save_to_disk,
}

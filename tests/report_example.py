"""An example of a report with every kind of content, and its clips, for the tests of the page."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

HOSTILE = '</script><img src=x onerror="document.title=1"> & \'"</p><b>'
CLIPS = {
    "tone.wav": "WAV",
    "صوت رقم 1.flac": "FLAC",
    "a#b?c%20d.ogg": "OGG",
    "with space.mp3": "MP3",
}
"""File name -> format; the names must be encoded in addresses, and each format that the project reads occurs once."""


def tone(seconds: float = 1.5, rate: int = 24_000) -> np.ndarray:
    """Return a quiet tone as (samples,)."""
    return (0.1 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_clips(folder: Path) -> dict[str, Path]:
    """Write each of ``CLIPS`` to ``folder`` and return name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in CLIPS.items():
        soundfile.write(folder / name, tone(), 24_000, format=kind)
    return {name: folder / name for name in CLIPS}


def data_address(path: Path) -> str:
    """Return the ``data:`` address of a WAV file, as for audio that a record holds."""
    return "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode()


def example(clips: dict[str, Path], many: int = 120) -> dict[str, Any]:
    """Return a report with two errors and three warnings, one of them for ``many`` samples."""
    wav, flac, ogg, mp3 = map(str, clips.values())
    facts = {"text": "السلام عليكم ورحمة الله", "speaker": "أمل", "seconds": 1.5}
    samples: dict[str, Any] = {
        "s1": {**facts, "audio": wav, "reference": flac, "reference_text": "مرحبا بكم"},
        "s2": {**facts, "audio": ogg, "reference": mp3, "offset": 0.5, "seconds": 0.5},
        "s3": {**facts, "audio": data_address(clips["tone.wav"]), "reference": "/not/there.wav"},
        HOSTILE: {**facts, "audio": wav, "text": HOSTILE, "speaker": HOSTILE},
        "bidi": {**facts, "audio": wav, "text": "قال \u202eabc\u202c نعم\ud800"},
    }
    samples |= {f"w{i:04d}": {**facts, "audio": wav, "reference": flac} for i in range(many)}
    return {
        "errors": [
            finding("reference_equals_target", ["s1", "s2", "s3"], 0.021, "Give another clip of the speaker.")
            | {"details": {"s1": "messages[1].content[1].audio_url: the same recording (97 % of it)", "s3": HOSTILE}},
            finding("unreadable_audio", ["gone"], 0.0, "Export the file again."),
        ],
        "warnings": [
            finding("low_native_rate", [f"w{i:04d}" for i in range(many)], 0.93, "Record at 24 kHz or above."),
            finding("bidi_controls", ["bidi"], 0.007, "Run the normalise verb."),
            finding("text_markup", [HOSTILE], 0.007, "Remove " + HOSTILE),
        ],
        "samples": samples,
        "summary": _summary(),
    }


def _summary() -> dict[str, Any]:
    """Return figures of every kind for the page: files, speakers, histograms, characters and settings."""
    low = list(range(0, 21))
    counts = [0, 2, 9, 25, 40, 32, 21, 14, 8, 5, 3, 2, 1, 1, 0, 0, 0, 0, 0, 1]
    return {
        "files": [
            {"path": "data/train.json", "side": "train", "samples": 144, "hours": 11.2},
            {"path": "data/val.json", "side": "eval", "samples": 20, "hours": 1.145},
        ],
        "hours": 12.345,
        "clips": 164,
        "speakers": [
            {"name": name, "hours": hours, "clips": round(40 * hours)}
            for name, hours in (("أمل", 6.2), ("badr", 3.1), (HOSTILE[:9], 2.0), ("دينا", 1.045))
        ],
        "histograms": {
            "target_seconds": {"edges": low, "counts": counts},
            "reference_seconds": {"edges": [v / 2 for v in low], "counts": counts},
            "pitch_hz": {"edges": [60 + 17 * v for v in low], "counts": counts[::-1]},
            "characters_per_second": {"edges": low, "counts": counts},
            "peak_dbfs": {"edges": [v * 3 - 60 for v in low], "counts": counts[::-1]},
            "level_dbfs": {"edges": [v * 3 - 60 for v in low], "counts": [0] * 20},
            "silence_share": {"edges": [v / 20 for v in low], "counts": counts},
        },
        "characters": [
            {"character": "ا", "name": "ARABIC LETTER ALEF", "count": 4012},
            {"character": "ل", "name": "ARABIC LETTER LAM", "count": 3120},
            {"character": "\u064b", "name": "ARABIC FATHATAN", "count": 31},
            {"character": " ", "name": "SPACE", "count": 2011},
            {"character": "a", "name": "LATIN SMALL LETTER A", "count": 3},
            {"character": "\u202e", "name": "RIGHT-TO-LEFT OVERRIDE", "count": 1},
            {"character": "<", "name": "LESS-THAN SIGN", "count": 2},
            {"character": "٣", "name": "ARABIC-INDIC DIGIT THREE", "count": 7},
        ],
        "native_rates": {"16000": 152, "48000": 12},
        "tokens": 40_123,
        "frames": 1_111_050,
        "positions": {"max": 612, "mean": 301.25},
        "expected_steps": 1234,
        "memory_class": "24 GB",
        "settings": {"max_tokens_per_batch": 8192, "lora_rank": 16},
    }


def finding(kind: str, sample_ids: list[str], hours_share: float, advice: str) -> dict[str, Any]:
    """Return an entry of ``errors`` or ``warnings``."""
    shape = {"sample_ids": sample_ids, "count": len(sample_ids), "hours_share": hours_share, "advice": advice}
    return {"kind": kind, **shape}

"""An example of report.json of an evaluation with every kind of content, and its clips, for the tests of the page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 24_000
HOSTILE = '</script><script>document.title="1"</script><img src=x onerror="document.title=1"> & \'"</p><b>'
WORDS = "ذهب الولد إلى المدرسة صباحا مع أخيه الصغير".split()
Json = dict[str, Any]


def write_tone(path: Path, seconds: float, hertz: float = 220.0, rate: int = RATE) -> None:
    """Write a quiet tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, (0.1 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate)


def interval(value: float, half: float, n: int = 12, method: str = "bca bootstrap") -> Json:
    """An interval of report.json."""
    return {"value": value, "low": value - half, "high": value + half, "n": n, "method": method}


def figures(quality: float) -> Json:
    """Figures of every kind; ``quality`` from 0 to 1 makes them better."""
    return {
        "stop_rate": interval(0.5 + 0.45 * quality, 0.04, method="wilson"),
        "length_ratio": interval(1.6 - 0.6 * quality, 0.05),
        "length_ratio_p5": interval(0.9, 0.1),
        "length_ratio_p95": interval(2.2 - quality, 0.2),
        "wer_scoring": interval(0.9 - 0.6 * quality, 0.06),
        "cer_scoring": interval(0.5 - 0.4 * quality, 0.04),
        "wer_published": interval(0.8 - 0.6 * quality, 0.06, n=11),
        "sim_reference": interval(0.5 + 0.3 * quality, 0.02),
        "mos": interval(2.5 + quality, 0.2),
        "repeated_share": interval(0.2 - 0.2 * quality, 0.01),
        "characters_per_second": interval(12.0, 0.5),
    }


def differences(quality: float) -> Json:
    """Paired differences against a base of quality 0."""
    ours, base = figures(quality), figures(0.0)
    return {
        name: interval(ours[name]["value"] - base[name]["value"], 0.05) for name in ("stop_rate", "wer_scoring")
    } | {
        "mos": interval(0.01, 0.2),
        "length_ratio": interval(ours["length_ratio"]["value"] - base["length_ratio"]["value"], 0.05),
    }


def spoken(folder: Path, name: str, item: str, seed: int, wrong: int, seconds: float, ended: bool = True) -> Json:
    """One clip of a system in which the recogniser missed the first ``wrong`` of four words."""
    path = f"audio/{name}/{item}.{seed}.wav"
    write_tone(folder / path, seconds)
    heard = [word if i >= wrong else ("كلمة" if i % 2 == 0 else "") for i, word in enumerate(WORDS[:4])]
    operations = ["equal" if i >= wrong else ("substitute" if i % 2 == 0 else "delete") for i in range(4)]
    return {
        "seed": seed,
        "audio": path,
        "ended": ended,
        "seconds": seconds,
        "true_seconds": 1.0,
        "length_ratio": seconds,
        "recognised": " ".join(filter(None, heard)),
        "errors": {
            "scoring": {"word_errors": wrong, "words": 4, "character_errors": 3 * wrong, "characters": 19},
            "published": {"word_errors": wrong, "words": 4, "character_errors": 3 * wrong, "characters": 19},
        },
        "alignment": [list(triple) for triple in zip(operations, WORDS[:4], heard, strict=True)],
        "sim_reference": 0.9 - 0.1 * wrong,
        "sim_recording": 0.8,
        "mos": 3.5 - 0.25 * wrong,
    }


def write_example(
    folder: Path, sentences: int = 12, systems: Sequence[str] = ("base", "checkpoint-000300"), seeds: int = 1
) -> Json:
    """Write report.json with the clips of its sentences, which have 0 to 4 wrong words, and return its content."""
    items = []
    for index in range(sentences):
        name = f"s{index + 1}"
        write_tone(folder / f"audio/reference/{name}.wav", 0.7, 330.0, 16_000)
        write_tone(folder / f"audio/recording/{name}.wav", 1.0, 440.0)
        clips = {
            system: [
                spoken(folder, f"system{number}", name, seed, max(0, index % 5 - number), 0.6 + 0.1 * index, index != 7)
                for seed in range(seeds)
            ]
            for number, system in enumerate(systems)
        }
        item = {"id": name, "text": " ".join(WORDS[:4]), "speaker": ("أمل", "badr")[index % 2]}
        item |= {"dialect": (None, "egyptian", "gulf")[index % 3], "clips": clips}
        item |= {field: f"audio/{field}/{name}.wav" for field in ("reference", "recording")}
        items.append(item)
    report = {
        "format": 1,
        "title": "base and adapters on val.json",
        "set": {"name": "val.json", "kind": "chatml", "sentences": sentences, "speakers": 2},
        "recogniser": "whisper-base",
        "normalisations": ["scoring", "published"],
        "speaker_model": "resemblyzer",
        "mos": "dnsmos",
        "seeds": list(range(seeds)),
        "sampling": {"temperature": 1.0, "top_p": 0.95},
        "confidence": 0.95,
        "systems": [system_of(name, number / max(1, len(systems) - 1)) for number, name in enumerate(systems)],
        "retention": None,
        "scales": {
            "sim_reference": {"true recordings": interval(0.88, 0.01), "other speakers": interval(0.51, 0.01)},
            "wer_scoring": {
                "true recordings": interval(0.1, 0.02),
                "recordings through the codec": interval(0.12, 0.02),
            },
        },
        "items": items,
        "warnings": [],
    }
    return write_report(folder, report)


def system_of(name: str, quality: float) -> Json:
    """One system; that of quality 0 is the base."""
    groups = {
        "speaker": {"أمل": figures(quality), "badr": figures(quality / 2)},
        "dialect": {"egyptian": figures(quality), "gulf": {}},
        "length": {"short": figures(quality), "long": figures(quality / 2)},
    }
    kind = "adapter" if quality else "base"
    cost = {"real_time_factor": 1.25, "peak_memory_gb": 3.4}
    told = {"differences": differences(quality)} if quality else {}
    return {"name": name, "kind": kind, "figures": figures(quality), **told, "groups": groups, "cost": cost}


def write_report(folder: Path, report: Json) -> Json:
    """Write report.json and return its content."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    return report


def write_hostile(folder: Path) -> Json:
    """Write report.json in which every text of the data is hostile, and return its content."""
    report = write_example(folder, sentences=1)
    base, clips = report["systems"][0], report["items"][0]["clips"]
    clips = {HOSTILE: clips["base"]}
    clips[HOSTILE][0] |= {"recognised": HOSTILE, "alignment": [["insert", "", HOSTILE], ["delete", HOSTILE, ""]]}
    item = {"id": HOSTILE, "text": HOSTILE, "speaker": HOSTILE, "dialect": HOSTILE, "clips": clips}
    other = {"id": "s2", "text": "نعم\ud800", "speaker": "b", "dialect": "b", "reference": HOSTILE, "clips": {}}
    groups = {HOSTILE: {HOSTILE: {HOSTILE: interval(0.5, 0.1) | {"method": HOSTILE}}}}
    figures = base["figures"] | {HOSTILE: interval(0.5, 0.1) | {"method": HOSTILE}}
    systems = [{"name": HOSTILE, "kind": HOSTILE, "figures": figures, "groups": groups, "cost": {HOSTILE: 1.0}}]
    names = dict.fromkeys(("title", "recogniser", "speaker_model", "mos"), HOSTILE)
    changes = {"set": {"name": HOSTILE, "kind": HOSTILE, "sentences": 1}, "systems": systems, "items": [item, other]}
    changes |= {"scales": {"mos": {HOSTILE: interval(3.0, 0.1)}}, "warnings": [HOSTILE], "sampling": {HOSTILE: HOSTILE}}
    report |= names | changes | {"normalisations": ["scoring"]}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")  # half a surrogate pair is no UTF-8
    return report

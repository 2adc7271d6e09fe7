"""Plants defects in real speech, filters it, and compares what is dropped and kept with the truth.

    OMP_NUM_THREADS=1 python -m benchmarks.filtered_defects [--asr MODEL] [--only TEXT]

The data are ../shared/samples: 128 samples by 20 speakers at 16 kHz, of which the filter drops none as they are. Each
row plants one defect in the targets of 28 of the 112 training samples (or in their texts, references or records); the
other 100 samples are the clean ones. Caught: dropped by the rule that the row names. The other rules stay on, so a
planted sample that this rule misses may still be dropped.

The rule ``transcript`` needs a recogniser. --asr names one. Without it, a simulated one hears the words that are in the
clip, with a given share of wrong characters at random places: its rows show what the rule does with a recogniser of
that error rate, and say nothing about a real one.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from boson_multimodal.audio_processing.silence import frame_levels, silence_threshold
from voice_cloning.data_check.clip_measures import noise_floor
from voice_cloning.data_check.filter import FilterPlan, filter_files
from voice_cloning.data_check.filter_files import DROPPED_FILE
from voice_cloning.data_check.filter_rules import VOICE
from voice_cloning.data_check.voice_rules import NO_MODEL
from voice_cloning.evaluation.recognisers import Heard, SpeechRecogniser, find_recogniser
from voice_cloning.speech.speaker_embedding import RESEMBLYZER, is_resemblyzer_installed

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "arabic_speech_commands"
RATE = 16_000
EVERY = 4
"""One of so many training samples gets the defect."""
LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"
Record = dict[str, Any]
Plant = Callable[["Data", Record], None]


class Data:
    """A copy of the records; clips are read from the samples, and planted ones are written to ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, random.Random(0)
        self.train, self.val = (
            json.loads((SAMPLES / f"{side}_chatml_samples.json").read_text("utf-8")) for side in ("train", "val")
        )
        for record in [*self.train, *self.val]:
            for part in (target(record), reference(record)):
                part["audio_url"] = str(SAMPLES / part["audio_url"])
                part["duration"] = None
        self.planted = self.train[::EVERY]
        self.spoken: dict[bytes, str] = {}

    def wave(self, record: Record) -> np.ndarray:
        return soundfile.read(target(record)["audio_url"], dtype="float32")[0]

    def put(self, record: Record, wave: np.ndarray, rate: int = RATE, suffix: str = "flac") -> None:
        """Write a clip and make it the target of a record."""
        path = self.folder / f"{name(record)}_{len(list(self.folder.iterdir()))}.{suffix}"
        soundfile.write(path, wave, rate)
        target(record)["audio_url"] = str(path)

    def other(self, record: Record) -> Record:
        """Return a training sample of another speaker, at random."""
        return self.rng.choice([r for r in self.train if r["speaker"] != record["speaker"]])

    def write(self) -> list[Path]:
        paths = [self.folder / "train.json", self.folder / "val.json"]
        for path, records in zip(paths, (self.train, self.val), strict=True):
            path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        return paths


def target(record: Record) -> Record:
    return record["messages"][2]["content"][1]


def reference(record: Record) -> Record:
    return record["messages"][1]["content"][1]


def name(record: Record) -> str:
    return record["misc"]["sample_id"]


def words(record: Record) -> str:
    return record["misc"]["target_transcript"]


def say(record: Record, text: str) -> None:
    """Replace the target text in all fields of a record."""
    user, assistant = record["messages"][1]["content"], record["messages"][2]["content"]
    user[2]["text"] = user[2]["text"].replace(words(record), text)
    assistant[0]["text"] = record["misc"]["target_transcript"] = text


def on_wave(change: Callable[[np.ndarray], np.ndarray], rate: int = RATE, suffix: str = "flac") -> Plant:
    return lambda data, record: data.put(record, change(data.wave(record)), rate, suffix)


# -- defects ---------------------------------------------------------------------------------------------------------


def clipped(share: float) -> Plant:
    def change(wave: np.ndarray) -> np.ndarray:
        top = np.quantile(np.abs(wave), 1 - share)
        return np.clip(wave, -top, top) / top * 0.9

    return on_wave(change)


def noisy(decibels: float) -> Plant:
    """Add white noise, so many dB below the power of the active frames."""

    def change(wave: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(len(wave)).normal(0, 1, len(wave)).astype("f4")
        return _mixed(wave, noise, decibels)

    return on_wave(change)


def beneath(decibels: float) -> Plant:
    """Add the clip of another speaker, so many dB below."""

    def plant(data: Data, record: Record) -> None:
        wave = data.wave(record)
        other = np.resize(data.wave(data.other(record)), len(wave))
        data.put(record, _mixed(wave, other, decibels))

    return plant


def _mixed(wave: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    power = [_active_power(sound) for sound in (wave, noise)]
    mixed = wave + noise * np.sqrt(power[0] / power[1] / 10 ** (decibels / 10))
    return mixed / max(1.0, np.abs(mixed).max() / 0.99)


def _active_power(wave: np.ndarray) -> float:
    levels = frame_levels(wave, RATE)
    return float(np.mean(10 ** (levels[levels >= silence_threshold(levels)] / 10)))


def low_passed(rate: int, at: int) -> Plant:
    """Resample to ``rate``, and store at ``at`` samples per second."""

    def change(wave: np.ndarray) -> np.ndarray:
        return resample(resample(torch.from_numpy(wave), RATE, rate), rate, at).numpy()

    return on_wave(change, at)


def hush(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-4, round(seconds * RATE)).astype("f4")


def paused(wave: np.ndarray) -> np.ndarray:
    half = len(wave) // 2
    return np.concatenate([wave[:half], hush(1.5 * len(wave) / RATE), wave[half:]])


def cut(share: float) -> Plant:
    """Cut off the end of the speech; the text stays."""
    return on_wave(lambda wave: wave[: round((1 - share) * len(wave))])


def wrong_text(data: Data, record: Record) -> None:
    say(record, words(data.rng.choice([r for r in data.train if words(r) != words(record)])))


def text_times(times: float) -> Plant:
    def plant(data: Data, record: Record) -> None:
        own = words(record).split()
        say(record, " ".join((own * 3)[: max(1, round(times * len(own)))]))

    return plant


def other_voice(data: Data, record: Record) -> None:
    other = data.other(record)
    reference(record).update(audio_url=reference(other)["audio_url"])
    text = other["misc"]["ref_transcript"]
    record["messages"][1]["content"][0]["text"] = record["misc"]["ref_transcript"] = text


def repeated(change: Callable[[Data, Record], None]) -> Plant:
    """Add a copy of the record, whose target is stored as MP3, and change it. The copy is the planted sample."""

    def plant(data: Data, record: Record) -> None:
        copy = json.loads(json.dumps(record))
        copy["misc"]["sample_id"] += "_again"
        data.train.append(copy)
        data.put(copy, data.wave(copy), suffix="mp3")
        change(data, copy)
        data.planted = [copy if r is record else r for r in data.planted]

    return plant


def leaked(data: Data, record: Record) -> None:
    """Add an evaluation sample of an unseen name with the target of a training sample."""
    copy = json.loads(json.dumps(record))
    copy["misc"]["sample_id"] += "_val"
    copy["speaker"] = f"new {name(record)}"
    data.val.append(copy)
    data.put(copy, data.wave(copy), suffix="mp3")
    data.planted = [copy if r is record else r for r in data.planted]


def truncated(data: Data, record: Record) -> None:
    data.put(record, data.wave(record))
    path = Path(target(record)["audio_url"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@dataclass(frozen=True)
class Row:
    """A row of the table: what is planted, and the rule that should drop it."""

    title: str
    rule: str
    plant: Plant


ROWS = (
    Row("nothing", "errors", lambda data, record: None),
    *(Row(f"clipped: {100 * share:g} % of the samples", "clipping", clipped(share)) for share in (1e-4, 1e-3, 1e-2)),
    *(Row(f"white noise {db} dB below the speech", "snr", noisy(db)) for db in (30, 20, 15, 10, 5)),
    *(Row(f"another speaker {db} dB below the speech", "snr", beneath(db)) for db in (20, 10)),
    Row("8 kHz, stored at 48 kHz", "bandwidth", low_passed(8000, 48_000)),
    Row("11.025 kHz, stored at 48 kHz", "bandwidth", low_passed(11_025, 48_000)),
    Row("8 kHz, stored at 8 kHz", "bandwidth", low_passed(8000, 8000)),
    Row("8 kHz, stored at 16 kHz", "bandwidth", low_passed(8000, 16_000)),
    Row("0.5 s of silence before (below the bound)", "silence", on_wave(lambda w: np.concatenate([hush(0.5), w]))),
    Row("1 s of silence before", "silence", on_wave(lambda w: np.concatenate([hush(1.0), w]))),
    Row("1 s of silence after", "silence", on_wave(lambda w: np.concatenate([w, hush(1.0)]))),
    Row("60 % silence, in the middle", "silence", on_wave(paused)),
    *(Row(f"{db} dB softer", "level", on_wave(lambda w, db=db: w * 10 ** (-db / 20))) for db in (20, 30, 40)),
    Row("0.4 s of the target", "length", on_wave(lambda w: w[len(w) // 2 - 3200 : len(w) // 2 + 3200])),
    Row("35 s of target", "length", on_wave(lambda w: np.resize(w[::-1], 35 * RATE))),
    Row("last quarter of the speech cut off", "speech_rate", cut(0.25)),
    Row("last half of the speech cut off", "speech_rate", cut(0.5)),
    Row("the text twice", "speech_rate", text_times(2.0)),
    Row("half of the text", "speech_rate", text_times(0.5)),
    Row("the text of another sample", "speech_rate", wrong_text),
    Row("a reference of another speaker", VOICE, other_voice),
    Row("a copy as MP3", "duplicates", repeated(lambda data, copy: None)),
    Row("a copy as MP3 with another text", "conflicting_transcripts", repeated(wrong_text)),
    Row("an evaluation copy as MP3, other speaker's name", "both_sides", leaked),
    Row("half of the file is missing", "errors", truncated),
    Row("one channel inverted", "errors", on_wave(lambda w: np.stack([w, -w], axis=1))),
)
HEARD_ROWS = (
    Row("the text of another sample", "transcript", wrong_text),
    Row("the text twice", "transcript", text_times(2.0)),
    Row("half of the text", "transcript", text_times(0.5)),
)
SIMULATED = (0.05, 0.15, 0.25)


class Simulated:
    """Hears the words of a clip, with a share of characters replaced at random. It knows clips by their samples."""

    def __init__(self, spoken: dict[bytes, str], share: float) -> None:
        self.name, self._spoken, self._share = f"simulated, CER {100 * share:g} %", spoken, share

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        return [self._misheard(self._spoken[clip.samples.numpy().tobytes()]) for clip in clips]

    def _misheard(self, text: str) -> str:
        rng = random.Random(text)
        return "".join(rng.choice(LETTERS) if c != " " and rng.random() < self._share else c for c in text)


def spoken_in(data: Data) -> dict[bytes, str]:
    """Return the samples of each clip -> what is said in it."""
    found = {}
    for record in [*data.train, *data.val]:
        for part, text in ((target(record), words(record)), (reference(record), record["misc"]["ref_transcript"])):
            found[soundfile.read(part["audio_url"], dtype="float32")[0].tobytes()] = text
    return found


def filtered(row: Row, measures: Path, recogniser: SpeechRecogniser | None) -> str:
    """Plant a defect, filter, and return the row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        for record in list(data.planted):
            row.plant(data, record)
        plan = FilterPlan(speaker_model=RESEMBLYZER if row.rule == VOICE else NO_MODEL, recogniser=recogniser)
        filter_files(data.write(), measures, plan, num_workers=1, overwrite=True)
        lines = [json.loads(line) for line in (measures / DROPPED_FILE).read_text("utf-8").splitlines()]
    planted = {name(record) for record in data.planted}
    caught = {line["sample_id"] for line in lines if line["rule"] == row.rule} & planted
    others = {(line["sample_id"], line["rule"]) for line in lines if line["sample_id"] in planted - caught}
    lost = {(line["sample_id"], line["rule"]) for line in lines if line["sample_id"] not in planted}
    clean = len(data.train) + len(data.val) - len(planted)
    told = f"{len({i for i, _ in lost})} of {clean}" + (f": {_counted(lost)}" if lost else "")
    return f"| {row.title} | `{row.rule}` | {len(caught)} of {len(planted)} | {_counted(others)} | {told} |"


def _counted(dropped: set[tuple[str, str]]) -> str:
    """Return rules with the number of their samples."""
    return ", ".join(f"`{rule}` {count}" for rule, count in sorted(Counter(rule for _, rule in dropped).items())) or "0"


def print_clean_levels() -> None:
    """Print what ``snr_db`` measures of the clips as they are, and of the same clips without their pauses."""
    found: list[list[float]] = [[], []]
    for path in sorted((SAMPLES / "clips").glob("*/*.flac")):
        levels = frame_levels(soundfile.read(path, dtype="float32")[0], RATE)
        for own, kept in zip(found, (levels, levels[levels >= silence_threshold(levels)]), strict=True):
            own.append(float(np.percentile(kept, 95)) - noise_floor(kept))
    for title, values in zip(("as they are", "without their pauses"), found, strict=True):
        print(f"{len(values)} clips {title}: {min(values):.1f} to {max(values):.1f} dB, median {np.median(values):.1f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr", metavar="MODEL", help="Recogniser for the rule transcript (default: simulated ones).")
    parser.add_argument("--only", default="", metavar="TEXT", help="Only rows whose rule or title holds this text.")
    flags = parser.parse_args()
    began = time.process_time()
    print_clean_levels()
    print("| planted | rule | caught by it | others, by other rules | clean samples dropped |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        measures, rows = Path(folder), [(row, None) for row in ROWS]
        if not is_resemblyzer_installed():
            rows = [(row, None) for row, _ in rows if row.rule != VOICE]
        spoken = spoken_in(Data(measures))
        heard = [find_recogniser(flags.asr)] if flags.asr else [Simulated(spoken, share) for share in SIMULATED]
        rows += [(row, recogniser) for recogniser in heard for row in HEARD_ROWS]
        for row, recogniser in rows:
            if flags.only in f"{row.rule} {row.title}":
                shown = filtered(row, measures, recogniser)
                print(shown if recogniser is None else shown.replace("` |", f"` ({recogniser.name}) |", 1), flush=True)
    print(f"\n{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()

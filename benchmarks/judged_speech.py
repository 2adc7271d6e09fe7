"""Measures what WER, CER, SIM and MOS of real models say about real Arabic speech, whole and spoilt in known ways.

    python -m benchmarks.fetch_judges FOLDER
    OMP_NUM_THREADS=1 python -m benchmarks.judged_speech FOLDER --results FOLDER/judged.json

The first table is of ../shared/samples: utterances of three to seven words by 20 speakers, with a reference of the same
speaker. The second is of nine clips of dialects, one of each speaker, without references.

- "codec" is the demo's codec with random weights, which makes noise of everything: the figures' worst case.
- "texts shuffled" scores each recognised text against the text of the next clip.
- "another's reference" compares each clip with the reference of the next speaker.
- "cut" lacks the last 30 %; "fast" is 1.3 times as fast at the same pitch; "noise" is white, 5 dB below the speech.

With --results, what was judged before is not judged again, so a run can be interrupted.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

from benchmarks.fetch_judges import DIALECTS, TRANSCRIPTS, WHISPER
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import write_whole
from tools.demo.build import build_demo
from voice_cloning.evaluation.intervals import Interval, mean_interval, ratio_interval
from voice_cloning.evaluation.naturalness import load_mos
from voice_cloning.evaluation.recognisers import Heard, load_recogniser
from voice_cloning.evaluation.similarity import cosine, load_speaker_model
from voice_cloning.evaluation.word_errors import NORMALISATIONS, TextErrors, text_errors

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "arabic_speech_commands"
CODEC_FOLDER = Path("demo", "audio_tokenizer")
"""In the folder of the judges. It is built as the demo's, which gives the same bytes each time."""
KEPT, FASTER, NOISE_DB = 0.7, 1.3, 5.0
TRUE, CODEC, CUT, FAST, NOISE = "true recordings", "through the codec", "cut at the end", "1.3 times as fast", "noise"
SHUFFLED, ANOTHER = "texts shuffled", "another's reference"
CONDITIONS = (TRUE, CODEC, CUT, FAST, NOISE)
COLUMNS = ("WER scoring", "CER scoring", "WER published", "CER published", "SIM reference", "SIM recording", "MOS")
Judged = dict[str, Any]
"""Of one clip in one condition: ``text``, ``sim_reference``, ``sim_another``, ``sim_recording``, ``mos``."""


@dataclass(frozen=True)
class Utterance:
    """A recording with its text.

    Attributes:
        name: unique.
        speaker: who speaks; in the dialect clips the name of the dialect.
        text: what is spoken.
        samples: (samples,) at ``sampling_rate``.
        sampling_rate: in Hz.
        reference: another clip of the speaker: (samples,) and its rate in Hz; None if there is none.
    """

    name: str
    speaker: str
    text: str
    samples: Tensor
    sampling_rate: int
    reference: tuple[Tensor, int] | None


def read_samples(folder: Path, per_speaker: int) -> list[Utterance]:
    """Return the first utterances of each speaker, in turn, so that neighbours are different speakers."""
    records = []
    for side in ("val", "train"):
        path = folder / f"{side}_chatml_samples.json"
        if not path.is_file():
            raise InputError(f"--samples {folder}: no {path.name} in it; give the folder of the Arabic samples")
        records += json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, list[Utterance]] = {}
    for record in records:
        ours = found.setdefault(record["speaker"], [])
        if len(ours) < per_speaker:
            reference, target = (sound(folder / record["messages"][turn]["content"][1]["audio_url"]) for turn in (1, 2))
            misc = record["misc"]
            ours.append(Utterance(misc["sample_id"], record["speaker"], misc["target_transcript"], *target, reference))
    return [ours[i] for i in range(per_speaker) for ours in found.values() if i < len(ours)]


def read_dialects(folder: Path) -> list[Utterance]:
    """Return the dialect clips."""
    path = folder / TRANSCRIPTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; run python -m benchmarks.fetch_judges {folder.parent}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Utterance(r["file"], r["dialect"], r["text"], *sound(folder / r["file"]), None) for r in rows]


def sound(path: Path) -> tuple[Tensor, int]:
    """Return a whole file as (samples,), and its rate in Hz."""
    waveform = read_waveform(Clip(path, 0.0, None))
    return waveform.samples, waveform.sampling_rate


def changes(codec_folder: Path) -> dict[str, Callable[[Tensor, int], tuple[Tensor, int]]]:
    """Return what each condition makes of (samples,) and their rate."""
    codec = load_higgs_audio_tokenizer(codec_folder)

    def through_codec(samples: Tensor, rate: int) -> tuple[Tensor, int]:
        wave = torchaudio.functional.resample(samples, rate, codec.sampling_rate)
        return codec.decode(codec.encode(wave[None])[0]), codec.sampling_rate

    def faster(samples: Tensor, rate: int) -> tuple[Tensor, int]:
        return torch.from_numpy(librosa.effects.time_stretch(samples.numpy(), rate=FASTER)), rate

    def noisy(samples: Tensor, rate: int) -> tuple[Tensor, int]:
        scale = float(samples.std()) * 10 ** (-NOISE_DB / 20)
        noise = np.random.default_rng(0).normal(0, scale, len(samples)).astype(np.float32)
        return samples + torch.from_numpy(noise), rate

    return {
        TRUE: lambda samples, rate: (samples, rate),
        CODEC: through_codec,
        CUT: lambda samples, rate: (samples[: round(KEPT * len(samples))], rate),
        FAST: faster,
        NOISE: noisy,
    }


def _similarity(one: Tensor | None, other: Tensor | None) -> float | None:
    return None if one is None or other is None else cosine(one, other)


class Judges:
    """The models. Embeddings of recordings and references are kept."""

    def __init__(self, asr: Path, speaker_model: str, mos: str) -> None:
        self.recogniser = load_recogniser(str(asr))
        self.voices, self.mos = load_speaker_model(speaker_model), load_mos(mos)
        self.names = [self.recogniser.name, self.voices.name, self.mos.name]
        self._embedded: dict[str, Tensor | None] = {}

    def judge(self, utterance: Utterance, another: Utterance, samples: Tensor, rate: int) -> Judged:
        """Judge (samples,) that stand for an utterance; ``another`` is one of another speaker."""
        voice = self.voices.embed(samples, rate)
        found: Judged = {
            "text": self.recogniser.transcribe([Heard(samples=samples, sampling_rate=rate)])[0],
            "mos": self.mos.score(samples, rate),
            "sim_recording": _similarity(
                voice, self._voice(utterance.name, utterance.samples, utterance.sampling_rate)
            ),
        }
        if utterance.reference is not None and another.reference is not None:
            found["sim_reference"] = _similarity(voice, self._voice(f"{utterance.name} ref", *utterance.reference))
            found["sim_another"] = _similarity(voice, self._voice(f"{another.name} ref", *another.reference))
        return found

    def _voice(self, key: str, samples: Tensor, rate: int) -> Tensor | None:
        if key not in self._embedded:
            self._embedded[key] = self.voices.embed(samples, rate)
        return self._embedded[key]


def judge_all(utterances: Sequence[Utterance], judges: Judges, codec: Path, results: Path | None) -> dict[str, Judged]:
    """Judge each utterance in each condition. Returns ``condition/name`` -> what was found."""
    known = read_results(results, judges.names)
    found: dict[str, Judged] = known["clips"]
    made = changes(codec)
    work = [(c, i) for c in CONDITIONS for i in range(len(utterances)) if f"{c}/{utterances[i].name}" not in found]
    for condition, i in tqdm(work, disable=None):
        utterance, another = utterances[i], utterances[(i + 1) % len(utterances)]
        samples, rate = made[condition](utterance.samples, utterance.sampling_rate)
        found[f"{condition}/{utterance.name}"] = judges.judge(utterance, another, samples, rate)
        if results is not None:
            write_whole(results, json.dumps(known, ensure_ascii=False, indent=1).encode())
    return found


def read_results(path: Path | None, models: list[str]) -> dict[str, Any]:
    """Return what was judged before.

    Raises:
        InputError: if other models judged it.
    """
    if path is None or not path.is_file():
        return {"models": models, "clips": {}}
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["models"] != models:
        raise InputError(f"--results {path}: judged by {known['models']}, not by {models}; give another file")
    return known


def table(utterances: Sequence[Utterance], found: dict[str, Judged]) -> dict[str, dict[str, Interval]]:
    """Return condition -> column -> figure with its interval; speakers are resampled."""
    speakers = [utterance.speaker for utterance in utterances]
    texts = [utterance.text for utterance in utterances]
    rows = {}
    for row in (*CONDITIONS, SHUFFLED, ANOTHER):
        judged = [found[f"{row if row in CONDITIONS else TRUE}/{utterance.name}"] for utterance in utterances]
        wanted = texts[1:] + texts[:1] if row == SHUFFLED else texts
        cells: dict[str, Interval] = {}
        for name in NORMALISATIONS if row != ANOTHER else ():
            errors = [text_errors(t, j["text"], name) for t, j in zip(wanted, judged, strict=True)]
            cells |= error_rates(errors, name, speakers)
        if row != SHUFFLED and "sim_reference" in judged[0]:
            key = "sim_another" if row == ANOTHER else "sim_reference"
            cells["SIM reference"] = mean([j[key] for j in judged], speakers)
        if row not in (SHUFFLED, ANOTHER):
            cells["MOS"] = mean([j["mos"] for j in judged], speakers)
        if row in CONDITIONS[1:]:
            cells["SIM recording"] = mean([j["sim_recording"] for j in judged], speakers)
        rows[row] = cells
    return rows


def error_rates(errors: Sequence[TextErrors], name: str, speakers: Sequence[str]) -> dict[str, Interval]:
    """Return the columns of WER and CER for a normalisation."""
    return {
        f"WER {name}": ratio_interval([e.word_errors for e in errors], [e.words for e in errors], speakers),
        f"CER {name}": ratio_interval([e.character_errors for e in errors], [e.characters for e in errors], speakers),
    }


def mean(values: Sequence[float | None], speakers: Sequence[str]) -> Interval:
    """Return the mean of the values there are."""
    there = [(value, speaker) for value, speaker in zip(values, speakers, strict=True) if value is not None]
    return mean_interval([value for value, _ in there], [speaker for _, speaker in there])


def print_table(title: str, utterances: Sequence[Utterance], rows: dict[str, dict[str, Interval]]) -> None:
    """Print a table in Markdown."""
    speakers = len({utterance.speaker for utterance in utterances})
    print(f"\n{title}: {len(utterances)} clips, {speakers} speakers\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for row, cells in rows.items():
        if not cells:
            continue  # another's reference, where there are no references
        shown = [f"{c.value:.2f} ({c.low:.2f} to {c.high:.2f})" if c else "" for c in map(cells.get, COLUMNS)]
        print(f"| {row} | {' | '.join(shown)} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge and print the tables. Returns the exit status."""
    return run_command(lambda: run(parse_arguments(arguments)))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judges", type=Path, help="Folder that benchmarks.fetch_judges filled.")
    parser.add_argument("--asr", type=Path, help="Another recogniser; by default the one in the folder.")
    parser.add_argument("--speaker_model", default="resemblyzer")
    parser.add_argument("--mos", default="dnsmos")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="Folder of the Arabic samples.")
    parser.add_argument("--per_speaker", type=int, default=1, help="Utterances of each of the 20 speakers.")
    parser.add_argument("--results", type=Path, help="JSON file of what was judged; it is written after each clip.")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Judge both sets, and print a table for each. Returns the exit status."""
    sets = {
        "Samples": read_samples(args.samples, args.per_speaker),
        "Dialects": read_dialects(args.judges / DIALECTS),
    }
    judges = Judges(args.asr or args.judges / WHISPER, args.speaker_model, args.mos)
    codec = args.judges / CODEC_FOLDER
    if not codec.is_dir():
        build_demo(codec.parent)
    for title, utterances in sets.items():
        found = judge_all(utterances, judges, codec, args.results)
        print_table(title, utterances, table(utterances, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Defects planted one at a time in a copy of real data, each with what the check must find; and the table of it.

    python -m tests.planted_defects

needs ../shared/samples and prints, for each defect, what was found and what was accused without reason.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

from tests.goldens import SAMPLES_DIR
from voice_cloning.data_check.check import check_files

ALWAYS_FOUND = "low_native_rate"
"""Of all samples of this data: it is 16 kHz."""
RATE = 16_000
VICTIMS = (0, 23, 46, 69, 92)
"""Of the training samples: five speakers."""

Expected = dict[str, set[str]]
Record = dict[str, Any]


class Copy:
    """A copy of the samples that a defect is planted in.

    Attributes:
        train, val: the records.
        folder: of the copy; clips lie below ``clips``.
    """

    def __init__(self, folder: Path, speakers: int | None = None, first: int = 0) -> None:
        self.folder = folder
        self.train, self.val = (
            json.loads((SAMPLES_DIR / f"{side}_chatml_samples.json").read_text(encoding="utf-8"))
            for side in ("train", "val")
        )
        if speakers is not None:
            chosen = sorted({record["speaker"] for record in self.train})[:speakers]
            self.train = [record for record in self.train if record["speaker"] in chosen]
        self.train.sort(key=lambda record: record["misc"]["sample_id"])
        self.train = self.train[first:] + self.train[:first]
        for record in (*self.train, *self.val):
            for part in (reference(record), target(record)):
                path = folder / part["audio_url"]
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    shutil.copyfile(SAMPLES_DIR / part["audio_url"], path)

    def read(self, part: Record) -> np.ndarray:
        """(samples,) of a clip."""
        return soundfile.read(self.folder / part["audio_url"], dtype="float32")[0]

    def put(self, part: Record, samples: np.ndarray, rate: int = RATE, name: str = "planted.wav", **how: Any) -> Path:
        """Make a part's clip a new file."""
        path = self.folder / name
        soundfile.write(path, samples, rate, **how)
        part |= {"audio_url": name, "duration": None, "offset": None}
        return path

    def check(self) -> dict[str, Any]:
        """The report on the copy as it is now."""
        for side, records in (("train", self.train), ("val", self.val)):
            text = json.dumps(records, ensure_ascii=False)
            (self.folder / f"{side}.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        files = [self.folder / "train.json", self.folder / "val.json"]
        return check_files(files, self.folder / "report", num_workers=1)


def reference(record: Record) -> Record:
    """Its reference clip."""
    return record["messages"][1]["content"][1]


def target(record: Record) -> Record:
    """Its target clip."""
    return record["messages"][2]["content"][1]


def name(record: Record) -> str:
    return record["misc"]["sample_id"]


def retell(record: Record, words: str) -> None:
    """Make a record say another target text, everywhere."""
    before = record["misc"]["target_transcript"]
    record["messages"][1]["content"][2]["text"] = record["messages"][1]["content"][2]["text"].replace(before, words)
    record["messages"][2]["content"][0]["text"] = words
    record["misc"]["target_transcript"] = words


def _say_reference(record: Record, words: str) -> None:
    record["messages"][1]["content"][0]["text"] = record["misc"]["ref_transcript"] = words


def found_kinds(report: dict[str, Any]) -> Expected:
    """What a report accuses whom of."""
    return {entry["kind"]: set(entry["sample_ids"]) for entry in (*report["errors"], *report["warnings"])}


# -- what is planted -------------------------------------------------------------------------------------------------

Plant = Callable[[Copy], Expected]
PLANTS: dict[str, Plant] = {}


def plant(title: str) -> Callable[[Plant], Plant]:
    def keep(function: Plant) -> Plant:
        PLANTS[title] = function
        return function

    return keep


def _victim(copy: Copy) -> Record:
    """The record that is tampered with. Its target's file stays: it is the reference of another record."""
    return copy.train[0]


def _with_clip(kind: str, change: Callable[[np.ndarray], np.ndarray], **how: Any) -> Plant:
    """Plant another target made of the victim's own."""

    def planted(copy: Copy) -> Expected:
        record = _victim(copy)
        copy.put(target(record), change(copy.read(target(record))), **how)
        return {kind: {name(record)}}

    return planted


def _with_bytes(kind: str, change: Callable[[bytes], bytes], **how: Any) -> Plant:
    """Plant a damaged file."""

    def planted(copy: Copy) -> Expected:
        record = _victim(copy)
        path = copy.put(target(record), copy.read(target(record)), **how)
        path.write_bytes(change(path.read_bytes()))
        return {kind: {name(record)}}

    return planted


def _with_text(kind: str, change: Callable[[str], str]) -> Plant:
    def planted(copy: Copy) -> Expected:
        record = _victim(copy)
        retell(record, change(record["misc"]["target_transcript"]))
        return {kind: {name(record)}}

    return planted


def _as_reference(change: Callable[[np.ndarray], np.ndarray], rate: int = RATE, besides: str = "", **how: Any) -> Plant:
    """Plant a reference that is the target after some change, and has another defect by that."""

    def planted(copy: Copy) -> Expected:
        record = _victim(copy)
        _say_reference(record, record["misc"]["target_transcript"])
        copy.put(reference(record), change(copy.read(target(record))), rate, **how)
        return {"reference_equals_target": {name(record)}} | ({besides: {name(record)}} if besides else {})

    return planted


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    return torchaudio.functional.resample(torch.from_numpy(wave), RATE, rate).numpy()


def _silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-4, round(seconds * RATE)).astype(np.float32)


def _nan(wave: np.ndarray) -> np.ndarray:
    wave[100] = np.nan
    return wave


TWO_THIRDS = {"change": lambda content: content[: len(content) * 2 // 3]}
PLANTS |= {
    "a file that is no audio": _with_bytes("unreadable_audio", lambda content: b"hello" * 100),
    "an empty file": _with_bytes("empty_audio", lambda content: b""),
    "a file without samples": _with_clip("empty_audio", lambda wave: wave[:0]),
    "NaN among the samples": _with_clip("nan_audio", _nan, subtype="FLOAT"),
    "a WAV that breaks off": _with_bytes("truncated_audio", **TWO_THIRDS),
    "a FLAC that breaks off": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.flac"),
    "an Ogg Vorbis that breaks off": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.ogg"),
    "an Opus that breaks off": _with_bytes(
        "truncated_audio", **TWO_THIRDS, name="planted.ogg", format="OGG", subtype="OPUS"
    ),
    "an MP3 that breaks off": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.mp3"),
    "reference is the target, copied": _as_reference(lambda wave: wave, name="planted.flac"),
    "reference is the target, as MP3": _as_reference(lambda wave: wave, name="planted.mp3"),
    "reference is the target, as Opus": _as_reference(
        lambda wave: wave, name="planted.ogg", format="OGG", subtype="OPUS"
    ),
    "reference is the target, 0.3 s cut off": _as_reference(lambda wave: wave[round(0.3 * RATE) :]),
    "reference is the target, 6 dB louder": _as_reference(lambda wave: np.clip(2 * wave, -1, 1), besides="clipping"),
    "reference is the target, 6 dB softer": _as_reference(lambda wave: wave / 2),
    "reference is the target at 24 kHz": _as_reference(lambda wave: _resampled(wave, 24_000), 24_000),
    "reference is the target at 48 kHz, cut, softer, as Opus": _as_reference(
        lambda wave: _resampled(wave[round(0.3 * RATE) :], 48_000) / 2,
        48_000,
        name="planted.ogg",
        format="OGG",
        subtype="OPUS",
    ),
    "clipping": _with_clip("clipping", lambda wave: np.clip(3 * wave, -1, 1)),
    "clipping, then made softer": _with_clip("clipping", lambda wave: np.clip(3 * wave, -1, 1) / 3),
    "1 s of silence at the start": _with_clip("silence_at_ends", lambda wave: np.concatenate([_silence(1), wave])),
    "1 s of silence at the end": _with_clip("silence_at_ends", lambda wave: np.concatenate([wave, _silence(1)])),
    "a level of -60 dB": _with_clip("low_level", lambda wave: wave / 1000, subtype="FLOAT"),
    "DC": _with_clip("dc_offset", lambda wave: wave / 2 + 0.05),
    "Arabic digits": _with_text("digits", lambda text: text + " ٣"),
    "Latin letters": _with_text("latin_letters", lambda text: text + " ok"),
    "tatweel": _with_text("tatweel", lambda text: text.replace("ا", "ا\u0640", 1)),
    "presentation forms": _with_text("presentation_forms", lambda text: text + " \ufefb"),
    "bidi controls": _with_text("bidi_controls", lambda text: "\u202b" + text + "\u202c"),
    "zero-width characters": _with_text("zero_width", lambda text: text[:3] + "\u200b" + text[3:]),
    "an emoji": _with_text("emoji", lambda text: text + " \U0001f600"),
    "Persian letters": _with_text("persian_letters", lambda text: text + " کی"),
    "another script": _with_text("unknown_characters", lambda text: text + " да"),
    "one text with diacritics": _with_text(
        "mixed_diacritisation", lambda text: "".join(c + ("\u064e" if c.isalpha() else "") for c in text)
    ),
}


@plant("a file that is not there")
def _missing_file(copy: Copy) -> Expected:
    record = _victim(copy)
    target(record)["audio_url"] = "clips/none.flac"
    return {"unreadable_audio": {name(record)}}


@plant("a cut that goes beyond the file")
def _long_cut(copy: Copy) -> Expected:
    record = _victim(copy)
    target(record)["duration"] = 20.0
    return {"truncated_audio": {name(record)}}


@plant("a text that is empty")
def _empty_text(copy: Copy) -> Expected:
    record = _victim(copy)
    retell(record, "")
    del record["misc"]["target_transcript"]
    return {"missing_text": {name(record)}}


@plant("no text for the target")
def _no_text(copy: Copy) -> Expected:
    record = _victim(copy)
    del record["messages"][2]["content"][0], record["messages"][1]["content"][2]
    del record["messages"][1]["content"][0], record["misc"]["target_transcript"], record["misc"]["ref_transcript"]
    return {"missing_text": {name(record)}}


@plant("a turn of an unknown role")
def _unknown_role(copy: Copy) -> Expected:
    record = _victim(copy)
    record["messages"][2]["role"] = "speaker"
    return {"malformed_record": {name(record)}}


@plant("reference is the target's file")
def _same_file(copy: Copy) -> Expected:
    record = _victim(copy)
    reference(record).update(target(record))
    _say_reference(record, record["misc"]["target_transcript"])
    return {"reference_equals_target": {name(record)}}


@plant("a speaker on both sides")
def _speaker_on_both_sides(copy: Copy) -> Expected:
    speaker = copy.val[0]["speaker"]
    before = {name(record) for record in copy.val if record["speaker"] == speaker}
    copy.train[0]["speaker"] = speaker
    return {"speaker_in_train_and_eval": before}


@plant("an utterance on both sides, re-encoded")
def _utterance_on_both_sides(copy: Copy) -> Expected:
    record, other = copy.val[0], _victim(copy)
    retell(record, other["misc"]["target_transcript"])
    copy.put(target(record), copy.read(target(other)), name="planted.mp3")
    return {"utterance_in_train_and_eval": {name(record)}}


@plant("an utterance on both sides, the same file")
def _file_on_both_sides(copy: Copy) -> Expected:
    record, other = copy.val[0], _victim(copy)
    retell(record, other["misc"]["target_transcript"])
    target(record).update(target(other))
    return {"utterance_in_train_and_eval": {name(record)}}


@plant("a clip of 90 s")
def _ninety_seconds(copy: Copy) -> Expected:
    record = _long_target(copy, 90)
    return {"over_limit": {name(record)}, "target_length": {name(record)}}


@plant("a target of 35 s")
def _thirty_five_seconds(copy: Copy) -> Expected:
    return {"target_length": {name(_long_target(copy, 35))}}


def _long_target(copy: Copy, seconds: float) -> Record:
    """A target of one speaker's utterances one after the other, with all their texts."""
    record = _victim(copy)
    rng, words, waves = np.random.default_rng(0), [], []
    own = copy.read(target(record))
    while sum(map(len, waves)) < seconds * RATE:
        # Played backwards and at random gains it is no other sample's recording.
        waves.append(own[::-1] * rng.uniform(0.6, 1.0))
        words.append(record["misc"]["target_transcript"])
    copy.put(target(record), np.concatenate(waves))
    retell(record, " ".join(words))
    return record


@plant("a target of 0.4 s")
def _short_target(copy: Copy) -> Expected:
    record = _victim(copy)
    wave = copy.read(target(record))
    middle = np.abs(wave).argmax()
    copy.put(target(record), wave[max(0, middle - 3200) : middle + 3200][::-1])
    retell(record, "نعم")
    return {"target_length": {name(record)}}


@plant("a reference of 1 s")
def _short_reference(copy: Copy) -> Expected:
    return _new_reference(copy, 1.0)


@plant("a reference of 12 s")
def _long_reference(copy: Copy) -> Expected:
    return _new_reference(copy, 12.0)


def _new_reference(copy: Copy, seconds: float) -> Expected:
    record = _victim(copy)
    wave, words = copy.read(reference(record))[::-1], record["misc"]["ref_transcript"].split()
    per_word = len(wave) / len(words)
    count = round(seconds * RATE / per_word)
    copy.put(reference(record), np.tile(wave, 5)[: round(seconds * RATE)])
    text = " ".join((words * 5)[:count])
    _say_reference(record, text)
    return {"reference_length": {name(record)}}


@plant("mostly silence")
def _mostly_silence(copy: Copy) -> Expected:
    record = _victim(copy)
    wave = copy.read(target(record))
    half = len(wave) // 2
    copy.put(target(record), np.concatenate([wave[:half], _silence(1.2 * len(wave) / RATE), wave[half:]]))
    words = record["misc"]["target_transcript"]
    retell(record, f"{words} {words}")
    return {"mostly_silence": {name(record)}}


@plant("the text of a clip twice as long")
def _wrong_text(copy: Copy) -> Expected:
    record = _victim(copy)
    words = record["misc"]["target_transcript"]
    retell(record, f"{words} {words}")
    return {"implausible_speech_rate": {name(record)}}


@plant("a sample that comes twice")
def _sample_twice(copy: Copy) -> Expected:
    record = json.loads(json.dumps(_victim(copy)))
    record["misc"]["sample_id"] = "planted"
    copy.train.append(record)
    return {"duplicate_samples": {"planted"}}


@plant("a target that comes twice, re-encoded")
def _target_twice(copy: Copy) -> Expected:
    record = json.loads(json.dumps(_victim(copy)))
    record["misc"]["sample_id"] = "planted"
    copy.put(target(record), copy.read(target(record)), name="planted.mp3")
    copy.train.append(record)
    return {"duplicate_samples": {"planted"}}


@plant("one recording, two texts")
def _two_texts(copy: Copy) -> Expected:
    victim = _victim(copy)
    record = json.loads(json.dumps(victim))
    record["misc"]["sample_id"] = "planted"
    retell(record, " ".join(reversed(record["misc"]["target_transcript"].split())))
    copy.train.append(record)
    return {"conflicting_transcripts": {name(victim), "planted"}}


@plant("one speaker with most of the hours")
def _dominant_speaker(copy: Copy) -> Expected:
    renamed = copy.train[: len(copy.train) * 3 // 4]
    for record in renamed:
        record["speaker"] = "most"
    return {"dominant_speaker": {name(record) for record in renamed}}


@plant("a transcript of misc that differs")
def _other_transcript(copy: Copy) -> Expected:
    record = _victim(copy)
    record["misc"]["target_transcript"] += " نعم"
    return {"transcript_mismatch": {name(record)}}


@plant("no speaker")
def _no_speaker(copy: Copy) -> Expected:
    record = _victim(copy)
    del record["speaker"]
    return {"no_speaker": {name(record)}}


@plant("no reference")
def _no_reference(copy: Copy) -> Expected:
    record = _victim(copy)
    del record["messages"][1]["content"][1], record["misc"]["ref_transcript"]
    return {"no_reference": {name(record)}}


def compared(folder: Path, title: str, speakers: int | None = None, first: int = 0) -> tuple[Expected, Expected]:
    """What was expected of a planted defect and what was found, the finding on all samples left out.

    Args:
        speakers: how many of training to take; None takes all.
        first: of the training samples, the one that comes first and is tampered with.
    """
    copy = Copy(folder, speakers, first)
    expected = PLANTS[title](copy)
    found = found_kinds(copy.check())
    found.pop(ALWAYS_FOUND)
    return expected, found


def main() -> None:
    """Print the table: each defect planted in five samples, one after the other."""
    print("| planted | found as | found | accused besides |\n|---|---|---|---|")
    for title in PLANTS:
        found, wanted, kinds, besides = 0, 0, {}, []
        for first in VICTIMS:
            with tempfile.TemporaryDirectory() as folder:
                expected, report = compared(Path(folder), title, first=first)
            right = {(kind, sample) for kind, samples in expected.items() for sample in samples}
            got = {(kind, sample) for kind, samples in report.items() for sample in samples}
            found, wanted = found + len(got & right), wanted + len(right)
            kinds |= dict.fromkeys(f"`{kind}`" for kind in expected)
            besides += [f"{kind} {sample}" for kind, sample in sorted(got - right)]
        print(f"| {title} | {', '.join(kinds)} | {found} of {wanted} | {', '.join(besides) or 0} |", flush=True)


if __name__ == "__main__":
    main()

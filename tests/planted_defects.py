"""Plants one defect at a time in a copy of real data, with the findings that the check must report for it.

    python -m tests.planted_defects

prints a table: for each defect, how often it was found and which false findings there were. It needs ../shared/samples.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from tests.sample_copies import (
    ALWAYS_FOUND,
    RATE,
    Copy,
    Expected,
    Record,
    found_kinds,
    name,
    reference,
    set_reference_text,
    set_target_text,
    target,
)

CHANGED_RECORDS = (0, 23, 46, 69, 92)
"""Indices of the training records in which defects are planted, from five speakers."""
Plant = Callable[[Copy], Expected]
PLANTS: dict[str, Plant] = {}


def plant(title: str) -> Callable[[Plant], Plant]:
    def keep(function: Plant) -> Plant:
        PLANTS[title] = function
        return function

    return keep


def _changed_record(copy: Copy) -> Record:
    """Return the record in which a defect is planted. Its target's file stays: another record has it as reference."""
    return copy.train[0]


def _with_clip(kind: str, change: Callable[[np.ndarray], np.ndarray], **how: Any) -> Plant:
    """Return a plant that changes the target clip."""

    def planted(copy: Copy) -> Expected:
        record = _changed_record(copy)
        copy.put(target(record), change(copy.read(target(record))), **how)
        return {kind: {name(record)}}

    return planted


def _with_bytes(kind: str, change: Callable[[bytes], bytes], **how: Any) -> Plant:
    """Return a plant that damages the target's file."""

    def planted(copy: Copy) -> Expected:
        record = _changed_record(copy)
        path = copy.put(target(record), copy.read(target(record)), **how)
        path.write_bytes(change(path.read_bytes()))
        return {kind: {name(record)}}

    return planted


def _with_text(kind: str, change: Callable[[str], str]) -> Plant:
    def planted(copy: Copy) -> Expected:
        record = _changed_record(copy)
        set_target_text(record, change(record["misc"]["target_transcript"]))
        return {kind: {name(record)}}

    return planted


def _as_reference(change: Callable[[np.ndarray], np.ndarray], rate: int = RATE, other: str = "", **how: Any) -> Plant:
    """Return a plant whose reference is a changed copy of the target; ``other`` is another defect that this makes."""

    def planted(copy: Copy) -> Expected:
        record = _changed_record(copy)
        set_reference_text(record, record["misc"]["target_transcript"])
        copy.put(reference(record), change(copy.read(target(record))), rate, **how)
        return {"reference_equals_target": {name(record)}} | ({other: {name(record)}} if other else {})

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
    "a truncated WAV": _with_bytes("truncated_audio", **TWO_THIRDS),
    "a truncated FLAC": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.flac"),
    "a truncated Ogg Vorbis": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.ogg"),
    "a truncated Opus": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.ogg", format="OGG", subtype="OPUS"),
    "a truncated MP3": _with_bytes("truncated_audio", **TWO_THIRDS, name="planted.mp3"),
    "reference is the target, copied": _as_reference(lambda wave: wave, name="planted.flac"),
    "reference is the target, as MP3": _as_reference(lambda wave: wave, name="planted.mp3"),
    "reference is the target, as Opus": _as_reference(
        lambda wave: wave, name="planted.ogg", format="OGG", subtype="OPUS"
    ),
    "reference is the target, 0.3 s cut off": _as_reference(lambda wave: wave[round(0.3 * RATE) :]),
    "reference is the target, 6 dB louder": _as_reference(lambda wave: np.clip(2 * wave, -1, 1), other="clipping"),
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


@plant("a missing file")
def _missing_file(copy: Copy) -> Expected:
    record = _changed_record(copy)
    target(record)["audio_url"] = "clips/none.flac"
    return {"unreadable_audio": {name(record)}}


@plant("a cut beyond the end of the file")
def _long_cut(copy: Copy) -> Expected:
    record = _changed_record(copy)
    target(record)["duration"] = 20.0
    return {"truncated_audio": {name(record)}}


@plant("an empty text")
def _empty_text(copy: Copy) -> Expected:
    record = _changed_record(copy)
    set_target_text(record, "")
    del record["misc"]["target_transcript"]
    return {"missing_text": {name(record)}}


@plant("no text for the target")
def _no_text(copy: Copy) -> Expected:
    record = _changed_record(copy)
    del record["messages"][2]["content"][0], record["messages"][1]["content"][2]
    del record["messages"][1]["content"][0], record["misc"]["target_transcript"], record["misc"]["ref_transcript"]
    return {"missing_text": {name(record)}}


@plant("a turn of an unknown role")
def _unknown_role(copy: Copy) -> Expected:
    record = _changed_record(copy)
    record["messages"][2]["role"] = "speaker"
    return {"malformed_record": {name(record)}}


@plant("reference is the target's file")
def _same_file(copy: Copy) -> Expected:
    record = _changed_record(copy)
    reference(record).update(target(record))
    set_reference_text(record, record["misc"]["target_transcript"])
    return {"reference_equals_target": {name(record)}}


@plant("a speaker on both sides")
def _speaker_on_both_sides(copy: Copy) -> Expected:
    speaker = copy.val[0]["speaker"]
    before = {name(record) for record in copy.val if record["speaker"] == speaker}
    copy.train[0]["speaker"] = speaker
    return {"speaker_in_train_and_eval": before}


@plant("an utterance on both sides, re-encoded")
def _utterance_on_both_sides(copy: Copy) -> Expected:
    record, other = copy.val[0], _changed_record(copy)
    set_target_text(record, other["misc"]["target_transcript"])
    copy.put(target(record), copy.read(target(other)), name="planted.mp3")
    return {"utterance_in_train_and_eval": {name(record)}}


@plant("an utterance on both sides, the same file")
def _file_on_both_sides(copy: Copy) -> Expected:
    record, other = copy.val[0], _changed_record(copy)
    set_target_text(record, other["misc"]["target_transcript"])
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
    """Make the target long: its own audio several times in a row, with the text as often."""
    record = _changed_record(copy)
    rng, words, waves = np.random.default_rng(0), [], []
    own = copy.read(target(record))
    while sum(map(len, waves)) < seconds * RATE:
        # Backwards and at random gains, it is not the recording of another sample.
        waves.append(own[::-1] * rng.uniform(0.6, 1.0))
        words.append(record["misc"]["target_transcript"])
    copy.put(target(record), np.concatenate(waves))
    set_target_text(record, " ".join(words))
    return record


@plant("a target of 0.4 s")
def _short_target(copy: Copy) -> Expected:
    record = _changed_record(copy)
    wave = copy.read(target(record))
    middle = np.abs(wave).argmax()
    copy.put(target(record), wave[max(0, middle - 3200) : middle + 3200][::-1])
    set_target_text(record, "نعم")
    return {"target_length": {name(record)}}


@plant("a reference of 1 s")
def _short_reference(copy: Copy) -> Expected:
    return _new_reference(copy, 1.0)


@plant("a reference of 12 s")
def _long_reference(copy: Copy) -> Expected:
    return _new_reference(copy, 12.0)


def _new_reference(copy: Copy, seconds: float) -> Expected:
    record = _changed_record(copy)
    wave, words = copy.read(reference(record))[::-1], record["misc"]["ref_transcript"].split()
    per_word = len(wave) / len(words)
    count = round(seconds * RATE / per_word)
    copy.put(reference(record), np.tile(wave, 5)[: round(seconds * RATE)])
    text = " ".join((words * 5)[:count])
    set_reference_text(record, text)
    return {"reference_length": {name(record)}}


@plant("mostly silence")
def _mostly_silence(copy: Copy) -> Expected:
    record = _changed_record(copy)
    wave = copy.read(target(record))
    half = len(wave) // 2
    copy.put(target(record), np.concatenate([wave[:half], _silence(1.2 * len(wave) / RATE), wave[half:]]))
    words = record["misc"]["target_transcript"]
    set_target_text(record, f"{words} {words}")
    return {"mostly_silence": {name(record)}}


@plant("a text twice as long")
def _wrong_text(copy: Copy) -> Expected:
    record = _changed_record(copy)
    words = record["misc"]["target_transcript"]
    set_target_text(record, f"{words} {words}")
    return {"implausible_speech_rate": {name(record)}}


@plant("a repeated sample")
def _sample_twice(copy: Copy) -> Expected:
    record = json.loads(json.dumps(_changed_record(copy)))
    record["misc"]["sample_id"] = "planted"
    copy.train.append(record)
    return {"duplicate_samples": {"planted"}}


@plant("a repeated target, re-encoded")
def _target_twice(copy: Copy) -> Expected:
    record = json.loads(json.dumps(_changed_record(copy)))
    record["misc"]["sample_id"] = "planted"
    copy.put(target(record), copy.read(target(record)), name="planted.mp3")
    copy.train.append(record)
    return {"duplicate_samples": {"planted"}}


@plant("one recording, two texts")
def _two_texts(copy: Copy) -> Expected:
    victim = _changed_record(copy)
    record = json.loads(json.dumps(victim))
    record["misc"]["sample_id"] = "planted"
    set_target_text(record, " ".join(reversed(record["misc"]["target_transcript"].split())))
    copy.train.append(record)
    return {"conflicting_transcripts": {name(victim), "planted"}}


@plant("one speaker with most of the hours")
def _dominant_speaker(copy: Copy) -> Expected:
    renamed = copy.train[: len(copy.train) * 3 // 4]
    for record in renamed:
        record["speaker"] = "most"
    return {"dominant_speaker": {name(record) for record in renamed}}


@plant("a different transcript in misc")
def _other_transcript(copy: Copy) -> Expected:
    record = _changed_record(copy)
    record["misc"]["target_transcript"] += " نعم"
    return {"transcript_mismatch": {name(record)}}


@plant("no speaker")
def _no_speaker(copy: Copy) -> Expected:
    record = _changed_record(copy)
    del record["speaker"]
    return {"no_speaker": {name(record)}}


@plant("no reference")
def _no_reference(copy: Copy) -> Expected:
    record = _changed_record(copy)
    del record["messages"][1]["content"][1], record["misc"]["ref_transcript"]
    # The default prompt style needs a reference, so the trainer refuses the record too.
    return {"no_reference": {name(record)}, "malformed_record": {name(record)}}


def compared(folder: Path, title: str, speakers: int | None = None, first: int = 0) -> tuple[Expected, Expected]:
    """Plant a defect and return the expected and the reported findings, without ``ALWAYS_FOUND``.

    Args:
        speakers: number of training speakers to use; None uses all.
        first: index of the training record that is moved to the front and changed.
    """
    copy = Copy(folder, speakers, first)
    expected = PLANTS[title](copy)
    found = found_kinds(copy.check())
    found.pop(ALWAYS_FOUND)
    return expected, found


def main() -> None:
    """Print the table: each defect is planted in five samples, one at a time."""
    print("| planted | found as | found | false findings |\n|---|---|---|---|")
    for title in PLANTS:
        found, wanted, kinds, false_findings = 0, 0, {}, []
        for first in CHANGED_RECORDS:
            with tempfile.TemporaryDirectory() as folder:
                expected, report = compared(Path(folder), title, first=first)
            right = {(kind, sample) for kind, samples in expected.items() for sample in samples}
            got = {(kind, sample) for kind, samples in report.items() for sample in samples}
            found, wanted = found + len(got & right), wanted + len(right)
            kinds |= dict.fromkeys(f"`{kind}`" for kind in expected)
            false_findings += [f"{kind} {sample}" for kind, sample in sorted(got - right)]
        shown = ", ".join(false_findings) or 0
        print(f"| {title} | {', '.join(kinds)} | {found} of {wanted} | {shown} |", flush=True)


if __name__ == "__main__":
    main()

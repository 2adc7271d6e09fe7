"""Damaged tables, manifests, Kaldi lists, folders and data sets give a message, or right data for the rest."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzzing import MUTATIONS, Outcome, check_bounds, mutated, mutated_lines, run_apart
from tests.voice_cloning.corpora.source_forms import (
    clips_form,
    clips_of,
    common_voice_form,
    csv_form,
    jsonl_form,
    kaldi_cuts_form,
    kaldi_form,
    list_form,
    manifest_form,
    parquet_form,
    records_of,
    webdataset_form,
    xtts_form,
)
from voice_cloning.corpora.build import SUMMARY_FILE, TRAIN_FILE, build_data

READERS: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "tables": (csv_form, common_voice_form, xtts_form, list_form),
    "manifests": (jsonl_form, manifest_form),
    "kaldi": (kaldi_form, kaldi_cuts_form),
    "clips": (clips_form,),
    "data_sets": (parquet_form, webdataset_form),
}
BINARY_SUFFIXES = (".parquet", ".tar")
TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt", "", ".scp")


def built(source: Path, out: Path) -> list[tuple[str, ...]]:
    """Build and return (clip, text, speaker, reference's clip) of each sample; a clip is its file and cut."""
    build_data(source, out, eval_share=0, drop_invalid=True, announce=lambda _: None)
    return [
        (key(target), record["misc"]["target_transcript"], record["speaker"], key(reference))
        for record in records_of(out)
        for reference, target in [clips_of(record)]
    ]


def key(part: dict[str, Any]) -> str:
    start = part.get("offset") or 0.0
    return f"{os.path.basename(os.path.dirname(part['audio_url']))}/{os.path.basename(part['audio_url'])} {start:.3f}"


def listed(out: Path) -> str:
    """Return what the summary says of all that was left out."""
    return json.dumps(json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))["left_out"], ensure_ascii=False)


@pytest.mark.parametrize("mutations", MUTATIONS)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_source_is_named_or_all_that_is_not_damaged_is_right(
    reader: str, mutations: int, tmp_path: Path
) -> None:
    generator = random.Random(f"{reader} 1")
    sources = []
    for i, make in enumerate(READERS[reader]):
        (tmp_path / f"{i}").mkdir()
        source = make(tmp_path / f"{i}")
        untouched = run_apart(built, source, tmp_path / f"out{i}")
        assert untouched.value and len(untouched.value) == 12, untouched
        sources.append((source, untouched))
    successes = 0
    for number in range(mutations):
        source, untouched = sources[number % len(sources)]
        folder = source if source.is_dir() else source.parent
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (*TEXT_SUFFIXES, *BINARY_SUFFIXES))
        damaged = generator.choice(files)
        before = damaged.read_bytes()
        is_text = damaged.suffix in TEXT_SUFFIXES and generator.random() < 0.5
        after = mutated_lines(before, generator) if is_text else mutated(before, generator)
        damaged.write_bytes(after)
        out = tmp_path / "out"
        outcome = run_apart(built, source, out)
        what = f"mutation {number} of {damaged.name}"
        check_bounds(outcome, untouched, what)
        if outcome.value is not None:
            successes += 1
            check_untouched_rows(outcome, untouched, changed_words(before, after, damaged), listed(out), what)
        damaged.write_bytes(before)
        shutil.rmtree(out, ignore_errors=True)
    assert successes > mutations / 20, "hardly any damaged source was read at all"


def changed_words(before: bytes, after: bytes, path: Path) -> str:
    """Return the lines of the undamaged file that the damaged one lacks, and for a clip's text the clip's name."""
    if path.suffix in BINARY_SUFFIXES:
        return "all"
    if path.with_suffix(".wav").exists():
        return str(path.with_suffix(""))
    kept = set(after.splitlines())
    lost = [line.decode() for line in before.splitlines() if line not in kept]
    if path.name.startswith("metadata.json"):  # its Arabic is escaped
        lost = [json.dumps(json.loads(line), ensure_ascii=False) for line in lost]
    return "\n".join(lost)


def check_untouched_rows(outcome: Outcome, untouched: Outcome, changed: str, left_out: str, what: str) -> None:
    """Check text, cut, speaker and reference of each row whose line is as it was, and that absent rows are listed."""
    right = {clip: (text, speaker) for clip, text, speaker, _ in untouched.value}
    if changed == "all":
        return

    def is_touched(clip: str) -> bool:
        text, _ = right[clip]
        name = clip.split(" ")[0].rsplit(".", 1)[0]
        return text in changed or name.split("/")[-1] in changed or changed.endswith(name)

    found = {clip: (text, speaker, reference) for clip, text, speaker, reference in outcome.value}
    for clip, (text, speaker) in right.items():
        if is_touched(clip):
            continue
        name = clip.split(" ")[0].rsplit(".", 1)[0]
        if clip not in found:
            is_listed = text in left_out or name.split("/")[-1] in left_out or speaker in left_out or "line" in left_out
            assert is_listed, f"{what}: {clip} vanished without a word"
            continue
        assert found[clip][:2] == (text, speaker), f"{what}: {clip}"
        reference = found[clip][2]
        if reference in right and not is_touched(reference):
            assert right[reference][1] == speaker, f"{what}: {clip} has the reference of another voice"


def test_the_check_of_untouched_rows_sees_a_wrong_text_a_wrong_voice_and_a_vanished_row() -> None:
    rows = [("a/1.wav 0.000", "one", "x", "a/2.wav 0.000"), ("a/2.wav 0.000", "two", "x", "a/1.wav 0.000")]
    rows += [("b/3.wav 0.000", "three", "y", "b/3.wav 0.000")]
    untouched = Outcome(value=rows)
    check_untouched_rows(untouched, untouched, "", "", "as it was")
    wrong_text = [(rows[0][0], "two", *rows[0][2:]), *rows[1:]]
    wrong_voice = [(*rows[0][:3], "b/3.wav 0.000"), *rows[1:]]
    for wrong in (wrong_text, wrong_voice, rows[:2]):
        with pytest.raises(AssertionError):
            check_untouched_rows(Outcome(value=wrong), untouched, "", "", "wrong")
    check_untouched_rows(Outcome(value=wrong_text), untouched, "1.wav", "", "the row was damaged")


def test_the_training_file_of_a_build_is_the_one_that_is_compared(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert len(built(csv_form(tmp_path / "in"), tmp_path / "out")) == 12 and (tmp_path / "out" / TRAIN_FILE).is_file()

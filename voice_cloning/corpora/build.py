"""Builds ChatML files for training and evaluation from a collection of clips and texts."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.progress import progress
from voice_cloning.corpora.arrow import holds_data_set, read_cells, read_data_set
from voice_cloning.corpora.forms import (
    AUDIO_COLUMNS,
    KALDI_FILES,
    LJSPEECH_TABLE,
    TABLE_SUFFIXES,
    TEXT_COLUMNS,
    Columns,
    read_clips,
    read_kaldi,
    read_ljspeech,
    read_table,
)
from voice_cloning.corpora.output_files import refuse_other_content, write_differing
from voice_cloning.corpora.pairing import FEWEST_OF_A_SPEAKER, REFERENCE_SECONDS, Pairs, by_speaker, pair, split
from voice_cloning.corpora.utterances import Cell, Collection, Utterance, measured

TRAIN_FILE, VAL_FILE = "train_chatml_samples.json", "val_chatml_samples.json"
SUMMARY_FILE = "build_summary.json"
CLIPS_FOLDER = "clips"
SPLITS_BY = ("speaker", "utterance")
FORMS: dict[str, Callable[[Path, Columns], Collection]] = {
    "clips": read_clips,
    "ljspeech": read_ljspeech,
    "table": read_table,
    "huggingface": read_data_set,
    "kaldi": read_kaldi,
}


def build_data(
    source: Path | str,
    output_dir: Path | str,
    *,
    form: str = "auto",
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_from: str | None = None,
    references_per_target: int = 1,
    split_by: str = "speaker",
    eval_share: float = 0.05,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build the ChatML files; the arguments are the command's flags.

    Returns:
        The summary that ``build_summary.json`` holds.

    Raises:
        InputError: if anything is wrong with the source, with a list of all problems; or if files with other content
            exist already. In both cases nothing is written.
    """
    source, output_dir = Path(source).expanduser(), Path(output_dir).expanduser()
    _check_settings(form, references_per_target, split_by, eval_share)
    form = detect_form(source) if form == "auto" else form
    utterances = _read(source, form, Columns(audio_column, text_column, speaker_from))
    speakers = by_speaker(utterances)
    alone = [speaker for speaker, own in speakers.items() if len(own) < FEWEST_OF_A_SPEAKER]
    usable = [u for u in utterances if len(speakers[u.speaker]) >= FEWEST_OF_A_SPEAKER]
    sides = [pair(side, references_per_target, seed) for side in split(usable, split_by, eval_share, seed)]
    if not sides[0].pairs:
        raise InputError(
            f"{source}: none of its {len(speakers)} speakers has two clips with different texts, but a target needs "
            "another clip of the same speaker as its reference; check which speaker --speaker_from takes"
        )
    settings = {
        "references_per_target": references_per_target,
        "split_by": split_by,
        "eval_share": eval_share,
        "seed": seed,
    }
    left_out = {
        "speakers_with_one_clip": alone,
        "utterances_without_other_words": [u.utterance_id for side in sides for u in side.unpaired],
    }
    summary = {
        "source": str(source),
        "form": form,
        "utterances": len(utterances),
        "speakers": len(speakers),
        "hours": sum(u.seconds for u in utterances) / 3600,
        **{name: _side_summary(side) for name, side in zip(("train", "val"), sides, strict=True)},
        "left_out": left_out,
        "settings": settings,
    }
    files, cells = _files_of(sides, output_dir)
    files[SUMMARY_FILE] = _json_bytes(summary)
    _write(output_dir, files, cells, overwrite)
    return summary


def _check_settings(form: str, references_per_target: int, split_by: str, eval_share: float) -> None:
    problems = []
    if form not in ("auto", *FORMS):
        problems.append(f"--format {form}: must be auto or one of {list(FORMS)}")
    if references_per_target < 1:
        problems.append(f"--references_per_target {references_per_target}: must be at least 1")
    if split_by not in SPLITS_BY:
        problems.append(f"--split_by {split_by}: must be one of {list(SPLITS_BY)}")
    if not 0.0 <= eval_share < 1.0:
        problems.append(f"--eval_share {eval_share}: must be at least 0 and below 1")
    raise_if_any("settings of build", problems)


def _read(source: Path, form: str, columns: Columns) -> list[Utterance]:
    """Read the utterances of a source with their lengths; one error lists the problems of all of them."""
    collection = FORMS[form](source, columns)
    collection.check_ids()
    utterances = measured(collection)
    collection.problems += _names_not_utf8(utterances)
    raise_if_any(f"{source}: problems in this source, read as {form}", collection.problems)
    if not utterances:
        raise InputError(f"{source}: holds no utterance, read as {form}; --format chooses another form")
    return utterances


def detect_form(source: Path) -> str:
    """Return the form of a source, which its files show.

    Raises:
        InputError: if the source does not exist or has none of the forms.
    """
    if source.is_file():
        return "table" if source.suffix != ".csv" or _has_header(source) else "ljspeech"
    if not source.is_dir():
        raise InputError(
            f"{source}: no such file or folder; give the folder of the clips, or the table that names them"
        )
    if (source / KALDI_FILES[0]).is_file():
        return "kaldi"
    if holds_data_set(source):
        return "huggingface"
    if (source / LJSPEECH_TABLE).is_file() and not _has_header(source / LJSPEECH_TABLE):
        return "ljspeech"
    if any(path.suffix in TABLE_SUFFIXES for path in source.iterdir()):
        return "table"
    if next(source.rglob("*.txt"), None) is not None:
        return "clips"
    raise InputError(
        f"{source}: looks like none of {list(FORMS)}: it has no text files beside clips, no table, no data set and no "
        "wav.scp"
    )


def _has_header(table: Path) -> bool:
    """Return whether the first line of a CSV names columns; in LJSpeech's table the first line is a clip."""
    with table.open("rb") as file:
        first = file.readline().decode("utf-8-sig", errors="replace").strip()
    return "|" not in first or not {*AUDIO_COLUMNS, *TEXT_COLUMNS}.isdisjoint(first.split("|"))


def _names_not_utf8(utterances: Sequence[Utterance]) -> list[str]:
    """Return a problem for each path that a JSON file cannot hold."""
    paths = sorted({u.audio for u in utterances if isinstance(u.audio, Path)})
    return [
        f"{str(p)!r}: the name is not UTF-8; rename it" for p in paths if any("\ud800" <= c <= "\udfff" for c in str(p))
    ]


def _files_of(sides: Sequence[Pairs], output_dir: Path) -> tuple[dict[str, bytes | None], list[Cell]]:
    """Return the content of each JSON file, None for a file that must not exist, and the cells to write as clips."""
    files: dict[str, bytes | None] = {}
    cells: dict[str, Cell] = {}
    for name, side in zip((TRAIN_FILE, VAL_FILE), sides, strict=True):
        records = []
        for target, reference, number in progress(side.pairs, name, unit="sample", disable=not side.pairs):
            cells |= {u.audio.name: u.audio for u in (target, reference) if isinstance(u.audio, Cell)}
            records.append(_record(target, reference, number, output_dir))
        files[name] = _json_bytes(records) if records else None
    return files, list(cells.values())


def _record(target: Utterance, reference: Utterance, number: int, output_dir: Path) -> dict[str, Any]:
    """Return a sample as a JSON record; for a second and later reference, the id holds the reference's number."""
    clips = [_audio(utterance, output_dir) for utterance in (reference, target)]
    example = VoiceCloningExample(reference.text, clips[0], target.text, clips[1])
    sample_id = target.utterance_id + (f"_ref{number + 1}" if number else "")
    return example.record(sample_id, target.speaker, target.seconds)


def _audio(utterance: Utterance, output_dir: Path) -> AudioContent:
    if isinstance(utterance.audio, Cell):
        url = f"{CLIPS_FOLDER}/{utterance.audio.name}"
    else:
        # Links are resolved: ".." after a link leads to another folder than the path shows.
        url = os.path.relpath(os.path.realpath(utterance.audio), os.path.realpath(output_dir))
    return AudioContent(url, None, utterance.offset, utterance.seconds)


def _side_summary(side: Pairs) -> dict[str, Any]:
    shortest, longest = REFERENCE_SECONDS
    targets = {target.utterance_id: target for target, _, _ in side.pairs}
    return {
        "samples": len(side.pairs),
        "speakers": len({target.speaker for target in targets.values()}),
        "hours": sum(target.seconds for target in targets.values()) / 3600,
        "references_outside_3_to_10_s": sum(not shortest <= r.seconds <= longest for _, r, _ in side.pairs),
        "targets_with_fewer_references": side.short,
    }


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _write(output_dir: Path, files: dict[str, bytes | None], cells: Sequence[Cell], overwrite: bool) -> None:
    """Write the files that do not exist yet, and with ``overwrite`` also those that differ.

    The clips are written first and the JSON files last, so that a JSON file never names a missing clip.
    """
    if not overwrite:
        refuse_other_content(output_dir, chain(files.items(), _clips(cells, "comparing clips")))
    write_differing(output_dir, chain(_clips(cells, "writing clips"), files.items()))


def _clips(cells: Sequence[Cell], title: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each clip, read one at a time."""
    for cell, content in progress(read_cells(cells), title, len(cells), unit="clip", disable=not cells):
        yield f"{CLIPS_FOLDER}/{cell.name}", content

"""A collection of clips and texts -> ChatML files for training and evaluation."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
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
from voice_cloning.corpora.pairing import FEWEST_OF_A_SPEAKER, REFERENCE_SECONDS, Pairs, by_speaker, pair, split
from voice_cloning.corpora.utterances import Cell, Collection, Utterance, measured
from voice_cloning.speech.audio import write_whole

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
    """Make the ChatML files; the arguments are the command's flags.

    Returns:
        The summary, as ``build_summary.json`` holds it.

    Raises:
        InputError: listing all that is wrong with the source, or if files of other content are there already. Nothing
            has been written then.
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
            f"{source}: none of its {len(speakers)} speakers says two things, and a reference is another clip of the "
            "same speaker; is the right speaker named (--speaker_from)?"
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
    """The utterances of a source, each with its length; all that is wrong with any is raised at once."""
    collection = FORMS[form](source, columns)
    collection.check_ids()
    utterances = measured(collection)
    collection.problems += _unnameable(utterances)
    raise_if_any(f"{source}: cannot be built from, as {form}", collection.problems)
    if not utterances:
        raise InputError(f"{source}: holds no utterance, as {form}; --format names another form")
    return utterances


def detect_form(source: Path) -> str:
    """The form of a source, by what lies there.

    Raises:
        InputError: if it is not there, or looks like none of the forms.
    """
    if source.is_file():
        return "table" if source.suffix != ".csv" or _has_header(source) else "ljspeech"
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder; give the one that holds the clips or names them")
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
        f"{source}: looks like none of {list(FORMS)}: no texts beside clips, no table, no data set and no wav.scp there"
    )


def _has_header(table: Path) -> bool:
    """Whether the first line of a CSV names columns; LJSpeech's is a clip's already."""
    with table.open("rb") as file:
        first = file.readline().decode("utf-8-sig", errors="replace").strip()
    return "|" not in first or not {*AUDIO_COLUMNS, *TEXT_COLUMNS}.isdisjoint(first.split("|"))


def _unnameable(utterances: Sequence[Utterance]) -> list[str]:
    """Paths that a JSON file cannot hold."""
    paths = sorted({u.audio for u in utterances if isinstance(u.audio, Path)})
    return [
        f"{str(p)!r}: the name is not UTF-8; rename it" for p in paths if any("\ud800" <= c <= "\udfff" for c in str(p))
    ]


def _files_of(sides: Sequence[Pairs], output_dir: Path) -> tuple[dict[str, bytes | None], list[Cell]]:
    """Content of each JSON file, None for one that is not to be there; and the cells that become clips."""
    files: dict[str, bytes | None] = {}
    cells: dict[str, Cell] = {}
    for name, side in zip((TRAIN_FILE, VAL_FILE), sides, strict=True):
        records = []
        for target, reference, number in tqdm(side.pairs, name, unit="sample", disable=not side.pairs):
            cells |= {u.audio.name: u.audio for u in (target, reference) if isinstance(u.audio, Cell)}
            records.append(_record(target, reference, number, output_dir))
        files[name] = _json_bytes(records) if records else None
    return files, list(cells.values())


def _record(target: Utterance, reference: Utterance, number: int, output_dir: Path) -> dict[str, Any]:
    """One sample in the form that users have; of further references, the number is in its id."""
    clips = [_audio(utterance, output_dir) for utterance in (reference, target)]
    example = VoiceCloningExample(reference.text, clips[0], target.text, clips[1])
    sample_id = target.utterance_id + (f"_ref{number + 1}" if number else "")
    return example.record(sample_id, target.speaker, target.seconds)


def _audio(utterance: Utterance, output_dir: Path) -> AudioContent:
    if isinstance(utterance.audio, Cell):
        url = f"{CLIPS_FOLDER}/{utterance.audio.name}"
    else:
        # Links are followed, as ".." after one means another folder than its name says.
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
    """Write what is not there yet, and with ``overwrite`` what is there and differs.

    The clips come first and the JSON files that name them last, so that these never name what is missing.
    """
    differing = [] if overwrite else [name for name, content in files.items() if _differs(output_dir / name, content)]
    if not overwrite and cells:
        bar = tqdm(read_cells(cells), "comparing clips", len(cells), unit="clip")
        differing += [c.name for c, content in bar if _differs(output_dir / CLIPS_FOLDER / c.name, content)]
    raise_if_any(
        f"{output_dir}: holds files of other content; give another --output_dir, or --overwrite to replace them",
        differing,
    )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if cells:
            (output_dir / CLIPS_FOLDER).mkdir(exist_ok=True)
        for cell, content in tqdm(read_cells(cells), "writing clips", len(cells), unit="clip", disable=not cells):
            _write_one(output_dir / CLIPS_FOLDER / cell.name, content)
        for name, content in files.items():
            _write_one(output_dir / name, content)
    except OSError as error:
        raise InputError(f"{output_dir}: cannot be written to ({error.strerror})") from error


def _differs(path: Path, content: bytes | None) -> bool:
    return path.exists() and (content is None or not path.is_file() or path.read_bytes() != content)


def _write_one(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != content:
        write_whole(path, content)

"""Builds ChatML files for training and evaluation from a collection of clips and texts."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any, result_or_message, visible
from boson_multimodal.progress import progress
from voice_cloning.corpora.card_licences import DATA_CARD
from voice_cloning.corpora.columns import Columns
from voice_cloning.corpora.data_card import data_card
from voice_cloning.corpora.held_audio import wav_of
from voice_cloning.corpora.held_clips import HELD, read_held
from voice_cloning.corpora.output_files import SUMMARY_FILE, TRAIN_FILE, VAL_FILE, refuse_other_content, write_differing
from voice_cloning.corpora.pairing import FEWEST_OF_A_SPEAKER, REFERENCE_SECONDS, Pairs, by_speaker, pair, split
from voice_cloning.corpora.sources import FORMS, has_no_speakers, overview, read_source
from voice_cloning.corpora.speaker_sources import CLUSTER
from voice_cloning.corpora.utterances import Channel, Collection, Utterance, speakers_of
from voice_cloning.corpora.voice_clusters import speakers_by_voice
from voice_cloning.corpora.where import Condition
from voice_cloning.corpora.where_values import Kept, keep_where

CLIPS_FOLDER = "clips"
MISSING_FILE = ": no such file"
SPLITS_BY = ("speaker", "utterance")


def build_data(
    source: Path | str,
    output_dir: Path | str,
    *,
    form: str = "auto",
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_from: str | None = None,
    references_per_target: int = 1,
    split_by: str | None = None,
    eval_share: float = 0.05,
    seed: int = 0,
    overwrite: bool = False,
    drop_invalid: bool = False,
    dry_run: bool = False,
    encoding: str | None = None,
    where: str | None = None,
    licence: str | None = None,
    announce: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Build the ChatML files; the arguments are the command's flags.

    Args:
        split_by: one of ``SPLITS_BY``; None takes the speaker, and the utterance for a public corpus of one voice.
        announce: is told what was taken for what, before anything is written.

    Returns:
        The summary that ``build_summary.json`` holds; with ``dry_run`` an empty one.

    Raises:
        InputError: if anything is wrong with the source, with a list of all problems; or if files with other content
            exist already. In both cases nothing is written.
    """
    source, output_dir = Path(source).expanduser(), Path(output_dir).expanduser()
    _check_settings(form, references_per_target, split_by, eval_share, where)
    columns = Columns(audio_column, text_column, speaker_from)
    collection = _read(source, form, columns, encoding, drop_invalid, licence, announce)
    chosen = _chosen(collection, where, announce)
    if split_by is None:
        split_by = _usual_split(collection, eval_share, announce)
    if dry_run:
        return {}
    speakers = by_speaker(chosen.kept)
    alone = [speaker for speaker, own in speakers.items() if len(own) < FEWEST_OF_A_SPEAKER]
    usable = [u for u in chosen.kept if len(speakers[u.speaker]) >= FEWEST_OF_A_SPEAKER]
    sides = [pair(side, references_per_target, seed) for side in split(usable, split_by, eval_share, seed)]
    if not sides[0].pairs:
        raise InputError(
            f"{source}: none of its {len(speakers)} speakers has two clips with different texts, but a target needs "
            "another clip of the same speaker as its reference; check which speaker --speaker_from takes"
        )
    settings = {} if where is None else {"where": where}
    settings |= {"references_per_target": references_per_target, "split_by": split_by, "eval_share": eval_share}
    summary = _summary(source, collection, chosen, sides, alone, licence) | {"settings": settings | {"seed": seed}}
    files, clips = _files_of(sides, output_dir)
    files[DATA_CARD] = visible(data_card(collection, summary, source.resolve().name, licence)).encode("utf-8")
    files[SUMMARY_FILE] = _json_bytes(summary)
    _write(output_dir, files, clips, overwrite)
    return summary


def _read(
    source: Path,
    form: str,
    columns: Columns,
    encoding: str | None,
    drop_invalid: bool,
    licence: str | None,
    announce: Callable[[str], object],
) -> Collection:
    """Read a source, say what was taken for what, and stop if something is wrong.

    Voices are grouped last, because that takes long.
    """
    collection = read_source(source, form, columns, encoding)
    announce(visible(overview(source, collection, licence)))
    _stop_if_wrong(source, collection, drop_invalid)
    if columns.speaker_from == CLUSTER and has_no_speakers(collection):
        known = len(collection.facts)
        speakers_by_voice(collection)
        announce(visible("\n".join(collection.facts[known:])))
        _stop_if_wrong(source, collection, drop_invalid)
    return collection


def _usual_split(collection: Collection, eval_share: float, announce: Callable[[str], object]) -> str:
    """Return by what sides are split if the user does not say it: a corpus of one voice has no speaker to hold out."""
    if collection.corpus is None or not collection.corpus.one_voice or eval_share == 0:
        return "speaker"
    announce("  sides: split by utterance, because the corpus has one voice; evaluation has no voice that is new")
    return "utterance"


def _chosen(collection: Collection, where: str | None, announce: Callable[[str], object]) -> Kept[Utterance]:
    """Return the usable utterances, divided by the condition ``where``, if there is one; what it keeps is announced."""
    if where is None:
        return Kept(collection.usable(), [], [])
    chosen = keep_where(collection.usable(), Condition.parse(where))
    announce(visible("\n".join(chosen.facts)))
    return chosen


def _summary(
    source: Path,
    collection: Collection,
    chosen: Kept[Utterance],
    sides: Sequence[Pairs],
    alone: Sequence[str],
    licence: str | None,
) -> dict[str, Any]:
    """Return what ``build_summary.json`` holds, without the settings."""
    utterances = chosen.kept
    left_out = {
        "invalid_entries": [f"{where}: {problem}" for where, problem in collection.problems],
        "speakers_with_one_clip": list(alone),
        "utterances_without_other_words": [u.utterance_id for side in sides for u in side.unpaired],
    }
    if chosen.left_out:
        left_out["by_where"] = [u.utterance_id for u in chosen.left_out]
    return {
        "source": str(source),
        "form": collection.form,
        "read_as": collection.facts,
        "corpus": collection.corpus.name if collection.corpus else None,
        "licence": licence or _licence_of(collection),
        "utterances": len(utterances),
        "speakers": len(speakers_of(utterances)),
        "hours": sum(u.seconds for u in utterances) / 3600,
        **{name: _side_summary(side) for name, side in zip(("train", "val"), sides, strict=True)},
        "left_out": left_out,
        "left_aside": collection.left_aside,
    }


def _licence_of(collection: Collection) -> str | None:
    """Return the licence of the corpus, or that on the card of the source; None if neither is known."""
    return collection.corpus.licence if collection.corpus else ", ".join(collection.licences) or None


def _check_settings(
    form: str, references_per_target: int, split_by: str | None, eval_share: float, where: str | None
) -> None:
    problems = []
    if form not in ("auto", *FORMS):
        problems.append(f"--format {form}: must be auto or one of {list(FORMS)}")
    if references_per_target < 1:
        problems.append(f"--references_per_target {references_per_target}: must be at least 1")
    if split_by not in (None, *SPLITS_BY):
        problems.append(f"--split_by {split_by}: must be one of {list(SPLITS_BY)}")
    if not 0.0 <= eval_share < 1.0:
        problems.append(f"--eval_share {eval_share}: must be at least 0 and below 1")
    if where is not None and (problem := result_or_message(lambda: Condition.parse(where))[1]):
        problems.append(problem)
    raise_if_any("settings of build", problems)


def _stop_if_wrong(source: Path, collection: Collection, drop_invalid: bool) -> None:
    """Raise an error for what is wrong with the source as a whole, and, unless they are dropped, with its entries."""
    read_as = f"problems in this source, read as {collection.form}"
    entries = _listed(collection.problems)
    usable = collection.usable()
    if not drop_invalid or collection.faults or not usable:
        way_on = "--drop_invalid leaves them out and lists all of them" if not collection.faults and usable else ""
        raise_if_any(f"{source}: {read_as}" + (f"; {way_on}" if way_on else ""), collection.faults + entries)
    if not usable:
        aside = ", ".join(f"{len(places)} {reason}" for reason, places in collection.left_aside.items())
        why = f" but {aside}, which are left aside" if aside else ""
        raise InputError(f"{source}: holds no utterance{why}, read as {collection.form}; --format chooses another form")


def _listed(problems: Sequence[tuple[str, str]]) -> list[str]:
    """Return each problem with its place; a file that many entries miss is one problem."""
    places: dict[str, list[str]] = {}
    for where, problem in problems:
        is_missing_file = problem.endswith(MISSING_FILE)
        places.setdefault(problem if is_missing_file else f"{where}: {problem}", []).append(where)
    return [
        f"{found[0]}" + (f" and {len(found) - 1} more entries" if len(found) > 1 else "") + f": {problem}"
        if problem.endswith(MISSING_FILE)
        else problem
        for problem, found in places.items()
    ]


def _files_of(sides: Sequence[Pairs], output_dir: Path) -> tuple[dict[str, bytes | None], list[Utterance]]:
    """Return the content of each JSON file (None: it must not exist), and the utterances to write as clips."""
    files: dict[str, bytes | None] = {}
    written: dict[str, Utterance] = {}
    for name, side in zip((TRAIN_FILE, VAL_FILE), sides, strict=True):
        records = []
        for target, reference, number in progress(side.pairs, name, unit="sample", disable=not side.pairs):
            written |= {u.audio.name: u for u in (target, reference) if not isinstance(u.audio, Path)}
            records.append(_record(target, reference, number, output_dir))
        files[name] = _json_bytes(records) if records else None
    return files, list(written.values())


def _record(target: Utterance, reference: Utterance, number: int, output_dir: Path) -> dict[str, Any]:
    """Return a sample as a JSON record; for a second and later reference, the id holds the reference's number."""
    clips = [_audio(utterance, output_dir) for utterance in (reference, target)]
    example = VoiceCloningExample(reference.text, clips[0], target.text, clips[1])
    sample_id = target.utterance_id + (f"_ref{number + 1}" if number else "")
    return example.record(sample_id, target.speaker, target.seconds, target.misc)


def _audio(utterance: Utterance, output_dir: Path) -> AudioContent:
    if not isinstance(utterance.audio, Path):
        return AudioContent(f"{CLIPS_FOLDER}/{utterance.audio.name}", None, None, utterance.seconds)
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


def _write(output_dir: Path, files: dict[str, bytes | None], clips: Sequence[Utterance], overwrite: bool) -> None:
    """Write the files that do not exist yet, and with ``overwrite`` also those that differ.

    The clips are written first and the JSON files last, so that a JSON file never names a missing clip.
    """
    if not overwrite:
        refuse_other_content(output_dir, chain(files.items(), _clips(clips, "comparing clips")))
    write_differing(output_dir, chain(_clips(clips, "writing clips"), files.items()))


def _clips(utterances: Sequence[Utterance], title: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each clip to write, read one at a time."""
    held = [u.audio for u in utterances if isinstance(u.audio, HELD)]
    cuts = [u for u in utterances if isinstance(u.audio, Channel)]
    contents = chain(
        ((audio.name, content) for audio, content in read_held(held)),
        ((cut.audio.name, _channel_clip(cut)) for cut in cuts),
    )
    for name, content in progress(contents, title, len(utterances), unit="clip", disable=not utterances):
        yield f"{CLIPS_FOLDER}/{name}", content


def _channel_clip(cut: Utterance) -> bytes:
    """Return a WAV file with the cut of one channel."""
    samples, rate = read_samples(Clip(cut.audio.path, cut.offset or 0.0, cut.duration))
    return wav_of(samples[:, cut.audio.number], rate)

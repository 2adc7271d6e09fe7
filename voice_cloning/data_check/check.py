"""Checks ChatML files and writes report.json and report.html: defects of records, clips, texts, pairs and sides."""

import base64
import json
import os
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.hub import hub_access
from boson_multimodal.prompt_template import tokenizer_problems
from boson_multimodal.whole_files import write_whole
from boson_multimodal.worker_pool import available_cores, map_in_processes
from voice_cloning.data_check.clip_measures import ClipMeasures, measure_file
from voice_cloning.data_check.code_measures import CodedClip
from voice_cloning.data_check.code_rules import check_codes
from voice_cloning.data_check.coded_clips import measure_coded_clips, open_codes, summarise_codes
from voice_cloning.data_check.corpus_rules import SpeechRate, check_corpus, speech_rates
from voice_cloning.data_check.findings import ERRORS, WARNINGS, Findings
from voice_cloning.data_check.report_page import SAMPLES_SHOWN, write_page
from voice_cloning.data_check.same_clips import SameClips, find_same_clips
from voice_cloning.data_check.same_codes import add_same_codes
from voice_cloning.data_check.sample_rules import check_sample
from voice_cloning.data_check.samples import CheckedSample, UsedClip, read_samples_of
from voice_cloning.data_check.summary import PlannedRun, summarise
from voice_cloning.data_check.voice_rules import NO_MODEL, Embed, VoiceCheck, check_voices, plan_voice_check

REPORT_FILE = "report.json"
MIME_BY_MAGIC = {b"RIFF": "audio/wav", b"fLaC": "audio/flac", b"OggS": "audio/ogg"}


def check_files(
    files: Sequence[Path | str],
    output_dir: Path | str,
    *,
    eval_files: Sequence[Path | str] = (),
    run: PlannedRun | None = None,
    model_path: str | None = None,
    num_workers: int | None = None,
    codes: Sequence[Path | str] = (),
    audio_tokenizer_path: str | None = None,
    speaker_model: str = NO_MODEL,
    speaker_threshold: float | None = None,
) -> dict[str, Any]:
    """Check ChatML files and write ``report.json`` and ``report.html``.

    Args:
        files: training and evaluation data; a file's name decides which it is.
        output_dir: made if it does not exist; an existing report in it is replaced.
        eval_files: files that are evaluation data regardless of their names; they may be in ``files`` too.
        run: the settings to train with.
        model_path: folder or hub id of the model, for its tokenizer; None estimates the number of tokens.
        num_workers: processes that read clips; None takes one per core. With more than one, the calling script needs
            ``if __name__ == "__main__"``, because the processes are spawned.
        codes: files of codes, as in training; clips are then checked from their codes.
        audio_tokenizer_path: folder or hub id of the codec that decodes ``codes`` to measure the sound; None does not.
        speaker_model: the model that compares voices: ``resemblyzer``, a folder or a hub id; ``auto`` takes Resemblyzer
            if it is installed, ``none`` compares no voices.
        speaker_threshold: similarity below which two clips are of two voices; None takes the model's, or finds it.

    Returns:
        The content of ``report.json``: ``errors``, ``warnings``, ``summary``, ``samples``.

    Raises:
        InputError: if a file is missing, empty or not JSON; if the files of codes, the codec or the speaker model
            cannot be used; or if ``output_dir`` cannot be written to.
    """
    run = run or PlannedRun()
    folder, workers = Path(output_dir).expanduser(), available_cores() if num_workers is None else num_workers
    paths = list(dict.fromkeys(Path(path).expanduser() for path in (*files, *eval_files)))
    tokenizer = None if model_path is None else _load_tokenizer(model_path)
    if tokenizer is not None:
        raise_if_any(f"--model_path {model_path}", tokenizer_problems(run.prompt, tokenizer))
    coded = open_codes(codes, model_path, audio_tokenizer_path)
    voices = plan_voice_check(speaker_model, speaker_threshold)
    named = [Path(path).expanduser() for path in eval_files]
    samples = read_samples_of(paths, named, run.prompt, run.text_normalisation, tokenizer)
    make_folder(folder)
    measures = measure_coded_clips(samples, coded, folder, workers)
    measures |= measure_clips(samples, workers, measures)
    found = apply_rules(samples, measures, run, voices, workers)
    report = _report(samples, measures, run, found, tokenizer is not None)
    report["summary"] |= summarise_codes(coded, measures)
    report["samples"] = _samples_of(report, samples, measures)
    write_whole(folder / REPORT_FILE, json_bytes(report))
    write_page(report | {"samples": _with_audio(report["samples"], samples)}, folder)
    return report


@dataclass(frozen=True)
class Found:
    """What all rules found.

    Attributes:
        findings: by kind and sample.
        same: which clips hold the same speech.
        rates: the rate of speech of each clip with a text.
        voices: what the summary says of the comparison of voices.
    """

    findings: Findings
    same: SameClips
    rates: list[SpeechRate]
    voices: dict[str, Any]


def apply_rules(
    samples: Sequence[CheckedSample],
    measures: dict[Clip, ClipMeasures],
    run: PlannedRun,
    voices: VoiceCheck,
    workers: int,
    embed: Embed | None = None,
) -> Found:
    """Apply all rules to samples whose clips are measured.

    Args:
        embed: returns the embeddings of clips; None calls ``embed_clips``.
    """
    uses = [[(used.clip, sample.side, used.is_target) for used in sample.clips] for sample in samples]
    same = find_same_clips(measures, uses, workers)
    add_same_codes(same, measures)
    findings = Findings()
    for sample in samples:
        check_sample(sample, measures, run.longest_sample, findings)
    rates = speech_rates(samples, measures)
    check_corpus(samples, measures, rates, same, findings)
    check_codes(samples, measures, findings)
    return Found(findings, same, rates, check_voices(samples, measures, same, voices, findings, workers, embed))


def _report(
    samples: Sequence[CheckedSample],
    measures: dict[Clip, ClipMeasures],
    run: PlannedRun,
    found: Found,
    has_tokenizer: bool,
) -> dict[str, Any]:
    """Return the ``errors``, ``warnings`` and ``summary`` of the report."""
    seconds = {s.sample_id: sum(measures[used.clip].seconds for used in s.targets) for s in samples}
    return {
        "errors": found.findings.entries(ERRORS, seconds),
        "warnings": found.findings.entries(WARNINGS, seconds),
        "summary": summarise(samples, measures, found.rates, run, has_tokenizer) | {"voices": found.voices},
    }


def cuts_of_files(samples: Sequence[CheckedSample], known: Container[Clip] = ()) -> list[list[Clip]]:
    """Return the clips of the samples that are not ``known``, each once; all cuts of a file are together."""
    cuts: dict[Path | bytes, list[Clip]] = defaultdict(list)
    for clip in dict.fromkeys(used.clip for sample in samples for used in sample.clips):
        if clip not in known:
            cuts[clip.source].append(clip)
    return list(cuts.values())


def measure_clips(
    samples: Sequence[CheckedSample], workers: int, known: Container[Clip] = ()
) -> dict[Clip, ClipMeasures]:
    """Measure every clip of the samples that is not ``known``; all cuts of a file are measured together."""
    groups = cuts_of_files(samples, known)
    found = map_in_processes(measure_file, groups, workers, "measuring clips", "file")
    return {
        clip: m for clips, measured in zip(groups, found, strict=True) for clip, m in zip(clips, measured, strict=True)
    }


def make_folder(folder: Path) -> None:
    """Make the folder of the output, if it is not there.

    Raises:
        InputError: if it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be created ({error.strerror})") from error
    if not os.access(folder, os.W_OK, effective_ids=True):
        raise InputError(f"--output_dir {folder}: cannot be written to")


def _load_tokenizer(model_path: str) -> PreTrainedTokenizerBase:
    if not (is_hub_id(model_path) or os.path.isdir(os.path.expanduser(model_path))):
        raise InputError(
            f"--model_path {model_path}: no such folder; give a checkpoint's folder or a hub id OWNER/NAME"
        )
    try:
        with hub_access("--model_path", model_path):
            return AutoTokenizer.from_pretrained(os.path.expanduser(model_path))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--model_path {model_path}: no tokenizer in it ({reason}); without the flag, tokens are estimated"
        ) from error


def _samples_of(
    report: dict[str, Any], samples: Sequence[CheckedSample], measures: dict[Clip, ClipMeasures]
) -> dict[str, Any]:
    """Return the facts that the page shows of each sample that it lists."""
    entries = [*report["errors"], *report["warnings"]]
    shown = {sample_id for entry in entries for sample_id in entry["sample_ids"][:SAMPLES_SHOWN]}
    facts = {}
    for sample in samples:
        if sample.sample_id in shown:
            known = {"file": str(sample.path), "side": sample.side, "speaker": sample.speaker}
            known |= _clip_facts("audio", "", sample.target_text, sample.targets, measures)
            known |= _clip_facts("reference", "reference_", sample.reference_text, sample.references, measures)
            facts[sample.sample_id] = {name: value for name, value in known.items() if value is not None}
    return facts


def _clip_facts(
    name: str, prefix: str, text: str, clips: Sequence[UsedClip], measures: dict[Clip, ClipMeasures]
) -> dict[str, Any]:
    """Return the text of some clips, and the file, length and offset of the first one, under names with ``prefix``."""
    known: dict[str, Any] = {f"{prefix}text": text or None}
    if clips:
        clip = clips[0].clip
        is_file = isinstance(clip.source, Path)
        if isinstance(clip, CodedClip) and is_file:
            is_file = os.path.isfile(clip.source)  # codes need no file; without one there is nothing to play
        known[name] = str(clip.source) if is_file else None
        known[f"{prefix}seconds"] = round(measures[clip].seconds, 3)
        known[f"{prefix}offset"] = clip.offset or None
    return known


def _with_audio(facts: dict[str, Any], samples: Sequence[CheckedSample]) -> dict[str, Any]:
    """Add the audio that records hold themselves to the facts, for the page only."""
    found = {sample_id: dict(known) for sample_id, known in facts.items()}
    for sample in samples:
        for name, clips in (("audio", sample.targets), ("reference", sample.references)):
            if sample.sample_id in found and clips and isinstance(clips[0].clip.source, bytes):
                content = clips[0].clip.source
                mime = MIME_BY_MAGIC.get(content[:4], "audio/mpeg")
                found[sample.sample_id][name] = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return found


def json_bytes(report: Mapping[str, Any]) -> bytes:
    """Return the JSON of a report or a summary."""
    # A lone surrogate in a text stays an escape sequence: UTF-8 cannot hold it.
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="backslashreplace")

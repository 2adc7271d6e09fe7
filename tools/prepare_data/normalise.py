"""Write copies of ChatML files with normalised texts, as --text_normalisation produces them in training.

    python -m tools.prepare_data normalise TRAIN.json VAL.json --output_dir DIR
    python -m tools.prepare_data normalise texts.txt --output_dir DIR
    python -m tools.prepare_data normalise - < texts.txt > spoken.txt
    python -m tools.prepare_data normalise texts.txt --output_dir DIR --report ambiguous.jsonl

User texts, assistant texts and transcripts change. Instructions, ids and audio stay, and paths still lead to the clips.
A .txt file holds one text a line; - reads such lines from the standard input and writes them to the standard output.
The summary shows examples of the changes and the digits that remain. docs/arabic_text.md describes the normalisation.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arabic_text.diacritics import DIACRITISERS, load_diacritiser
from boson_multimodal.errors import LISTED_OFFENDERS, InputError
from boson_multimodal.standard_streams import input_bytes, result_output
from voice_cloning.corpora.card_licences import DATA_CARD
from voice_cloning.corpora.normalise_files import (
    NormaliseSummary,
    TextNormaliser,
    ambiguity_report,
    normalise_lines,
    normalised_card,
    normalised_files,
    write_outputs,
)
from voice_cloning.corpora.output_files import has_other_content, write_differing

STANDARD_STREAM = "-"
LONGEST_EXAMPLE = 100
"""Characters of a text that an example shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="ChatML .json or .jsonl, .txt with one text a line, or - alone.")
    add("--output_dir", type=Path, metavar="DIR", help="Where the files are written, under the same names.")
    add("--digits", default="spell", choices=["spell", "keep"], help="Write digits as Arabic words, or keep them.")
    add(
        "--diacritise",
        choices=list(DIACRITISERS),
        metavar="LIBRARY",
        help="Add vowel marks to words without any, with a library that you install separately: "
        f"{', '.join(DIACRITISERS)}. Off by default: about one word in four gets a wrong mark.",
    )
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="Write a JSON line for each place that can be read in several ways: the file, sample or line, and text; "
        "what is written; the reading taken, and the others.",
    )
    add("--overwrite", action="store_true", help="Replace files with other content in DIR, and FILE.")


def run(flags: argparse.Namespace) -> int:
    """Normalise the files and print a summary. Returns the exit status."""
    if STANDARD_STREAM in flags.files:
        if len(flags.files) > 1 or flags.output_dir is not None:
            raise InputError("-: it reads the standard input and writes the standard output; give it alone")
        _check_report(flags, [])
        add_marks = load_diacritiser(flags.diacritise) if flags.diacritise else None
        normaliser = TextNormaliser(flags.digits, add_marks, flags.report is not None)
        texts, output = input_bytes(), result_output()
        for line in normalise_lines(texts, "standard input", normaliser):
            output.write(line.encode("utf-8") + b"\n")
        output.flush()
        write_differing(Path(), _report_of(flags, [("standard input", normaliser.summary)]))
        _print_summary("standard input", normaliser.summary, sys.stderr)
        return 0
    if flags.output_dir is None:
        raise InputError("--output_dir: missing; give the folder for the normalised files")
    paths = [Path(name).expanduser() for name in flags.files]
    output_dir = flags.output_dir.expanduser()
    _check_report(flags, [*paths, *(output_dir / path.name for path in paths), output_dir / DATA_CARD])
    outputs = normalised_files(paths, output_dir, flags.digits, flags.diacritise, flags.report is not None)
    report = _report_of(flags, [(str(path), outputs[path.name][1]) for path in paths])
    write_outputs(output_dir, outputs, flags.overwrite, normalised_card(paths, flags.digits, flags.diacritise))
    write_differing(Path(), report)
    for name, (_, summary) in outputs.items():
        _print_summary(str(output_dir / name), summary, sys.stdout)
    return 0


def _check_report(flags: argparse.Namespace, files: Sequence[Path]) -> None:
    """Check the place of the report before any work; ``files`` are the inputs and outputs."""
    if flags.report is None:
        return
    if flags.digits == "keep":
        raise InputError("--report: lists how digits are read, and --digits keep reads none; leave one of them out")
    report = flags.report.expanduser()
    if os.path.realpath(report) in map(os.path.realpath, files):
        raise InputError(f"--report {report}: is an input or an output of this command; give another file")
    if report.is_dir():
        raise InputError(f"--report {report}: is a folder; give a file")


def _report_of(flags: argparse.Namespace, summaries: Sequence[tuple[str, NormaliseSummary]]) -> list[tuple[str, bytes]]:
    """Return the name and content of the report, or nothing; refuse to replace a file with other content."""
    if flags.report is None:
        return []
    report, content = flags.report.expanduser(), ambiguity_report(summaries)
    if not flags.overwrite and has_other_content(report, content):
        raise InputError(f"--report {report}: exists with other content; give another file, or --overwrite")
    return [(str(report.absolute()), content)]


def _print_summary(name: str, summary: NormaliseSummary, stream: Any) -> None:
    """Print the changes to the texts of one file."""
    lines = [f"{name}: {summary.changed} of {summary.texts} texts changed"]
    if summary.kinds:
        lines.append("  " + "; ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in summary.kinds.most_common()))
    for before, after in summary.examples:
        start = max(0, len(os.path.commonprefix([before, after])) - LONGEST_EXAMPLE // 4)
        lines.append(f"  {_excerpt(before, start)}  ->  {_excerpt(after, start)}")
    if summary.words_marked or summary.words_left:
        lines.append(f"  marks added to {summary.words_marked} words; {summary.words_left} words left without marks")
    if summary.ambiguous:
        kinds = Counter(place.kind for _, _, place in summary.ambiguous)
        found = "; ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in kinds.most_common())
        lines.append(f"  places that can be read in several ways: {len(summary.ambiguous)} ({found})")
    if summary.digits_left:
        pieces = sum(map(len, summary.digits_left.values()))
        shown = [f"{where} ({' '.join(found)})" for where, found in summary.digits_left.items()][:LISTED_OFFENDERS]
        more = len(summary.digits_left) - len(shown)
        tail = f" and {more} more" if more else ""
        lines.append(f"  digits left: {pieces}, in {len(summary.digits_left)} place(s): {', '.join(shown)}{tail}")
    print("\n".join(lines), file=stream)


def _excerpt(text: str, start: int) -> str:
    """Return a piece of a text on one line, with invisible characters as code point numbers."""
    end = start + LONGEST_EXAMPLE
    shown = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text[start:end])
    return ("..." if start else "") + shown + ("..." if end < len(text) else "")

"""The files that a filter writes: the kept records as they are, the dropped ones with reasons, and the data card."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boson_multimodal.chatml_records import read_text
from boson_multimodal.errors import raise_if_any
from voice_cloning.corpora.card_licences import DATA_CARD, carried_card
from voice_cloning.corpora.normalise_files import with_paths
from voice_cloning.data_check.filter_faults import Fault
from voice_cloning.data_check.filter_summary import summary_lines
from voice_cloning.data_check.samples import CheckedSample

DROPPED_FILE, SUMMARY_FILE = "dropped.jsonl", "filter_summary.json"
DECIMALS = 6
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_URL = re.compile(r'("audio_url"\s*:\s*)("(?:[^"\\]|\\.)*")')


def check_names(files: Sequence[Path], folder: Path) -> None:
    """Check that each output has a name of its own, and replaces no input.

    Raises:
        InputError: naming each file for which this is not so.
    """
    counts = Counter(path.name for path in files)
    own = (DROPPED_FILE, SUMMARY_FILE, DATA_CARD)
    problems = [f"{path}: another input has the name {path.name} too" for path in files if counts[path.name] > 1]
    problems += [f"{path}: the filter itself writes {path.name}; rename it" for path in files if path.name in own]
    problems += [
        f"{path}: the output would replace the input; give another --output_dir"
        for path in files
        if path.resolve() == (folder / path.name).resolve()
    ]
    raise_if_any("names of files", problems)


def record_texts(path: Path) -> list[str]:
    """Return the JSON of each record of a file that ``read_json_records`` reads, as it is written there.

    The first line of a record of a ``.json`` file keeps its indentation.
    """
    text = read_text(path)
    if path.suffix == ".jsonl":
        return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    decoder, texts = json.JSONDecoder(), []
    at = _skipped(text, _skipped(text, 0) + 1)  # after the bracket
    while text[at] != "]":
        _, end = decoder.raw_decode(text, at)
        line = text[text.rfind("\n", 0, at) + 1 : at]
        texts.append((line if not line.strip() else "") + text[at:end])
        at = _skipped(text, end)
        if text[at] == ",":
            at = _skipped(text, at + 1)
    return texts


def _skipped(text: str, at: int) -> int:
    return _WHITESPACE.match(text, at).end()


def kept_content(path: Path, samples: Sequence[CheckedSample], kept: Sequence[bool], folder: Path) -> bytes:
    """Return the content of the output for a file.

    Args:
        samples: all samples of the file, in order.
        kept: for each, whether it is kept.
        folder: of the output; relative paths lead to the same clips from there.
    """
    texts = record_texts(path)
    moved = [
        _moved(text, path.parent, folder) if sample.clips else text
        for text, sample, is_kept in zip(texts, samples, kept, strict=True)
        if is_kept
    ]
    content = "".join(f"{text}\n" for text in moved) if path.suffix == ".jsonl" else "[\n" + ",\n".join(moved) + "\n]\n"
    return content.encode("utf-8")


def _moved(text: str, old_folder: Path, new_folder: Path) -> str:
    """Return the JSON of a record with paths from another folder; nothing else of it changes."""
    record = json.loads(text)
    wanted = with_paths(record, old_folder, new_folder)
    if wanted == record:
        return text
    urls = _urls(record, wanted)
    changed = _URL.sub(lambda found: found[1] + _json_of(urls, found[2]), text)
    if json.loads(changed) == wanted:
        return changed
    return _dumped(wanted)  # a field of the same name lies elsewhere in the record


def _urls(record: Mapping[str, Any], moved: Mapping[str, Any]) -> dict[str, str]:
    """Return each path of a record -> the moved one."""
    urls = {}
    for one, other in zip(record["messages"], moved["messages"], strict=True):
        parts = [m["content"] if isinstance(m["content"], list) else [m["content"]] for m in (one, other)]
        for old, new in zip(*parts, strict=True):
            if old != new:
                urls[old["audio_url"]] = new["audio_url"]
    return urls


def _json_of(urls: Mapping[str, str], shown: str) -> str:
    url = json.loads(shown)
    return _dumped(urls[url], shown.isascii()) if url in urls else shown


def _dumped(value: Any, is_ascii: bool = False) -> str:
    text = json.dumps(value, ensure_ascii=is_ascii)
    return json.dumps(value) if re.search("[\ud800-\udfff]", text) else text  # UTF-8 cannot hold lone surrogates


def dropped_content(samples: Sequence[CheckedSample], faults: Mapping[str, Sequence[Fault]]) -> bytes:
    """Return a JSON line for each reason to drop a sample, in the order of the samples."""
    lines = []
    for sample in samples:
        for fault in faults.get(sample.sample_id, ()):
            facts = asdict(fault)
            for name in ("value", "bound"):
                facts[name] = None if facts[name] is None else round(facts[name], DECIMALS)
            known = {"sample_id": sample.sample_id, "file": str(sample.path), "speaker": sample.speaker}
            lines.append(_dumped(known | facts) + "\n")
    return "".join(lines).encode("utf-8")


def card_content(files: Sequence[Path], summary: Mapping[str, Any]) -> bytes | None:
    """Return the data card: those of the inputs' folders, with their licences, and what the filter did.

    Returns:
        None if no folder of an input has a card.
    """
    named = [{**file, "file": Path(file["file"]).name} for file in summary["files"]]  # the card goes to other machines
    table = "\n".join(f"    {line}".rstrip() for line in summary_lines({**summary, "files": named}))
    told = f"## Filtered\n\n`prepare_data filter` dropped samples by these rules. `{DROPPED_FILE}` has the reasons.\n\n"
    return carried_card(files, told + table)

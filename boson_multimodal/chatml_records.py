"""Read the records of ChatML files, and say what makes a conversation unusable. Nothing is tokenized here."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from boson_multimodal.chatml import text_problem
from boson_multimodal.data_types import ChatMLSample, TextContent
from boson_multimodal.errors import InputError, Problem, ProblemKind, raise_if_any


def sample_id_of(raw: Any, number: int) -> str:
    """Return the name of a record in messages: its ``misc.sample_id``, else ``record N``."""
    misc = raw.get("misc") if isinstance(raw, dict) else None
    return str((misc.get("sample_id") if isinstance(misc, dict) else None) or f"record {number}")


def read_json_records(path: Path) -> list[Any]:
    """Return the unchecked records of a ``.json`` list or of a ``.jsonl`` file.

    Raises:
        InputError: if the file is missing, not JSON (naming the lines), not a list, or empty.
    """
    text = read_text(path, "give a ChatML .json or .jsonl")
    by_line = path.suffix == ".jsonl"
    # str.splitlines would also split at U+2028 and similar characters, which a JSON string may contain.
    parts = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()] if by_line else [(1, text)]
    values, problems = parse_numbered(parts)
    raise_if_any(f"{path}: not JSON", problems)
    records = values if by_line else values[0]
    if not isinstance(records, list) or not records:
        raise no_records(path, "no sample" if records == [] else f"a JSON {type(records).__name__}")
    return records


def parse_numbered(parts: Iterable[tuple[int, str]]) -> tuple[list[Any], list[str]]:
    """Parse texts of JSON, each with the number of its first line. Return the values, and what is wrong by line."""
    values, problems = [], []
    for first_line, part in parts:
        try:
            values.append(json.loads(part))
        except json.JSONDecodeError as error:
            problems.append(f"line {first_line + error.lineno - 1}, column {error.colno}: {error.msg}")
    return values, problems


def no_records(path: Path, found: str) -> InputError:
    """Return the error for a file that holds something else than records."""
    return InputError(
        f"{path}: holds {found}; a .json file is a list of samples, a .jsonl file has one sample per line"
    )


def read_text(path: Path, advice: str = "") -> str:
    """Return the content of a UTF-8 file, without its byte order mark.

    Args:
        advice: how to correct a missing file, for the message.

    Raises:
        InputError: if the file is missing, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file" + (f"; {advice}" if advice else "")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from error


def _text_parts(sample: ChatMLSample) -> list[tuple[str, str]]:
    """Return the field and the text of each text part."""
    return [
        (f"messages[{i}].content[{j}].text", part.text)
        for i, message in enumerate(sample.messages)
        for j, part in enumerate(message.content)
        if isinstance(part, TextContent)
    ]


def content_problems(sample: ChatMLSample) -> list[Problem]:
    """Return why a well-formed conversation is not a usable training sample; an empty list if it is one."""
    texts = _text_parts(sample)
    missing = [f"{where}: {text!r}; text is missing" for where, text in texts if not text.strip()]
    if not any(isinstance(p, TextContent) for m in sample.messages if m.role != "system" for p in m.content):
        missing.append("messages: no text in any user or assistant turn; the model needs the text to speak")
    texts += [(f"messages[{i}].recipient", m.recipient) for i, m in enumerate(sample.messages) if m.recipient]
    malformed = [f"{where}: {reason}" for where, text in texts if (reason := text_problem(text))]
    if not any(sample.trains(turn) for turn, _ in sample.clips()):
        malformed.append(f"messages: no audio in an assistant turn from start_index {sample.start_index or 0} on")
    return [Problem(ProblemKind.MISSING_TEXT, problem) for problem in missing] + [
        Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in malformed
    ]

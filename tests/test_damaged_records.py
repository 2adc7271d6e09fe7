"""Damaged ChatML files and manifests of synthesis are named, or what is read of them is what they hold."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chatml_files import audio, record, text, write_records
from tests.fuzzing import MUTATIONS, check_bounds, mutated, mutated_lines, run_apart
from voice_cloning.data_check.samples import read_samples_of
from voice_cloning.speech.requests import read_manifest

WORDS = [f"جملة رقم {'و' * (i + 1)}" for i in range(8)]
AT_ONCE = 20
"""Files that one process reads, because to fork it takes longer."""


def chatml_file(path: Path) -> Path:
    records = []
    for i, words in enumerate(WORDS):
        one = record(f"s{i}", audio(f"ref{i}.wav"), audio(f"{i}.wav", offset=0.5, duration=1.0), speaker=f"a{i % 2}")
        one["messages"][2]["content"][0] = text(words)
        one["messages"][1]["content"][2] = text(f"Please say: {words}")
        records.append(one)
    return write_records(path, records)


def manifest_file(path: Path) -> Path:
    entries = [{"id": f"s{i}", "text": w, "reference": "r.wav", "reference_text": "نعم"} for i, w in enumerate(WORDS)]
    path.write_text(json.dumps(entries, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def texts_of_samples(path: Path) -> list[str]:
    return [sample.target_text for sample in read_samples_of([path], [], "as_written", "none", None)]


def texts_of_requests(path: Path) -> list[str]:
    requests, _ = read_manifest(path, "voice_clone")
    return [piece.text for request in requests for piece in request.pieces]


def outcomes(read: Callable[[Path], list[str]], folder: Path, contents: list[bytes], suffix: str) -> list[Any]:
    """Return the texts that are read of each content, or the message."""
    found: list[Any] = []
    for content in contents:
        path = folder / f"damaged{suffix}"
        path.write_bytes(content)
        try:
            found.append(read(path))
        except ValueError as error:  # an InputError; all others end the process with their traceback
            assert type(error).__name__ == "InputError", repr(error)
            found.append(str(error))
    return found


def parsed(content: bytes, suffix: str) -> Any:
    decoded = content.decode("utf-8-sig")
    return (
        [json.loads(line) for line in decoded.split("\n") if line.strip()]
        if suffix == ".jsonl"
        else json.loads(decoded)
    )


@pytest.mark.parametrize("mutations", MUTATIONS)
@pytest.mark.parametrize(
    ("make", "read", "suffix"),
    [
        (chatml_file, texts_of_samples, ".json"),
        (chatml_file, texts_of_samples, ".jsonl"),
        (manifest_file, texts_of_requests, ".json"),
    ],
)
def test_a_damaged_file_is_named_or_read_as_it_stands(
    make: Callable[[Path], Path],
    read: Callable[[Path], list[str]],
    suffix: str,
    mutations: int,
    tmp_path: Path,
) -> None:
    content = make(tmp_path / f"whole{suffix}").read_bytes()
    generator = random.Random(f"{read.__name__} {suffix}")
    untouched = run_apart(outcomes, read, tmp_path, [content], suffix)
    assert untouched.value and set(WORDS) <= set(untouched.value[0])
    named = right = 0
    for first in range(0, mutations, AT_ONCE):
        damaged = [generator.choice((mutated, mutated_lines))(content, generator) for _ in range(AT_ONCE)]
        outcome = run_apart(outcomes, read, tmp_path, damaged, suffix)
        check_bounds(outcome, untouched, f"from mutation {first} on")
        for after, found in zip(damaged, outcome.value, strict=True):
            if isinstance(found, str):
                named += 1
                assert f"damaged{suffix}" in found, "the message names the file"
                continue
            held = json.dumps(parsed(after, suffix), ensure_ascii=False)
            invented = [words for words in found if json.dumps(words, ensure_ascii=False)[1:-1] not in held]
            assert not invented, f"{invented} is not in the file"
            right += 1
    assert named > 0 and right > 0

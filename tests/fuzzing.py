"""Damaged inputs for the tests of readers, and a runner that bounds the time and the memory of each reading.

A fuzz test makes ``FEW`` mutations in ``make test`` and ``MANY`` in ``make test-slow``:

    @pytest.mark.parametrize("mutations", MUTATIONS)
    def test_...(mutations): ...
"""

import io
import os
import pickle
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.forked import fork

FEW, MANY = 100, 2000
MUTATIONS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
LONGEST_SECONDS = 10.0
MOST_EXTRA_MEGABYTES = 300.0
ODD_BYTES = [b"\0", b"\n", b"\r\n", b"\t", b'"', b",", b"|", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\x8f", b"nan", b"-1"]
"""Bytes that mean something to some reader."""


@dataclass(frozen=True)
class Outcome:
    """What one reading did.

    Attributes:
        value: what the function returned; None if it raised an error.
        error: the text of an ``InputError``; None if there was none.
        trace: the traceback of any other error, or the reason why the process had to be killed; None if there is none.
        megabytes: peak memory of the process.
        printed: the standard output and error together.
    """

    value: Any = None
    error: str | None = None
    trace: str | None = None
    megabytes: float = 0.0
    printed: str = ""


def run_apart(function: Callable[..., Any], *arguments: Any, seconds: float = LONGEST_SECONDS) -> Outcome:
    """Call a function in a forked process, so that a hang can be ended and its memory measured."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(_called(function, arguments), pipe)
        os._exit(0)
    os.close(writing)
    content = _read_until(reading, time.monotonic() + seconds)
    if content is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if content is None:
        return Outcome(trace=f"still running after {seconds:g} s")
    return pickle.loads(content) if content else Outcome(trace=f"the process ended with status {status}")


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the threads of the parent do not exist in a forked process
    printed, found = io.StringIO(), {}
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            found = {"value": function(*arguments)}
        except InputError as error:
            found = {"error": str(error)}
        except BaseException:  # the test shows whatever it is
            found = {"trace": traceback.format_exc()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Outcome(**found, megabytes=peak, printed=printed.getvalue())


def _read_until(descriptor: int, end: float) -> bytes | None:
    """Return all bytes of a pipe, or None if it is still open at ``end``."""
    parts = []
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def check_bounds(outcome: Outcome, untouched: Outcome, what: str) -> None:
    """Check that a reading ended without a traceback, in time, and within the memory of the untouched input."""
    assert outcome.trace is None, f"{what}: {outcome.trace}"
    assert "Traceback (most recent call last)" not in outcome.printed, f"{what}: {outcome.printed}"
    extra = outcome.megabytes - untouched.megabytes
    assert extra <= MOST_EXTRA_MEGABYTES, f"{what}: {extra:.0f} MB more than the untouched input"


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Return bytes with one to three random changes: bits, cuts, repeats, insertions, runs of zeros."""
    for _ in range(generator.randint(1, 3)):
        content = generator.choice(_CHANGES)(content, generator)
    return content


def _span(content: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(content) + 1)
    return start, min(len(content), start + generator.choice([1, 2, 4, 16, 200]))


def _flip(content: bytes, generator: random.Random) -> bytes:
    if not content:
        return content
    # The first bytes are headers: half of the changes fall there.
    at = generator.randrange(min(64, len(content)) if generator.random() < 0.5 else len(content))
    return content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]


def _overwrite(content: bytes, generator: random.Random) -> bytes:
    start, end = _span(content, generator)
    filler = generator.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * (end - start)
    return content[:start] + filler + content[end:]


def _remove(content: bytes, generator: random.Random) -> bytes:
    start, end = _span(content, generator)
    return content[:start] + content[end:]


def _repeat(content: bytes, generator: random.Random) -> bytes:
    start, end = _span(content, generator)
    return content[:end] + content[start:end] * generator.randint(1, 3) + content[end:]


def _insert(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) + 1)
    return content[:at] + generator.choice(ODD_BYTES) + content[at:]


def _cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


_CHANGES = (_flip, _flip, _overwrite, _remove, _repeat, _insert, _insert, _cut)


def mutated_lines(content: bytes, generator: random.Random) -> bytes:
    """Return the lines of a text with one to three changes that people and programs make: fields, quotes, line ends."""
    lines = content.split(b"\n")
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(lines))
        lines = generator.choice(_LINE_CHANGES)(lines, at, generator)
    return b"\n".join(lines)


def _fields_of(line: bytes) -> tuple[bytes, list[bytes]]:
    delimiter = max((b"\t", b"|", b",", b" "), key=line.count)
    return delimiter, line.split(delimiter)


def _swap_fields(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    delimiter, fields = _fields_of(lines[at])
    generator.shuffle(fields)
    return [*lines[:at], delimiter.join(fields), *lines[at + 1 :]]


def _change_field(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    delimiter, fields = _fields_of(lines[at])
    _, others = _fields_of(generator.choice(lines))
    fields[generator.randrange(len(fields))] = generator.choice([*others, b"", b"nan", b"3", b"null", b"[]"])
    return [*lines[:at], delimiter.join(fields), *lines[at + 1 :]]


def _add_delimiter(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    line, place = lines[at], generator.randrange(len(lines[at]) + 1)
    return [*lines[:at], line[:place] + _fields_of(line)[0] + line[place:], *lines[at + 1 :]]


def _quote_over_lines(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    """Put one quotation mark before a field of a line, and perhaps one after a field of a later line."""
    lines = list(lines)
    for number, is_start in ((at, True), (generator.randrange(at, len(lines)), False)):
        delimiter, fields = _fields_of(lines[number])
        place = generator.randrange(len(fields))
        fields[place] = b'"' + fields[place] if is_start else fields[place] + b'"'
        lines[number] = delimiter.join(fields)
        if generator.random() < 0.3:
            break
    return lines


def _join_lines(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    return [*lines[:at], b"".join(lines[at : at + 2]), *lines[at + 2 :]]


def _repeat_line(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    place = generator.randrange(len(lines) + 1)
    return [*lines[:place], lines[at], *lines[place:]]


def _drop_line(lines: list[bytes], at: int, generator: random.Random) -> list[bytes]:
    return [*lines[:at], *lines[at + 1 :]] or [b""]


_LINE_CHANGES = (
    _swap_fields,
    _change_field,
    _add_delimiter,
    _quote_over_lines,
    _quote_over_lines,
    _join_lines,
    _repeat_line,
    _drop_line,
)

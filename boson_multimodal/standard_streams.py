"""The standard output and error of a command: any encoding, closed, or a pipe that nobody reads any more.

    with StandardStreams() as streams: ...

- A character that the encoding of the terminal lacks is written as a backslash escape such as ``\\u0645``.
- If the reader of a pipe has gone (``| head``), what is still to be written is thrown away, so that the work goes on.
- A closed stream (``>&-``) is opened on the null device. Otherwise, the next file that is opened takes its number, and
  what is printed lands in that file.
"""

import codecs
import io
import os
import sys
from typing import BinaryIO, TextIO

from boson_multimodal.errors import InputError

ESCAPES = "escape_what_the_terminal_lacks"
"""Name of the error handler of the encoding."""
STREAMS = {"stdout": 1, "stderr": 2}
NAMES = {1: "standard output", 2: "standard error"}


class OutputUnreadError(Exception):
    """The standard output is a command's result, and the reader of the pipe has gone."""


class _Descriptor(io.FileIO):
    """A file descriptor that throws away what is written to it once nobody reads it.

    Attributes:
        was_closed: whether the stream was closed when the command began.
        is_unread: whether something was thrown away.
        is_result: whether the command ends then (:class:`OutputUnreadError`).
    """

    def __init__(self, number: int, was_closed: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.was_closed = was_closed
        self.is_unread = self.is_result = False

    def write(self, content: bytes) -> int:
        try:
            return super().write(content)
        except BrokenPipeError as error:
            _open_null_device(self.fileno())  # also for those that know the number only, such as worker processes
            self.is_unread = True
            if self.is_result:
                raise OutputUnreadError from error
            return len(content)
        except OSError as error:  # such as a full disk
            _open_null_device(self.fileno())  # so that what is buffered does not raise it again at the end
            error.filename = NAMES.get(self.fileno())
            raise


class StandardStreams:
    """Replaces ``sys.stdout`` and ``sys.stderr``; a context manager that writes what is buffered and puts them back.

    A stream that a caller has put there (a test, a notebook) is left as it is.
    """

    def __init__(self) -> None:
        self._old: dict[str, TextIO | None] = {}
        self._descriptors: list[_Descriptor] = []
        self._lacks_characters = False

    def __enter__(self) -> "StandardStreams":
        codecs.register_error(ESCAPES, self._escape)
        if not _is_open(0):
            _open_null_device(0)
        for name, number in STREAMS.items():
            old = getattr(sys, name)
            if old is getattr(sys, f"__{name}__"):
                self._old[name] = old
                setattr(sys, name, self._replacement(old, number))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            for name, old in self._old.items():
                setattr(sys, name, old)

    @property
    def are_unread(self) -> bool:
        """Whether output was thrown away because nobody reads it."""
        return any(descriptor.is_unread for descriptor in self._descriptors)

    def flush(self) -> None:
        """Write what is buffered, and a note if characters were written as escapes."""
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        if self._lacks_characters:
            self._lacks_characters = False
            print(
                f"note: this terminal's encoding ({sys.stdout.encoding}) lacks some characters; they are written as "
                "\\u0645 and the like. PYTHONIOENCODING=utf-8 shows them in a terminal that reads UTF-8.",
                file=sys.stderr,
                flush=True,
            )

    def _replacement(self, old: TextIO | None, number: int) -> TextIO:
        settings = {"encoding": "utf-8"}
        if old is not None:
            old.flush()
            settings = {name: getattr(old, name) for name in ("encoding", "line_buffering", "write_through")}
        elif _is_open(number):  # a library has opened a file since, which took the number
            number = os.open(os.devnull, os.O_WRONLY)
        else:
            _open_null_device(number)
        descriptor = _Descriptor(number, was_closed=old is None)
        self._descriptors.append(descriptor)
        return io.TextIOWrapper(io.BufferedWriter(descriptor), errors=ESCAPES, **settings)

    def _escape(self, error: UnicodeError) -> tuple[str | bytes, int]:
        if error.encoding != "utf-8":  # UTF-8 lacks lone surrogates only
            self._lacks_characters = True
        return codecs.backslashreplace_errors(error)


def result_output() -> BinaryIO:
    """Return the standard output in bytes, for a command whose result it is, whatever the encoding of the terminal.

    Writing raises :class:`OutputUnreadError` once nobody reads the result.

    Raises:
        InputError: if the standard output is closed.
    """
    raw = getattr(sys.stdout.buffer, "raw", None)
    if isinstance(raw, _Descriptor):
        if raw.was_closed:
            raise InputError("standard output: it is closed, but the result goes there; leave it open")
        raw.is_result = True
    return sys.stdout.buffer


def input_bytes() -> BinaryIO:
    """Return the standard input in bytes.

    Raises:
        InputError: if it is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input: it is closed, but the texts come from there; leave it open")
    return sys.stdin.buffer


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _open_null_device(number: int) -> None:
    """Let a file descriptor lead to the null device."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)

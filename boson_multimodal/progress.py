"""Progress of long work: a bar in a terminal, whole lines in a log file.

    for clip in progress(clips, "encoding clips", unit="clip"): ...
    with progress(title="encoding clips", total=len(clips), unit="clip") as bar: bar.update(8)

If the standard error is a file or a pipe, lines have no carriage return, and there is at most one line every
``SECONDS_BETWEEN_LINES``. Work that takes less time writes no line:

    encoding clips: 120 of 400 clips, 30 %, 12 s, 28 s left
"""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

SECONDS_BETWEEN_LINES = 10.0


def progress(
    items: Iterable[Any] | None = None,
    title: str = "",
    total: int | None = None,
    *,
    unit: str = "item",
    initial: int = 0,
    leave: bool = True,
    disable: bool = False,
) -> tqdm:
    """Show the progress of a loop on the standard error.

    Args:
        items: the items of the loop; None if the caller counts with ``update``.
        title: name of the work.
        total: number of items; by default ``len(items)``, or unknown if ``items`` has no length.
        unit: name of one item, in the singular.
        initial: number of items done before.
        leave: whether a terminal keeps the bar at the end.
        disable: show nothing, for ranks other than the first, or if there is nothing to do.

    Returns:
        An iterable over ``items``, and a context manager with ``update(n)``.
    """
    shown = tqdm if shows_bars() else _Lines
    return shown(items, title, total, unit=unit, initial=initial, leave=leave, disable=disable)


def shows_bars() -> bool:
    """Return whether progress is shown as bars: the standard error is a terminal."""
    return sys.stderr.isatty()


def messages_above_bars() -> AbstractContextManager[None]:
    """Return a context manager that prints log messages above the bars instead of inside them."""
    return logging_redirect_tqdm()


def limit_library_bars(disable: bool = False) -> None:
    """Turn off the bars of transformers and the hub if the output is a log file or ``disable`` is set."""
    if disable or not shows_bars():
        from transformers.utils.logging import disable_progress_bar  # slow to import, and not always needed

        disable_progress_bar()


class _Lines(tqdm):
    """A bar that writes lines, as described at the top of this module."""

    monitor_interval = 0  # no thread that redraws: a line is written only when the work progresses

    def __init__(self, *args: Any, leave: bool = True, **settings: Any) -> None:
        self._shown = settings["initial"]
        # With a delay tqdm draws nothing at the start; without `leave` it draws nothing at the end.
        settings |= {"delay": SECONDS_BETWEEN_LINES, "mininterval": SECONDS_BETWEEN_LINES, "miniters": 1}
        super().__init__(*args, leave=False, **settings)
        self._last_line_at = getattr(self, "start_t", 0.0)  # a disabled bar has no start

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line if it is due. tqdm calls this often: after each message, and for each new postfix."""
        if msg is None and self._time() - self._last_line_at >= SECONDS_BETWEEN_LINES:
            self._write_line()
        return False

    def clear(self, nolock: bool = False) -> None:
        """Do nothing, because a line stays."""

    def close(self) -> None:
        """Write the last line, if the work took long enough and the line is not written yet."""
        took_long = not getattr(self, "disable", True) and self.format_dict["elapsed"] >= SECONDS_BETWEEN_LINES
        if took_long and (self._shown != self.n or self._last_line_at == self.start_t):
            self._write_line()
        super().close()

    def _write_line(self) -> None:
        self.fp.write(f"{self._line()}\n")
        self.fp.flush()
        self._shown, self._last_line_at = self.n, self._time()

    def _line(self) -> str:
        elapsed = self.format_dict["elapsed"]
        units = self.unit + ("es" if self.unit.endswith("ch") else "s")
        if self.total is None:
            parts = [f"{self.n} {units}", _duration(elapsed)]
        else:
            parts = [f"{self.n} of {self.total} {units}", f"{100 * self.n // max(self.total, 1)} %", _duration(elapsed)]
            done, left = self.n - self.initial, self.total - self.n
            if done > 0 and left > 0:
                parts.append(f"{_duration(elapsed * left / done)} left")
        if self.postfix:
            parts.append(self.postfix)
        return f"{self.desc.removesuffix(': ')}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

"""Ctrl-C at each write of a piece of work, one write after the other."""

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest


class InterruptedWrites:
    """Counts the writes of functions, and raises ``KeyboardInterrupt`` instead of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._done = self._ends_at = 0

    def watch(self, name: str, *modules: ModuleType) -> None:
        """Count the calls of the function of this name in modules."""
        for module in modules:
            self._monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def each(self, work: Callable[[int], object]) -> Iterator[int]:
        """Call ``work(1)``, ``work(2)``, ... and end the nth call at its nth write. Yield n after each interrupt.

        What the caller does then is not interrupted. It is over when a call makes fewer writes.
        """
        number = 0
        while True:
            number += 1
            self._done, self._ends_at = 0, number
            try:
                work(number)
            except KeyboardInterrupt:
                self._ends_at = 0
                yield number
            else:
                return

    def _counted(self, write: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object) -> object:
            self._done += 1
            if self._done == self._ends_at:
                raise KeyboardInterrupt
            return write(*args)

        return wrapped

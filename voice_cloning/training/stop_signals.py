"""Turn SIGTERM and Ctrl-C into a request to stop, which the training loop checks between two steps."""

import signal
import time
from types import FrameType, TracebackType

SECONDS_OF_ONE_STOP = 2.0
"""Signals within this time are one request: a terminal sends Ctrl-C to torchrun too, and torchrun repeats it to us."""


class StopSignals:
    """Context manager that stores the first SIGTERM or SIGINT in ``received``. A later signal acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
        elif time.monotonic() - self._received_at >= SECONDS_OF_ONE_STOP:
            self._put_back()
            signal.raise_signal(number)

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

"""The one place where every command of this project ends.

    def main(arguments=None) -> int:
        return run_command(lambda: work(parse_arguments(arguments)))

    if __name__ == "__main__":
        sys.exit(main())

``docs/commands.md`` lists the exit statuses.
"""

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType, ModuleType, TracebackType

from boson_multimodal.circumstances import MAY_HAVE_A_NAME, cache_for_libraries, named
from boson_multimodal.standard_streams import OutputUnreadError, StandardStreams

WRONG = 1
INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""
TERMINATED = 143
"""Exit status after SIGTERM, as in shells."""
UNREAD = 141
"""Exit status if nobody reads the output any more (128 + SIGPIPE), as in shells."""
SECONDS_BEFORE_OTHER_RANKS_REPORT = 4.0
"""How long the other ranks wait before they report an error.

A wrong input makes all ranks fail. Within this time the failure of rank 0 ends the other ranks, so the message appears
only once.
"""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, in a command that it ends as Ctrl-C does."""


def run_command(work: Callable[[], int], interrupted: str = "interrupted", takes_sigterm: bool = False) -> int:
    """Run a command, and turn what a user can act on into one message without a traceback.

    Args:
        work: parses the flags and does the work; returns the exit status.
        interrupted: what is printed after Ctrl-C: what became of the work.
        takes_sigterm: whether SIGTERM ends the work as Ctrl-C does. Otherwise it ends the process without a word.

    Returns:
        The status of ``work``; ``WRONG`` after an error that has a name (``circumstances.named``), ``INTERRUPTED``
        after Ctrl-C, ``TERMINATED`` after SIGTERM if it is taken; ``UNREAD`` if the work succeeded but nobody read all
        of its output.

    Raises:
        SystemExit: from argparse.
        BaseException: any error without a name, with its traceback.

    In a process group no error returns or rises: the process prints it and ends at once, and so do the other processes
    (``rank_watch.py``). After its work, the process leaves the group together with the others.
    """
    # PEFT still uses the old name of this property of transformers.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    with StandardStreams() as streams, _sigterm_as_interrupt() if takes_sigterm else nullcontext():
        try:
            with _EndsWithItsGroup(interrupted):
                try:
                    with cache_for_libraries():
                        status = work()
                        _leave_process_group()
                finally:
                    streams.flush()
        except SystemExit as end:
            if end.code or not streams.are_unread:
                raise
            status = 0
        except KeyboardInterrupt as interrupt:
            _report(interrupted)
            return _status_of(interrupt)
        except OutputUnreadError:
            return UNREAD
        except MAY_HAVE_A_NAME as error:
            message = named(error)
            if message is None:
                raise
            _report(message, "error")
            return WRONG
        return UNREAD if streams.are_unread and status == 0 else status


class _EndsWithItsGroup:
    """A context manager that ends this process at once after any error, if it belongs to a process group."""

    def __init__(self, interrupted: str) -> None:
        self._interrupted = interrupted

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group = _process_group()
        if error is None or group is None:
            return
        name = named(error) if isinstance(error, MAY_HAVE_A_NAME) else None
        if isinstance(error, KeyboardInterrupt):
            group.end_after_error(error, self._interrupted, _status_of(error), kind="")
        elif isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 0
            group.end_after_error(error, str(error), status or WRONG)
        else:
            group.end_after_error(error, name or "".join(traceback.format_exception(error)), WRONG)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise :class:`TerminatedError` in a block."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _status_of(interrupt: KeyboardInterrupt) -> int:
    return TERMINATED if isinstance(interrupt, TerminatedError) else INTERRUPTED


def _process_group() -> ModuleType | None:
    """Return the module of the process group if the command has imported it; it takes seconds to import."""
    return sys.modules.get("boson_multimodal.process_group")


def _leave_process_group() -> None:
    group = _process_group()
    if group is not None:
        group.leave_process_group()


def tell_torchrun(words: str, later: int = 0) -> None:
    """Write what torchrun shows of this process in its last lines, under "Root Cause" if this process failed first.

    Args:
        words: one line. The whole message is printed by the process itself.
        later: seconds that are added to the time of the failure, which tells torchrun who failed first.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    extra = {"py_callstack": words, "timestamp": str(int(time.time()) + later)}
    with suppress(OSError):  # a full disk, for example; torchrun then shows less
        Path(path).write_text(json.dumps({"message": {"message": words, "extraInfo": extra}}), encoding="utf-8")


def _report(message: str, kind: str = "") -> None:
    """Print why the command ends. If a wrong input makes all processes fail, only the message of rank 0 appears.

    This is for errors before the processes have met, such as a wrong flag. Later errors end in ``rank_watch.py``.
    """
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        time.sleep(SECONDS_BEFORE_OTHER_RANKS_REPORT)  # torchrun ends this process now if rank 0 failed too
    if kind and rank is not None:
        kind += f" on rank {rank}"
        tell_torchrun(f"its message is above ({kind})")
    print(f"{kind}: {message}" if kind else message, file=sys.stderr, flush=True)

"""The one place where every command of this project ends.

    def main(arguments=None) -> int:
        return run_command(lambda: work(parse_arguments(arguments)))

    if __name__ == "__main__":
        sys.exit(main())

``docs/commands.md`` lists the exit statuses.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable

from boson_multimodal.circumstances import MAY_HAVE_A_NAME, cache_for_libraries, named
from boson_multimodal.standard_streams import OutputUnreadError, StandardStreams

WRONG = 1
INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""
UNREAD = 141
"""Exit status if nobody reads the output any more (128 + SIGPIPE), as in shells."""
SECONDS_BEFORE_OTHER_RANKS_REPORT = 4.0
"""How long the other ranks wait before they report an error.

A wrong input makes all ranks fail. Within this time torchrun stops the other ranks, so the message appears only once.
"""


def run_command(work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command, and turn what a user can act on into one message without a traceback.

    Args:
        work: parses the flags and does the work; returns the exit status.
        interrupted: what is printed after Ctrl-C: what became of the work.

    Returns:
        The status of ``work``; ``WRONG`` after an error that has a name (``circumstances.named``), ``INTERRUPTED``
        after Ctrl-C; ``UNREAD`` if the work succeeded but nobody read all of its output.

    Raises:
        SystemExit: from argparse.
        BaseException: any error without a name, with its traceback.
    """
    # PEFT still uses the old name of this property of transformers.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    with StandardStreams() as streams:
        try:
            try:
                with cache_for_libraries():
                    status = work()
            finally:
                streams.flush()
        except SystemExit as end:
            if end.code or not streams.are_unread:
                raise
            status = 0
        except KeyboardInterrupt:
            _report(interrupted)
            return INTERRUPTED
        except OutputUnreadError:
            return UNREAD
        except MAY_HAVE_A_NAME as error:
            message = named(error)
            if message is None:
                raise
            _report(message, "error")
            return WRONG
        return UNREAD if streams.are_unread and status == 0 else status


def _report(message: str, kind: str = "") -> None:
    """Print why the command ends. If a wrong input makes all processes fail, only the message of rank 0 appears."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        time.sleep(SECONDS_BEFORE_OTHER_RANKS_REPORT)  # torchrun ends this process now if rank 0 failed too
    if kind and rank is not None:
        kind += f" on rank {rank}"
    print(f"{kind}: {message}" if kind else message, file=sys.stderr, flush=True)

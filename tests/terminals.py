"""A terminal for a command that a test runs: what it shows there differs from what it writes to a file."""

import fcntl
import os
import pty
import struct
import termios

ROWS, COLUMNS = 24, 100


def open_terminal() -> tuple[int, int]:
    """The test's end and the command's end of a new terminal; close the second one once the command has it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    return ours, theirs


def read_terminal(ours: int) -> str:
    """What is shown until the last process that writes to the terminal has ended."""
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # this is how Linux reports that nobody holds the other end any more
        pass
    os.close(ours)
    return shown.decode(errors="replace")

"""The last step of the demo: its adapter speaks a clip that it has memorised, and the codes are compared.

    python -m tools.demo_ending DEMO_DIR

DEMO_DIR is the folder that `make_demo` wrote, with the trainer's run in run/. DEMO_DIR/memorised.wav is written.
"""

import argparse
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.command_line import run_command
from tools.demo.ending import speak_memorised


def main() -> int:
    """Run the program. Returns its exit status."""
    return run_command(speak)


def speak() -> int:
    """Parse the flags, speak, and print the result. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, metavar="DEMO_DIR")
    disable_progress_bar()
    print(speak_memorised(parser.parse_args().demo))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The last step of the demo: one memorised clip is compared code by code, then the evaluation of all is summed up.

    python -m tools.demo_ending DEMO_DIR

DEMO_DIR is the folder that `make_demo` wrote, with the trainer's run in run/ and the report of `tools.evaluate` on the
training records in evaluation/. DEMO_DIR/memorised.wav is written.
"""

import argparse
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.command_line import run_command
from tools.demo.ending import speak_memorised, sum_up_evaluation


def main() -> int:
    """Run the program. Returns its exit status."""
    return run_command(speak)


def speak() -> int:
    """Parse the flags, speak, and print the results. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, metavar="DEMO_DIR")
    disable_progress_bar()
    demo = parser.parse_args().demo
    print(speak_memorised(demo))
    print("\n".join(sum_up_evaluation(demo / "evaluation")))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The last step of the demo: its adapter speaks a clip that it has memorised, and the codes are compared.

    python -m tools.demo_ending DEMO_DIR

DEMO_DIR is the folder that `make_demo` wrote, with the trainer's run in run/. DEMO_DIR/memorised.wav is written.
"""

import argparse
import sys
import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.errors import InputError
from tools.demo.ending import speak_memorised


def main() -> int:
    """Run the program. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, metavar="DEMO_DIR")
    disable_progress_bar()
    # PEFT still uses an old name in transformers.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        print(speak_memorised(parser.parse_args().demo))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

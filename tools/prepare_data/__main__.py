"""Prepares training data: builds it, checks it, filters it, normalises its texts, encodes its audio, packs it.

    python -m tools.prepare_data build SOURCE --output_dir DIR
    python -m tools.prepare_data check TRAIN.json VAL.json --output_dir DIR
    python -m tools.prepare_data filter TRAIN.json VAL.json --output_dir DIR
    python -m tools.prepare_data normalise TRAIN.json VAL.json --output_dir DIR
    python -m tools.prepare_data encode TRAIN.json VAL.json
    python -m tools.prepare_data pack TRAIN.json --output_dir DIR

Each verb has its own --help. Exit status: 0 for success, 1 for wrong input, 2 for an unknown flag.
"""

import argparse
import sys
from collections.abc import Sequence

from boson_multimodal.command_line import run_command
from tools.prepare_data import build, check, encode, filter, normalise, pack

VERBS = {"build": build, "check": check, "filter": filter, "normalise": normalise, "encode": encode, "pack": pack}
"""Verb -> module with ``add_arguments(parser)`` and ``run(flags) -> exit status``; its docstring is the verb's help."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the verb and its flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(verb)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Returns its exit status."""
    return run_command(lambda: run_verb(parse_arguments(arguments)))


def run_verb(flags: argparse.Namespace) -> int:
    """Do what the verb says. Returns the exit status."""
    return VERBS[flags.verb].run(flags)


if __name__ == "__main__":
    sys.exit(main())

"""Build a self-contained demo without downloads: Arabic clips, a tiny Higgs Audio v2 and a tiny codec.

    python -m tools.make_demo --output_dir DIR [--seed 0] [--layout original|transformers]
        [--codec_layout original|transformers]

DIR gets `train_chatml_samples.json`, `val_chatml_samples.json`, `clips/VOICE/NAME.wav` (24 kHz mono 16-bit), `model/`
(Llama-3-style tokenizer, config and random weights) and `audio_tokenizer/` (24 kHz, 25 frames/s, 8 codebooks of 1024).
Shapes and ids follow the release. The weights are random: the demo shows that training works, not how well it sounds.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.audio_processing.codec_layouts import (
    Layout,
)
from boson_multimodal.command_line import run_command
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL
from tools.demo.build import SPLITS, build_demo
from tools.demo.codec import CODEBOOK_SIZE, N_CODEBOOKS
from tools.demo.model import N_ORDINARY_TOKENS, SPECIAL_TOKENS


def main() -> int:
    """Run the program. Returns its exit status."""
    return run_command(build)


def build() -> int:
    """Parse the flags, build the demo and print what was written. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default=ORIGINAL, help="layout of the model's files")
    parser.add_argument(
        "--codec_layout", choices=get_args(Layout), default="transformers", help="layout of the codec's files"
    )
    args = parser.parse_args()
    disable_progress_bar()  # hides "Writing model shards", which is one shard here
    build_demo(args.output_dir, args.seed, args.layout, args.codec_layout)
    for split, voices in SPLITS.items():
        path = args.output_dir / f"{split}_chatml_samples.json"
        seconds = [sample["misc"]["duration"] for sample in json.loads(path.read_text(encoding="utf-8"))]
        print(f"{path}: {len(seconds)} samples, {len(voices)} voices, {sum(seconds):.1f} s of audio under clips/")
    tokens = f"{N_ORDINARY_TOKENS} ordinary and {len(SPECIAL_TOKENS)} special tokens"
    codes = f"{N_CODEBOOKS} codebooks of {CODEBOOK_SIZE}, 25 frames/s"
    for name, what in (("model", tokens), ("audio_tokenizer", codes)):
        folder = args.output_dir / name
        size = sum(path.stat().st_size for path in folder.glob("model.*"))
        print(f"{folder}: {what}, weights {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

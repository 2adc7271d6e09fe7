"""Export an adapter: merge it into the model's weights, or rename it to the other layout.

    python -m tools.merge_adapter --model_path BASE --adapter DIR --output DIR --layout transformers
    python -m tools.merge_adapter --adapter DIR --output DIR --layout transformers --adapter_only

A merged model is a folder with weights, configuration, tokenizer and a model card. It loads without this project: the
layout `transformers` with `HiggsAudioV2ForConditionalGeneration.from_pretrained`, the layout `original` like Boson's
release. The tool loads the written model again and compares its logits with those of base + adapter. If they differ
more than rounding explains, no folder is left. The layout `transformers` also gets the files with which transformers'
AutoProcessor and vLLM-Omni serve it (docs/serving.md). With --adapter_only the output is the adapter alone, for PEFT
with the model class of that layout. It contains neither the optimizer's state nor paths of this machine.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.command_line import run_command
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, TRANSFORMERS
from voice_cloning.adapters.merge import OUTPUT_DTYPES, export_adapter, export_merged


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the flags. Exit if a flag is missing or has no effect together with another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", help="Folder or hub id of the base model, in either layout.")
    parser.add_argument(
        "--model_revision",
        help="Commit of model_path if it is a hub id; by default the commit that the adapter records.",
    )
    parser.add_argument("--adapter", type=Path, required=True, help="A checkpoint of the trainer, in either layout.")
    parser.add_argument("--output", type=Path, required=True, help="Folder to create.")
    parser.add_argument(
        "--layout", choices=LAYOUTS, required=True, help="Layout of the names and configuration of the output."
    )
    parser.add_argument(
        "--torch_dtype", choices=OUTPUT_DTYPES, default="auto", help="Type of the output; auto: the base's type."
    )
    parser.add_argument(
        "--codec_id",
        help="Codec that the files for servers name: a hub id, or a folder for use on this machine. By default the "
        "hub id with which the adapter was trained, else the base's, else the released codec.",
    )
    parser.add_argument(
        "--bundle_codec",
        type=Path,
        help="Folder of a codec in the transformers layout, copied into the output for vLLM-Omni.",
    )
    parser.add_argument("--adapter_only", action="store_true", help="Only rename the adapter; do not merge.")
    args = parser.parse_args(arguments)
    if not args.adapter_only and args.model_path is None:
        parser.error("--model_path is needed to merge")
    if args.adapter_only and args.torch_dtype != "auto":
        parser.error("--torch_dtype is for merging only; the tensors of an adapter do not change")
    served = [name for name in ("codec_id", "bundle_codec") if getattr(args, name) is not None]
    if served and (args.adapter_only or args.layout != TRANSFORMERS):
        parser.error(f"--{served[0]} is for merging with --layout {TRANSFORMERS} only; no other output names a codec")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and print the output folder. Return the exit status."""
    return run_command(
        lambda: export(parse_arguments(sys.argv[1:] if arguments is None else arguments)),
        "interrupted; no file is left",
        takes_sigterm=True,
    )


def export(args: argparse.Namespace) -> int:
    """Export as the flags say. Return the exit status."""
    disable_progress_bar()
    if args.adapter_only:
        base = {"model_path": args.model_path, "model_revision": args.model_revision}
        export_adapter(args.adapter, args.output, args.layout, **base)
    else:
        how = {"model_revision": args.model_revision, "torch_dtype": OUTPUT_DTYPES[args.torch_dtype]}
        how |= {"codec_id": args.codec_id, "bundle_codec": args.bundle_codec}
        export_merged(args.adapter, args.model_path, args.output, args.layout, **how)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Hand an adapter on: merged into the model's weights, or under the names of the other layout.

    python -m tools.merge_adapter --model_path BASE --adapter DIR --output DIR --layout transformers
    python -m tools.merge_adapter --adapter DIR --output DIR --layout transformers --adapter_only

Merged, the folder holds weights, configuration, tokenizer and a model card, and loads with no code of ours: in the
layout `transformers` by `HiggsAudioV2ForConditionalGeneration.from_pretrained`, in `original` as Boson's release does.
Before it gets its name, the model is read from it again and compared with base + adapter; if its logits are further
off than rounding explains, nothing is left behind. With --adapter_only it is the adapter alone, for PEFT on the model
class of that layout, without the optimizer's state and without paths of this machine.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS
from voice_cloning.adapters.merge import OUTPUT_DTYPES, VerificationError, export_adapter, export_merged


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; ends the program for one that is missing or goes with another in vain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", help="Folder or hub id of the base model, in either layout.")
    parser.add_argument(
        "--model_revision", help="Commit of model_path, if a hub id; by default the one that the adapter names."
    )
    parser.add_argument("--adapter", type=Path, required=True, help="A checkpoint of the trainer, in either layout.")
    parser.add_argument("--output", type=Path, required=True, help="Folder to make.")
    parser.add_argument("--layout", choices=LAYOUTS, required=True, help="Names and configuration of what is written.")
    parser.add_argument("--torch_dtype", choices=OUTPUT_DTYPES, default="auto", help="auto: the base's type.")
    parser.add_argument("--adapter_only", action="store_true", help="Rename the adapter; merge nothing.")
    args = parser.parse_args(arguments)
    if not args.adapter_only and args.model_path is None:
        parser.error("--model_path is needed to merge")
    if args.adapter_only and args.torch_dtype != "auto":
        parser.error("--torch_dtype is of a merge; an adapter's tensors stay as they are")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and say where it lies. Returns the exit status."""
    args = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    disable_progress_bar()
    # PEFT still asks transformers by the older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        if args.adapter_only:
            base = {"model_path": args.model_path, "model_revision": args.model_revision}
            export_adapter(args.adapter, args.output, args.layout, **base)
        else:
            how = {"model_revision": args.model_revision, "torch_dtype": OUTPUT_DTYPES[args.torch_dtype]}
            export_merged(args.adapter, args.model_path, args.output, args.layout, **how)
    except (InputError, VerificationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left behind", file=sys.stderr)
        return 130
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Pack a ChatML file for training: checked, tokenized and with its codes, in a folder that starts at once.

    python -m tools.prepare_data pack TRAIN.json --output_dir DIR --model_path DIR --codec DIR
    python3 arabic_voice_cloning_distributed_trainer.py --data_path DIR ...

Training from the folder needs neither the file, the clips nor the codec, and gives the same numbers. Clips without
codes in the cache are encoded here; for many hours run `encode` first, on all GPUs. Everything is checked as training
does. A packing that was stopped or killed goes on with the same command (docs/prepared_data.md). The card beside the
file, README.md, is copied into the folder with its licence.
"""

import argparse
from pathlib import Path

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.cloning_example import PROMPT_STYLES
from boson_multimodal.constants import MODEL_ID, MODEL_REVISION
from boson_multimodal.device import pick_device
from boson_multimodal.errors import InputError
from boson_multimodal.memory_remedies import advising_cpu
from boson_multimodal.progress import limit_library_bars
from boson_multimodal.worker_pool import available_cores
from tools.prepare_data.encode import add_codec_flags
from voice_cloning.corpora.card_licences import copy_card
from voice_cloning.corpora.pack import pack_file
from voice_cloning.data_check.same_targets import same_speech

SOUND, CODES = "sound", "codes"
AS_YOU_TRAIN = "The value that you will train with."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add, default = parser.add_argument, ArabicVoiceCloningDatasetConfig()
    add("file", type=Path, metavar="FILE", help="ChatML .json or .jsonl. A .jsonl is not held in memory.")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="A new folder for the prepared data.")
    add("--model_path", default=MODEL_ID, help="Folder or hub id of the model, whose tokenizer makes the token ids.")
    add("--model_revision", default=MODEL_REVISION, help="Commit of a model on the hub.")
    add_codec_flags(parser)
    add("--codes", nargs="+", default=[], metavar="FILE", help="Files of codes, as in training.")
    for name, choices in (("prompt_style", PROMPT_STYLES), ("text_normalisation", TEXT_NORMALISATIONS)):
        add(f"--{name}", default=getattr(default, name), choices=list(choices), help=AS_YOU_TRAIN)
    add("--prompt_template", metavar="FILE", help=AS_YOU_TRAIN)
    add("--max_positions_per_sample", type=int, default=default.max_positions_per_sample, help=AS_YOU_TRAIN)
    add("--drop_invalid", action="store_true", help="Leave out invalid samples instead of stopping.")
    add(
        "--same_speech",
        default=SOUND,
        choices=[SOUND, CODES],
        help="How targets with the same speech are found, which --reference random never draws for each other. sound "
        "(default) compares codes, and waveforms where the clips' files are there. codes compares codes alone.",
    )
    add("--num_workers", type=int, metavar="N", help="Processes that pack (default: one for each core).")


def run(flags: argparse.Namespace) -> int:
    """Pack the file and print a summary. Returns the exit status."""
    if flags.num_workers is not None and flags.num_workers < 1:
        raise InputError(f"--num_workers {flags.num_workers}: must be at least 1")
    limit_library_bars()
    names = ["codes", "code_cache_dir", "prompt_style", "prompt_template"]
    names += ["text_normalisation", "max_positions_per_sample"]
    config = ArabicVoiceCloningDatasetConfig(
        drop_invalid=flags.drop_invalid, **{name: getattr(flags, name) for name in names}
    )
    with advising_cpu("while clips were encoded; those that are done stay in the cache"):
        summary = pack_file(
            flags.file,
            flags.output_dir,
            config,
            model=(flags.model_path, flags.model_revision),
            codec=(flags.codec, flags.audio_tokenizer_revision),
            workers=flags.num_workers or available_cores(),
            device=pick_device(-1),
            same_speech=same_speech(flags.same_speech == SOUND),
        )
    other_card = copy_card(flags.file, flags.output_dir)
    lines = [*summary.notes, *([other_card] if other_card else [])]
    print(*lines, sep="\n", end="\n" if lines else "")
    what = "these data were there already" if summary.was_there else f"{flags.file.name} is packed"
    print(
        f"{what}: {summary.samples} samples, {summary.dropped} dropped as invalid, {summary.clips} clips, "
        f"{summary.hours:.2f} h, {summary.bytes:,} bytes; train with --data_path {flags.output_dir}"
    )
    return 0

"""Encode all clips before training, into the cache that training reads.

    python -m tools.prepare_data encode TRAIN.json VAL.json --codec DIR
    torchrun --nproc_per_node 8 -m tools.prepare_data encode TRAIN.json VAL.json --codec DIR

Clips with intact codes in the cache are not encoded again: a run that was stopped or killed continues, and several
runs may fill one cache. Afterwards training needs neither the clips nor the codec's weights. --export FILE also writes
the codes to one file; with --codes FILE, training reads it on machines that have neither cache nor codec.
"""

import argparse
from pathlib import Path

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.constants import AUDIO_TOKENIZER_ID, AUDIO_TOKENIZER_REVISION
from boson_multimodal.device import pick_device
from boson_multimodal.memory_remedies import advising_cpu
from boson_multimodal.process_group import join_process_group, rank
from boson_multimodal.progress import limit_library_bars
from voice_cloning.corpora.encode import encode_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="ChatML .json or .jsonl.")
    add_codec_flags(parser)
    add("--drop_invalid", action="store_true", help="Leave out invalid samples instead of stopping.")
    add("--export", type=Path, metavar="FILE.safetensors", help="Also write the codes to a file for --codes.")


def add_codec_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the codec and the cache of codes."""
    add, cache = parser.add_argument, ArabicVoiceCloningDatasetConfig().code_cache_dir
    add(
        "--codec",
        "--audio_tokenizer_path",
        default=AUDIO_TOKENIZER_ID,
        help="Folder or hub id of the codec, in transformers' format or Boson's original.",
    )
    add("--audio_tokenizer_revision", default=AUDIO_TOKENIZER_REVISION, help="Commit of a codec on the hub.")
    add("--code_cache_dir", default=cache, help="Folder of encoded clips, the same as in training.")


def run(flags: argparse.Namespace) -> int:
    """Encode the clips and print a summary. Returns the exit status."""
    local_rank = join_process_group()
    limit_library_bars(disable=rank() > 0)
    with advising_cpu("while clips were encoded; those that are done stay in the cache"):
        summary = encode_files(
            flags.files,
            flags.codec,
            flags.code_cache_dir,
            revision=flags.audio_tokenizer_revision,
            drop_invalid=flags.drop_invalid,
            export=flags.export,
            device=pick_device(local_rank),
        )
    if rank() == 0:
        hours = summary.seconds_of_audio / 3600
        print(
            f"{summary.clips} clips, {hours:.2f} h; {summary.encoded} of them encoded now, in {summary.seconds:.1f} s; "
            f"the cache holds {summary.entries} clips in {summary.files} files of {summary.bytes:,} bytes"
        )
        if flags.export is not None:
            print(f"codes: {flags.export} ({flags.export.stat().st_size:,} bytes); train with --codes {flags.export}")
    return 0

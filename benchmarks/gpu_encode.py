"""Measures how fast the codec of the released size encodes clips on a GPU, and how busy the device is.

    python -m benchmarks.gpu_encode [--clips 48]

The clips are files of noise, 24 kHz FLAC and 3 to 9 s long, in a temporary folder: ``equal`` are all of 6 s, which are
encoded together, and ``varied`` have as many lengths as clips, which are encoded one by one. They are read, encoded and
written to the code cache as training does it. The codec's weights are random. Under the null device nothing is timed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import HiggsAudioV2TokenizerModel

from benchmarks.data_preparation import RELEASED_CODEC
from benchmarks.device_measures import counts_of, kernel_seconds, leave, open_device, print_result, seconds_of, share
from benchmarks.full_size_step import NullCuda
from boson_multimodal.audio_processing.clip_encoding import ClipFacts, ClipUse, check_clips, encode_clips
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codec_layouts import read_original_config
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import FRAMES_PER_SECOND

SHORTEST, LONGEST = 3.0, 9.0
"""Seconds of a clip."""


def build_codec(folder: Path, device: torch.device) -> HiggsAudioTokenizer:
    """The released codec with random weights."""
    (folder / "config.json").write_text(json.dumps(RELEASED_CODEC), encoding="utf-8")
    return HiggsAudioTokenizer(HiggsAudioV2TokenizerModel(read_original_config(folder)).to(device))


def write_clips(folder: Path, seconds: Sequence[float], sampling_rate: int) -> list[ClipUse]:
    """Write files of noise of these lengths."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    uses = []
    for number, length in enumerate(seconds):
        path = folder / f"{number:04}.flac"
        soundfile.write(path, 0.1 * generator.standard_normal(round(length * sampling_rate)), sampling_rate)
        uses.append(ClipUse(Clip(path, 0.0, None), path.name))
    return uses


def encode(uses: list[ClipUse], codec: HiggsAudioTokenizer, folder: Path, null_cuda: NullCuda | None) -> dict[str, Any]:
    """Encode the clips three times, into a new cache each: to warm up, for the time, and for the device's share."""
    passes = iter("abc")

    def run() -> None:
        cache = CodeCache(folder / next(passes), "random", codec.num_codebooks, codec.codebook_size)
        encode_clips(_missing(uses, cache), cache, lambda: codec)

    run()
    if null_cuda:
        # Launches are not counted: without cuDNN a convolution is another sequence of kernels.
        return {"waits_per_clip": round(counts_of(null_cuda, run)["syncs"] / len(uses), 1)}
    seconds = seconds_of(run)
    return {
        "clips_per_second": round(len(uses) / seconds, 1),
        "device_busy_share": share(kernel_seconds(run), seconds),
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def _missing(uses: list[ClipUse], cache: CodeCache) -> dict[str, tuple[Clip, ClipFacts]]:
    """All clips with their facts, as the new cache lacks them."""
    facts = check_clips(uses, cache, FRAMES_PER_SECOND, "the benchmark's clips")
    return {fact.key: (use.clip, fact) for use, fact in zip(uses, facts, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print two results as JSON: clips of one length, and clips of different lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48, help="Clips of each kind; at least 2.")
    args = parser.parse_args(arguments)
    if args.clips < 2:
        parser.error("--clips must be at least 2")
    device, null_cuda = open_device()
    torch.manual_seed(0)
    kinds = {
        "equal": np.full(args.clips, (SHORTEST + LONGEST) / 2),
        "varied": np.linspace(SHORTEST, LONGEST, args.clips),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codec = build_codec(folder, device)
        for kind, seconds in kinds.items():
            uses = write_clips(folder / f"{kind}_clips", seconds, codec.sampling_rate)
            torch.cuda.reset_peak_memory_stats()
            took = encode(uses, codec, folder / kind, null_cuda)
            if "clips_per_second" in took:
                took["seconds_of_audio_per_second"] = round(took["clips_per_second"] * float(seconds.mean()), 1)
            print_result({"clips": args.clips, "lengths": kind, **took})
    leave(null_cuda)
    return 0


if __name__ == "__main__":
    sys.exit(main())

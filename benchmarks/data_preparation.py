"""Measures the speed of the check, of reads from the code cache and from single files, and of the codec.

    OMP_NUM_THREADS=1 python -m benchmarks.data_preparation [--samples 100000 --audio_seconds 120 --device cpu]

The check reads records of the demo's synthetic speech in 24 kHz FLAC clips of 6 s. Each clip is the target of one
record and the reference of another.

The samples for the cache are random codes of 1 to 30 s (8 a frame, 25 frames a second). "cold" asks the kernel to drop
the file's pages before each read (posix_fadvise); the kernel's cache of folders and inodes stays, which favours single
files. The codec has the shape of bosonai/higgs-audio-v2-tokenizer and random weights, which do not change the speed.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codec_layouts import read_original_config
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.worker_pool import available_cores
from tools.demo.speech import SAMPLE_RATE, Voice, spoken_sentences, synthesise

CODEBOOKS, CODEBOOK_SIZE = 8, 1024
open_cache = partial(CodeCache, codec="codec", num_codebooks=CODEBOOKS, codebook_size=CODEBOOK_SIZE)
READS = 5000
CLIP_SECONDS = 5
CHECKED_SAMPLES, CHECKED_SPEAKERS = 1000, 100
CHECK = [sys.executable, "-m", "tools.prepare_data", "check", "--speaker_model", "none"]
RELEASED_CODEC = {"D": 256, "codebook_dim": 64, "ratios": [8, 5, 4, 2, 3], "sample_rate": 24000, "bins": 1024, "n_q": 8}
RELEASED_CODEC |= {"target_bandwidths": [0.5, 1, 1.5, 2, 4], "semantic_techer": "hubert_base_general"}


def key_of(number: int) -> str:
    """Return a random key: real keys are hashes too."""
    return random.Random(number).randbytes(32).hex()


def file_of(folder: Path, key: str) -> Path:
    return folder / key[:2] / key[2:4] / f"{key}.npy"


def write_both(packed: Path, single: Path, samples: int) -> float:
    """Write the same samples in both forms. Returns their hours of audio."""
    generator, cache, frames = np.random.default_rng(0), open_cache(packed), 0
    for number in range(samples):
        length = int(generator.integers(FRAMES_PER_SECOND, 30 * FRAMES_PER_SECOND + 1))
        codes, key = generator.integers(0, CODEBOOK_SIZE, (CODEBOOKS, length), np.int16), key_of(number)
        path = file_of(single, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, codes)
        cache.write(key, torch.from_numpy(codes))
        frames += length
    cache.seal()
    cache.compact()
    os.sync()  # the kernel cannot drop pages that are not on the disk yet
    return frames / FRAMES_PER_SECOND / 3600


def drop_pages(paths: list[Path]) -> None:
    """Ask the kernel to drop the files' pages."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def microseconds(read: Callable[[str], object], keys: list[str], files: Callable[[str], list[Path]]) -> str:
    """Return the median and 99th percentile of a read after the kernel was asked to drop the pages of ``files``."""
    took = []
    for key in keys:
        drop_pages(files(key))
        began = time.perf_counter()
        read(key)
        took.append(1e6 * (time.perf_counter() - began))
    return f"{np.median(took):8.0f} {np.percentile(took, 99):8.0f}"


def bytes_per_hour(folder: Path, hours: float) -> str:
    """Return the bytes written, the bytes that they take on disk with their folders, and the number of files."""
    found = list(folder.rglob("*"))
    written = [path.stat().st_size for path in found if path.is_file()]
    on_disk = 512 * sum(path.stat().st_blocks for path in found)
    return f"{sum(written) / hours:12,.0f} {on_disk / hours:12,.0f} {len(written):9,}"


def open_figures(packed: Path) -> tuple[float, int]:
    """Return the seconds to open the cache, and the bytes by which that grows this process, which is new."""
    status, began = Path("/proc/self/statm"), time.perf_counter()
    before = status.read_text()
    cache = open_cache(packed)
    seconds = time.perf_counter() - began
    cache.read(key_of(0))
    pages = int(status.read_text().split()[1]) - int(before.split()[1])
    return seconds, pages * os.sysconf("SC_PAGESIZE")


def measure_reads(folder: Path, samples: int) -> None:
    packed, single = folder / "packed", folder / "single"
    hours = write_both(packed, single, samples)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        seconds, memory = fresh.submit(open_figures, packed).result()
    cache = open_cache(packed)
    packs = list(cache.folder.iterdir())

    def load(key: str) -> torch.Tensor:
        return torch.from_numpy(np.load(file_of(single, key)).astype(np.int64))

    forms = [("packed", packed, cache.read, lambda key: packs)]
    forms += [("a file each", single, load, lambda key: [file_of(single, key)])]
    keys = [key_of(number) for number in random.Random(0).choices(range(samples), k=READS)]
    print(f"{samples:,} samples, {hours:,.0f} h; {READS} reads each, in microseconds; bytes per hour of audio")
    print(f"{'':12} {'warm median, p99':>17} {'cold median, p99':>17} {'written':>12} {'on disk':>12} {'files':>9}")
    for name, place, read, files in forms:
        microseconds(read, keys, lambda key: [])  # brings all files into memory
        warm, cold = microseconds(read, keys, lambda key: []), microseconds(read, keys, files)
        print(f"{name:12} {warm} {cold} {bytes_per_hour(place, hours)}")
    print(f"to open the cache: {1000 * seconds:.0f} ms, and {memory / 1e6:.1f} MB of memory while it is open")


def measure_codec(folder: Path, audio_seconds: int, device: str) -> None:
    (folder / "config.json").write_text(json.dumps(RELEASED_CODEC), encoding="utf-8")
    codec = HiggsAudioTokenizer(HiggsAudioV2TokenizerModel(read_original_config(folder)).to(device))
    clips = 0.1 * torch.randn(audio_seconds // CLIP_SECONDS, CLIP_SECONDS * codec.sampling_rate)
    print(f"codec on {device}, {torch.get_num_threads()} thread(s), {clips.shape[0]} clips of {CLIP_SECONDS} s")
    codec.encode(clips[:1])  # warms up
    for size, name in ((1, "one by one"), (60 // CLIP_SECONDS, "a minute at a time")):
        began = time.perf_counter()
        for batch in clips.split(size):
            codec.encode(batch)
        seconds = 3600 * (time.perf_counter() - began) / (clips.shape[0] * CLIP_SECONDS)
        print(f"{name:18} {seconds:8,.1f} s per hour of audio")


def measure_check(folder: Path) -> None:
    """Print the samples per second of the check command without its start, for one process and for one per core."""
    voices = [voice_of(number) for number in range(CHECKED_SPEAKERS)]
    records = []
    for number in range(CHECKED_SAMPLES):
        rng, words, waves = np.random.default_rng(number), [], []
        while sum(map(len, waves)) < 6 * SAMPLE_RATE:
            words.append(str(rng.choice(spoken_sentences())))
            waves.append(synthesise(words[-1], voices[number % len(voices)], rng))
        soundfile.write(folder / f"{number}.flac", np.concatenate(waves)[: 6 * SAMPLE_RATE], SAMPLE_RATE)
        records.append(" ".join(words))
    samples = [_record(number, records) for number in range(CHECKED_SAMPLES)]
    for name, some in (("one.json", samples[:1]), ("all.json", samples)):
        (folder / name).write_text(json.dumps(some), encoding="utf-8")
    for workers in sorted({1, available_cores()}):
        took = []
        for name in ("one.json", "all.json"):
            flags = [folder / name, "--output_dir", folder / "report", "--num_workers", workers]
            began = time.perf_counter()
            subprocess.run([*CHECK, *map(str, flags)], check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        pace = (CHECKED_SAMPLES - 1) / (took[1] - took[0])
        print(f"check: {pace:.1f} samples per second by {workers} process(es), {took[0]:.1f} s to start", flush=True)


def voice_of(number: int) -> Voice:
    """Return a random voice for the demo's synthesiser."""
    low, high = [90, 0.10, 0.90, 0.03, 0.85], [260, 0.30, 1.25, 0.20, 1.15]
    return Voice(*np.random.default_rng(number).uniform(low, high).tolist())


def _record(number: int, texts: list[str]) -> dict[str, Any]:
    other = (number + CHECKED_SPEAKERS) % len(texts)
    user = [texts[other], {"type": "audio", "audio_url": f"{other}.flac"}]
    assistant = [texts[number], {"type": "audio", "audio_url": f"{number}.flac"}]
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": messages, "speaker": str(number % CHECKED_SPEAKERS), "misc": {"sample_id": str(number)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="Folder for temporary files; by default the system's.")
    parser.add_argument("--audio_seconds", type=int, default=120, help="0 leaves the codec out.")
    parser.add_argument("--device", default="cpu", help="Device of the codec.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data_preparation_", dir=args.folder) as folder:
        measure_check(Path(folder))
        measure_reads(Path(folder), args.samples)
        if args.audio_seconds:
            measure_codec(Path(folder), args.audio_seconds, args.device)


if __name__ == "__main__":
    main()

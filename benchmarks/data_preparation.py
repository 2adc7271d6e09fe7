"""Measures the speed of the check, of reads from the code cache and from single files, and of the codec.

    OMP_NUM_THREADS=1 python -m benchmarks.data_preparation [--samples 100000 --audio_seconds 120 --device cpu]

The check reads records of the demo's synthetic speech in 24 kHz FLAC clips of 6 s. Each clip is the target of one
record and the reference of another.

The samples for the cache are random codes of 1 to 30 s (8 a frame, 25 frames a second). They are stored in three forms:
packed, as the cache has them; in the form of prepared data, which is a safetensors file, mapped into memory, with a
checksum for each row; and in a file each. "cold" asks the kernel to drop the file's pages before each read
(posix_fadvise); the kernel's cache of folders and inodes stays, which favours single files. Bits are flipped at random
places of a pack and of a shard with the codes of 1,000 clips of 5 s; "lost" are the clips that must be encoded again.
The codec has the shape of bosonai/higgs-audio-v2-tokenizer and random weights, which do not change the speed.
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
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import soundfile
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codec_layouts import read_original_config
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.whole_files import write_whole
from boson_multimodal.worker_pool import available_cores
from tools.demo.speech import SAMPLE_RATE, Voice, spoken_sentences, synthesise

CODEBOOKS, CODEBOOK_SIZE = 8, 1024
open_cache = partial(CodeCache, codec="codec", num_codebooks=CODEBOOKS, codebook_size=CODEBOOK_SIZE)
READS, MAPPED_COLD_READS = 5000, 1000
"""A mapped file is opened again before each cold read, because the kernel keeps pages that are mapped."""
APPENDS = 300
FLIPS, FLIPPED_SAMPLES = 500, 1000
SHARD = "codes.safetensors"
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


class Shard:
    """Codes in the form of prepared data: the index (all but ``values``) has a checksum, and so has each row.

    Raises:
        ValueError: if the header or the index is damaged; nothing of the file can be trusted then.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}
            index = (file.metadata() or {}).get("index")
        if arrays.keys() != {"keys", "starts", "crcs", "values"} or index != self._index(arrays):
            raise ValueError(f"{path}: the index is damaged")
        self._starts, self._crcs, self._values = arrays["starts"], arrays["crcs"], arrays["values"]
        self._keys = arrays["keys"].tobytes()

    @classmethod
    def write(cls, path: Path, codes: dict[str, np.ndarray]) -> None:
        """Write (8, T) codes by key."""
        rows, starts = [codes[key].tobytes() for key in sorted(codes)], np.zeros(len(codes) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        arrays = {"keys": np.frombuffer(bytes.fromhex("".join(sorted(codes))), np.uint8).reshape(-1, 32)}
        arrays |= {"starts": starts, "crcs": np.array([crc32(row) for row in rows], np.uint32)}
        arrays["values"] = np.frombuffer(b"".join(rows), np.uint8)
        write_whole(path, save(arrays, {"index": cls._index(arrays)}))

    def read(self, key: str) -> torch.Tensor | None:
        """Return the (8, T) codes of a key; None if they are missing or damaged."""
        wanted = bytes.fromhex(key)
        number = bisect_left(range(len(self._crcs)), wanted, key=lambda n: self._keys[32 * n : 32 * (n + 1)])
        row = self._values[self._starts[number] : self._starts[number + 1]]
        if crc32(row) != self._crcs[number]:
            return None
        return torch.from_numpy(row.view(np.int16).reshape(CODEBOOKS, -1).astype(np.int64))

    @staticmethod
    def _index(arrays: dict[str, np.ndarray]) -> str:
        forms = [(name, array.dtype.str, array.shape) for name, array in sorted(arrays.items())]
        return f"{forms} {[crc32(arrays[name]) for name in ('crcs', 'keys', 'starts')]}"


def random_codes(samples: int, shortest: int = 1, longest: int = 30) -> Iterator[tuple[str, np.ndarray]]:
    """Yield keys and (8, T) codes of so many clips, with lengths between these numbers of seconds."""
    generator = np.random.default_rng(0)
    for number in range(samples):
        length = int(generator.integers(shortest * FRAMES_PER_SECOND, longest * FRAMES_PER_SECOND + 1))
        yield key_of(number), generator.integers(0, CODEBOOK_SIZE, (CODEBOOKS, length), np.int16)


def write_forms(folder: Path, samples: int) -> float:
    """Write the same samples in all forms. Returns their hours of audio."""
    cache, codes = open_cache(folder / "packed"), dict(random_codes(samples))
    for key, found in codes.items():
        path = file_of(folder / "single", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
        cache.write(key, torch.from_numpy(found))
    cache.seal()
    cache.compact()
    (folder / "shard").mkdir()
    Shard.write(folder / "shard" / SHARD, codes)
    os.sync()  # the kernel cannot drop pages that are not on the disk yet
    return sum(found.shape[1] for found in codes.values()) / FRAMES_PER_SECOND / 3600


def open_form(place: Path) -> Callable[[str], torch.Tensor | None]:
    """Open one of the forms and return the function that reads codes by key."""
    if place.name == "packed":
        return open_cache(place).read
    if place.name == "shard":
        return Shard(place / SHARD).read
    return lambda key: torch.from_numpy(np.load(file_of(place, key)).astype(np.int64))


def drop_pages(paths: list[Path]) -> None:
    """Ask the kernel to drop the files' pages."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def microseconds(
    place: Path, keys: list[str], *, is_cold: bool = False, clock: Callable[[], float] = time.perf_counter
) -> str:
    """Return the median and 99th percentile of a read, if cold after the kernel was asked to drop the files' pages."""
    read, took, is_mapped = open_form(place), [], place.name == "shard"
    files = [] if place.name == "single" else [path for path in place.rglob("*") if path.is_file()]
    for key in keys[:MAPPED_COLD_READS] if is_cold and is_mapped else keys:
        if is_cold and is_mapped:
            del read  # before the pages can be dropped
            drop_pages(files)
            read = open_form(place)
        elif is_cold:
            drop_pages(files or [file_of(place, key)])
        began = clock()
        read(key)
        took.append(1e6 * (clock() - began))
    return f"{np.median(took):8.0f} {np.percentile(took, 99):8.0f}"


def bytes_per_hour(folder: Path, hours: float) -> str:
    """Return the bytes written, the bytes that they take on disk with their folders, and the number of files."""
    found = list(folder.rglob("*"))
    written = [path.stat().st_size for path in found if path.is_file()]
    on_disk = 512 * sum(path.stat().st_blocks for path in found)
    return f"{sum(written) / hours:12,.0f} {on_disk / hours:12,.0f} {len(written):9,}"


def open_figures(place: Path) -> tuple[float, int]:
    """Return the seconds to open a form, and the bytes by which that grows this process, which is new."""
    status, began = Path("/proc/self/statm"), time.perf_counter()
    before = status.read_text()
    read = open_form(place)
    seconds = time.perf_counter() - began
    read(key_of(0))
    pages = int(status.read_text().split()[1]) - int(before.split()[1])
    return seconds, pages * os.sysconf("SC_PAGESIZE")


def measure_reads(folder: Path, samples: int) -> None:
    hours = write_forms(folder, samples)
    keys = [key_of(number) for number in random.Random(0).choices(range(samples), k=READS)]
    print(f"{samples:,} samples, {hours:,.0f} h; {READS} reads each, in microseconds; bytes per hour of audio")
    columns = " ".join(f"{title:>17}" for title in ("warm median, p99", "of the CPU", "cold median, p99"))
    print(f"{'':12} {columns} {'written':>12} {'on disk':>12} {'files':>9}")
    for name in ("packed", "shard", "single"):
        place = folder / name
        microseconds(place, keys)  # brings all files into memory
        figures = [microseconds(place, keys), microseconds(place, keys, clock=time.process_time)]
        figures.append(microseconds(place, keys, is_cold=True))
        print(f"{name:12} {' '.join(figures)} {bytes_per_hour(place, hours)}")
    for name in ("packed", "shard"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            fresh.submit(key_of, 0).result()  # the process has started, and its imports are done
            seconds, memory = fresh.submit(open_figures, folder / name).result()
        print(f"to open {name}: {1000 * seconds:.0f} ms, and {memory / 1e6:.1f} MB of memory while it is open")


def measure_appends(folder: Path) -> None:
    """Print the time to store the codes of one clip, so that a killed process does not lose them."""
    cache, shards = open_cache(folder / "log"), folder / "shards"
    shards.mkdir()
    for name in ("packed", "shard"):
        took = []
        for key, codes in random_codes(APPENDS):
            began = time.perf_counter()
            if name == "packed":
                cache.write(key, torch.from_numpy(codes))
            else:
                Shard.write(shards / key, {key: codes})
            took.append(1e6 * (time.perf_counter() - began))
        files = len(list((cache.folder if name == "packed" else shards).iterdir()))
        print(
            f"{name}: {np.median(took):.0f} microseconds to append the codes of a clip; {APPENDS} clips: {files} files"
        )


def measure_damage(folder: Path) -> None:
    """Print how many clips are lost by one flipped bit."""
    codes = dict(random_codes(FLIPPED_SAMPLES, 5, 5))
    cache = open_cache(folder / "flipped" / "packed")
    for key, found in codes.items():
        cache.write(key, torch.from_numpy(found))
    cache.seal()
    (folder / "flipped" / "shard").mkdir()
    Shard.write(folder / "flipped" / "shard" / SHARD, codes)
    for path in (*cache.folder.iterdir(), folder / "flipped" / "shard" / SHARD):
        place = folder / "flipped" / ("shard" if path.name == SHARD else "packed")
        content, generator, lost = path.read_bytes(), random.Random(0), []
        for _ in range(FLIPS):
            damaged, bit = bytearray(content), generator.randrange(8 * len(content))
            damaged[bit // 8] ^= 1 << bit % 8
            path.unlink()  # a mapped file must not change
            path.write_bytes(damaged)
            lost.append(lost_of(place, codes))
        print(
            f"{place.name}: {np.mean(lost):.1f} of {FLIPPED_SAMPLES:,} clips lost by a flipped bit; at most {max(lost)}"
        )


def lost_of(place: Path, codes: dict[str, np.ndarray]) -> int:
    """Return how many clips are lost. A clip that is read must be right."""
    try:
        read = open_form(place)
    except (ValueError, SafetensorError):
        return len(codes)
    found = {key: read(key) for key in codes}
    assert all(f is None or np.array_equal(f.numpy(), codes[key]) for key, f in found.items())
    return sum(f is None for f in found.values())


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
        measure_appends(Path(folder))
        measure_damage(Path(folder))
        if args.audio_seconds:
            measure_codec(Path(folder), args.audio_seconds, args.device)


if __name__ == "__main__":
    main()

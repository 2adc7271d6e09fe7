"""Measures what data cost a run before its first step and at every step, by the number of samples.

    OMP_NUM_THREADS=1 python -m benchmarks.hours_of_data [--samples 5000 50000 500000] [--forms json again prepared]

A made sample has an Arabic target text and target clip, and another sample's clip of the same speaker with its text as
the reference. The clips are random codes of 1 to 16 s (8 a frame, 25 frames a second; log-normal, median 4.3 s). A text
is of words of the demo, between two and five for each second of its clip. The tokenizer and the model's configuration
are those of the demo, so a text has more tokens than with the released tokenizer.

Two processes start together, as torchrun starts them. Each reads the data as the program does, up to its first batch,
while the other does the same. Imports and the model are apart: the clock starts after the imports, and no model is
loaded. Then each process measures its pipeline. The figures are of rank 0:

- first batch: from the start of reading to the first batch, in seconds of wall time and of CPU time.
- memory: what the data add to the process (PSS: a page that n processes share counts as 1/n in each).
- plan: CPU seconds of the plan of one epoch, and the memory that it takes at its peak (tracemalloc).
- preparation: samples per second of CPU time. From JSON (``json``) it is the first start, at which every process reads
  the file, and rank 0 packs it; ``again`` is the second start, which finds the folder. The folder of ``prepared`` is
  packed once (``tools.prepare_data pack``; the start of its processes counts too).
- pipeline: positions per second of CPU time (read, collate, count labels), by positions of a micro-batch. No memory is
  pinned. Reading alone is ``dataset[i]``.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.audio_processing.codes_file import write_codes_file
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.data_types import AudioContent
from boson_multimodal.process_group import Ranks, leave_process_group, wait_for_all
from tools.demo.codec import CODEBOOK_SIZE, N_CODEBOOKS
from tools.demo.model import build_model, build_tokenizer
from tools.demo.speech import spoken_sentences
from voice_cloning.run.data import RunData, encode_and_pack, load_run_data
from voice_cloning.training.batch_planning import StepPlan, TrainingPlan, plan_epoch
from voice_cloning.training.batches import BatchLoader, count_labels
from voice_cloning.training.config import DistributedTrainingConfig

SAMPLES_PER_SPEAKER = 50
MEDIAN_SECONDS, SPREAD, SHORTEST_SECONDS, LONGEST_SECONDS = 4.3, 0.6, 1, 16
"""Of the clips: log-normal; the spread is that of the logarithm."""
MICRO_BATCH_POSITIONS = (2048, 8192, 16384)
PIPELINE_POSITIONS = 2_000_000
"""Positions that the pipeline prepares for each figure."""
READ_SAMPLES = 5000
FORMS = ("json", "again", "prepared")
RECORDS_FILE, CODES_FILE, PREPARED, CACHE = "train.jsonl", "codes.safetensors", "prepared", "code_cache"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@dataclass
class Figures:
    """What one process measured. Seconds are of CPU time, but ``first_batch_wall`` is of wall time.

    Attributes:
        positions: of a sample, on average.
        prepare: seconds from the ChatML file to the data that the form reads at each start.
        read: positions per second of ``dataset[i]`` alone.
        pipeline: positions per second, by positions of a micro-batch.
    """

    samples: int
    positions: float
    first_batch_wall: float
    first_batch_cpu: float
    memory_mb: float
    process_mb: float
    plan_seconds: float
    plan_peak_mb: float
    read: float
    prepare: float
    pipeline: dict[int, float] = field(default_factory=dict)


# -- made samples ------------------------------------------------------------------------------------------------------


def make_data(folder: Path, samples: int) -> float:
    """Write the records and the codes of made samples into a folder. Return the hours of their target clips."""
    frames, generator = clip_frames(samples), np.random.default_rng(0)
    shapes = {clip_name(number): (N_CODEBOOKS, count) for number, count in enumerate(frames)}
    codes = (torch.from_numpy(generator.integers(0, CODEBOOK_SIZE, shape, np.int16)) for shape in shapes.values())
    write_codes_file(folder / CODES_FILE, shapes, codes, "made", FRAMES_PER_SECOND)
    with (folder / RECORDS_FILE).open("w", encoding="utf-8") as file:
        for number in range(samples):
            file.write(json.dumps(made_record(number, frames), ensure_ascii=False) + "\n")
    return sum(frames) / FRAMES_PER_SECOND / 3600


def clip_frames(samples: int) -> list[int]:
    """Return the frames of each made clip."""
    seconds = np.random.default_rng(samples).lognormal(np.log(MEDIAN_SECONDS), SPREAD, samples)
    return (np.clip(seconds, SHORTEST_SECONDS, LONGEST_SECONDS) * FRAMES_PER_SECOND).astype(int).tolist()


def made_record(number: int, frames: list[int]) -> dict[str, Any]:
    """Return a record. Its reference is the next clip of the speaker; the last one takes the speaker's first."""
    speaker, place = divmod(number, SAMPLES_PER_SPEAKER)
    first = number - place
    reference = first + (place + 1) % min(SAMPLES_PER_SPEAKER, len(frames) - first)
    texts = [made_text(n, frames[n] / FRAMES_PER_SECOND) for n in (reference, number)]
    clips = [AudioContent(clip_name(n)) for n in (reference, number)]
    example = VoiceCloningExample(texts[0], clips[0], texts[1], clips[1])
    return example.record(f"made_{number:07}", f"speaker_{speaker:05}", frames[number] / FRAMES_PER_SECOND)


def clip_name(number: int) -> str:
    return f"clips/{number:07}.wav"


def made_text(number: int, seconds: float) -> str:
    """Return an Arabic text of random words, two to five for each second."""
    rng = random.Random(number)
    return " ".join(rng.choices(WORDS, k=max(1, round(seconds * rng.uniform(2, 5)))))


WORDS = " ".join(spoken_sentences()).split()


# -- one process -------------------------------------------------------------------------------------------------------


def measure(folder: Path, model_folder: Path, form: str, ranks: Ranks) -> Figures:
    """Read the data of a folder as the program does, with all processes at the same time, and measure."""
    torch.set_num_threads(1)
    AutoTokenizer.from_pretrained(model_folder)  # its imports are not part of the time
    config = DistributedTrainingConfig(
        data_path=str(folder / (PREPARED if form == "prepared" else RECORDS_FILE)),
        output_dir=str(folder / "run"),
        model_path=str(model_folder),
    )
    codes = [] if form == "prepared" else [str(folder / CODES_FILE)]
    dataset_config = ArabicVoiceCloningDatasetConfig(codes=codes, code_cache_dir=str(folder / CACHE))
    memory = own_memory_mb()
    wait_for_all()
    wall, began = time.perf_counter(), time.process_time()
    data = load_run_data(config, dataset_config, model_folder)
    data.train_dataset.fingerprint()
    data.train_dataset.summary()
    data = encode_and_pack(data, torch.device("cpu"))
    prepared = time.process_time() - began
    plan = TrainingPlan(data.train_dataset.lengths, config, ranks.world_size)
    loader = BatchLoader(data.train_dataset, data.collator, ranks.rank)
    next(loader.load_from(plan, 0))
    wall, cpu = time.perf_counter() - wall, time.process_time() - began
    wait_for_all()
    found = own_memory_mb()
    wait_for_all()  # no process goes on while another one still counts shared pages
    began = time.process_time()
    plan_of_an_epoch(data, config, ranks.world_size)
    plan_seconds = time.process_time() - began
    figures = Figures(
        samples=len(data.train_dataset),
        positions=float(np.mean(data.train_dataset.lengths)),
        first_batch_wall=wall,
        first_batch_cpu=cpu,
        memory_mb=found - memory,
        process_mb=found,
        plan_seconds=plan_seconds,
        plan_peak_mb=peak_mb(lambda: plan_of_an_epoch(data, config, ranks.world_size)),
        read=reading_speed(data),
        prepare=prepared,
    )
    for positions in MICRO_BATCH_POSITIONS:
        figures.pipeline[positions] = pipeline_speed(data, config, positions)
    return figures


def own_memory_mb() -> float:
    """Return the proportional set size of this process in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def plan_of_an_epoch(data: RunData, config: DistributedTrainingConfig, world_size: int) -> Sequence[StepPlan]:
    return plan_epoch(
        data.train_dataset.lengths,
        max_tokens_per_batch=config.max_tokens_per_batch,
        batch_size=None,
        world_size=world_size,
        gradient_accumulation_steps=1,
        seed=config.seed,
        epoch=0,
    )


def peak_mb(make: Callable[[], Any]) -> float:
    """Return the most memory that Python and numpy take while something is made, in MB."""
    tracemalloc.start()
    made = make()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del made
    return peak / 1e6


def reading_speed(data: RunData) -> float:
    """Return the positions per CPU second of ``dataset[i]``, in random order."""
    dataset = data.train_dataset
    order = np.random.default_rng(0).permutation(len(dataset))[:READ_SAMPLES].tolist()
    began = time.process_time()
    for index in order:
        dataset[index]
    return sum(int(dataset.lengths[index]) for index in order) / (time.process_time() - began)


def pipeline_speed(data: RunData, config: DistributedTrainingConfig, positions: int) -> float:
    """Return the positions per CPU second that the training loop gets, in micro-batches of this many positions."""
    steps = max(2, PIPELINE_POSITIONS // positions)
    dataset = data.train_dataset
    plan = TrainingPlan(dataset.lengths, replace(config, max_tokens_per_batch=positions, max_steps=steps), 1)
    batches = BatchLoader(dataset, data.collator, 0).load_from(plan, 0)
    next(batches)  # it waits for the plan
    began, done = time.process_time(), 0
    for batch in batches:
        count_labels(batch.micro_batches, data.model_config.audio_num_codebooks)
        done += sum(int(dataset.lengths[index]) for indices in batch.sample_indices for index in indices)
    return done / (time.process_time() - began)


# -- all sizes ---------------------------------------------------------------------------------------------------------


def pack(folder: Path, model_folder: Path) -> float:
    """Pack the made samples. Return the CPU seconds of all its processes, their imports too."""
    flags = ["--codes", folder / CODES_FILE, "--model_path", model_folder, "--output_dir", folder / PREPARED]
    command = [sys.executable, "-m", "tools.prepare_data", "pack", folder / RECORDS_FILE, *flags]
    before = os.times()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measured(folder: Path, model_folder: Path, form: str) -> Figures:
    """Measure in two new processes. Return the figures of rank 0."""
    packing = pack(folder, model_folder) if form == "prepared" else None
    if form == "again" and not (folder / CACHE).exists():
        measured(folder, model_folder, "json")
    flags = ["--measure", str(folder), str(model_folder), form]
    done = subprocess.run([*TORCHRUN, "-m", "benchmarks.hours_of_data", *flags], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    figures = Figures(**found | {"pipeline": {int(key): speed for key, speed in found["pipeline"].items()}})
    return figures if packing is None else replace(figures, prepare=packing)


def table_lines(form: str, hours: float, found: Figures) -> Iterator[str]:
    """Yield the figures of one form and number of samples."""
    yield f"{form}, {found.samples:,} samples of {found.positions:.0f} positions, {hours:,.1f} h of targets"
    yield f"  first batch   {found.first_batch_wall:10.1f} s, {found.first_batch_cpu:.1f} s of CPU"
    yield f"  memory        {found.memory_mb:10,.0f} MB by the data, {found.process_mb:,.0f} MB in all"
    yield f"  plan          {found.plan_seconds:10.3f} s, {found.plan_peak_mb:,.1f} MB at the peak"
    yield f"  preparation   {found.samples / found.prepare:10,.0f} samples per second"
    yield f"  reading       {found.read:10,.0f} positions per second"
    for positions, speed in found.pipeline.items():
        yield f"  pipeline      {speed:10,.0f} positions per second, micro-batches of {positions:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[5000, 50_000, 500_000])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--folder", type=Path, help="Folder for temporary files; by default the system's.")
    parser.add_argument("--measure", nargs=3, metavar=("DATA", "MODEL", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        data, model, form = args.measure
        ranks = Ranks.join()
        figures = measure(Path(data), Path(model), form, ranks)
        leave_process_group()
        if ranks.is_main:
            print(json.dumps(asdict(figures)), flush=True)
        return
    for samples in args.samples:
        with tempfile.TemporaryDirectory(prefix="hours_of_data_", dir=args.folder) as folder:
            model_folder = Path(folder) / "model"
            build_model(model_folder, build_tokenizer(model_folder), seed=0)
            hours = make_data(Path(folder), samples)
            for form in args.forms:
                print("\n".join(table_lines(form, hours, measured(Path(folder), model_folder, form))), flush=True)


if __name__ == "__main__":
    main()

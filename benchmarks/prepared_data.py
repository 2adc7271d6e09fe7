"""Measures the start and the reading of prepared data, and the form of their shards against Arrow.

    OMP_NUM_THREADS=1 python -m benchmarks.prepared_data --folder DIR [--samples 5000 50000 500000]

The samples are made: random codes (8 a frame) of 200 to 300 frames, 150 to 250 token ids and labels; the clip of each
sample is also the reference of the next. DIR takes about 6 kB a sample. Each row is a process of its own that imports
what training imports, then measures: the start (opening, lengths, fingerprint and summary), and the reading of 2,000
random samples as training reads them; with the references of the file, and with drawn ones (2,000 speakers), of which
the time to draw an epoch is measured too. CPU time is that of the process. Memory is PSS, in which pages that several
processes map count only a part; "own" leaves out pages of files, which the system takes back when it needs memory.

The forms are compared on rows of one size, 8 x 250 codes and 200 token ids and labels: the shards of this project, and
Arrow IPC files through pyarrow, both mapped into memory, both with a CRC-32 of each row that is verified.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from boson_multimodal.prepared_data.drawn_references import DrawnReferences
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from boson_multimodal.prepared_data.prepared_folder import MANIFEST, write_manifest
from boson_multimodal.prepared_data.shard_files import Ragged, Shard, write_shard

CODEBOOKS, ROWS, READ = 8, 4096, 2000
SPEAKERS, TEXT_IDS = 2000, 60
FORM_ROWS, FORM_FRAMES, FORM_TOKENS, FORM_SHARDS = 62_500, 250, 200, 8


def make_folder(folder: Path, samples: int) -> None:
    """Write prepared data of random samples; shards that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Any] = {"samples": [], "clips": [], "references": []}
    for number, start in enumerate(range(0, samples, ROWS)):
        rows, numbers = min(ROWS, samples - start), np.random.default_rng(number)
        frames = numbers.integers(200, 301, rows + 1).astype(np.int32)
        lengths = numbers.integers(150, 251, rows)
        codes = Ragged(
            numbers.integers(0, 1024, CODEBOOKS * frames[:rows].sum(), np.int16), starts_of(CODEBOOKS * frames[:rows])
        )
        tokens = Ragged(numbers.integers(0, 128_000, lengths.sum(), np.int32), starts_of(lengths))
        clips = np.arange(start, start + rows, dtype=np.int32)
        texts = {"sample_id": [f"sample-{clip:07d}" for clip in clips.tolist()], "speaker": ["voice"] * rows}
        texts["text"] = ["كيف حالك اليوم يا صديقي"] * rows
        ragged = {name: Ragged.of_texts(column) for name, column in texts.items()}
        pairs = np.stack([np.maximum(clips - 1, start), clips], axis=1)
        fixed = {
            "number": clips,
            "frames": frames[:rows] + frames[np.maximum(np.arange(rows) - 1, 0)],
            "text_positions": lengths.astype(np.int32) - 2,
            "text_labels": np.full(rows, 60, np.int32),
            "has_speaker": np.ones(rows, np.uint8),
        }
        ragged |= {"input_ids": tokens, "label_ids": tokens, "clips": Ragged.of(list(pairs), np.int32)}
        keys = Ragged.of_texts([f"{clip:064x}" for clip in clips.tolist()])
        texts_of = np.full(rows, TEXT_IDS, np.int32)
        references = {"speaker": clips % SPEAKERS, "group": clips, "clip": clips, "target_frames": frames[:rows]}
        references |= {"reference_text": texts_of, "target_text": texts_of}
        for table, columns in (
            ("samples", (fixed, ragged)),
            ("clips", ({"frames": frames[:rows]}, {"codes": codes, "key": keys})),
            ("references", (references, {"joined_ids": Ragged.of([clips[:0]] * rows, np.int32)})),
        ):
            path = folder / f"{table}-{number:05d}.safetensors"
            checksum = Shard(path).checksum if path.exists() else write_shard(path, *columns)
            tables[table].append({"file": path.name, "rows": rows, "index_crc32": checksum})
    settings = {"codec": "made", "num_codebooks": CODEBOOKS, "frames_per_second": 25.0}
    facts = {"file": "made.jsonl", "settings": settings, "fingerprint": "0" * 16, "dropped": 0, "notes": []}
    about = {"findings": [], "remarks": [], "ids_before_reference": 10, "ids_between_texts": 12}
    tables["references"] = {**about, "shards": tables["references"]}
    write_manifest(folder, {**facts, **tables})


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Return where rows of these lengths begin, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def memory() -> tuple[float, float]:
    """Return the PSS of this process, and the part of it that is not pages of files, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return found["Pss"], found["Pss_Anon"]


def measure_start(folder: Path, is_drawn: bool) -> dict[str, float]:
    """Open a folder and read from it; with ``is_drawn`` with drawn references."""
    before, cpu, wall = memory(), time.process_time(), time.perf_counter()
    how: dict[str, Any] = {"use_delay_pattern": True, "max_positions": 2048}
    found = DrawnReferences(folder, {}, seed=0, **how) if is_drawn else PreparedDataset(folder, {}, **how)
    found.fingerprint(), found.summary()
    start = time.process_time() - cpu, time.perf_counter() - wall
    cpu = time.process_time()
    data = [found.of_epoch(epoch) for epoch in range(2)][-1]
    epoch = (time.process_time() - cpu) / 2
    opened = memory()
    order = np.random.default_rng(0).integers(0, len(data), READ).tolist()
    cpu = time.process_time()
    positions = sum(data[index].audio_ids_concat.shape[1] > 0 for index in order)
    cpu = time.process_time() - cpu
    read = memory()
    return {
        "start_cpu_s": start[0],
        "start_wall_s": start[1],
        "epoch_cpu_s": epoch,
        "opened_pss_mb": opened[0] - before[0],
        "opened_own_mb": opened[1] - before[1],
        "read_pss_mb": read[0] - before[0],
        "read_own_mb": read[1] - before[1],
        "read_us_per_sample": cpu / positions * 1e6,
    }


def form_rows() -> tuple[np.ndarray, np.ndarray]:
    """Return the (rows, elements) codes and token ids of the comparison."""
    numbers = np.random.default_rng(0)
    codes = numbers.integers(0, 1024, (FORM_ROWS, CODEBOOKS * FORM_FRAMES), dtype=np.int16)
    return codes, numbers.integers(0, 128_000, (FORM_ROWS, FORM_TOKENS), dtype=np.int32)


def make_forms(folder: Path) -> None:
    """Write a shard and an Arrow file with the same rows. Each is opened several times, as that many shards."""
    import pyarrow as pa

    codes, tokens = form_rows()
    columns = {"codes": codes, "input_ids": tokens, "label_ids": tokens}
    ragged = {n: Ragged(a.reshape(-1), np.arange(len(a) + 1, dtype=np.int64) * a.shape[1]) for n, a in columns.items()}
    names = [f"sample-{row:07d}" for row in range(FORM_ROWS)]
    write_shard(folder / "form.safetensors", {}, {**ragged, "sample_id": Ragged.of_texts(names)})
    arrays: dict[str, Any] = {n: pa.LargeListArray.from_arrays(c.starts, c.values) for n, c in ragged.items()}
    for name, column in columns.items():
        arrays[f"{name}.crc32"] = np.array([crc32(row) for row in column], np.uint32)
    table = pa.table({**arrays, "sample_id": pa.array(names, pa.large_string())})
    with pa.OSFile(str(folder / "form.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


class ArrowShard:
    """What ``Shard`` is for our files: views of an Arrow file, whose index is read and whose rows are verified."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._columns, index = {}, 0
        for name in ("codes", "input_ids", "label_ids"):
            column = table.column(name).chunk(0)
            checksums = table.column(f"{name}.crc32").chunk(0).to_numpy()
            self._columns[name] = column.values.to_numpy(), column.offsets.to_numpy(), checksums
            index = crc32(self._columns[name][1], crc32(checksums, index))
        crc32(table.column("sample_id").chunk(0).buffers()[1], index)

    def read(self, name: str, row: int) -> np.ndarray:
        """Return a verified row."""
        values, starts, checksums = self._columns[name]
        found = values[starts[row] : starts[row + 1]]
        if crc32(found) != checksums[row]:
            raise ValueError(f"row {row} is damaged")
        return found


def measure_form(folder: Path, form: str) -> dict[str, float]:
    """Import the form's library, open its shards and read rows of them as tensors."""
    import torch

    before, cpu = memory(), time.process_time()
    if form == "arrow":
        import pyarrow  # noqa: F401
    shards = [(ArrowShard if form == "arrow" else Shard)(folder / f"form.{form}") for _ in range(FORM_SHARDS)]
    opened = time.process_time() - cpu, memory()
    order = np.random.default_rng(1).integers(0, FORM_ROWS, 20_000).tolist()

    def read(row: int) -> list[torch.Tensor]:
        shard = shards[row % FORM_SHARDS]
        found = [shard.read(name, row).astype(np.int64) for name in ("codes", "input_ids", "label_ids")]
        return [torch.from_numpy(array) for array in found]

    for row in order[:2000]:
        read(row)
    cpu = time.process_time()
    for row in order:
        read(row)
    return {
        "import_and_open_cpu_s": opened[0],
        "opened_pss_mb": opened[1][0] - before[0],
        "opened_own_mb": opened[1][1] - before[1],
        "read_us_per_row": (time.process_time() - cpu) / len(order) * 1e6,
    }


def measured_alone(*words: str) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks.prepared_data", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[5000, 50_000, 500_000])
    parser.add_argument("--form", choices=["safetensors", "arrow"], help="Measure one form only, in this process.")
    parser.add_argument(
        "--start", choices=["file", "random"], help="Measure the start of --folder only, in this process."
    )
    args = parser.parse_args()
    if args.start or args.form:
        is_drawn = args.start == "random"
        print(json.dumps(measure_start(args.folder, is_drawn) if args.start else measure_form(args.folder, args.form)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for samples in args.samples:
        folder = args.folder / f"samples-{samples}"
        if not (folder / MANIFEST).exists():
            make_folder(folder, samples)
        # The second time, what was read is in the system's cache.
        for turn, references in (("first", "file"), ("again", "file"), ("drawn references", "random")):
            found = measured_alone("--folder", str(folder), "--start", references)
            print(f"{samples:>9,} samples, {turn}: " + ", ".join(f"{n} {v:.4g}" for n, v in found.items()), flush=True)
    if not (args.folder / "form.arrow").exists():
        make_forms(args.folder)
    for form in ("safetensors", "arrow"):
        found = measured_alone("--folder", str(args.folder), "--form", form)
        print(f"{form}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()

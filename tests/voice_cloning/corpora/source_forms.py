"""Small sources of every form that ``build`` reads, and the records that become of them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from arabic_voice_cloning_dataset import read_json_records
from tests.chatml_files import write_clip
from voice_cloning.corpora.build import TRAIN_FILE, build_data

SPEAKERS = ("أمل", "badr", "dina")
CLIPS_EACH = 4


def words(speaker: str, i: int) -> str:
    return f"جملة {'ا' * (i + 1)} من {speaker}"


def sources(folder: Path, place: str = "clips") -> list[tuple[str, str, str]]:
    """Write clips of noise and return (file relative to ``folder``, text, speaker) of each."""
    rows = []
    for s, speaker in enumerate(SPEAKERS):
        for i in range(CLIPS_EACH):
            name = f"{place}/{speaker}_{i}.wav" if place else f"{speaker}/{i}.wav"
            write_clip(folder / name, 0.2 + 0.05 * i, seed=10 * s + i)
            rows.append((name, words(speaker, i), speaker))
    return rows


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def clips_form(folder: Path) -> Path:
    for name, text, _ in sources(folder, place=""):
        (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    return folder


def common_voice_form(folder: Path) -> Path:
    rows = ["client_id\tpath\tsentence\tage"]
    rows += [f"{who}\t{Path(name).name}\t{text}\t" for name, text, who in sources(folder)]
    return write_lines(folder / "validated.tsv", rows)


def csv_form(folder: Path) -> Path:
    """Write an audiofolder with its metadata."""
    rows = ["file_name,transcription,speaker_id"]
    rows += [f'{name},"{text}",{who}' for name, text, who in sources(folder)]
    write_lines(folder / "metadata.csv", rows)
    return folder


def jsonl_form(folder: Path) -> Path:
    rows = [{"file_name": name, "text": text, "speaker": who} for name, text, who in sources(folder)]
    return write_lines(folder / "metadata.jsonl", [json.dumps(row) for row in rows])


def xtts_form(folder: Path) -> Path:
    """Write a list with bars and a header."""
    rows = [f"{name}|{text}|{who}" for name, text, who in sources(folder, "wavs")]
    return write_lines(folder / "metadata.csv", ["audio_file|text|speaker_name", *rows])


def list_form(folder: Path) -> Path:
    """Write a list with bars and no header, with a column of speakers."""
    rows = [f"{name}|{who}|{text}" for name, text, who in sources(folder, "wavs")]
    return write_lines(folder / "filelist.txt", rows)


def manifest_form(folder: Path) -> Path:
    """Write a NeMo manifest: all cuts of a speaker in one file."""
    rows = []
    for s, speaker in enumerate(SPEAKERS):
        write_clip(folder / f"{speaker}.wav", 2.0, seed=s)
        for i in range(CLIPS_EACH):
            row = {"audio_filepath": f"{speaker}.wav", "offset": 0.5 * i, "duration": 0.4, "text": words(speaker, i)}
            rows.append(json.dumps(row | {"speaker": speaker}, ensure_ascii=False))
    return write_lines(folder / "manifest.json", rows)


def kaldi_cuts_form(folder: Path) -> Path:
    """Write Kaldi's lists with cuts of one recording for each speaker."""
    cuts = [(f"{who}-{i}", who, i) for who in SPEAKERS for i in range(CLIPS_EACH)]
    for s, speaker in enumerate(SPEAKERS):
        write_clip(folder / "wav" / f"{speaker}.wav", 2.0, seed=s)
    write_lines(folder / "wav.scp", [f"{who} wav/{who}.wav" for who in SPEAKERS])
    write_lines(folder / "segments", [f"{u} {who} {0.5 * i:.2f} {0.5 * i + 0.4:.2f}" for u, who, i in cuts])
    write_lines(folder / "text", [f"{u} {words(who, i)}" for u, who, i in cuts])
    write_lines(folder / "utt2spk", [f"{u} {who}" for u, who, _ in cuts])
    return folder


def kaldi_form(folder: Path) -> Path:
    rows = [(Path(name).stem, name, text, who) for name, text, who in sources(folder)]
    write_lines(folder / "wav.scp", [f"{u} {name}" for u, name, _, _ in rows])
    write_lines(folder / "text", [f"{u} {text}" for u, _, text, _ in rows])
    write_lines(folder / "utt2spk", [f"{u}\t{who}" for u, _, _, who in rows])
    return folder


def arrow_columns(folder: Path) -> dict[str, Any]:
    """Return columns as ``datasets`` writes them for an Audio column that holds the files' bytes."""
    rows = sources(folder / "origin")
    audio = [{"bytes": (folder / "origin" / name).read_bytes(), "path": Path(name).name} for name, _, _ in rows]
    return {"audio": audio, "text": [text for _, text, _ in rows], "speaker_id": [who for _, _, who in rows]}


def arrow_form(folder: Path) -> Path:
    """Write the files that ``save_to_disk`` writes for a DatasetDict."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(arrow_columns(folder))
    split_folder = folder / "saved" / "train"
    split_folder.mkdir(parents=True)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    name = "data-00000-of-00001.arrow"
    state = {"_data_files": [{"filename": name}], "_split": "train"}
    (split_folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with arrow.OSFile(str(split_folder / name), "wb") as sink, arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return folder / "saved"


def parquet_form(folder: Path) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    (folder / "hub" / "data").mkdir(parents=True)
    parquet.write_table(arrow.table(arrow_columns(folder)), folder / "hub" / "data" / "train-0.parquet")
    return folder / "hub"


def webdataset_form(folder: Path) -> Path:
    """Write two shards of WebDataset."""
    (folder / "shards").mkdir(parents=True)
    rows = sources(folder / "origin")
    for number, part in enumerate((rows[:6], rows[6:])):
        with tarfile.open(folder / "shards" / f"train-{number:06d}.tar", "w") as archive:
            for i, (name, text, who) in enumerate(part):
                about = json.dumps({"text": text, "speaker": who}).encode()
                for ending, content in (("wav", (folder / "origin" / name).read_bytes()), ("json", about)):
                    entry = tarfile.TarInfo(f"{i:06d}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder / "shards"


FORMS = {
    "clips": clips_form,
    "common_voice": common_voice_form,
    "csv": csv_form,
    "jsonl": jsonl_form,
    "xtts": xtts_form,
    "list": list_form,
    "kaldi": kaldi_form,
    "arrow": arrow_form,
    "parquet": parquet_form,
    "webdataset": webdataset_form,
}


def records_of(folder: Path, name: str = TRAIN_FILE) -> list[dict[str, Any]]:
    return read_json_records(folder / name)


def clips_of(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the audio parts of (reference, target)."""
    return record["messages"][1]["content"][1], record["messages"][2]["content"][1]


TEXTS = {words(speaker, i): speaker for speaker in SPEAKERS for i in range(CLIPS_EACH)}
"""Text -> speaker of all clips of a form."""


def built(source: Path, out: Path, **flags: Any) -> tuple[dict[str, str], str]:
    """Build and return text -> speaker, and what was announced."""
    said: list[str] = []
    build_data(source, out, eval_share=0, announce=said.append, **flags)
    return {r["misc"]["target_transcript"]: r["speaker"] for r in records_of(out)}, said[0]

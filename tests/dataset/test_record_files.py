"""The dataset's files of records: line ends, and fingerprints."""

import json
from pathlib import Path
from typing import Any

from arabic_voice_cloning_dataset import read_json_records
from tests.chatml_files import audio, record, write_clip
from tests.dataset.encoded_samples import Load, plain_record


def test_json_and_jsonl_of_equal_records_have_equal_fingerprints(load_here: Load) -> None:
    records = [plain_record("a"), {k: v for k, v in plain_record().items() if k != "misc"}, plain_record("c")]
    fingerprints = [load_here(records, file).fingerprint() for file in ("data.json", "data.jsonl")]
    assert fingerprints[0] == fingerprints[1]


def test_blank_lines_and_line_endings_do_not_count(folder: Path, load_here: Load) -> None:
    records = [plain_record("a"), plain_record("b")]
    wanted = load_here(records).fingerprint()
    lines = [json.dumps(r) for r in records]
    (folder / "windows.jsonl").write_bytes(("\ufeff" + "\r\n".join(["", lines[0], "", lines[1], ""])).encode())
    assert read_json_records(folder / "windows.jsonl") == read_json_records(folder / "data.json")
    assert load_here(records, "data.jsonl").fingerprint() == wanted


def test_only_a_newline_ends_a_line_of_a_jsonl(load_here: Load) -> None:
    """U+2028 and U+0085 are line ends to ``str.splitlines``, and may stand in a JSON string as they are."""
    written = plain_record()
    written["messages"][2]["content"][0]["text"] = "كيف\u2028حالك\u0085اليوم"
    assert len(load_here([written], "data.jsonl")) == 1


def test_the_fingerprint_tells_data_apart(load_here: Load, folder: Path) -> None:
    def changed(**fields: Any) -> dict[str, Any]:
        return record("a", audio("ref.wav"), {**audio("tgt.wav"), **fields})

    variants = [
        [plain_record("a"), plain_record("b")],
        [plain_record("b"), plain_record("a")],
        [plain_record("a")],
        [changed(offset=0.1)],
        [changed(duration=0.3)],
        [changed(audio_url="ref.wav")],
        [plain_record("a", start_index=2)],
        [plain_record("a", messages=plain_record()["messages"][1:])],
    ]
    fingerprints = [load_here(v).fingerprint() for v in variants]
    write_clip(folder / "tgt.wav", seconds=0.61, seed=99)
    fingerprints.append(load_here([plain_record("a")]).fingerprint())
    assert len(set(fingerprints)) == len(fingerprints) - 1
    assert fingerprints[2] == fingerprints[6], "start_index 2 trains the one assistant turn, as 0 does"

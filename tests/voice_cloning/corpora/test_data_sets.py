"""Data sets of Hugging Face's datasets: audio as files, bytes, structures of samples and bare samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from boson_multimodal.errors import InputError
from tests.chatml_files import noise
from tests.voice_cloning.corpora.source_forms import SPEAKERS, clips_of, records_of, sources, words
from voice_cloning.corpora.build import build_data

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [
    (words(speaker, i), speaker, noise(0.2 + 0.05 * i, seed=10 * s + i)[:, 0])
    for s, speaker in enumerate(SPEAKERS)
    for i in range(4)
]


def write(folder: Path, audio: list[Any], **columns: list[Any]) -> Path:
    """Write one Parquet file with the columns, and texts and speakers if they are not among these."""
    folder.mkdir(exist_ok=True)
    columns = {"text": [text for text, _, _ in ROWS], "speaker_id": [who for _, who, _ in ROWS]} | columns
    parquet.write_table(arrow.table({"audio": audio} | columns), folder / "train.parquet")
    return folder


@pytest.mark.parametrize("form", ["array", "array_of_doubles", "bare", "bare_integers", "two_channels"])
def test_samples_become_clips_exactly(form: str, tmp_path: Path) -> None:
    waves = [wave for _, _, wave in ROWS]
    rate = {"sampling_rate": [24_000] * len(ROWS)}
    if form.startswith("array"):
        kind = "float64" if form == "array_of_doubles" else "float32"
        audio = [{"array": wave.astype(kind), "path": "gone.flac", "sampling_rate": 24_000} for wave in waves]
        source = write(tmp_path / "hub", audio)
    elif form == "two_channels":
        source = write(tmp_path / "hub", [{"array": [w.tolist(), w.tolist()], "sampling_rate": 24_000} for w in waves])
    elif form == "bare":
        source = write(tmp_path / "hub", [wave.tolist() for wave in waves], file=["gone.wav"] * len(ROWS), **rate)
    else:
        source = write(tmp_path / "hub", [np.round(wave * 32768).astype(np.int16) for wave in waves], **rate)
    build_data(source, tmp_path / "out", eval_share=0)
    records = records_of(tmp_path / "out")
    assert len(records) == len(ROWS)
    right = {text: (who, wave) for text, who, wave in ROWS}
    for record in records:
        who, wave = right[record["misc"]["target_transcript"]]
        read, sampling_rate = soundfile.read(
            tmp_path / "out" / clips_of(record)[1]["audio_url"], dtype="float32", always_2d=True
        )
        assert record["speaker"] == who and sampling_rate == 24_000
        if form == "bare_integers":
            wave = np.round(wave * 32768) / 32768
        assert all(np.array_equal(read[:, channel], wave) for channel in range(read.shape[1]))


def test_a_column_that_holds_audio_comes_before_one_that_names_files(tmp_path: Path) -> None:
    audio = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name, _, _ in sources(tmp_path)]
    source = write(tmp_path / "hub", audio, path=[f"/gone/{i}.mp3" for i in range(len(ROWS))])
    assert build_data(source, tmp_path / "out", eval_share=0)["utterances"] == 12
    binary = [(tmp_path / name).read_bytes() for name, _, _ in sources(tmp_path)]
    assert build_data(write(tmp_path / "hub2", binary), tmp_path / "out2", eval_share=0)["utterances"] == 12


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"array": [0.1], "sampling_rate": None}, "row 0: its samples need their rate in sampling_rate"),
        ({"array": [], "sampling_rate": 24_000}, r"row 0: its samples have the shape \[0\]"),
        ({"array": [float("nan")] * 9, "sampling_rate": 24_000}, "row 0: .*NaN"),
        ({"array": [1, 90_000], "sampling_rate": 24_000}, "row 0: .*its largest sample is 90000 times full scale"),
    ],
)
def test_samples_that_are_no_audio_are_refused(value: dict[str, Any], message: str, tmp_path: Path) -> None:
    audio = [{"array": wave.tolist(), "sampling_rate": 24_000} for _, _, wave in ROWS]
    with pytest.raises(InputError, match=message):
        build_data(write(tmp_path / "hub", [value, *audio[1:]]), tmp_path / "out", eval_share=0)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("text", [["a"]] * 12, "row 0: text must be a string"),
        ("text", [{"ar": "a"}] * 12, "row 0: text must be a string"),
        ("text", [1] * 12, "row 0: text must be a string"),
        ("speaker_id", [float("nan")] + [1.0] * 5 + [2.0] * 6, r"\(1\):\n.*row 0: no speaker is named"),
        ("speaker_id", [True] * 12, "row 0: speaker_id must be a name or a whole number"),
        ("speaker_id", [["a"]] * 12, "row 0: speaker_id must be a name or a whole number"),
    ],
)
def test_values_of_data_sets_are_checked_by_field(column: str, value: list[Any], message: str, tmp_path: Path) -> None:
    audio = [{"array": wave.tolist(), "sampling_rate": 24_000} for _, _, wave in ROWS]
    with pytest.raises(InputError, match=message):
        build_data(write(tmp_path / "hub", audio, **{column: value}), tmp_path / "out", eval_share=0)


def test_one_file_is_read_alone_and_a_pointer_is_named(tmp_path: Path) -> None:
    audio = [{"array": wave.tolist(), "sampling_rate": 24_000} for _, _, wave in ROWS]
    source = write(tmp_path / "hub", audio)
    (source / "other.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert build_data(source / "train.parquet", tmp_path / "out", eval_share=0)["utterances"] == 12
    with pytest.raises(InputError, match=r"other\.parquet: is a pointer of Git LFS.*git lfs pull"):
        build_data(source, tmp_path / "out2")

"""Sources and settings that cannot become training data are refused, with all that is wrong."""

import sys
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.voice_cloning.corpora.source_forms import clips_form, kaldi_form, write_lines
from voice_cloning.corpora.build import build_data


def test_clips_without_texts_and_texts_without_clips_are_listed(tmp_path: Path) -> None:
    source = clips_form(tmp_path / "source")
    (source / "badr" / "1.txt").unlink()
    (source / "badr" / "2.wav").unlink()
    (source / "dina" / "0.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"\(3\)") as caught:
        build_data(source, tmp_path / "out")
    assert "badr/1.wav: no 1.txt beside it" in str(caught.value)
    assert "badr/2.txt: no audio file" in str(caught.value)
    assert "dina/0.txt: not readable as UTF-8" in str(caught.value)


def test_kaldi_commands_are_refused_and_never_run(tmp_path: Path) -> None:
    source = kaldi_form(tmp_path)
    lines = (source / "wav.scp").read_text(encoding="utf-8").splitlines()
    marker = tmp_path / "ran"
    lines[0] = f"{lines[0].split()[0]} touch {marker} |"
    lines[1] = f"{lines[1].split()[0]} raw.ark:17"
    write_lines(source / "wav.scp", lines[:-1])
    with pytest.raises(InputError) as caught:
        build_data(source, tmp_path / "out")
    assert "is a command, and commands are never run here" in str(caught.value)
    assert "points into an archive" in str(caught.value)
    assert "has no audio file in wav.scp" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"eval_share": 1.0}, "--eval_share"),
        ({"references_per_target": 0}, "--references_per_target"),
        ({"split_by": "sentence"}, "--split_by"),
        ({"form": "htk"}, "--format"),
        ({"speaker_from": "one"}, "--split_by utterance"),
        ({"speaker_from": "speaker"}, "folder, name or one"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_data(clips_form(tmp_path / "source"), tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        build_data(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match="looks like none"):
        build_data(tmp_path, tmp_path / "out")
    (tmp_path / "train").mkdir()
    write_lines(tmp_path / "train" / "metadata.csv", ["file_name,text,speaker"])
    with pytest.raises(
        InputError, match=r"looks like none.*; give one of the tables in its folders: train/metadata\.csv"
    ):
        build_data(tmp_path, tmp_path / "out")
    (tmp_path / "train" / "metadata.csv").unlink()
    for name, columns in (("train.tsv", "path\tsentence\tclient_id"), ("dev.tsv", "file\ttext\tspeaker")):
        write_lines(tmp_path / name, [columns])
    with pytest.raises(InputError, match=r"give the table itself.*dev\.tsv, train\.tsv"):
        build_data(tmp_path, tmp_path / "out")
    write_lines(tmp_path / "dev.tsv", ["path\tsentence\tclient_id"])
    with pytest.raises(InputError, match="holds no utterance, read as table"):
        build_data(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="holds no utterance"):
        build_data(tmp_path / "train.tsv", tmp_path / "out")


def test_a_data_set_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        build_data(tmp_path, tmp_path / "out")


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not readable as a data set"):
        build_data(tmp_path, tmp_path / "out")

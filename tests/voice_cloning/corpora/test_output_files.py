"""Tests of output_files: files with other content are refused, or replaced if the user allows it; equal files stay."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from voice_cloning.corpora.output_files import refuse_other_content, write_differing

FILES = [("clips/a.wav", b"a"), ("clips/b.wav", b"b"), ("train.json", b"[]"), ("val.json", None)]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and modification time of each file."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_new_folder_gets_all_files_and_the_second_time_none_is_touched(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    refuse_other_content(out, FILES)
    write_differing(out, FILES)
    written = state(out)
    assert {name: content for name, (content, _) in written.items()} == dict(FILES[:3])
    refuse_other_content(out, FILES)
    write_differing(out, FILES)
    assert state(out) == written


def test_all_files_with_other_content_are_named_and_no_others(tmp_path: Path) -> None:
    write_differing(tmp_path, FILES)
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / "clips" / "b.wav").write_bytes(b"mine")
    (tmp_path / "train.json").unlink()
    (tmp_path / "train.json").mkdir()
    (tmp_path / "val.json").write_bytes(b"of another run")
    with pytest.raises(InputError) as caught:
        refuse_other_content(tmp_path, FILES)
    heading, *names = str(caught.value).split("\n  ")
    assert heading == (
        f"{tmp_path}: holds files with other content; give another --output_dir, or --overwrite to replace them (3):"
    )
    assert names == ["clips/b.wav", "train.json", "val.json"]


def test_differing_files_are_replaced_and_forbidden_files_are_removed(tmp_path: Path) -> None:
    write_differing(tmp_path, FILES)
    before = state(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / "clips" / "b.wav").write_bytes(b"other")
    (tmp_path / "val.json").write_bytes(b"of another run")
    write_differing(tmp_path, FILES)
    after = state(tmp_path)
    assert sorted(after) == ["clips/a.wav", "clips/b.wav", "notes.txt", "train.json"]
    assert after["clips/b.wav"][0] == b"b" and after["notes.txt"][0] == b"mine"
    assert all(after[name] == before[name] for name in ("clips/a.wav", "train.json"))


def test_files_are_written_one_by_one_in_their_order(tmp_path: Path) -> None:
    """The clips may not fit into memory together, and the JSON files that name them must come last."""

    def one_by_one() -> Iterator[tuple[str, bytes]]:
        for number in range(3):
            assert len(state(tmp_path)) == number
            yield f"{number}.wav", b"clip"

    write_differing(tmp_path, one_by_one())
    assert len(state(tmp_path)) == 3


def test_a_file_that_cannot_be_written_is_named_and_earlier_files_stay(tmp_path: Path) -> None:
    (tmp_path / "train.json").mkdir()
    with pytest.raises(InputError, match=rf"^{tmp_path / 'train.json'}: cannot be written \(Is a directory\)$"):
        write_differing(tmp_path, FILES)
    assert sorted(state(tmp_path)) == ["clips/a.wav", "clips/b.wav"]
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(InputError, match="cannot be (read|written) "):
        write_differing(tmp_path / "file", FILES)

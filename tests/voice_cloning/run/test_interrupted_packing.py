"""A start that cannot pack trains from the file; one that ends while it packs leaves nothing wrong behind."""

import base64
import json
import logging
import shutil
from pathlib import Path

import pytest

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from tests.chatml_files import write_clip
from tests.full_disks import fill, read_only, small_disk
from tests.interrupted_writes import InterruptedWrites
from tests.voice_cloning.corpora.encoded_clips import clips_and_records, make_old
from tests.voice_cloning.corpora.packed_data import contents
from tests.voice_cloning.corpora.test_pack_interrupted import child, status_of
from tests.voice_cloning.run.packed_starts import again, folders, start
from voice_cloning.corpora import clip_versions, packing, packing_jobs
from voice_cloning.corpora.clip_versions import ClipVersions


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RECORDS_OF_BLOCK", 2)
    monkeypatch.setattr(packing, "CLIPS_OF_SHARD", 3)


def prepared(files: Path) -> dict[str, bytes]:
    return contents(files / "cache" / "prepared")


def test_a_packing_that_ends_at_any_write_is_done_by_the_next_start(
    demo: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(demo, files)
    wanted, writes, number = prepared(files), InterruptedWrites(monkeypatch), 0
    writes.watch("write_shard", packing_jobs, clip_versions)
    writes.watch("write_manifest", packing)

    def pack_anew(_: int) -> None:
        shutil.rmtree(files / "cache" / "prepared")
        again(demo, files)

    for number in writes.each(pack_anew):
        assert not again(demo, files).was_found
        assert prepared(files) == wanted, number
    assert number == 10, "two blocks of two files, two shards of each kind, the manifest, the clips"


def test_two_starts_at_once_make_one_folder(demo: Path, files: Path) -> None:
    again(demo, files)
    wanted = prepared(files)
    shutil.rmtree(files / "cache" / "prepared")
    starts = [child(lambda: again(demo, files)) for _ in range(3)]
    assert [status_of(process) for process in starts] == [0, 0, 0]
    assert prepared(files) == wanted and again(demo, files).was_found


def test_a_read_only_cache_is_said_and_the_run_trains_from_the_file(
    demo: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with read_only(files / "cache"), caplog.at_level(logging.INFO):
        found = again(demo, files)
    assert isinstance(found.dataset, ArabicVoiceCloningDataset) and len(found.dataset.lengths) == 3
    said = f"{files / 'data.json'} is not packed: {files / 'cache/prepared'}: cannot be created (Permission denied). "
    assert f"{said}This run trains from the file, and the next start reads it again" in caplog.messages
    again(demo, files)
    with read_only(files / "cache" / "prepared"):
        assert again(demo, files).was_found


def test_a_full_disk_is_said_and_keeps_nothing_of_the_folder(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = clips_and_records(tmp_path, 3)
    with small_disk(tmp_path / "disk", 1000) as disk:
        start(demo, path, disk / "cache")
        shutil.rmtree(disk / "cache" / "prepared")
        fill(disk, 24)
        with caplog.at_level(logging.INFO):
            found = start(demo, path, disk / "cache")
        assert isinstance(found.dataset, ArabicVoiceCloningDataset) and folders(disk / "cache") == []
        assert "data.json is not packed: " in caplog.text and "the disk is full" in caplog.text
        (disk / "filler").unlink()
        assert not start(demo, path, disk / "cache").was_found
        assert start(demo, path, disk / "cache").was_found


@pytest.mark.parametrize("what", ["data.json", "1.wav"])
def test_what_changes_between_reading_and_packing_is_not_packed(
    demo: Path, files: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def change(self: ArabicVoiceCloningDataset, load_codec: object) -> int:
        done = encode(self, load_codec)
        if what == "1.wav":
            write_clip(files / what, 0.5, seed=77)
            make_old(files / what)
        else:
            (files / what).write_text((files / what).read_text() + " ")
        return done

    encode = ArabicVoiceCloningDataset.encode_missing
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(ArabicVoiceCloningDataset, "encode_missing", change)
        found = again(demo, files)
    assert isinstance(found.dataset, ArabicVoiceCloningDataset)
    assert "has changed since this run read it. This run trains from the file" in caplog.text
    now = again(demo, files)
    assert not now.was_found and (now.fingerprint == found.fingerprint) == (what == "data.json")
    assert again(demo, files).was_found


def test_raw_audio_and_files_with_odd_names_are_found_again(demo: Path, tmp_path: Path) -> None:
    path = clips_and_records(tmp_path, 2)
    records = json.loads(path.read_text(encoding="utf-8"))
    odd = write_clip(tmp_path / "صوت\n\u2028 1.wav", 0.4, seed=5)
    records[0]["messages"][2]["content"][1]["audio_url"] = odd.name
    raw = base64.b64encode((tmp_path / "1.wav").read_bytes()).decode()
    records[1]["messages"][2]["content"][1] |= {"audio_url": None, "raw_audio": raw}
    path.write_text(json.dumps(records), encoding="utf-8")
    make_old(odd)
    first = start(demo, path, tmp_path / "cache")
    found = start(demo, path, tmp_path / "cache")
    assert found.was_found and found.fingerprint == first.fingerprint
    versions = ClipVersions.read(next(tmp_path.glob("cache/prepared/*.clips.safetensors")))
    assert sorted(versions.paths) == sorted(map(str, (tmp_path / "ref.wav", odd)))

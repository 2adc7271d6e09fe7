"""Each clip is encoded once: records, codecs, damaged entries, and hashes of files."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from boson_multimodal.audio_processing import clip_encoding, content_hashes
from boson_multimodal.audio_processing.clip_encoding import ClipFacts
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_identity
from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, make_cache, record, write_clip, write_records
from tests.training_runs import trainer
from tests.voice_cloning.corpora.encoded_clips import clips_and_records, codec_cache, entries, make_old
from voice_cloning.corpora.encode import encode_files


def test_the_trainer_uses_the_cache_that_encode_filled(
    demo: Path,
    tmp_path: Path,
    codec: HiggsAudioTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the clips and the codec's weights the run is the same, bit for bit."""
    home = tmp_path / "home"
    caplog.set_level(logging.INFO)
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("code_cache"))
    monkeypatch.setattr(content_hashes, "SETTLED_AFTER_SECONDS", 0.0)
    files = [home / f"{part}_chatml_samples.json" for part in ("train", "val")]
    summary = encode_files(files, str(home / "audio_tokenizer"), str(home / "code_cache"))
    assert summary.encoded == summary.clips == 20 and summary.files == 1 and summary.entries == 20
    settings = {"max_steps": 2, "logging_steps": 1}
    whole = trainer(home, tmp_path / "whole", **settings)
    whole.train()
    (home / "clips").rename(tmp_path / "clips")
    (home / "audio_tokenizer" / "model.safetensors").rename(tmp_path / "weights")
    shutil.rmtree(home / "code_cache" / "prepared")
    missing = f"{files[0]}: 16 clips are missing; their codes are in the cache"
    assert missing not in caplog.messages
    bare = trainer(home, tmp_path / "bare", **settings)
    assert missing in caplog.messages
    bare.train()
    identities = [
        json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))["identity"] for name in ("whole", "bare")
    ]
    assert identities[0] == identities[1]
    state, other = (subject.components.model.state_dict() for subject in (whole, bare))
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_missing_clip_is_an_error_unless_its_codes_are_in_the_cache(demo: Path, tmp_path: Path) -> None:
    data, cache = clips_and_records(tmp_path, 3), tmp_path / "cache"
    encode_files([data], str(demo / "audio_tokenizer"), str(cache))
    (tmp_path / "1.wav").unlink()
    assert encode_files([data], str(demo / "audio_tokenizer"), str(cache)).encoded == 0
    shutil.rmtree(codec_cache(demo, cache))
    with pytest.raises(InputError, match=r"s1: messages\[2\].content\[1\].audio_url: .*1.wav: no such file"):
        encode_files([data], str(demo / "audio_tokenizer"), str(cache))


def test_codecs_of_one_configuration_are_not_confused(demo: Path, tmp_path: Path) -> None:
    """A codec without weights is identified by its configuration, if only one codec in the cache has it."""
    data, cache = clips_and_records(tmp_path, 1), tmp_path / "cache"
    folders = [tmp_path / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        shutil.copytree(demo / "audio_tokenizer", folder)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1 - number, os.SEEK_END)
            file.write(bytes([number]))
        with pytest.raises(InputError, match=r"no \*.safetensors or model.pth in it; give a whole checkpoint"):
            bare = tmp_path / f"bare_{number}_before"
            shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
            encode_files([data], str(bare), str(tmp_path / f"empty_{number}"))
        encode_files([data], str(folder), str(cache))
        if number == 0:
            assert encode_files([data], str(bare), str(cache)).encoded == 0
    with pytest.raises(InputError, match="has no weights, and .* holds codes of 2 codecs with its configuration"):
        encode_files([data], str(bare), str(cache))


def test_wrong_records_and_clips_are_listed_at_once(demo: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.4)
    write_clip(tmp_path / "short.wav", 0.01)
    (tmp_path / "broken.wav").write_bytes(b"hello")
    pairs = [("a.wav", "short.wav"), ("broken.wav", "gone.wav"), ("a.wav", "a.wav")]
    data = [
        write_records(tmp_path / f"{i}.json", [record(f"s{i}", audio(reference), audio(target))])
        for i, (reference, target) in enumerate(pairs)
    ]
    more = write_records(tmp_path / "3.json", [{"messages": []}])
    call: dict[str, Any] = {"codec_path": str(demo / "audio_tokenizer"), "code_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(InputError) as caught:
        encode_files([*data, more], **call)
    lines = str(caught.value).splitlines()
    assert lines[0] == "invalid samples (--drop_invalid leaves them out) (4):"
    for name, sample, message in (
        ("0.json", "s0", "0.01 s of audio"),
        ("1.json", "s1", "not readable as audio"),
        ("1.json", "s1", "no such file"),
        ("3.json", "record 0", "it must be a list of at least one turn"),
    ):
        assert any(f"{name}: {sample}: " in line and message in line for line in lines), message
    assert encode_files([*data, more], **call, drop_invalid=True).clips == 1


def test_a_complete_cache_may_be_read_only(
    demo: Path, tmp_path: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works although hashes of files with a new time cannot be kept and a killed run left a temporary file."""
    data, call = clips_and_records(tmp_path, 3), (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    encode_files([data], *call)
    left = codec_cache(demo, tmp_path / "cache") / "left.tmp"
    left.touch()
    os.utime(left, (1e9, 1e9))
    for clip in tmp_path.glob("*.wav"):
        os.utime(clip, (1e9, 1e9))
    tried = []

    def refuse(path: Path, *arguments: object, **more: object) -> None:
        tried.append(path)
        raise OSError(errno.EROFS, "Read-only file system")

    read_files.clear()
    with monkeypatch.context() as patch:
        patch.setattr(PackedStore, "_begin_log", lambda store: refuse(store.folder))
        patch.setattr(Path, "unlink", refuse)
        assert encode_files([data], *call, drop_invalid=True).clips == 4
    assert len(read_files) == 4 and len(tried) == 1
    assert encode_files([data], *call).clips == 4 and len(read_files) == 8


def test_ctrl_c_does_not_wait_for_all_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a few hundred clips are queued at a time."""
    checked = []

    def check(use: int, source: object, frames_per_second: float) -> ClipFacts:
        checked.append(use)
        if use == 700:
            raise KeyboardInterrupt
        return ClipFacts(str(use))

    monkeypatch.setattr(clip_encoding, "_check_clip", check)
    with pytest.raises(KeyboardInterrupt):
        clip_encoding.check_clips(range(10_000), None, 25.0, "data.json")
    assert len(checked) <= 2 * clip_encoding.CHECKED_AT_ONCE
    found = clip_encoding.check_clips(range(701, 2000), None, 25.0, "data.json")
    assert [facts.key for facts in found] == [str(use) for use in range(701, 2000)]


def test_unusual_clip_names_work_and_impossible_ones_are_listed(demo: Path, tmp_path: Path) -> None:
    """Arabic, quotes, a line feed and a bidi control work; libsndfile cannot open a name that is not UTF-8."""
    odd = ["صوت مع مسافة.wav", "a\u202eb.wav", "q\"u'o.wav", "per%cent#1.0,.wav", "new\nline.wav", "-dash.wav"]
    records = []
    for number, name in enumerate(odd):
        (tmp_path / name).write_bytes(write_clip(tmp_path / "clip.wav", 0.4, seed=number).read_bytes())
        records.append(record(f"s{number}", audio(odd[0]), audio(name)))
    call = (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    path = tmp_path / "كلام.safetensors"
    assert encode_files([write_records(tmp_path / "data.json", records)], *call, export=path).clips == len(odd)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == sorted(odd)
    wrong = "\udce1\udce2.wav"  # how Python reads a name in cp1256
    (tmp_path / wrong).write_bytes((tmp_path / odd[0]).read_bytes())
    data = write_records(tmp_path / "more.json", [*records, record("other", audio(odd[0]), audio(wrong))])
    with pytest.raises(InputError, match=r"other: messages.*udce1.udce2.wav': not a path .*audio file of another name"):
        encode_files([data], *call, export=path)
    assert encode_files([data], *call, export=path, drop_invalid=True).clips == len(odd)


def test_damaged_entries_are_encoded_again(demo: Path, tmp_path: Path) -> None:
    data, call = clips_and_records(tmp_path, 5), (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    encode_files([data], *call)
    whole = entries(demo, tmp_path / "cache")
    for _ in range(2):  # the second time, the pack was joined from the damaged one and the new entry
        (pack,) = codec_cache(demo, tmp_path / "cache").glob("*.pack")
        content = bytearray(pack.read_bytes())
        content[60] ^= 1
        pack.write_bytes(content)
        summary = encode_files([data], *call)
        assert (summary.encoded, summary.files, summary.entries) == (1, 1, 6)
        assert entries(demo, tmp_path / "cache") == whole


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each file that is read for its hash."""
    names, content_hash = [], content_hashes.content_hash

    def counted(source: Path | bytes) -> str:
        names.append(source.name)
        return content_hash(source)

    monkeypatch.setattr(content_hashes, "content_hash", counted)
    return names


def test_a_second_start_reads_no_audio_file(demo: Path, tmp_path: Path, read_files: list[str]) -> None:
    data, call = clips_and_records(tmp_path, 4), (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    encode_files([data], *call)
    assert len(read_files) == 5
    encode_files([data], *call)
    assert len(read_files) == 5
    make_old(write_clip(tmp_path / "2.wav", 0.34, seed=99))
    (tmp_path / "0.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    assert encode_files([data], *call).encoded == 1, "0.wav has the content of 1.wav now"
    assert sorted(read_files[5:]) == ["0.wav", "2.wav"]
    os.utime(tmp_path / "0.wav", (1e9, 1e9))
    assert encode_files([data], *call).encoded == 0
    assert read_files[7:] == ["0.wav"], "the hash of a file that has just changed was not kept"
    assert encode_files([data], *call).encoded == 0 and len(read_files) == 8


def test_a_missing_file_has_the_hash_of_its_last_version(tmp_path: Path) -> None:
    hashes, path = content_hashes.ContentHashes(tmp_path / "hashes"), tmp_path / "clip"
    found = []
    for number, content in enumerate([b"first", b"second", b"first"]):
        path.write_bytes(content)
        os.utime(path, (1e9 + number, 1e9 + number))
        found.append(hashes.of(path))
    assert found[0] == found[2] != found[1] and found[0][1]
    path.write_bytes(b"third")
    os.utime(path, (2e9 - 1e9 + 9, 1e9 + 9))
    third = hashes.of(path)
    path.unlink()
    hashes.store.seal()
    assert content_hashes.ContentHashes(tmp_path / "hashes").of(path) == (third[0], False)
    with pytest.raises(InputError, match="no such file"):
        hashes.of(tmp_path / "another")


@pytest.mark.parametrize("name", ["a\0b", "half \ud800", "x" * 300])
def test_an_impossible_path_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a path|cannot be read"):
        content_hashes.ContentHashes(tmp_path / "hashes").of(tmp_path / name)


def test_codes_of_a_clip_are_those_of_its_cut(demo: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 1.0)
    data = write_records(
        tmp_path / "data.json", [record("s", audio("a.wav", duration=0.4), audio("a.wav", offset=0.5))]
    )
    assert encode_files([data], str(demo / "audio_tokenizer"), str(tmp_path / "cache")).clips == 2
    codec = codec_identity(demo / "audio_tokenizer")
    cache = make_cache(tmp_path / "cache", codec)
    frames = sorted(cache.read(key.hex()).shape[1] for key in entries(demo, tmp_path / "cache"))
    assert frames == [10, 13] and json.loads((cache.folder / "config.json").read_text())

"""WebDataset shards, and audiofolders with a table in each folder."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.voice_cloning.corpora.built_corpora import built, refusal
from tests.voice_cloning.corpora.corpus_stores import (
    SECONDS,
    audiofolder,
    shard_members,
    sound,
    wav,
    webdataset,
    write_shard,
)
from tests.voice_cloning.corpora.source_forms import clips_of

Members = list[tuple[str, bytes]]


def test_each_key_is_an_utterance_with_its_own_audio(tmp_path: Path) -> None:
    records, said = built(webdataset(tmp_path / "shards").source, tmp_path / "out")
    assert "read as webdataset" in said and "text: .txt files" in said and "dialect (column dialect)" in said
    assert len(records) == 8 and {r["misc"]["dialect"] for r in records} == {"Najdi"}
    audio = dict(shard_members(0) + [(f"1{name}", content) for name, content in shard_members(1)])
    for record in records:
        number = len(record["misc"]["target_transcript"].split()[-1]) - 1
        speaker, key = divmod(number, 4)
        clip = tmp_path / "out" / clips_of(record)[1]["audio_url"]
        assert clip.read_bytes() == audio[f"{'1' * speaker}part/{key:06d}.wav"]
        assert record["speaker"] == f"voice{speaker}" and record["misc"]["duration"] == SECONDS[key]
    assert len(built(tmp_path / "shards" / "train-000000.tar", tmp_path / "out2")[0]) == 4, "a shard alone"
    (tmp_path / "shards" / "sizes.json").write_text('{"train-000000.tar": 4}', encoding="utf-8")
    assert len(built(tmp_path / "shards", tmp_path / "out3")[0]) == 8, "a file that names no clips changes nothing"


def test_the_files_of_a_key_may_lie_apart(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.tar", sorted(shard_members(0), key=lambda member: member[0][::-1]))
    records, _ = built(tmp_path / "in", tmp_path / "out")
    assert sorted(r["misc"]["duration"] for r in records) == sorted(SECONDS)


def test_a_key_ends_at_its_last_dot_if_names_hold_dots(tmp_path: Path) -> None:
    members = [(name.replace("part/00000", "part/take_0."), content) for name, content in shard_members(0)]
    write_shard(tmp_path / "in" / "a.tar", members)
    records, said = built(tmp_path / "in", tmp_path / "out")
    assert len(records) == 4 and "keys: names up to their last dot" in said
    kinds = [(name.replace(".wav", ".clean.wav"), content) for name, content in shard_members(0)]
    write_shard(tmp_path / "in" / "a.tar", kinds + [(n.replace("clean", "noisy"), c) for n, c in kinds if "clean" in n])
    assert "several audio files have this key" in refusal(tmp_path / "in", tmp_path / "out2")
    records, said = built(tmp_path / "in", tmp_path / "out2", audio_column="clean.wav")
    assert len(records) == 4 and "last dot" not in said and "files that are not used: noisy.wav" in said


def test_texts_in_json_files_apart_and_other_formats(tmp_path: Path) -> None:
    flac, members = io.BytesIO(), Members()
    soundfile.write(flac, sound(0.6, 16_000, 1), 16_000, format="FLAC")
    for i, text in enumerate(("جملة", "أخرى")):
        members += [
            (f"./a.{i}.ignored", b""),
            (f"x/{i}.FLAC", flac.getvalue() if i else wav(sound(0.7, 16_000, 2), 16_000)),
        ]
        members += [(f"x/{i}.json", json.dumps({"sentence": text, "text": 5, "path": "gone.wav"}).encode())]
        members += [
            (f"x/{i}.speaker", b"badr\n"),
            (f"x/{i}.gender", b"male"),
            (f"x/{i}.npy", b"1"),
            (f"x/._{i}.wav", b"1"),
        ]
    write_shard(tmp_path / "in" / "a.tar", members)
    records, said = built(tmp_path / "in", tmp_path / "out")
    assert "files that are not used: 0.ignored, 1.ignored, npy" in said
    assert {(r["speaker"], r["misc"]["gender"]) for r in records} == {("badr", "male")}
    assert {r["misc"]["target_transcript"] for r in records} == {"جملة", "أخرى"}
    assert {Path(clips_of(r)[1]["audio_url"]).suffix for r in records} == {".flac"}


def without(members: Members, name: str) -> Members:
    return [(found, content) for found, content in members if found != name]


def with_content(members: Members, name: str, content: bytes) -> Members:
    return [(found, content if found == name else before) for found, before in members]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: without(m, "part/000001.wav"), "key part/000001: no audio file has this key"),
        (lambda m: without(m, "part/000001.txt"), "key part/000001: the text is empty"),
        (lambda m: [*m, ("part/000001.b.wav", m[0][1])], "several audio files have this key (part/000001.wav and"),
        (lambda m: [*m, ("part/000009.m4a", b"1")], "part/000009.m4a: this format cannot be read"),
        (lambda m: with_content(m, "part/000002.txt", b"\xff\xfe\xfa"), "part/000002.txt: not readable as UTF-8 text"),
        (lambda m: with_content(m, "part/000002.json", b"{"), "part/000002.json: not readable as UTF-8 JSON"),
        (lambda m: with_content(m, "part/000002.json", b"[1]"), "part/000002.json: must be a JSON object"),
        (lambda m: with_content(m, "part/000002.wav", b"RIFFxxxx"), "key part/000002: part/000002.wav"),
        (
            lambda m: with_content(m, "part/000002.json", b'{"speaker": "a", "start": 7, "end": 9}'),
            "its cut is from 7 to 9 s, which lasts 2 s, but the audio in the row lasts 0.9 s",
        ),
        (lambda m: [(name, b"") for name, _ in m if name.endswith(".wav")], "no key has a .txt or .json file"),
        (lambda m: [*m, m[0]], "part/000000.wav is there twice; keep one"),
        (lambda m: without(with_content(m, "part/000000.json", b"{}"), "part/000001.json"), "no speaker is named"),
    ],
)
def test_what_is_missing_or_wrong_in_a_shard_is_named(change: Any, message: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.tar", change(shard_members(0)))
    assert message in refusal(tmp_path / "in", tmp_path / "out")


def test_damaged_shards_are_named_all_at_once(tmp_path: Path) -> None:
    good = webdataset(tmp_path / "in").source / "train-000000.tar"
    content = good.read_bytes()
    (tmp_path / "in" / "cut.tar").write_bytes(content[:60_000])
    (tmp_path / "in" / "joined.tar").write_bytes(content + content)
    (tmp_path / "in" / "packed.tar.gz").write_bytes(gzip.compress(content))
    (tmp_path / "in" / "pointer.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    message = refusal(tmp_path / "in", tmp_path / "out", drop_invalid=True)
    for named in (
        "cut.tar: not readable as a tar archive to its end (unexpected end of data)",
        "joined.tar: is damaged, cut off, or joined of several archives at byte",
        "packed.tar.gz: is compressed; extract it, or unpack it to a .tar",
        "pointer.tar: is a pointer of Git LFS",
    ):
        assert named in message


def test_a_shard_that_was_copied_is_refused_and_links_are_not_followed(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.tar", shard_members(0))
    write_shard(tmp_path / "in" / "b.tar", shard_members(0))
    assert "key part/000000 has the same text and audio in 2 shards" in refusal(tmp_path / "in", tmp_path / "out")
    with tarfile.open(tmp_path / "in" / "b.tar", "w") as archive:
        for name in ("z.wav", "../../z2.wav"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(link)
    message = refusal(tmp_path / "in", tmp_path / "out")
    assert "z.wav is a link or no whole file" in message and "../../z2.wav is a link" in message


def test_names_in_a_shard_are_never_paths_of_files_that_are_written(tmp_path: Path) -> None:
    members = [(name.replace("part/", "../../out_of/"), content) for name, content in shard_members(0)]
    write_shard(tmp_path / "deep" / "in" / "a.tar", members)
    records, _ = built(tmp_path / "deep" / "in", tmp_path / "deep" / "out")
    assert len(records) == 4
    clips = {tmp_path / "deep" / "out" / clips_of(record)[1]["audio_url"] for record in records}
    assert {clip.parent for clip in clips} == {tmp_path / "deep" / "out" / "clips"} and all(map(Path.is_file, clips))
    assert not list(tmp_path.glob("**/out_of"))


def test_an_audiofolder_has_a_table_in_each_folder(tmp_path: Path) -> None:
    truth = audiofolder(tmp_path / "in")
    records, said = built(truth.source, tmp_path / "out")
    assert "read as audiofolder" in said and len(records) == 8
    assert {record["misc"]["sample_id"].split("/")[0] for record in records} == {"train", "test"}
    (truth.source / "test" / "audio" / "0001.wav").unlink()
    (truth.source / "train" / "metadata.jsonl").write_text('{"file_name": "audio/0000.wav", "said": "x"}\n')
    message = refusal(truth.source, tmp_path / "out2")
    assert "--text_column: name a column" in message and "train/metadata.jsonl" in message

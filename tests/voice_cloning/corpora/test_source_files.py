"""Folders with leftovers, links and odd names; speakers in side files; Kaldi's lists; channels; cuts."""

import json
import os
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from boson_multimodal.errors import InputError
from tests.chatml_files import noise, write_clip
from tests.fuzzing import run_apart
from tests.voice_cloning.corpora.source_forms import (
    CLIPS_EACH,
    SPEAKERS,
    TEXTS,
    built,
    clips_form,
    clips_of,
    common_voice_form,
    kaldi_cuts_form,
    manifest_form,
    records_of,
    sources,
    words,
    write_lines,
)
from voice_cloning.corpora.build import SUMMARY_FILE, build_data


def test_what_holds_no_data_is_left_aside_and_counted(tmp_path: Path) -> None:
    source = clips_form(tmp_path / "source")
    for name in ("README.txt", "LICENSE", ".DS_Store", "badr/._0.wav", "badr/._0.txt", "Thumbs.db", "badr/desktop.ini"):
        (source / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("__MACOSX/badr/._0.wav", ".cache/huggingface/0.wav"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(b"\x00\x05\x16\x07")
    found, said = built(source, tmp_path / "out")
    assert found == TEXTS
    assert "left aside, because they hold no data: 9 (" in said


def test_a_clip_may_be_called_like_a_document(tmp_path: Path) -> None:
    source = clips_form(tmp_path / "source")
    for suffix in (".wav", ".txt"):
        (source / "badr" / f"0{suffix}").rename(source / "badr" / f"notice_1{suffix}")
    assert built(source, tmp_path / "out")[0] == TEXTS


@pytest.mark.parametrize("clip_form", ["NFC", "NFD"])
@pytest.mark.parametrize("text_form", ["NFC", "NFD"])
def test_names_are_compared_in_one_normal_form(clip_form: str, text_form: str, tmp_path: Path) -> None:
    rows = []
    for i in range(4):
        name = f"آية_ؤ{i}"
        clip = write_clip(tmp_path / "in" / f"{unicodedata.normalize(clip_form, name)}.wav", seed=i)
        text = clip.with_name(unicodedata.normalize(text_form, name) + ".txt")
        text.write_text(f"نص {'و' * i}", encoding="utf-8")
        rows.append(f"{unicodedata.normalize(text_form, name)}.wav,نص {'و' * i},a")
    expected = {f"نص {'و' * i}".strip() for i in range(4)}
    assert built(tmp_path / "in", tmp_path / "out")[0].keys() == expected
    write_lines(tmp_path / "in" / "list.csv", ["file,text,speaker", *rows])
    assert built(tmp_path / "in" / "list.csv", tmp_path / "out2")[0].keys() == expected


def test_links_are_followed_once_and_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    store = clips_form(tmp_path / "store")
    source = tmp_path / "source"
    source.mkdir()
    for speaker in SPEAKERS[:2]:
        (source / speaker).symlink_to(store / speaker)
    (source / SPEAKERS[2]).mkdir()
    for path in (store / SPEAKERS[2]).iterdir():
        (source / SPEAKERS[2] / (path.stem + path.suffix.upper())).write_bytes(path.read_bytes())
    (source / "loop").symlink_to(source)
    (source / "a link").symlink_to(source / SPEAKERS[2])
    (source / SPEAKERS[0] / "again").symlink_to(store / SPEAKERS[0])
    found, said = built(source, tmp_path / "out")
    assert found == TEXTS
    assert "hold no data: 3 (" in said and "loop" in said


def test_clips_in_formats_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    source = clips_form(tmp_path / "source")
    (source / "badr" / "0.wav").rename(source / "badr" / "0.m4a")
    with pytest.raises(InputError, match=r"badr/0\.m4a: this format cannot be read; convert it"):
        build_data(source, tmp_path / "out")
    found, _ = built(source, tmp_path / "out", drop_invalid=True)
    assert found.keys() == TEXTS.keys() - {words("badr", 0)}
    assert "0.m4a" in (tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can read as another user")
@pytest.mark.parametrize("drop_invalid", [False, True])
@pytest.mark.parametrize("form", ["clips", "table"])
def test_a_folder_that_cannot_be_entered_stops_the_build(form: str, drop_invalid: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        if form == "clips":
            source, closed = clips_form(Path(folder) / "source"), "badr"
        else:
            (Path(folder) / "source").mkdir()
            source, closed = common_voice_form(Path(folder) / "source").parent, "clips"
        (source / closed).chmod(0o700)

        def build_as_nobody() -> None:
            os.setgid(65534)
            os.setuid(65534)
            build_data(source, Path(folder) / "out", drop_invalid=drop_invalid)

        outcome = run_apart(build_as_nobody)
    wanted = "badr: this folder cannot be entered" if form == "clips" else ".wav: cannot be read"
    assert outcome.error and f"{wanted} (Permission denied)" in outcome.error


SIDE_FILES: dict[str, Callable[[list[tuple[str, str]]], str]] = {
    "metadata.json": lambda rows: json.dumps([{"file": name, "speaker_id": who} for name, who in rows]),
    "speakers.json": lambda rows: json.dumps({name: {"speaker": who, "age": 3} for name, who in rows}),
    "info.json": lambda rows: json.dumps({"version": 1, "clips": [{"id": n, "spk": w} for n, w in rows]}),
    "info.jsonl": lambda rows: "".join(json.dumps({"clip": f"x/{n}.wav", "speaker": w}) + "\n" for n, w in rows),
    "utt2spk": lambda rows: "".join(f"{n} {w}\n" for n, w in rows),
    "speakers.csv": lambda rows: "clip,Speaker\n" + "".join(f"{n}.wav,{w}\n" for n, w in rows),
    "speakers.tsv": lambda rows: "clip\tspeaker_name\n" + "".join(f"{n}\t{w}\n" for n, w in rows),
}


def flat_clips(folder: Path) -> list[tuple[str, str]]:
    """Write clips with texts in one folder, whose names do not show the speaker; return (name, speaker) of each."""
    rows = []
    for i, (name, text, who) in enumerate(sources(folder / "origin")):
        clip = (folder / "origin" / name).rename(folder / f"{i:04d}.wav")
        clip.with_suffix(".txt").write_text(text, encoding="utf-8")
        rows.append((clip.stem, who))
    (folder / "origin" / "clips").rmdir()
    (folder / "origin").rmdir()
    return rows


@pytest.mark.parametrize("name", SIDE_FILES)
def test_speakers_of_a_side_file_are_used(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    rows = flat_clips(source)
    (source / name).write_text(SIDE_FILES[name](rows), encoding="utf-8")
    found, said = built(source, tmp_path / "out")
    assert found == TEXTS and f"speaker: {name}, which names 3" in said and said.count("speaker: ") == 1
    found, _ = built(source, tmp_path / "one", speaker_from="one")
    assert set(found.values()) == {"one"}


def test_a_side_file_for_some_clips_stops_the_build_and_one_without_speakers_is_left_aside(tmp_path: Path) -> None:
    source = tmp_path / "in"
    rows = flat_clips(source)
    (source / "info.json").write_text(json.dumps({"author": "someone", "rate": 24000}), encoding="utf-8")
    found, said = built(source, tmp_path / "out")
    assert set(found.values()) == {"in"} and "info.json: names no speaker of these clips, and is left aside" in said
    (source / "info.json").write_text(SIDE_FILES["metadata.json"](rows[:-1]), encoding="utf-8")
    with pytest.raises(InputError, match=r"names speakers for 11 of 12 clips, not for 0011; .*--speaker_from"):
        build_data(source, tmp_path / "out2", eval_share=0)
    contradicting = [*rows, (rows[0][0], "somebody else")]
    (source / "info.json").write_text(SIDE_FILES["metadata.json"](contradicting), encoding="utf-8")
    with pytest.raises(InputError, match=r"names speakers for 11 of 12 clips, not for 0000"):
        build_data(source, tmp_path / "out2", eval_share=0)


def test_one_voice_is_doubted_if_the_names_show_several(tmp_path: Path) -> None:
    for name, text, _ in sources(tmp_path / "in", "."):
        (tmp_path / "in" / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="names form 3 groups, such as .*; give --speaker_from name"):
        build_data(tmp_path / "in", tmp_path / "out", eval_share=0)
    assert built(tmp_path / "in", tmp_path / "out", speaker_from="name")[0] == TEXTS
    assert set(built(tmp_path / "in", tmp_path / "one", speaker_from="one")[0].values()) == {"one"}


def test_cuts_of_a_manifest_are_cuts_with_names_of_their_own(tmp_path: Path) -> None:
    manifest = manifest_form(tmp_path)
    found, said = built(manifest, tmp_path / "out")
    assert found == TEXTS and "cut: columns offset, duration" in said
    for record in records_of(tmp_path / "out"):
        _, target = clips_of(record)
        speaker = record["speaker"]
        i = next(i for i in range(CLIPS_EACH) if words(speaker, i) == record["misc"]["target_transcript"])
        assert Path(target["audio_url"]).name == f"{speaker}.wav"
        assert (target["offset"], target["duration"]) == pytest.approx((0.5 * i, 0.4))
        assert record["misc"]["sample_id"] == f"{speaker}_{0.5 * i:.3f}_{0.5 * i + 0.4:.3f}"


@pytest.mark.parametrize("name", ["start_ms", "seg_from", "utt_end", "Begin_Sample"])
def test_times_under_another_name_are_not_passed_over(name: str, tmp_path: Path) -> None:
    rows = [f"{file},{text},{who},{i}" for i, (file, text, who) in enumerate(sources(tmp_path))]
    table = write_lines(tmp_path / "list.csv", [f"file,text,speaker,{name}", *rows])
    with pytest.raises(InputError, match=f"column {name} looks like a time of cuts, such as 11, but is not read"):
        build_data(table, tmp_path / "out", drop_invalid=True)
    rows = [row.rsplit(",", 1)[0] + ",0" for row in rows]
    write_lines(table, [f"file,text,speaker,{name}", *rows])
    assert built(table, tmp_path / "out")[0] == TEXTS, "0 for all is the start of each file"


@pytest.mark.parametrize(("start", "end"), [("start", "end"), ("start_time", "end_time"), ("Start", "END")])
def test_a_start_and_an_end_are_a_cut_and_a_duration_alone_is_none(start: str, end: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 2.0)
    rows = [f"a.wav,نص {'و' * i},a,{0.5 * i},{0.5 * i + 0.4},9" for i in range(4)]
    write_lines(tmp_path / "list.csv", [f"file,text,speaker,{start},{end},duration", *rows])
    built(tmp_path / "list.csv", tmp_path / "out")
    cuts = {clips_of(record)[1]["offset"] for record in records_of(tmp_path / "out")}
    assert cuts == {0.0, 0.5, 1.0, 1.5}
    assert clips_of(records_of(tmp_path / "out")[0])[1]["duration"] == pytest.approx(0.4)


def stereo(path: Path, seed: int) -> np.ndarray:
    """Write a clip of two channels of 16 bits; return (samples, 2)."""
    wave = noise(1.0, channels=2, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, 24_000, subtype="PCM_16")
    return soundfile.read(path, dtype="float32")[0]


@pytest.mark.parametrize("place", ["segments", "reco2file_and_channel", "letters", "manifest"])
def test_a_channel_becomes_a_clip_of_its_own(place: str, tmp_path: Path) -> None:
    waves = {f"call{j}": stereo(tmp_path / "wav" / f"call{j}.wav", j) for j in range(2)}
    names = {f"{who}-call{j}": (who, j, channel) for j in range(2) for channel, who in enumerate(("a", "b"))}
    said = {name: f"نص {'و' * i}" for i, name in enumerate(names, 1)}
    write_lines(tmp_path / "text", [f"{name} {text}" for name, text in said.items()])
    write_lines(tmp_path / "utt2spk", [f"{name} {who}" for name, (who, _, _) in names.items()])
    write_lines(tmp_path / "wav.scp", [f"call{j} wav/call{j}.wav" for j in range(2)])
    cuts = {name: f"{name} call{j} 0.25 0.75" for name, (_, j, _) in names.items()}
    source = tmp_path
    if place == "segments":
        write_lines(tmp_path / "segments", [f"{cut} {names[name][2]}" for name, cut in cuts.items()])
        write_lines(tmp_path / "reco2file_and_channel", [f"call{j} call{j} A" for j in range(2)])
    elif place == "letters":
        write_lines(tmp_path / "segments", [f"{cut} {'AB'[names[name][2]]}" for name, cut in cuts.items()])
    elif place == "reco2file_and_channel":
        write_lines(tmp_path / "wav.scp", [f"call{j}-{c} wav/call{j}.wav" for j in range(2) for c in "AB"])
        write_lines(tmp_path / "reco2file_and_channel", [f"call{j}-{c} call{j} {c}" for j in range(2) for c in "AB"])
        lines = [f"{name} call{j}-{'AB'[channel]} 0.25 0.75" for name, (_, j, channel) in names.items()]
        write_lines(tmp_path / "segments", lines)
    else:
        rows = [
            {"audio": f"wav/call{j}.wav", "text": said[name], "speaker": who, "channel": c, "start": 0.25, "end": 0.75}
            for name, (who, j, c) in names.items()
        ]
        source = write_lines(tmp_path / "list.json", [json.dumps(row) for row in rows])
    build_data(source, tmp_path / "out", eval_share=0)
    records = records_of(tmp_path / "out")
    assert len(records) == 4
    for record in records:
        name = next(name for name, text in said.items() if text == record["misc"]["target_transcript"])
        who, j, channel = names[name]
        target = clips_of(record)[1]
        wave, rate = soundfile.read(tmp_path / "out" / target["audio_url"], dtype="float32")
        assert record["speaker"] == who and target["offset"] is None and rate == 24_000
        assert np.array_equal(wave, waves[f"call{j}"][6000:18_000, channel])


def test_the_only_channel_of_a_file_needs_no_clip(tmp_path: Path) -> None:
    source = kaldi_cuts_form(tmp_path)
    write_lines(source / "reco2file_and_channel", [f"{speaker} {speaker} A" for speaker in SPEAKERS])
    assert built(source, tmp_path / "out")[0] == TEXTS
    assert not (tmp_path / "out" / "clips").exists()
    assert all(clips_of(record)[1]["offset"] is not None for record in records_of(tmp_path / "out"))


def test_voices_are_not_mixed(tmp_path: Path) -> None:
    for j in range(2):
        stereo(tmp_path / "wav" / f"call{j}.wav", j)
    names = [(f"{who}-{j}", who, j) for j in range(2) for who in "ab"]
    write_lines(tmp_path / "wav.scp", [f"call{j} wav/call{j}.wav" for j in range(2)])
    write_lines(tmp_path / "segments", [f"{name} call{j} 0 1" for name, _, j in names])
    write_lines(tmp_path / "text", [f"{name} نص {'و' * i}" for i, (name, _, _) in enumerate(names)])
    write_lines(tmp_path / "utt2spk", [f"{name} {who}" for name, who, _ in names])
    with pytest.raises(InputError, match=r"has 2 channels, and none is named, so voices would be mixed.*\n.*\n.*\n"):
        build_data(tmp_path, tmp_path / "out")
    rows = [f"wav/call{j}.wav,نص {'و' * i},{who},0,1" for i, (_, who, j) in enumerate(names)]
    table = write_lines(tmp_path / "list.csv", ["file,text,speaker,start,end", *rows])
    with pytest.raises(InputError, match="two speakers have the same time in it; name the channel"):
        build_data(table, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "number", "line", "message"),
    [
        ("segments", 0, "أمل-0 أمل nan 0.4", "segments, line 1: the start must be a number of seconds.*'nan'"),
        ("segments", 0, "أمل-0 أمل 0 1e400", "segments, line 1: the end must be a number of seconds"),
        ("segments", 0, "أمل-0 أمل 0 0.4 left", "segments, line 1: the channel must be a channel"),
        ("segments", 0, "أمل-0 أمل 0", "segments, line 1: it must hold: utterance recording start end"),
        ("segments", 0, "أمل-0 أمل 0 0.4 0 0", "segments, line 1: it must hold: utterance recording start end"),
        ("segments", 0, "أمل-0 أمل 0.4 0.3", "segments, line 1: a cut from 0.4 to 0.3 s is impossible"),
        ("segments", 0, "أمل-0 أمل 0.4 30", "text, line 1: ends at 30 s of .*, which lasts 2 s"),
        ("segments", 1, "أمل-0 أمل 0 0.4", "segments, line 2: أمل-0 is on line 1 too; keep one"),
        ("utt2spk", 0, "أمل-0", "utt2spk, line 1: it must hold: utterance speaker"),
        ("utt2spk", 0, "أمل-0 a b", "utt2spk, line 1: it must hold: utterance speaker"),
        ("text", 0, "another-0 نص", "another-0 has no speaker in utt2spk"),
        ("text", 0, "another-0 نص", "أمل-0: has audio, but no line in text"),
        ("wav.scp", 0, "أمل", "wav.scp, line 1: '' names no file"),
    ],
)
def test_wrong_lines_of_kaldi_are_named(name: str, number: int, line: str, message: str, tmp_path: Path) -> None:
    source = kaldi_cuts_form(tmp_path)
    lines = (source / name).read_text(encoding="utf-8").splitlines()
    lines[number] = line
    write_lines(source / name, lines)
    with pytest.raises(InputError, match=message):
        build_data(source, tmp_path / "out", eval_share=0)
    found, _ = built(source, tmp_path / "out", drop_invalid=True)
    assert all(TEXTS[text] == speaker for text, speaker in found.items()) and len(found) >= 8


def test_two_utterances_with_one_audio_are_refused(tmp_path: Path) -> None:
    source = kaldi_cuts_form(tmp_path)
    lines = (source / "segments").read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].split()[0] + " " + lines[0].split(maxsplit=1)[1]
    write_lines(source / "segments", lines)
    with pytest.raises(InputError, match=r"\(2\):\n.*text, line 1: 2 utterances have the audio .*wav \("):
        build_data(source, tmp_path / "out", eval_share=0)
    found, _ = built(source, tmp_path / "out", drop_invalid=True)
    assert found.keys() == TEXTS.keys() - {words(SPEAKERS[0], 0), words(SPEAKERS[0], 1)}


def test_a_cut_that_ends_a_little_late_is_shortened_with_a_word(tmp_path: Path) -> None:
    source = kaldi_cuts_form(tmp_path)
    lines = (source / "segments").read_text(encoding="utf-8").replace("1.50 1.90", "1.50 2.30").splitlines()
    write_lines(source / "segments", lines)
    found, said = built(source, tmp_path / "out")
    assert found == TEXTS and "cuts that end up to 0.5 s after their file and are shortened: 3" in said

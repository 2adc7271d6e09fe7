"""Tests of prepare_data build: every form of source becomes ChatML that training reads, with valid pairs and sides."""

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import read_json_records, read_records
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.cloning_example import has_as_written_turns
from boson_multimodal.data_types import parse_sample
from boson_multimodal.errors import InputError
from tests.chatml_files import load, make_cache, noise, write_clip
from tests.goldens import SAMPLES_DIR, needs_samples
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.build import SUMMARY_FILE, TRAIN_FILE, VAL_FILE, build_data, detect_form
from voice_cloning.corpora.pairing import REFERENCE_SECONDS, pair, split
from voice_cloning.corpora.utterances import Utterance

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


FORMS = {
    "clips": clips_form,
    "common_voice": common_voice_form,
    "csv": csv_form,
    "jsonl": jsonl_form,
    "kaldi": kaldi_form,
    "arrow": arrow_form,
    "parquet": parquet_form,
}


def records_of(folder: Path, name: str = TRAIN_FILE) -> list[dict[str, Any]]:
    return read_json_records(folder / name)


def clips_of(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the audio parts of (reference, target)."""
    return record["messages"][1]["content"][1], record["messages"][2]["content"][1]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_detected_and_becomes_data_that_training_reads(
    form: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "source").mkdir()
    source = FORMS[form](tmp_path / "source")
    summary = build_data(source, tmp_path / "out", eval_share=0.3)
    assert summary["utterances"] == 12 and summary["speakers"] == 3
    assert summary["train"]["samples"] == 8 and summary["val"]["samples"] == 4
    said = {
        words(speaker, i): (speaker, 10 * s + i, i) for s, speaker in enumerate(SPEAKERS) for i in range(CLIPS_EACH)
    }
    for name in (TRAIN_FILE, VAL_FILE):
        dataset = load(tmp_path / "out" / name, tokenizer, make_cache(tmp_path / "cache"))
        assert len(dataset) == len(records_of(tmp_path / "out", name)) > 0
        for record in records_of(tmp_path / "out", name):
            for part, text in zip(clips_of(record), ("ref_transcript", "target_transcript"), strict=True):
                speaker, seed, i = said[record["misc"][text]]
                assert record["speaker"] == speaker
                assert not Path(part["audio_url"]).is_absolute()
                wave, rate = soundfile.read(tmp_path / "out" / part["audio_url"], dtype="float32")
                assert wave == pytest.approx(noise(0.2 + 0.05 * i, seed=seed)[:, 0], abs=1e-4), "the text's own clip"
                assert part["duration"] == pytest.approx(len(wave) / rate)


def test_records_have_the_form_of_the_original_chatml_data(tmp_path: Path) -> None:
    build_data(clips_form(tmp_path / "source"), tmp_path / "out", eval_share=0)
    record = records_of(tmp_path / "out")[0]
    sample, problems = parse_sample(record)
    assert problems == [] and has_as_written_turns(sample)
    assert list(record) == ["messages", "start_index", "speaker", "misc"]
    assert list(record["misc"]) == ["sample_id", "ref_transcript", "target_transcript", "duration"]
    assert record["misc"]["duration"] == clips_of(record)[1]["duration"]
    assert not (tmp_path / "out" / VAL_FILE).exists()


@needs_samples
def test_records_have_the_same_structure_as_the_real_samples(tmp_path: Path) -> None:
    build_data(clips_form(tmp_path / "source"), tmp_path / "out", eval_share=0)
    ours, theirs = records_of(tmp_path / "out")[0], records_of(SAMPLES_DIR)[0]

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return [shape(item) for item in value] if isinstance(value, list) else type(value)

    assert shape(ours) == shape(theirs)
    assert ours["messages"][0] == theirs["messages"][0]


def test_ljspeech_is_one_voice_and_prefers_the_normalised_text(tmp_path: Path) -> None:
    lines = [f"LJ-{i}|سنة {i}|سنة {'و' * (i + 1)}" for i in range(3)]
    write_lines(tmp_path / "metadata.csv", [*lines, 'LJ-3|قال "نعم|'])
    for i in range(4):
        write_clip(tmp_path / "wavs" / f"LJ-{i}.wav", seed=i)
    assert detect_form(tmp_path) == "ljspeech"
    build_data(tmp_path, tmp_path / "out", eval_share=0)
    records = records_of(tmp_path / "out")
    assert {r["misc"]["target_transcript"] for r in records} == {"سنة و", "سنة وو", "سنة ووو", 'قال "نعم'}
    assert {r["speaker"] for r in records} == {tmp_path.name}
    build_data(tmp_path, tmp_path / "written", eval_share=0, text_column="text")
    assert "سنة 0" in {r["misc"]["target_transcript"] for r in records_of(tmp_path / "written")}


def test_kaldi_segments_are_cuts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_clip(tmp_path / "long.wav", 3.0)
    write_lines(tmp_path / "wav.scp", ["long long.wav"])
    write_lines(tmp_path / "segments", ["a long 0.5 1.25", "b long 1.5 2.0", "c long 2.0 -1", "d long 0.0 0.6"])
    write_lines(tmp_path / "text", ["a أول", "b ثان", "c ثالث", "d رابع"])
    write_lines(tmp_path / "utt2spk", [f"{u} amal" for u in "abcd"])
    build_data(tmp_path, tmp_path / "out", eval_share=0)
    whole = noise(3.0)[:, 0]
    cuts = {"a": (0.5, 0.75), "b": (1.5, 0.5), "c": (2.0, 1.0), "d": (0.0, 0.6)}
    for read in read_records(tmp_path / "out" / TRAIN_FILE, tokenizer, "as_written"):
        offset, duration = cuts[read.sample_id]
        reference, target = (used.clip for used in read.clips)
        wave = read_waveform(target).samples
        first = round(offset * 24_000)
        assert wave.numpy() == pytest.approx(whole[first : first + round(duration * 24_000)], abs=1e-4)
        if read.sample_id in "ad":
            other = Clip(tmp_path / "out" / ".." / "long.wav", *cuts["d" if read.sample_id == "a" else "a"])
            assert (reference.offset, reference.duration) != (other.offset, other.duration), "they overlap"


@pytest.mark.parametrize(("speaker_from", "expected"), [("name", {"s1", "s2"}), ("one", {"one"})])
def test_speakers_of_clips_come_from_names_or_are_one(tmp_path: Path, speaker_from: str, expected: set[str]) -> None:
    for i, name in enumerate(("s1_a", "s1_b", "s2-a", "s2-b")):
        write_clip(tmp_path / "in" / f"{name}.flac", seed=i).with_suffix(".txt").write_text(f"نص {name}", "utf-8")
    build_data(tmp_path / "in", tmp_path / "out", eval_share=0, speaker_from=speaker_from)
    assert {r["speaker"] for r in records_of(tmp_path / "out")} == expected


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [f"{name};{text};{who}" for name, text, who in sources(tmp_path)]
    table = write_lines(tmp_path / "list.csv", ["datei;worte;stimme", *rows])
    columns = {"audio_column": "datei", "text_column": "worte", "speaker_from": "stimme"}
    assert build_data(table, tmp_path / "out", **columns)["speakers"] == 3
    with pytest.raises(InputError) as caught:
        build_data(table, tmp_path / "out", audio_column="file", speaker_from="voice")
    for part in ("--audio_column file", "--speaker_from voice", "--text_column", "['datei', 'worte', 'stimme']"):
        assert part in str(caught.value)


def test_a_speaker_with_one_clip_is_listed_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = clips_form(tmp_path / "source")
    write_clip(source / "einsam" / "0.wav").with_suffix(".txt").write_text("وحدي", encoding="utf-8")
    for i in range(2):
        write_clip(source / "echo" / f"{i}.wav", seed=i).with_suffix(".txt").write_text("نفس الكلام", encoding="utf-8")
    assert main(["build", str(source), "--output_dir", str(tmp_path / "out"), "--eval_share", "0"]) == 0
    summary = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["left_out"]["speakers_with_one_clip"] == ["einsam"]
    assert summary["left_out"]["utterances_without_other_words"] == ["echo/0", "echo/1"]
    assert {r["speaker"] for r in records_of(tmp_path / "out")} == set(SPEAKERS)
    assert "left out, speakers with one clip (1): einsam" in capsys.readouterr().err


def test_all_problems_are_listed_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but no more")
    rows = ["path,text,speaker", "good.wav,نعم,a", "gone.wav,نعم,a", "broken.wav,نعم,a", "good.wav,لا,a", ",نعم,a"]
    rows += ["other.wav,,a", "third.wav,نعم,", "good.wav,<|eot_id|>,a", f"{'x' * 300}.wav,نعم,a"]
    table = write_lines(tmp_path / "list.csv", rows)
    assert main(["build", str(table), "--output_dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    for part in (
        "gone.wav: no such file",
        "broken.wav: not readable as audio",
        "good: 3 utterances have this id",
        "line 6: no audio file is named",
        "line 7: the text is empty",
        "line 8: no speaker is named",
        "<|eot_id|>",
        "xxx.wav: no such file",
    ):
        assert part in message
    assert not (tmp_path / "out").exists()


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
    for name in ("train.tsv", "dev.tsv"):
        write_lines(tmp_path / name, ["path\tsentence\tclient_id"])
    with pytest.raises(InputError, match=r"give the table itself.*dev\.tsv, train\.tsv"):
        build_data(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="holds no utterance"):
        build_data(tmp_path / "train.tsv", tmp_path / "out")


def test_a_repeated_call_changes_nothing_and_other_content_needs_overwrite(tmp_path: Path) -> None:
    source, out = clips_form(tmp_path / "source"), tmp_path / "out"
    build_data(source, out, eval_share=0.3)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    build_data(source, out, eval_share=0.3)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    with pytest.raises(InputError, match="--overwrite") as caught:
        build_data(source, out, eval_share=0)
    assert VAL_FILE in str(caught.value), "the old evaluation file would hold samples of the new training file"
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    build_data(source, out, eval_share=0, overwrite=True)
    assert not (out / VAL_FILE).exists() and len(records_of(out)) == 12


def test_clips_of_a_data_set_are_not_overwritten_either(tmp_path: Path) -> None:
    source, out = parquet_form(tmp_path), tmp_path / "out"
    build_data(source, out)
    clip = next((out / "clips").iterdir())
    content = clip.read_bytes()
    build_data(source, out)
    clip.write_bytes(b"mine")
    with pytest.raises(InputError, match=clip.name):
        build_data(source, out)
    assert clip.read_bytes() == b"mine"
    build_data(source, out, overwrite=True)
    assert clip.read_bytes() == content


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


def test_cells_may_hold_paths_but_not_nothing(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    audio = [{"bytes": None, "path": str(write_clip(tmp_path / f"{i}.wav", seed=i))} for i in range(3)]
    texts = ["واحد", "اثنان", "ثلاثة"]
    hub = tmp_path / "hub"
    hub.mkdir()
    parquet.write_table(arrow.table({"audio": audio, "text": texts}), hub / "a.parquet")
    build_data(hub, tmp_path / "out", eval_share=0, speaker_from="one")
    assert not (tmp_path / "out" / "clips").exists()
    assert clips_of(records_of(tmp_path / "out")[0])[1]["audio_url"] == "../0.wav"
    bad = [audio[0], {"bytes": None, "path": None}, {"bytes": b"no audio", "path": None}]
    parquet.write_table(arrow.table({"audio": bad, "text": texts}), hub / "a.parquet")
    with pytest.raises(InputError, match=r"\(2\)") as caught:
        build_data(hub, tmp_path / "out2", speaker_from="one")
    assert "row 1: column audio holds neither bytes nor a path" in str(caught.value)
    assert "row 2: column audio: not readable as audio" in str(caught.value)


def crowd(speakers: int, each: int) -> list[Utterance]:
    """Return ``each`` utterances of 0.5 to 15 s of each speaker."""
    return [
        Utterance(
            f"{s}-{i}", Path(f"{s}/{i}.wav"), f"نص {i % 40}", f"s{s}", "", seconds=0.5 + (7 * s + i * 13) % 30 / 2
        )
        for s in range(speakers)
        for i in range(each)
    ]


@pytest.mark.parametrize("references", [1, 3])
def test_a_pair_has_one_speaker_two_utterances_and_two_texts(references: int) -> None:
    everyone = crowd(20, 30)
    found = pair(everyone, references, seed=0)
    assert Counter(t.utterance_id for t, _, _ in found.pairs) == {u.utterance_id: references for u in everyone}
    for target, reference, _ in found.pairs:
        assert target.speaker == reference.speaker
        assert target.utterance_id != reference.utterance_id and target.text != reference.text
        assert REFERENCE_SECONDS[0] <= reference.seconds <= REFERENCE_SECONDS[1], "there are enough of these"
    assert len({(t.utterance_id, r.utterance_id) for t, r, _ in found.pairs}) == references * len(everyone)
    used = Counter(r.utterance_id for _, r, _ in found.pairs)
    assert len(used) > 0.6 * sum(3 <= u.seconds <= 10 for u in everyone), "many clips are used as references"


def test_missing_references_are_counted_and_the_closest_lengths_come_first() -> None:
    lengths = {"t": 5.0, "short": 1.0, "nearly": 2.5, "long": 40.0}
    voice = [Utterance(name, Path(name), name, "s", "", seconds=seconds) for name, seconds in lengths.items()]
    found = pair(voice, 2, seed=0)
    assert [r.utterance_id for t, r, _ in found.pairs if t.utterance_id == "t"] == ["nearly", "short"]
    assert pair(voice, 4, seed=0).short == 4


def test_choices_depend_on_the_seed_and_not_on_the_order() -> None:
    everyone = crowd(10, 12)

    def choices(utterances: list[Utterance], seed: int) -> list[Any]:
        train, held = split(utterances, "speaker", 0.2, seed)
        pairs = sorted((t.utterance_id, r.utterance_id) for t, r, _ in pair(train, 1, seed).pairs)
        return [sorted(u.utterance_id for u in held), pairs]

    assert choices(everyone, 0) == choices(everyone[::-1], 0)
    assert choices(everyone, 0) != choices(everyone, 1)


@pytest.mark.parametrize("seed", range(5))
def test_no_speaker_is_on_both_sides(seed: int) -> None:
    everyone = crowd(20, 10) + [Utterance(f"big-{i}", Path(f"{i}"), f"{i}", "big", "", seconds=4.0) for i in range(300)]
    train, held = split(everyone, "speaker", 0.1, seed)
    assert len(train) + len(held) == len(everyone) and train and held
    assert not {u.speaker for u in train} & {u.speaker for u in held}
    assert 0.08 <= len(held) / len(everyone) <= 0.12


@pytest.mark.parametrize("seed", range(5))
def test_split_by_utterance_no_utterance_is_on_both_sides_even_as_a_reference(seed: int) -> None:
    everyone = crowd(10, 20)
    sides = split(everyone, "utterance", 0.1, seed)
    used = [{u.utterance_id for t, r, _ in pair(side, 2, seed).pairs for u in (t, r)} for side in sides]
    assert not used[0] & used[1]
    assert len(used[0] | used[1]) == len(everyone), "each utterance has a reference on its side"
    assert 0.1 <= len(sides[1]) / len(everyone) < 0.13


def test_several_references_make_several_samples_with_different_ids(tmp_path: Path) -> None:
    summary = build_data(clips_form(tmp_path / "source"), tmp_path / "out", eval_share=0, references_per_target=2)
    records = records_of(tmp_path / "out")
    assert summary["train"]["samples"] == len(records) == 24
    ids = [r["misc"]["sample_id"] for r in records]
    assert len(set(ids)) == 24 and "badr/0" in ids and "badr/0_ref2" in ids
    assert all(len({part["audio_url"] for part in clips_of(r)}) == 2 for r in records)


def test_paths_are_right_with_links(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """``link/..`` is the parent of the link's target, not of the link."""
    clips_form(tmp_path / "a" / "b" / "source")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "x" / "y")
    build_data(tmp_path / "link" / "source", tmp_path / "out" / "z", eval_share=0)
    assert len(load(tmp_path / "out" / "z" / TRAIN_FILE, tokenizer, make_cache(tmp_path / "cache"))) == 12


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
def test_recorded_lengths_of_compressed_clips_match_the_decoded_audio(tmp_path: Path, kind: str) -> None:
    for i in range(2):
        file = io.BytesIO()
        soundfile.write(file, noise(0.7, seed=i), 24_000, format=kind)
        path = tmp_path / "in" / f"{i}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.getvalue())
        path.with_suffix(".txt").write_text(f"نص {i}", encoding="utf-8")
    build_data(tmp_path / "in", tmp_path / "out", eval_share=0)
    for record in records_of(tmp_path / "out"):
        clip = Clip(tmp_path / "out" / clips_of(record)[1]["audio_url"], 0.0, None)
        assert read_waveform(clip).seconds == pytest.approx(record["misc"]["duration"])

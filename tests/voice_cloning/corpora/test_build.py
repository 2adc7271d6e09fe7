"""Every form of source becomes ChatML that training reads."""

import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import read_records
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.cloning_example import has_as_written_turns
from boson_multimodal.data_types import parse_sample
from boson_multimodal.errors import InputError
from tests.chatml_files import load, make_cache, noise, write_clip
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.voice_cloning.corpora.source_forms import (
    CLIPS_EACH,
    FORMS,
    SPEAKERS,
    clips_form,
    clips_of,
    parquet_form,
    records_of,
    sources,
    words,
    write_lines,
)
from voice_cloning.corpora.build import TRAIN_FILE, VAL_FILE, build_data
from voice_cloning.corpora.sources import detect_form


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
        assert read.names == [used.name for used in read.clips] and len(read.names) == 2
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

"""Corpora as Parquet: samples as 64-bit floats, cuts beside recordings, folders of countries, and what is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from arabic_text.buckwalter import from_buckwalter
from tests.voice_cloning.corpora.built_corpora import built, refusal
from tests.voice_cloning.corpora.corpus_stores import (
    BUCKWALTER,
    CLARTTS_RATE,
    SECONDS,
    as_audio,
    casablanca,
    clartts,
    clartts_text,
    halabi_parquet,
    sada_parquet,
    sound,
    write_parquet,
)
from tests.voice_cloning.corpora.source_forms import clips_of


@pytest.mark.parametrize("scale", [1.0, 32768.0], ids=["unit", "int16"])
def test_samples_of_clartts_are_written_exactly(scale: float, tmp_path: Path) -> None:
    truth = clartts(tmp_path / "corpus", scale)
    records, said = built(truth.source, tmp_path / "out")
    assert {record["speaker"] for record in records} == {"ClArTTS"}
    assert "speaker: none is named; this is ClArTTS, which has one voice" in said
    assert "rate of bare samples: column sampling_rate" in said
    counted = "rows with samples of 16 bits as other numbers, which are divided by 32768: 8"
    assert (counted in said) == (scale != 1)
    numbers = {clartts_text(i): i for i in range(8)}
    assert len(records) == 8
    for record in records:
        part = clips_of(record)[1]
        read, rate = soundfile.read(tmp_path / "out" / part["audio_url"], dtype="float64")
        number = numbers[record["misc"]["target_transcript"]]
        assert rate == CLARTTS_RATE and np.array_equal(read, sound(SECONDS[number % 4], CLARTTS_RATE, number))


def test_another_corpus_without_speakers_is_asked_for_them(tmp_path: Path) -> None:
    audio = [sound(seconds, 16_000, i) for i, seconds in enumerate(SECONDS)]
    columns = {
        "text": ("string", ["جملة", "أخرى", "ثالثة", "رابعة"]),
        "file": ("string", [f"{i}.wav" for i in range(4)]),
        "audio": ("list<float64>", audio),
        "sampling_rate": ("int64", [16_000] * 4),
        "duration": ("float64", list(SECONDS)),
    }
    write_parquet(tmp_path / "hub" / "train.parquet", columns)
    message = refusal(tmp_path / "hub", tmp_path / "out")
    assert "--speaker_from: name a column" in message and "column file holds such as '0.wav'" in message
    records, _ = built(tmp_path / "hub", tmp_path / "out", speaker_from="one")
    assert len(records) == 4
    del columns["sampling_rate"]
    write_parquet(tmp_path / "hub" / "train.parquet", columns)
    message = refusal(tmp_path / "hub", tmp_path / "out2", speaker_from="one")
    assert "column audio holds samples, but no column their rate; add a column sampling_rate" in message
    columns["SampleRate"] = ("int64", [16_000] * 4)
    write_parquet(tmp_path / "hub" / "train.parquet", columns)
    assert len(built(tmp_path / "hub", tmp_path / "out2", speaker_from="one")[0]) == 4


def test_the_country_of_casablanca_is_that_of_the_folder(tmp_path: Path) -> None:
    truth = casablanca(tmp_path / "corpus")
    message = refusal(truth.source, tmp_path / "out")
    assert "column seg_id holds such as 'algeria_ep0_0002'" in message
    assert "folder takes all clips of Algeria for one voice" in message and "cluster tells the voices apart" in message
    assert "seg_id holds such as 'egypt_ep1_0002'" in message, "each country is named"
    records, said = built(truth.source, tmp_path / "out", speaker_from="folder")
    found = {(r["speaker"], r["misc"]["country"], r["misc"]["dialect"], r["misc"]["gender"]) for r in records}
    assert found == {
        (country, country, dialect, gender)
        for country, dialect in (("Algeria", "Algerian"), ("Egypt", "Egyptian"))
        for gender in ("male", "female")
    }
    assert "country: Egypt, as a folder or file is called" in said
    named, _ = built(truth.source, tmp_path / "out1", speaker_from="name")
    assert {record["speaker"] for record in named} == {"algeria", "egypt"}
    alone = tmp_path / "egyptian_test-00000-of-00001.parquet"
    shutil.copy(truth.source / "Egypt" / "test-00000-of-00001.parquet", alone)
    assert {r["misc"]["country"] for r in built(alone, tmp_path / "out2", speaker_from="one")[0]} == {"Egypt"}


def test_columns_of_a_copy_of_sada_are_kept(tmp_path: Path) -> None:
    records, said = built(sada_parquet(tmp_path / "corpus").source, tmp_path / "out")
    assert {(r["misc"]["dialect"], r["misc"]["gender"], r["misc"]["environment"]) for r in records} == {
        ("Najdi", "Male", "Clean"),
        ("Hijazi", "Female", "Clean"),
    }
    assert "dialect (column speaker_dialect)" in said
    cleaned, _ = built(tmp_path / "corpus", tmp_path / "out2", text_column="cleaned_text")
    assert not any("،" in record["misc"]["target_transcript"] for record in cleaned)


def sada_cuts(folder: Path, holds_recording: bool, late: float = 0.0) -> Path:
    """Write a copy of SADA whose rows have the times of cuts, as texts, and hold the recording or the cut."""
    recording = sound(4.0, 16_000, seed=1)
    times = [(0.5, 1.25), (1.5, 2.0), (2.0, 3.5), (3.0, 4.0 + late)]
    waves = [recording if holds_recording else recording[round(a * 16_000) : round(b * 16_000)] for a, b in times]
    columns = {
        "FileName": ("string", ["batch_1/show.wav"] * 4),
        "SegmentStart": ("string", [f"{start:.3f}" for start, _ in times]),
        "SegmentEnd": ("string", [f"{end:.3f}" for _, end in times]),
        "SegmentLength": ("string", [f"{end - start:.3f}" for start, end in times]),
        "speaker": ("string", ["one"] * 4),
        "text": ("string", ["جملة", "أخرى", "ثالثة", "رابعة"]),
        "SegmentAudio": ("audio", [as_audio(wave, 16_000, "x.wav") for wave in waves]),
    }
    return write_parquet(folder / "train.parquet", columns)


@pytest.mark.parametrize("holds_recording", [True, False], ids=["recording", "cut"])
def test_a_cut_is_found_in_the_recording_or_is_there_already(holds_recording: bool, tmp_path: Path) -> None:
    records, said = built(sada_cuts(tmp_path / "hub", holds_recording), tmp_path / "out")
    assert f"rows that hold {'a recording, of which' if holds_recording else 'the cut itself; their times'}" in said
    recording, cuts = sound(4.0, 16_000, seed=1), {"جملة": 0.5, "أخرى": 1.5, "ثالثة": 2.0, "رابعة": 3.0}
    assert len(records) == 4
    for record in records:
        read, _ = soundfile.read(tmp_path / "out" / clips_of(record)[1]["audio_url"], dtype="float64")
        start = round(cuts[record["misc"]["target_transcript"]] * 16_000)
        assert np.array_equal(read, recording[start : start + len(read)])
        assert len(read) / 16_000 == record["misc"]["duration"] == clips_of(record)[1]["duration"]


def test_a_copy_of_sada_with_the_columns_of_its_tables(tmp_path: Path) -> None:
    recordings = [sound(4.0, 16_000, seed=episode) for episode in range(2)]
    rows = [(episode, start) for episode in range(2) for start in (0.5, 1.5, 2.5, 3.0)]
    speakers = ["Speaker1متحدث 1", "Speaker1متحدث 1", None, "Unknown"] * 2
    texts = [f"جملة {'ا' * (i + 1)}" for i in range(8)]
    columns = {
        "audio": ("audio", [as_audio(recordings[episode], 16_000, "x.wav") for episode, _ in rows]),
        "ProcessedText": ("string", [*texts[:-1], None]),
        "ShowName": ("string", ["show"] * 8),
        "SegmentID": ("string", [f"60k_SBA_{episode}_0-seg_{start:.3f}" for episode, start in rows]),
        "SegmentStart": ("string", [f"{start:.3f}" for _, start in rows]),
        "SegmentEnd": ("string", [f"{start + 0.75:.3f}" for _, start in rows]),
        "SpeakerDialect": ("string", ["Najdi"] * 8),
        "Speaker": ("string", speakers),
    }
    write_parquet(tmp_path / "hub" / "data" / "train.parquet", columns)
    records, said = built(tmp_path / "hub", tmp_path / "out")
    assert {record["speaker"] for record in records} == {f"60k_SBA_{i}_0/Speaker1متحدث 1" for i in range(2)}
    assert {record["misc"]["target_transcript"] for record in records} == {texts[i] for i in (0, 1, 4, 5)}
    assert "corpus: SADA" in said and "licence: CC BY-NC-SA 4.0" in said and "no commercial use" in said
    assert "left aside: 4 segments of an unknown speaker" in said


def test_audio_without_a_name_names_no_speaker(tmp_path: Path) -> None:
    columns = {
        "audio": ("audio", [as_audio(sound(0.6, 16_000, i), 16_000, "") for i in range(2)]),
        "text": ("string", ["جملة", "أخرى"]),
    }
    write_parquet(tmp_path / "amal" / "train.parquet", columns)
    message = refusal(tmp_path / "amal", tmp_path / "out", speaker_from="name")
    assert "row 1: --speaker_from name: the audio in column audio has no name of a file" in message
    assert built(tmp_path / "amal", tmp_path / "out", speaker_from="folder")[0][0]["speaker"] == "amal"


def test_a_cut_past_the_end_is_named(tmp_path: Path) -> None:
    message = refusal(sada_cuts(tmp_path / "hub", True, late=2.0), tmp_path / "out")
    assert "row 3: its cut is from 3 to 6 s, which lasts 3 s, but the audio in the row lasts 4 s" in message


def test_all_files_that_cannot_be_read_are_named_before_any_row(tmp_path: Path) -> None:
    truth = clartts(tmp_path / "corpus")
    for i in range(3):
        pointer = truth.source / "data" / f"train-0000{i}-of-00003.parquet"
        pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (truth.source / "data" / "zero.parquet").write_bytes(b"")
    message = refusal(truth.source, tmp_path / "out")
    assert "(2):" in message and "train-00000-of-00003.parquet: is a pointer of Git LFS" in message
    assert "git lfs pull (and 2 more files)" in message and "zero.parquet: not readable" in message
    message = refusal(truth.source / "data" / "test-00000-of-00001-97f968086568e9cf.parquet", tmp_path / "out",
                      text_column="sentence", audio_column="sound")  # fmt: skip
    assert "--audio_column sound: unknown column" in message and "--text_column sentence: unknown column" in message


def test_files_that_a_column_names_are_found_beside_the_data_file(tmp_path: Path) -> None:
    (tmp_path / "hub" / "train" / "audio").mkdir(parents=True)
    for i in range(3):
        soundfile.write(tmp_path / "hub" / "train" / "audio" / f"{i}.wav", sound(0.6, 16_000, i), 16_000)
    columns = {
        "file_name": ("string", [f"audio/{i}.wav" for i in range(4)]),
        "text": ("string", ["جملة", "أخرى", "ثالثة", "رابعة"]),
        "speaker": ("string", ["one"] * 4),
    }
    write_parquet(tmp_path / "hub" / "train" / "metadata.parquet", columns)
    assert "audio/3.wav: no such file" in refusal(tmp_path / "hub", tmp_path / "out")
    records, _ = built(tmp_path / "hub", tmp_path / "out", drop_invalid=True)
    assert len(records) == 3


def test_the_arabic_speech_corpus_has_one_voice_and_arabic_letters(tmp_path: Path) -> None:
    records, said = built(halabi_parquet(tmp_path / "corpus").source, tmp_path / "out")
    assert {record["speaker"] for record in records} == {"Arabic Speech Corpus"}
    assert "this is Arabic Speech Corpus, which has one voice" in said
    assert "texts in Buckwalter's transliteration, turned into Arabic letters" in said
    found = {record["misc"]["target_transcript"] for record in records}
    assert found == {from_buckwalter(text) for text in BUCKWALTER} and not any("\ufeff" in text for text in found)

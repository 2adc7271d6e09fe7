"""``--speaker_from cluster``: speakers that are named by their voices.

Most tests hear tones: the stub of the speaker model takes the loudest frequency of a clip for its voice.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from boson_multimodal.errors import InputError
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.voice_cloning.corpora.source_forms import built, records_of, write_lines
from tests.voice_cloning.speech.test_speaker_embedding import needs_resemblyzer
from tools.prepare_data.__main__ import main
from voice_cloning.corpora import voice_clusters
from voice_cloning.corpora.build import SUMMARY_FILE, build_data
from voice_cloning.corpora.utterances import Collection, Utterance
from voice_cloning.corpora.voice_clusters import name_speakers, speakers_by_voice
from voice_cloning.speech import clip_voices
from voice_cloning.speech.speaker_embedding import SpeakerEmbedding

RATE = 8_000
PITCHES = (300, 500, 700)
CLIPS = (4, 3, 2)
"""Clips of each voice."""
CALLED = {300: "voice-0001", 500: "voice-0002", 700: "voice-0003"}


class HearsTones:
    """A speaker model whose voices are the multiples of 100 Hz."""

    class device:
        type = "cpu"

    def embed(self, wave: np.ndarray, sampling_rate: int, least_seconds: float) -> SpeakerEmbedding | None:
        seconds = len(wave) / sampling_rate
        if seconds < least_seconds or not wave.any():
            return None
        spectrum = np.abs(np.fft.rfft(wave))
        vector = np.zeros(40, np.float32)
        vector[round(spectrum.argmax() / seconds / 100)] = 1.0
        return SpeakerEmbedding(vector, seconds)


@pytest.fixture
def hears_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (voice_clusters, clip_voices):
        monkeypatch.setattr(module, "loaded_model", lambda name: HearsTones())
    monkeypatch.setattr(voice_clusters, "is_resemblyzer_installed", lambda: True)


def tone(pitch: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def tones(folder: Path) -> list[tuple[str, str, int]]:
    """Write a clip of 2 s or more for each utterance. Return (name, text, pitch), mixed."""
    rows = []
    for pitch, clips in zip(PITCHES, CLIPS, strict=True):
        for i in range(clips):
            rows.append((f"{pitch * 7919 % 1000}{i}", f"جملة {'ا' * (i + 1)} {'و' * (pitch // 100)}", pitch))
            (folder / "clips").mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "clips" / f"{rows[-1][0]}.wav", tone(pitch, 2.0 + 0.25 * i), RATE)
    return sorted(rows)


def clips_form(folder: Path) -> tuple[Path, dict[str, int]]:
    rows = tones(folder)
    for name, text, _ in rows:
        (folder / "clips" / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder, {text: pitch for _, text, pitch in rows}


def table_form(folder: Path) -> tuple[Path, dict[str, int]]:
    """Write a table with a column of speakers that are not asked for."""
    rows = tones(folder)
    lines = [f"{name}.wav\t{text}\tanybody" for name, text, _ in rows]
    return write_lines(folder / "list.tsv", ["path\tsentence\tclient_id", *lines]), {t: p for _, t, p in rows}


def list_form(folder: Path) -> tuple[Path, dict[str, int]]:
    rows = tones(folder)
    write_lines(folder / "metadata.csv", [f"{name}|{text}|{text}" for name, text, _ in rows])
    return folder, {text: pitch for _, text, pitch in rows}


def cuts_form(folder: Path) -> tuple[Path, dict[str, int]]:
    """Write cuts of one file, whose second channel holds the voices in reverse order."""
    pitches = [pitch for pitch, clips in zip(PITCHES, CLIPS, strict=True) for _ in range(clips)]
    random.Random(0).shuffle(pitches)
    left = np.concatenate([tone(pitch, 2.0) for pitch in pitches])
    right = np.concatenate([tone(pitch, 2.0) for pitch in reversed(pitches)])
    soundfile.write(folder / "long.wav", np.stack([left, right], axis=1), RATE)
    rows = [(f"{i} {'ا' * (i + 1)}", 2.0 * i, i % 2) for i in range(len(pitches))]
    truth = {text: (pitches[::-1] if channel else pitches)[i] for i, (text, _, channel) in enumerate(rows)}
    lines = [f"long.wav,{text},{start},{start + 2.0},{channel}" for text, start, channel in rows]
    return write_lines(folder / "cuts.csv", ["path,text,start,end,channel", *lines]), truth


def parquet_form(folder: Path) -> tuple[Path, dict[str, int]]:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = tones(folder / "origin")
    audio = [{"bytes": (folder / "origin" / "clips" / f"{name}.wav").read_bytes(), "path": None} for name, _, _ in rows]
    parquet.write_table(arrow.table({"audio": audio, "text": [t for _, t, _ in rows]}), folder / "train.parquet")
    return folder / "train.parquet", {text: pitch for _, text, pitch in rows}


@pytest.mark.parametrize("form", [clips_form, table_form, list_form, cuts_form, parquet_form])
def test_each_form_gets_speakers_by_voice(form: Any, tmp_path: Path, hears_tones: None) -> None:
    source, truth = form(tmp_path)
    speakers, _ = built(source, tmp_path / "out", speaker_from="cluster")
    sizes = {pitch: list(truth.values()).count(pitch) for pitch in PITCHES}
    called = {pitch: f"voice-{i + 1:04d}" for i, pitch in enumerate(sorted(PITCHES, key=lambda pitch: -sizes[pitch]))}
    if form is not cuts_form:
        assert called == CALLED
    alone = {pitch for pitch, size in sizes.items() if size < 2}
    assert not alone, "each voice has a reference"
    assert set(speakers) == set(truth)
    if len(set(sizes.values())) == len(sizes):
        assert speakers == {text: called[pitch] for text, pitch in truth.items()}
    assert len({(speakers[text], pitch) for text, pitch in truth.items()}) == len(PITCHES), "one name for one voice"


def test_what_was_found_is_said(tmp_path: Path, hears_tones: None, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = clips_form(tmp_path)
    for name, pitch, seconds in (("shorter", 500, 1.2), ("strange", 900, 1.2), ("shortest", 300, 0.8)):
        soundfile.write(source / "clips" / f"{name}.wav", tone(pitch, seconds), RATE)
        (source / "clips" / f"{name}.txt").write_text(f"نص {name}", encoding="utf-8")
    command = ["build", str(source), "--output_dir", str(tmp_path / "out"), "--eval_share", "0"]
    assert main([*command, "--speaker_from", "cluster", "--where", "speaker != 'voice-0003'"]) == 0
    said = capsys.readouterr().out
    for part in (
        "speaker: the sound of the voice",
        "12 utterances, voices: grouped next",
        "speakers: 3 voices were found (resemblyzer, mean similarity from 0.9 on); they have from 4 to 2 clips",
        "these speakers are a guess",
        "clips with 1 to 2 s of speech that join the nearest voice: 1",
        "left aside, because they have too little speech to tell the voice: 2 clips, 0.00 h (clips/shortest, ",
        "keeps 8 of 10, leaves out 2",
    ):
        assert part in said
    summary = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["utterances"] == 8 and summary["speakers"] == 2
    assert any(fact.startswith("left aside, because they have too little speech") for fact in summary["read_as"])
    speakers = {r["misc"]["sample_id"]: r["speaker"] for r in records_of(tmp_path / "out")}
    assert speakers["clips/shorter"] == speakers["clips/5000"] != speakers["clips/7000"]


def test_a_clip_that_cannot_be_decoded_stops_or_is_left_out(tmp_path: Path, hears_tones: None) -> None:
    source, _ = clips_form(tmp_path)
    path = source / "clips" / "damaged.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 10 * RATE), RATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    path.with_suffix(".txt").write_text("تالف", encoding="utf-8")
    with pytest.raises(InputError, match=r"damaged\.txt: .*damaged\.flac"):
        build_data(source, tmp_path / "out", eval_share=0, speaker_from="cluster")
    summary = build_data(source, tmp_path / "out", eval_share=0, speaker_from="cluster", drop_invalid=True)
    assert summary["utterances"] == sum(CLIPS) and len(summary["left_out"]["invalid_entries"]) == 1


def test_clips_that_are_all_too_short_are_a_fault(tmp_path: Path, hears_tones: None) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", tone(300, 1.5), RATE)
        (tmp_path / f"{i}.txt").write_text(f"نص {'ا' * i}", encoding="utf-8")
    with pytest.raises(InputError, match="none of 3 clips has 2 s of speech"):
        build_data(tmp_path, tmp_path / "out", eval_share=0, speaker_from="cluster")


def test_a_column_of_that_name_is_the_speaker(tmp_path: Path) -> None:
    rows = tones(tmp_path)
    lines = [f"{name}.wav,{text},{'even' if i % 2 else 'odd'}" for i, (name, text, _) in enumerate(rows)]
    table = write_lines(tmp_path / "list.csv", ["path,text,cluster", *lines])
    speakers, _ = built(table, tmp_path / "out", speaker_from="cluster")
    assert set(speakers.values()) == {"even", "odd"}


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_clusters, "is_resemblyzer_installed", lambda: False)
    source, _ = clips_form(tmp_path)
    with pytest.raises(
        InputError, match="--speaker_from cluster: .* pip install --no-deps resemblyzer webrtcvad-wheels"
    ):
        build_data(source, tmp_path / "out", speaker_from="cluster")


def collection_of(count: int, seed: int | None = None) -> tuple[Collection, dict[str, SpeakerEmbedding | None]]:
    """Return utterances of three voices in turn, and their embeddings; with a seed in another order."""
    collection, found = Collection("table"), {}
    numbers = np.random.default_rng(0)
    voices = numbers.normal(0, 1, (3, 64))
    for i in range(count):
        vector = voices[i % 3] + numbers.normal(0, 0.1, 64)
        where = f"line {i}"
        found[where] = SpeakerEmbedding((vector / np.linalg.norm(vector)).astype(np.float32), 3.0 if i else 1.5)
        collection.add(Utterance(f"u{i:03d}", Path(f"{i}.wav"), "نص", "cluster", where, seconds=3.0))
    if seed is not None:
        random.Random(seed).shuffle(collection.utterances)
    return collection, found


def test_the_order_of_reading_changes_nothing() -> None:
    named = []
    for seed in (None, 1, 2):
        collection, found = collection_of(20, seed)
        ordered = sorted(collection.utterances, key=lambda u: u.utterance_id)
        name_speakers(collection, ordered, found, 0.9)
        named.append(({u.utterance_id: u.speaker for u in collection.utterances}, collection.facts))
        assert {u.speaker for u in ordered[::3]} == {"cluster"}, "utterances are replaced, not changed"
    assert named[0] == named[1] == named[2]
    speakers = named[0][0]
    assert [speakers[f"u{i:03d}"] for i in range(6)] == ["voice-0001", "voice-0002", "voice-0003"] * 2


@needs_samples
@needs_resemblyzer
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_real_voices_are_found(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if processes > 1:
        monkeypatch.setattr(voice_clusters, "FEW_CLIPS", 0)
        monkeypatch.setattr(voice_clusters, "available_cores", lambda: processes)
    collection, truth = Collection("table"), {}
    for speaker in ("00000001", "00000003", "00000004", "00000026"):
        for path in sorted((SAMPLES_DIR / "clips" / speaker).glob("*.flac"))[:4]:
            name = f"{speaker}/{path.stem}"
            collection.add(Utterance(name, path, "نص", "cluster", f"line {name}", seconds=5.0))
            truth[name] = speaker
    random.Random(0).shuffle(collection.utterances)
    speakers_by_voice(collection)
    found = {u.utterance_id: u.speaker for u in collection.utterances}
    assert found.keys() == truth.keys() and len(truth) == 16
    first = {speaker: f"voice-{i + 1:04d}" for i, speaker in enumerate(sorted(set(truth.values())))}
    assert found == {name: first[speaker] for name, speaker in truth.items()}

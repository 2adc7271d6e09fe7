"""``pack`` groups the targets of a speaker by their speech, from codes and from waveforms."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from boson_multimodal.prepared_data.prepared_folder import read_manifest
from tests.interrupted_writes import InterruptedWrites
from tests.voice_cloning.corpora.packed_data import contents
from tests.voice_cloning.corpora.spoken_corpus import SpokenCorpus, drawn, mixed_corpus
from tools.prepare_data.__main__ import main
from voice_cloning.corpora import packing_jobs, packing_references
from voice_cloning.data_check import same_targets
from voice_cloning.data_check.same_speech import resample_fft
from voice_cloning.data_check.same_targets import Groups


def groups(folder: Path) -> list[int]:
    """The group of each sample, numbered in the order in which groups occur."""
    found = drawn(folder)._speech.groups.tolist()
    return [list(dict.fromkeys(found)).index(group) for group in found]


def truth(corpus: SpokenCorpus) -> list[int]:
    return [list(dict.fromkeys(corpus.speech)).index(speech) for speech in corpus.speech]


@pytest.fixture
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_targets, "TARGETS_OF_JOB", 7)
    monkeypatch.setattr(same_targets, "PAIRS_OF_JOB", 1)


@pytest.mark.usefixtures("_small_jobs")
def test_copies_and_cuts_are_found_from_codes(demo: Path, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    assert groups(corpus.pack(demo)) == truth(corpus)
    known = read_manifest(tmp_path / "packed")["references"]
    assert known["findings"] == ["the same clip", "cuts of one file that overlap", "the same codes"]
    assert known["remarks"] == []


def test_many_copies_are_one_group_and_other_speakers_are_not_compared(demo: Path, tmp_path: Path) -> None:
    """Codes that occur more than 200 times are not looked for among fingerprints."""
    corpus = SpokenCorpus(tmp_path)
    first = corpus.add("a", 80)
    for _ in range(250):
        corpus.add("a", 80, like=first)
    corpus.add("a", 70, like=first)
    corpus.add("b", 80, like=first)
    corpus.add(None, 80, like=first)
    found = groups(corpus.pack(demo))
    assert found[:252] == [0] * 252 and found[252:] == [1, 2]


@pytest.mark.usefixtures("_small_jobs")
def test_a_changed_copy_is_found_by_its_waveform(demo: Path, tmp_path: Path) -> None:
    """Two speakers of the demo; a copy is cut, resampled and made louder, and its codes are others."""
    corpus = SpokenCorpus(tmp_path)
    for speaker in ("amal", "badr"):
        for path in sorted((demo / "clips" / speaker).glob("train_*.wav"))[:3]:
            number = corpus.add(speaker, 90)
            (tmp_path / corpus.names[number]).symlink_to(path)
        copy = corpus.add(speaker, 80, words="شكرا")
        wave, rate = soundfile.read(tmp_path / corpus.names[number], dtype="float32")
        corpus.speech[copy] = corpus.speech[number]
        soundfile.write(tmp_path / corpus.names[copy], 0.5 * resample_fft(wave[rate // 20 :], rate, 16_000), 16_000)
    lost = corpus.add("amal", 85)
    found = corpus.pack(demo, by_sound=True)
    assert groups(found) == truth(corpus)
    known = read_manifest(found)["references"]
    assert known["findings"][-1] == "the same recording by waveform"
    assert known["remarks"] == ["1 of 9 targets were compared by their codes alone: their files were not there"]
    by_codes = corpus.pack(demo, "by_codes")
    assert len(set(groups(by_codes))) == len(corpus.records), "codes alone do not show it"
    assert drawn(by_codes).fingerprint() != drawn(found).fingerprint(), "a run cannot go on with other groups"
    soundfile.write(tmp_path / corpus.names[lost], np.zeros(24_000, np.float32), 24_000)
    assert read_manifest(corpus.pack(demo, "heard", by_sound=True))["references"]["remarks"] == []


def test_a_packing_that_ends_at_any_write_goes_on_to_the_same_folder(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = SpokenCorpus(tmp_path)
    for frames in (80, 90, 40):
        corpus.add("a", frames)
    wanted, writes = contents(corpus.pack(demo, by_sound=True)), InterruptedWrites(monkeypatch)
    writes.watch("write_shard", packing_jobs, same_targets, packing_references)
    number = 0
    for number in writes.each(lambda number: corpus.pack(demo, f"packed-{number}", by_sound=True)):
        assert contents(corpus.pack(demo, f"packed-{number}", by_sound=True)) == wanted
    assert number == 6, "a block of two files, shards of clips and samples, fingerprints, references"


@pytest.mark.parametrize("step", ["write_shard", "clip_of_use", "codes_hash"])
def test_a_packing_ends_well_if_another_one_finishes_first(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The other one removes the blocks, which this one still reads and writes."""
    corpus = SpokenCorpus(tmp_path)
    for frames in (80, 90, 40):
        corpus.add("a", frames)
    wanted, usual = contents(corpus.pack(demo)), getattr(same_targets, step)

    def overtaken(*args: object) -> object:
        monkeypatch.setattr(same_targets, step, usual)
        corpus.pack(demo, "twice")
        return usual(*args)

    monkeypatch.setattr(same_targets, step, overtaken)
    assert contents(corpus.pack(demo, "twice")) == wanted
    assert getattr(same_targets, step) is usual, "it was overtaken"


def test_the_command_groups_by_sound_unless_it_is_asked_for_codes(demo: Path, tmp_path: Path) -> None:
    corpus = SpokenCorpus(tmp_path)
    corpus.add("a", 80)
    corpus.add("a", 90)
    file, codes = corpus.write("codec")
    words = ["pack", str(file), "--model_path", str(demo / "model"), "--codes", str(codes), "--codec", "none/none"]
    for flags, count in (([], 4), (["--same_speech", "codes"], 3)):
        folder = tmp_path / f"packed{count}"
        assert main([*words, "--output_dir", str(folder), *flags]) == 0
        assert len(read_manifest(folder)["references"]["findings"]) == count
    assert main([*words, "--output_dir", str(folder)]) == 1, "other findings are other data"
    assert main([*words, "--output_dir", str(tmp_path / "as_written"), "--prompt_style", "as_written"]) == 0
    assert "references" not in read_manifest(tmp_path / "as_written")


def test_groups_join_step_by_step() -> None:
    found = Groups(6)
    for one, other in ((4, 5), (1, 2), (5, 2), (3, 3)):
        found.join(one, other)
    assert found.numbers().tolist() == [0, 1, 1, 3, 1, 1]

"""Judgements are kept by the content of a clip and the name of a judge."""

from pathlib import Path
from threading import Barrier, Thread
from time import sleep
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from boson_multimodal.errors import InputError
from boson_multimodal.process_group import Ranks
from tests.chatml_files import write_clip
from tests.voice_cloning.evaluation.judges import WRONG_WORDS, KnowsClips, Loudness
from voice_cloning.evaluation.identity import bind_folder, folder_version
from voice_cloning.evaluation.judgement import Judgements, Judges, Sound, judge_all, similarity


class HearsNothing(Loudness):
    """Judges of clips that are too short for them."""

    def embed(self, samples: Tensor, rate: int) -> None:
        self.heard += 1

    def score(self, samples: Tensor, rate: int) -> None:
        self.heard += 1


@pytest.fixture
def sounds(tmp_path: Path) -> list[Sound]:
    return [Sound(str(seed), write_clip(tmp_path / f"{seed}.wav", 0.3, seed=seed)) for seed in range(3)]


def judged(judges: Judges, folder: Path, sounds: list[Sound], references: list[Sound]) -> Judgements:
    judgements = Judgements(folder, Ranks())
    judge_all(judges, judgements, sounds, references)
    return judgements


def test_nothing_is_judged_twice(tmp_path: Path, sounds: list[Sound]) -> None:
    recogniser, model = KnowsClips({}), Loudness()
    judges = Judges(recogniser, model, model)
    first = judged(judges, tmp_path, [*sounds[:2], sounds[0]], sounds[2:])
    assert (recogniser.heard, model.heard) == (2, 5), "two texts, three voices, two scores"
    again = judged(judges, tmp_path, sounds, sounds)
    assert (recogniser.heard, model.heard) == (3, 6), "the reference is spoken now: it gets a text and a score"
    assert first.get(sounds[0], judges.of_text) == again.get(sounds[0], judges.of_text) == WRONG_WORDS
    found = similarity(again, judges, sounds[0], sounds[1])
    wanted = torch.dot(*(model.embed(*sound.waveform()) for sound in sounds[:2]))
    assert found == pytest.approx(float(wanted), abs=1e-5)
    assert similarity(again, judges, sounds[0], sounds[0]) == pytest.approx(1.0, abs=1e-6)
    assert similarity(again, Judges(), *sounds[:2]) is similarity(again, judges, None, sounds[0]) is None


class ThreadRanks(Ranks):
    """Ranks that are threads of this process."""

    meeting = Barrier(2)
    values: ClassVar[list[Any]] = [None, None]

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.meeting.wait(timeout=30)
        found = list(self.values)
        self.meeting.wait(timeout=30)
        return found


def test_processes_share_the_clips_also_if_one_reads_late(
    tmp_path: Path, sounds: list[Sound], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process has judged in the same call must not change which clips are this one's."""
    read = Judgements.read

    def late(self: Judgements) -> None:
        if self._ranks.rank == 1:
            sleep(0.5)
        read(self)

    monkeypatch.setattr(Judgements, "read", late)
    found: dict[int, list[Any]] = {}

    def work(rank: int) -> None:
        judgements = Judgements(tmp_path, ThreadRanks(-1, rank, 2))
        judgements.fill("text:a", sounds, lambda chunk: [sound.key for sound in chunk], 1)
        found[rank] = [judgements.get(sound, "text:a") for sound in sounds]

    threads = [Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {rank: [sound.key for sound in sounds] for rank in range(2)}


def test_another_judge_or_version_judges_anew(tmp_path: Path, sounds: list[Sound]) -> None:
    recogniser = KnowsClips({})
    for versions, heard in [({}, 3), ({"recogniser": "1"}, 6), ({"recogniser": "2"}, 9), ({"recogniser": "1"}, 9)]:
        judged(Judges(recogniser, versions=versions), tmp_path, sounds, [])
        assert recogniser.heard == heard


def test_a_clip_that_a_judge_cannot_judge_is_asked_once(tmp_path: Path, sounds: list[Sound]) -> None:
    model = HearsNothing()
    judges = Judges(None, model, model)
    for _ in range(2):
        judgements = judged(judges, tmp_path, sounds, [])
        assert model.heard == 6
        assert judgements.get(sounds[0], judges.of_mos) is None
        assert similarity(judgements, judges, *sounds[:2]) is None


def test_a_line_that_was_cut_is_judged_again(tmp_path: Path, sounds: list[Sound]) -> None:
    recogniser = KnowsClips({})
    judged(Judges(recogniser), tmp_path, sounds, [])
    (path,) = (tmp_path / "judgements").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    judged(Judges(recogniser), tmp_path, sounds, [])
    assert recogniser.heard == 4
    judged(Judges(recogniser), tmp_path, sounds, [])
    assert recogniser.heard == 4, "the cut line has spoiled no other"


def test_a_recogniser_must_return_one_text_for_each_clip(tmp_path: Path, sounds: list[Sound]) -> None:
    class Wrong(KnowsClips):
        def transcribe(self, clips: list) -> list[str]:
            return super().transcribe(clips)[1:]

    with pytest.raises(InputError, match="returned 2 results for 3 clips"):
        judged(Judges(Wrong({})), tmp_path, sounds, [])


def test_a_folder_is_bound_to_its_evaluation(tmp_path: Path) -> None:
    identity = {"sampling": {"top_k": 50}, "references": None}
    for _ in range(2):
        bind_folder(tmp_path / "out", identity)
    with pytest.raises(InputError, match=r"(?s)holds another evaluation.*sampling.top_k: was 50, is 30"):
        bind_folder(tmp_path / "out", {**identity, "sampling": {"top_k": 30}})
    for damaged in ("{", "[]"):
        (tmp_path / "out/evaluation.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match="is damaged.*give another --output_dir"):
            bind_folder(tmp_path / "out", identity)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"):
        bind_folder(tmp_path / "file", identity)


def test_a_model_that_is_written_again_has_another_version(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "model.bin").write_bytes(b"1")
    before = folder_version(model)
    assert folder_version(model) == before
    (model / "config.json").write_bytes(b"{}")
    assert folder_version(model) != before

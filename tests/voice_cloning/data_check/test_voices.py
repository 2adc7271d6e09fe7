"""The comparison of voices: crossed references are found, right ones are not accused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.planted_defects import compared
from tests.sample_copies import ALWAYS_FOUND, Copy, found_kinds, name, reference, target
from tests.voice_cloning.speech.test_speaker_embedding import needs_resemblyzer
from tools.prepare_data.__main__ import main
from voice_cloning.data_check import voice_rules
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.findings import ERRORS, WARNINGS, Findings
from voice_cloning.data_check.same_clips import SameClips
from voice_cloning.data_check.samples import CheckedSample, UsedClip
from voice_cloning.data_check.voice_rules import VoiceCheck, find_other_voices, plan_voice_check
from voice_cloning.data_check.voice_similarity import find_threshold, pair_similarities, voices_of
from voice_cloning.speech.speaker_embedding import Calibration, SpeakerEmbedding

SIZE, THRESHOLD = 64, 0.6
PLAN = VoiceCheck("stub", Calibration(THRESHOLD))
FINDING, MANY, SEVERAL = "reference_of_another_voice", "references_of_other_voices", "speaker_with_several_voices"


def voice_vectors(speakers: int, clips: int, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    """Return (speakers, clips, SIZE) unit vectors: a direction for each speaker, and noise for each clip."""
    numbers = np.random.default_rng(seed)
    voices = numbers.normal(0, 1, (speakers, 1, SIZE)) / np.sqrt(SIZE)
    vectors = voices + numbers.normal(0, noise / np.sqrt(SIZE), (speakers, clips, SIZE))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Data:
    """Samples of stub clips: each clip of each speaker is a target; the next one of the speaker is its reference."""

    def __init__(self, speakers: int = 8, clips: int = 6, **how: Any) -> None:
        vectors = voice_vectors(speakers, clips, **how)
        self.clips = [[Clip(Path(f"{s}-{c}.wav"), 0.0, None) for c in range(clips)] for s in range(speakers)]
        self.embeddings: dict[Clip, SpeakerEmbedding | None] = {
            self.clips[s][c]: SpeakerEmbedding(vectors[s, c], 4.0) for s in range(speakers) for c in range(clips)
        }
        self.samples = [
            self.sample(f"s{s}-{c}", f"speaker {s}", self.clips[s][(c + 1) % clips], self.clips[s][c])
            for s in range(speakers)
            for c in range(clips)
        ]

    @staticmethod
    def sample(sample_id: str, speaker: str | None, reference: Clip, target: Clip) -> CheckedSample:
        used = [UsedClip(reference, "reference", False), UsedClip(target, "target", True)]
        return CheckedSample(sample_id, Path("train.json"), "train", speaker=speaker, clips=used)

    def cross(self, number: int, clip: Clip) -> str:
        """Make ``clip`` the reference of a sample, and return the sample's id."""
        old = self.samples[number]
        self.samples[number] = self.sample(old.sample_id, old.speaker, clip, old.targets[0].clip)
        return old.sample_id

    def check(self, plan: VoiceCheck = PLAN) -> tuple[dict[str, set[str]], dict[str, Any], Findings]:
        same, findings = SameClips({clip: ClipMeasures(str(clip.source)) for clip in self.embeddings}), Findings()
        summary = find_other_voices(self.samples, same, self.embeddings, plan, findings)
        return {kind: set(found) for kind, found in findings.found.items() if found}, summary, findings


def test_crossed_references_are_found_and_named_and_no_right_one_is_accused() -> None:
    data = Data()
    crossed = {data.cross(number, data.clips[(number // 6 + 3) % 8][2]) for number in (0, 7, 20, 41)}
    found, summary, findings = data.check()
    assert found == {FINDING: crossed}
    assert (summary["of_another_voice"], summary["compared"], summary["references"]) == (4, 48, 48)
    assert summary["statement"].startswith("stub compared 48 of 48 references with their targets: 4 of another voice")
    assert "sounds like the target of s3-" in findings.found[FINDING]["s0-0"]


def test_right_references_are_not_accused_with_any_names() -> None:
    for speaker in (None, "one name for all"):
        data = Data()
        for sample in data.samples:
            sample.speaker = speaker
        assert FINDING not in data.check()[0]


def test_one_voice_alone_is_not_accused_not_even_with_one_reference_for_all() -> None:
    data = Data(speakers=1, clips=12)
    assert data.check()[0] == {}
    for number in range(1, 12):
        data.cross(number, data.clips[0][0])
    assert data.check()[0] == {}


def test_one_reference_for_all_voices_is_an_error() -> None:
    data = Data()
    right = {data.cross(number, data.clips[0][0]) for number in range(48)} & {f"s0-{c}" for c in range(6)}
    found, summary, _ = data.check()
    assert found[FINDING] == found[MANY] == {sample.sample_id for sample in data.samples} - right
    assert MANY in ERRORS and FINDING in WARNINGS
    assert summary["compared"] == 47  # the reference of the first sample is its target, which another rule reports


def test_two_voices_under_one_name_are_found_by_their_targets() -> None:
    data = Data()
    for sample in data.samples[6:10]:
        sample.speaker = "speaker 0"
    found, summary, findings = data.check()
    assert found == {SEVERAL: {"s1-0", "s1-1", "s1-2", "s1-3"}}
    assert summary["speakers_with_several_voices"] == 1
    assert "has targets of 2 voices; this one is of voice 2, which has 4 of 10" in findings.found[SEVERAL]["s1-0"]


def test_clips_with_too_little_speech_are_counted_and_not_judged() -> None:
    data = Data()
    data.embeddings[data.clips[2][3]] = None
    found, summary, _ = data.check()
    assert found == {}
    assert (summary["compared"], summary["references"]) == (46, 48)
    assert "the others have too little speech" in summary["statement"]
    data.embeddings = dict.fromkeys(data.embeddings)
    assert data.check()[1]["compared"] == 0


def test_an_unknown_model_gets_its_threshold_from_the_named_speakers() -> None:
    data, unknown = Data(speakers=12), VoiceCheck("stub")
    crossed = {data.cross(number, data.clips[(number // 6 + 5) % 12][1]) for number in range(0, 72, 9)}
    found, summary, _ = data.check(unknown)
    assert found[FINDING] <= crossed and len(found[FINDING]) >= 7  # 95 % of pairs of two voices are below the threshold
    assert 0.1 < summary["threshold"] < 0.5
    everything = Data(speakers=12)
    crossed = {everything.cross(number, everything.clips[(number // 6 + 5) % 12][1]) for number in range(72)}
    found = everything.check(unknown)[0]
    assert found[MANY] == found[FINDING] and len(found[MANY]) >= 0.9 * len(crossed) == 0.9 * 72


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        (lambda number: None, "at least 5 named speakers"),
        (lambda number: "one", "at least 5 named speakers"),
        (lambda number: f"speaker {number}", "two clips or more"),
        (lambda number: f"speaker {number % 7}", "does not tell these speakers apart, or their names are wrong"),
    ],
)
def test_no_threshold_is_guessed_where_names_do_not_show_one(rename: Callable[[int], str | None], reason: str) -> None:
    data = Data()
    for number, sample in enumerate(data.samples):
        sample.speaker = rename(number)
    found, summary, _ = data.check(VoiceCheck("stub"))
    assert found == {}
    assert summary["statement"].startswith("not compared (") and reason in summary["statement"]


def test_a_doubtful_pair_is_judged_with_other_clips_of_the_same_voice() -> None:
    clear = np.eye(SIZE, dtype=np.float32)[0]
    odd = np.zeros(SIZE, np.float32)
    odd[:2] = 0.58, np.sqrt(1 - 0.58**2)  # below the threshold with clear clips of its voice
    helpful = np.zeros(SIZE, np.float32)
    helpful[:2] = 0.85, np.sqrt(1 - 0.85**2)  # surely of both
    alone = np.stack([odd, clear])
    assert pair_similarities(alone, [(0, 1)], THRESHOLD)[0] == pytest.approx(0.58)
    assert pair_similarities(np.stack([odd, clear, helpful, helpful]), [(0, 1)], THRESHOLD)[0] > 0.8
    far = np.eye(SIZE, dtype=np.float32)[5]
    assert pair_similarities(np.stack([odd, clear, far, far]), [(0, 1)], THRESHOLD)[0] == pytest.approx(0.58)


def test_voices_are_grouped_at_any_number_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = voice_vectors(3, 40)
    order = np.random.default_rng(0).permutation(120)
    truth, mixed = np.repeat([0, 1, 2], 40)[order], vectors.reshape(120, SIZE)[order]
    for most in (1000, 30):
        monkeypatch.setattr("voice_cloning.data_check.voice_similarity.MOST_CLIPS_GROUPED", most)
        found = voices_of(mixed, THRESHOLD)
        assert len(set(zip(found, truth, strict=True))) == 3 and len(set(found)) == 3
    assert not voices_of(vectors[0], THRESHOLD).any()
    assert not voices_of(vectors[:, 0], THRESHOLD).any()  # too few clips to tell


def test_a_threshold_leaves_one_in_twenty_different_pairs_above_it() -> None:
    vectors = voice_vectors(40, 10, noise=0.7).reshape(400, SIZE)
    names = [f"{number // 10}" for number in range(400)]
    threshold, reason = find_threshold(vectors, names)
    similarity, differ = vectors @ vectors.T, np.not_equal.outer(names, names)
    assert reason == "" and (similarity[differ] < threshold).mean() == pytest.approx(0.95, abs=0.01)
    assert find_threshold(vectors, names) == (threshold, "")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "is_compared"),
    [
        (ClipMeasures(sampling_rate=16_000), True),
        (ClipMeasures(sampling_rate=16_000, problems={"truncated": "6 s are asked for, 5 s are there"}), True),
        (ClipMeasures(problems={"truncated": "its header says more samples than are there"}), False),
        (ClipMeasures(sampling_rate=16_000, problems={"cancelled": "in mono"}), False),
        (ClipMeasures(seconds=5.0), False),
    ],
)
def test_what_can_be_heard_is_compared(
    measured: ClipMeasures, is_compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut beyond the end of its file is heard; codes that were not decoded, or what is refused, is not."""
    data, embedded = Data(speakers=1, clips=2), set()

    def embed(clips: list[Clip], *_: Any) -> dict[Clip, SpeakerEmbedding | None]:
        embedded.update(clips)
        return {clip: data.embeddings[clip] for clip in clips}

    monkeypatch.setattr(voice_rules, "embed_clips", embed)
    measures = dict.fromkeys(data.embeddings, measured)
    voice_rules.check_voices(data.samples, measures, SameClips(measures), PLAN, Findings())
    assert embedded == (set(measures) if is_compared else set())


def test_wrong_flags_are_named_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--speaker_threshold 2: must be between -1 and 1"):
        plan_voice_check("resemblyzer", 2.0)
    with pytest.raises(InputError, match="--speaker_model nothing: no such folder"):
        check_files([tmp_path / "none.json"], tmp_path / "out", speaker_model="nothing")
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_check_says_that_voices_were_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_rules, "is_resemblyzer_installed", lambda: False)
    plan = plan_voice_check("auto", None)
    assert plan.model is None and "pip install --no-deps resemblyzer webrtcvad-wheels" in plan.reason
    assert plan_voice_check("none", None).model is None


def crossed_copy(folder: Path, speakers: int, step: int) -> tuple[list[str], set[str], set[str]]:
    """Write a copy in which every ``step``-th training record has a reference of another speaker.

    Returns:
        The files, and the ids of the changed and of all other samples.
    """
    copy, files = Copy(folder, speakers), []
    crossed, right, numbers = set(), {name(record) for record in copy.val}, np.random.default_rng(0)
    clips = [(record["speaker"], dict(target(record))) for record in copy.train]
    for number, record in enumerate(copy.train):
        if number % step:
            right.add(name(record))
            continue
        others = [clip for speaker, clip in clips if speaker != record["speaker"]]
        reference(record).update(others[numbers.integers(len(others))])
        crossed.add(name(record))
    for side, records in (("train", copy.train), ("val", copy.val)):
        files.append(str(folder / f"{side}.json"))
        Path(files[-1]).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return files, crossed, right


@needs_samples
@needs_resemblyzer
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_crossed_references_of_real_speech_are_found(
    step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, crossed, right = crossed_copy(tmp_path, 16 // step, step)
    status = main(["check", *files, "--output_dir", str(tmp_path / "out"), "--num_workers", "1"])
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    accused = found_kinds(report)
    assert len(accused[FINDING] & crossed) >= 0.9 * len(crossed)
    assert not accused[FINDING] & right
    assert status == (1 if step == 1 else 0) and (MANY in accused) == (step == 1)
    assert f"voices: {report['summary']['voices']['statement']}" in capsys.readouterr().out
    assert "resemblyzer compared" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@needs_samples
@needs_resemblyzer
def test_right_references_of_real_speech_are_not_accused_and_processes_change_nothing(tmp_path: Path) -> None:
    files = [SAMPLES_DIR / f"{side}_chatml_samples.json" for side in ("train", "val")]
    reports = [
        check_files(files, tmp_path / str(workers), num_workers=workers, speaker_model="resemblyzer")
        for workers in (1, 2)
    ]
    assert reports[0] == reports[1]
    assert set(found_kinds(reports[0])) == {ALWAYS_FOUND}
    assert reports[0]["summary"]["voices"]["compared"] == 128


CHANGED_SOUND = (
    "reference is the target at 48 kHz, cut, softer, as Opus",
    "clipping",
    "clipping, then made softer",
    "1 s of silence at the start",
    "a level of -60 dB",
    "DC",
    "mostly silence",
    "a target of 0.4 s",
    "a truncated MP3",
    "a repeated target, re-encoded",
    "no reference",
)
"""Planted defects that change what a speaker model hears, but for those that play speech backwards or put a target of
another voice beside a reference."""


@pytest.mark.slow
@needs_samples
@needs_resemblyzer
def test_other_defects_are_not_taken_for_other_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, clipping, codecs and levels do not change a voice."""
    monkeypatch.setattr("tests.sample_copies.check_files", partial(check_files, speaker_model="resemblyzer"))
    for number, title in enumerate(CHANGED_SOUND):
        expected, found = compared(tmp_path / str(number), title, speakers=4)
        assert expected.keys() <= found.keys(), title
        assert not {FINDING, MANY, SEVERAL} & found.keys(), title

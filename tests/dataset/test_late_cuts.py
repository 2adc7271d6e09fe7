"""A cut that ends after its file is named before training, because its text may say more than its audio."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from boson_multimodal.audio_processing.clip_encoding import ClipFacts, late_cut_lines
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import FRAMES_PER_SECOND
from tests.training_runs import trainer
from voice_cloning.corpora.encode import encode_files


@pytest.mark.parametrize(
    ("duration", "facts", "is_named"),
    [
        (None, ClipFacts(samples=24_000, sampling_rate=24_000), False),
        (1.1, ClipFacts(samples=24_000, sampling_rate=24_000), False),
        (1.3, ClipFacts(samples=24_000, sampling_rate=24_000), True),
        (1.1, ClipFacts(frames=25), False),
        (1.3, ClipFacts(frames=25), True),
    ],
)
def test_a_cut_may_end_a_tenth_of_a_second_late(duration: float | None, facts: ClipFacts, is_named: bool) -> None:
    lines = late_cut_lines("train.json", {"a": (Clip(Path("a.wav"), 2.0, duration), facts)}, FRAMES_PER_SECOND)
    assert bool(lines) == is_named
    if is_named:
        heading, named = lines[0].splitlines()
        assert heading.startswith("warning: train.json: 1 cuts end after their files")
        assert named == "  a: 1.3 s from 2 s on are asked for, 1.00 s are there"


def test_trainer_and_encode_name_late_cuts_also_with_codes_in_the_cache(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("code_cache"))
    path = home / "train_chatml_samples.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    target = records[0]["messages"][-1]["content"][-1]
    target["duration"] = 100.0
    path.write_text(json.dumps(records), encoding="utf-8")
    caplog.set_level(logging.INFO)
    for attempt in ("first", "second"):
        caplog.clear()
        trainer(home, tmp_path / attempt, max_steps=1).train()
        heading, named = next(m for m in (e.getMessage() for e in caplog.records) if "end after" in m).splitlines()
        assert "train_chatml_samples.json: 1 cuts end after their files" in heading
        assert target["audio_url"] in named and "100 s from 0 s on are asked for" in named
    capsys.readouterr()
    encode_files([path], str(home / "audio_tokenizer"), str(tmp_path / "cache"))
    assert "1 cuts end after their files" in capsys.readouterr().err

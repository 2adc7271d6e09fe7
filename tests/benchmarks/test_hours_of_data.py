"""The made samples of the data benchmark are data that the program takes, and its figures are there."""

import json
from pathlib import Path

import pytest

from benchmarks.hours_of_data import RECORDS_FILE, make_data, measure, table_lines
from boson_multimodal.process_group import Ranks

SAMPLES = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert 0 < make_data(folder, SAMPLES) < SAMPLES * 16 / 3600
    return folder


def test_a_reference_is_another_clip_of_the_same_speaker(made: Path) -> None:
    records = [json.loads(line) for line in (made / RECORDS_FILE).read_text(encoding="utf-8").splitlines()]
    assert len(records) == SAMPLES
    speakers, pairs = {}, []
    for record in records:
        clips = [
            part["audio_url"]
            for message in record["messages"]
            for part in message["content"]
            if isinstance(part, dict) and part["type"] == "audio"
        ]
        pairs.append(clips)
        speakers[clips[-1]] = record["speaker"]
    assert len(speakers) == SAMPLES and len(set(speakers.values())) == 2
    assert all(reference != target and speakers[reference] == speakers[target] for reference, target in pairs)


def test_the_figures_of_one_process(made: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.hours_of_data.PIPELINE_POSITIONS", 8192)
    found = measure(made, demo / "model", "json", Ranks())
    assert found.samples == SAMPLES and 200 < found.positions < 800
    assert found.process_mb > 100 and found.read > 0 and found.prepare > 0
    assert found.first_batch_wall > 0 and found.first_batch_cpu > found.plan_seconds
    assert list(found.pipeline) == [2048, 8192, 16384] and min(found.pipeline.values()) > 1000
    assert len(list(table_lines("json", 1.0, found))) == 9

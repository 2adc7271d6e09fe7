"""What is written to TensorBoard comes back, and plots of steps that are trained again are cut off."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from voice_cloning.training.metrics import MetricsWriter, read_metrics_lines


def _scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_numbers_come_back_from_tensorboard_and_from_the_file(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    for step in (1, 2, 3):
        writer.write({"step": step, "loss": 1.0 / step, "eval_loss": float(step)})
    writer.close()
    assert _scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert _scalars(tmp_path, "eval/eval_loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    lines = read_metrics_lines(tmp_path / "metrics.jsonl")
    assert [record["step"] for _, record in lines.sound] == [1, 2, 3] and lines.damaged == []


def test_a_resumed_run_cuts_off_the_plots_of_later_steps(tmp_path: Path) -> None:
    """Both writers may begin within the same second."""
    for first, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        writer = MetricsWriter(tmp_path, ["tensorboard"], first, {})
        for step in steps:
            writer.write({"step": step, "loss": 10.0 * first + step})
        writer.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert _scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 12.0), (3, 13.0)]


def test_a_last_line_that_only_lacks_its_end_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    lines = read_metrics_lines(path)
    assert [record["step"] for _, record in lines.sound] == [1, 2]
    assert (lines.damaged, lines.has_unfinished) == ([], False)
    path.write_bytes(b'{"step": 1}\n{"step": ')
    lines = read_metrics_lines(path)
    assert len(lines.sound) == 1 and len(lines.damaged) == 1 and lines.has_unfinished

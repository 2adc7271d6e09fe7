"""Test tools.plot_metrics: its plot, its output and its errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from boson_multimodal.errors import InputError
from tests.full_disks import small_disk
from tests.training_runs import PROJECT
from tools.plot_metrics import plot_metrics, read_metrics

CODEBOOKS = 8


def _record(step: int, prefix: str = "") -> dict[str, Any]:
    """Return a line of metrics.jsonl. The losses decrease with the step."""
    losses = {"loss": 13.0 / step, "text_loss": 6.0 / step, "audio_loss": 7.0 / step}
    losses |= {f"audio_loss_codebook_{k}": (7.0 - 0.1 * k) / step for k in range(CODEBOOKS)}
    extra = {} if prefix else {"grad_norm": 1.0, "learning_rate": 1e-3}
    return {"step": step, **{f"{prefix}{name}": value for name, value in losses.items()}, **extra}


def _write(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_plot_is_written_to_the_run_folder(tmp_path: Path) -> None:
    _write(tmp_path, [_record(5), _record(5, "eval_"), _record(10), _record(10, "eval_")])
    path = plot_metrics(tmp_path)
    assert path == tmp_path / "loss.png"
    height, width = imread(path).shape[:2]
    assert width > 1000 and height > 500


@pytest.mark.parametrize("records", [[_record(1)], [_record(1), _record(2)], [_record(1), _record(1, "eval_")]])
def test_plot_of_a_run_that_has_just_begun(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    _write(tmp_path, records)
    output = tmp_path / "elsewhere.png"
    assert plot_metrics(tmp_path, output) == output
    assert imread(output).std() > 0.01, "the picture shows more than the background"
    assert not (tmp_path / "loss.png").exists()


SPOKEN = {"spoken_clips": 64, "spoken_stop_rate": 0.9, "spoken_length_ratio": 1.1, "spoken_repeated_share": 0.1}
SPOKEN |= {"spoken_length_ratio_p5": 0.8, "spoken_length_ratio_p95": 1.4}
WORDS = {"spoken_wer": 0.4, "spoken_cer": 0.2}
ACCURACIES = {"eval_accuracy_codebook_0": 0.3, "eval_accuracy_end_codebook_0": 0.9, "eval_accuracy_end": 1.0}


@pytest.mark.parametrize(
    ("figures", "rows"),
    [
        ([{}], 1),
        ([ACCURACIES], 2),
        ([ACCURACIES | SPOKEN], 2),
        ([SPOKEN, SPOKEN | {"spoken_stop_rate": float("nan")}, ACCURACIES], 2),
        ([{"spoken_clips": 1, "spoken_stop_rate": 0.0}], 2),
        ([SPOKEN | WORDS], 3),
        ([SPOKEN | WORDS | {"spoken_wer": 4.0}, SPOKEN | WORDS | {"spoken_cer": float("nan")}], 3),
        ([{"spoken_clips": 1, "spoken_wer": 1.5}], 2),
        ([{"spoken_clips": 1, "spoken_length_ratio": 1e308, "spoken_length_ratio_p5": float("inf")}], 2),
    ],
)
def test_figures_of_evaluations_are_plotted_where_there_are_any(
    tmp_path: Path, figures: list[dict[str, float]], rows: int
) -> None:
    """With the losses of the step or alone; the lines of single clips are no numbers."""
    clip = {"step": 3, "sample": "a", "text": "\u0646\u0639\u0645", "ended": True, "loss": 1.0, "spoken_clips": 1}
    alone = [{"step": 10 + n, **found} for n, found in enumerate(figures)]
    path = _write(tmp_path, [_record(5), _record(5, "eval_") | figures[0], clip, *alone])
    assert imread(plot_metrics(tmp_path)).shape[0] == round(5.2 * 130 * rows)
    training, evaluation = read_metrics(path)
    assert [record["step"] for record in training] == [5]
    assert [r["step"] for r in evaluation] == [5, *(r["step"] for r in alone if "spoken_clips" in r)]


def test_training_and_evaluation_lines_are_separated(tmp_path: Path) -> None:
    training, evaluation = read_metrics(_write(tmp_path, [_record(10, "eval_"), _record(10), _record(5)]))
    assert [record["step"] for record in training] == [5, 10]
    assert [record["step"] for record in evaluation] == [10]


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    path = _write(tmp_path, [_record(5), _record(10)])
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 15, "lo', encoding="utf-8")
    training, _ = read_metrics(path)
    assert [record["step"] for record in training] == [5, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "no line has a training loss"),
        (json.dumps(_record(3, "eval_")) + "\n", "no line has a training loss"),
        (json.dumps(_record(3)) + '\n{"step": 4, "lo\n', "line 2: not JSON"),
        ('{"loss": 1.0}\n', "line 1: not an object with a step"),
    ],
)
def test_unusable_metrics(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        plot_metrics(tmp_path)
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\0" * 9,
        "[]",
        '{"step": "3"}',
        '{"step": true}',
        '{"step": 3, "loss": null}',
        "\xff",
        '{"step": 3, "sample": 1}',
    ],
)
def test_each_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path, [_record(3)])
    path.write_bytes(path.read_bytes() + f"{line}\n{line}\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"damaged lines.*\(2\):\n  line 2: .*\n  line 3: "):
        plot_metrics(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 1e308, 0.0])
def test_a_plot_of_numbers_that_are_no_losses(tmp_path: Path, value: float) -> None:
    strange = dict.fromkeys(_record(1), value) | {"step": 2**53 - 1, "audio_loss_codebook_x": 1.0}
    for records in ([strange | {"step": 1}], [_record(1), strange, _record(2, "eval_") | {"eval_loss": value}]):
        _write(tmp_path, records)
        assert plot_metrics(tmp_path).is_file()


def test_metrics_that_are_a_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="no such file"):
        plot_metrics(tmp_path)


def test_a_plot_on_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    _write(tmp_path, [_record(1), _record(2)])
    with small_disk(tmp_path / "disk", 16) as disk:
        with pytest.raises(InputError, match=r"loss.png: cannot be written \(No space left on device\)"):
            plot_metrics(tmp_path, disk / "loss.png")
        assert list(disk.iterdir()) == []


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    _write(tmp_path, [_record(1), _record(2)])
    with pytest.raises(InputError, match="cannot be written"):
        plot_metrics(tmp_path, tmp_path / "absent" / "loss.png")


def test_the_command_prints_the_first_and_last_loss(tmp_path: Path) -> None:
    _write(tmp_path, [_record(1), _record(26)])
    command = [sys.executable, "-m", "tools.plot_metrics", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.splitlines() == [
        f"plot: {tmp_path / 'loss.png'}",
        "training loss: 13.0000 at step 1, 0.5000 at step 26",
    ]


def test_command_without_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.plot_metrics", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "no such file" in done.stderr

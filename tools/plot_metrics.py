"""Plot the losses of a run, and what its evaluations heard, from its metrics.jsonl.

    python -m tools.plot_metrics RUN_DIR [--output FILE.png]

The first plot shows the training and evaluation losses over the optimizer steps, the second one the training loss of
each codebook. If there are evaluations, a third one shows the accuracies of codes and ends, with the stop rate of the
spoken clips; if clips were spoken, a fourth one shows their length ratio to the true clips; if a recogniser heard them,
a fifth one shows the word and the character error rate.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import open_whole
from voice_cloning.training.metrics import METRICS_FILE, read_metrics_lines

PLOT_FILE = "loss.png"
CODEBOOK_PREFIX = "audio_loss_codebook_"
CODEBOOK = re.compile(rf"{CODEBOOK_PREFIX}[0-9]+")
LARGEST_LOSS = 1e6
"""Larger numbers are damage: matplotlib cannot place the largest ones."""
LOSSES = {
    "loss": ("total", "#1f1f1f", 2.2),
    "text_loss": ("text", "#2a78b5", 1.5),
    "audio_loss": ("audio", "#d1652b", 1.5),
}
"""Metric -> its name in the legend, colour and line width. The ``eval_`` metrics have dashed lines."""
SHARES = {
    "spoken_stop_rate": ("clips that ended", "#1f1f1f", 2.2),
    "eval_accuracy_end_codebook_0": ("right ends, first codebook", "#2a78b5", 1.5),
    "eval_accuracy_codebook_0": ("right codes, first codebook", "#d1652b", 1.5),
    "spoken_repeated_share": ("repeated frames", "#8a8a8a", 1.5),
}
"""Share -> its name in the legend, colour and line width."""
ERROR_RATES = {"spoken_wer": ("words", "#1f1f1f", 2.2), "spoken_cer": ("characters", "#2a78b5", 1.5)}
"""Error rate -> its name in the legend, colour and line width."""
RATIO, RATIO_ENDS = "spoken_length_ratio", ("spoken_length_ratio_p5", "spoken_length_ratio_p95")
LEGEND = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False, "fontsize": 9}
"""The legend is below the axes, because inside them a curve could cross it."""

Record = dict[str, Any]


def read_metrics(path: Path) -> tuple[list[Record], list[Record]]:
    """Read a metrics.jsonl. Return its (training, evaluation) records, each in order of steps.

    An evaluation has losses, figures of spoken clips, or both. The lines of single clips are left out. A last line
    without a line end is ignored: it is being written, or a kill truncated it.

    Raises:
        InputError: if the file is missing or cannot be read, listing the lines that are not JSON objects with a step
            and numbers, or if no line has a training loss.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the --output_dir of a run that has logged at least once")
        lines = read_metrics_lines(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    raise_if_any(
        f"{path}: damaged lines; remove them, or resume the run, which does",
        lines.damaged[:-1] if lines.has_unfinished else lines.damaged,
    )
    records = sorted(lines.numbers, key=lambda record: record["step"])
    training = [record for record in records if "loss" in record]
    if not training:
        raise InputError(f"{path}: no line has a training loss; wait until the run has logged once (--logging_steps)")
    return training, [record for record in records if "eval_loss" in record or "spoken_clips" in record]


def plot_metrics(run_dir: Path, output: Path | None = None) -> Path:
    """Plot the losses and figures of a run as a PNG.

    Args:
        run_dir: a folder with a ``metrics.jsonl``.
        output: the file to write; by default ``run_dir/loss.png``.

    Returns:
        The path of the written file.

    Raises:
        InputError: for the errors of :func:`read_metrics`, or if ``output`` cannot be written.
    """
    training, evaluation = read_metrics(run_dir / METRICS_FILE)
    output = output or run_dir / PLOT_FILE
    plots: list[Callable[[Axes], None]] = [
        lambda axes: _draw_losses(axes, training, evaluation),
        lambda axes: _draw_codebooks(axes, training),
    ]
    if any(name in record for record in evaluation for name in SHARES):
        plots.append(lambda axes: _draw_shares(axes, evaluation))
    if any(RATIO in record for record in evaluation):
        plots.append(lambda axes: _draw_length_ratio(axes, evaluation))
    if any(name in record for record in evaluation for name in ERROR_RATES):
        plots.append(lambda axes: _draw_error_rates(axes, evaluation))
    rows = math.ceil(len(plots) / 2)
    # Without pyplot, no backend is selected and the calling program keeps no global state.
    figure = Figure(figsize=(12.0, 5.2 * rows), dpi=130, layout="constrained")
    places = figure.subplots(rows, 2).flatten()
    for axes in places[len(plots) :]:
        axes.set_axis_off()
    for draw, axes in zip(plots, places, strict=False):
        draw(axes)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        with open_whole(output) as file:
            figure.savefig(file, format="png")
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror})") from error
    return output


def _draw_losses(axes: Axes, training: list[Record], evaluation: list[Record]) -> None:
    """Plot total, text and audio loss over steps: solid lines for training, dashed lines for evaluation."""
    for prefix, records, kind in (("", training, "training"), ("eval_", evaluation, "evaluation")):
        marked = prefix or len(records) == 1  # a line through one point is invisible
        style = {"linestyle": "--" if prefix else "-", "marker": "o" if marked else "", "markersize": 4.0}
        for name, (label, colour, width) in LOSSES.items():
            steps, values = _series(records, prefix + name)
            if steps:
                axes.plot(steps, values, color=colour, linewidth=width, label=f"{kind}, {label}", **style)
    _name_losses(axes, "Loss")
    axes.legend(ncols=2 if evaluation else 3, **LEGEND)


def _draw_codebooks(axes: Axes, training: list[Record]) -> None:
    """Plot the training loss of each codebook over steps, from dark (the first, coarsest) to light."""
    names = sorted(
        (name for name in training[-1] if CODEBOOK.fullmatch(name)),
        key=lambda name: int(name.removeprefix(CODEBOOK_PREFIX)),
    )
    colours = ScalarMappable(
        Normalize(0, max(1, len(names) - 1) * 1.12), "plasma"
    )  # the lightest colours are hard to see on white
    for k, name in enumerate(names):
        steps, values = _series(training, name)
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, values, color=colours.to_rgba(k), linewidth=1.4, marker=marker, label=f"codebook {k}")
    _name_losses(axes, "Training loss of each codebook")
    if names:
        axes.legend(ncols=4, **LEGEND)


def _name_losses(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_ylabel("cross entropy (nats)")
    axes.set_ylim(0.0, _top(axes.dataLim.y1))


def _draw_shares(axes: Axes, evaluation: list[Record]) -> None:
    """Plot the shares of an evaluation over steps, from 0 to 1."""
    _draw_curves(axes, evaluation, SHARES)
    axes.set_title("Evaluation: codes and ends", loc="left", fontweight="bold")
    axes.set_ylabel("share")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(ncols=2, **LEGEND)


def _draw_error_rates(axes: Axes, evaluation: list[Record]) -> None:
    """Plot the word and the character error rate over steps. A rate is above 1 if words were added."""
    _draw_curves(axes, evaluation, ERROR_RATES)
    axes.set_title("Errors in spoken clips, as the recogniser heard them", loc="left", fontweight="bold")
    axes.set_ylabel("error rate")
    axes.set_ylim(-0.02, max(_top(axes.dataLim.y1), 1.02))
    axes.legend(ncols=2, **LEGEND)


def _draw_curves(axes: Axes, evaluation: list[Record], curves: dict[str, tuple[str, str, float]]) -> None:
    """Plot each metric that a record has; ``curves`` holds its name in the legend, colour and line width."""
    for name, (label, colour, width) in curves.items():
        steps, values = _series(evaluation, name)
        if steps:
            axes.plot(steps, values, color=colour, linewidth=width, marker="o", markersize=4.0, label=label)


def _draw_length_ratio(axes: Axes, evaluation: list[Record]) -> None:
    """Plot the median of the length ratio over steps, and the band from its 5th to its 95th percentile."""
    steps, values = _series(evaluation, RATIO)
    known = [record for record in evaluation if all(name in record for name in (RATIO, *RATIO_ENDS))]
    axes.axhline(1.0, color="#8a8a8a", linewidth=1.0, linestyle=":")
    if known:
        (at, low), (_, high) = (_series(known, name) for name in RATIO_ENDS)
        axes.fill_between(at, low, high, color="#2a78b5", alpha=0.2, linewidth=0.0, label="5th to 95th percentile")
        for ends in (low, high):  # a band of one step is invisible
            axes.plot(at, ends, color="#2a78b5", linewidth=0.8, marker="_", markersize=8.0, alpha=0.6)
    axes.plot(steps, values, color="#2a78b5", linewidth=2.2, marker="o", markersize=4.0, label="median")
    axes.set_title("Length of spoken clips", loc="left", fontweight="bold")
    axes.set_ylabel("frames, as a ratio to the true clip")
    axes.set_ylim(0.0, max(_top(axes.dataLim.y1), 1.5))
    axes.legend(ncols=2, **LEGEND)


def _top(largest: float) -> float:
    """Return the upper end of an axis. The largest value is not finite if no value is."""
    return 1.06 * largest if math.isfinite(largest) and largest > 0 else 1.0


def _series(records: list[Record], name: str) -> tuple[list[int], list[float]]:
    """Return the (steps, values) of a metric from the records that have it. What is no loss leaves a gap."""
    found = [
        (record["step"], record[name] if abs(record[name]) <= LARGEST_LOSS else math.nan)
        for record in records
        if name in record
    ]
    return [step for step, _ in found], [value for _, value in found]


def main() -> int:
    """Write the plot. Print its path and the first and last training loss. Return the exit status."""
    return run_command(plot)


def plot() -> int:
    """Parse the flags, and plot. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="--output_dir of a run")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help=f"by default RUN_DIR/{PLOT_FILE}")
    args = parser.parse_args()
    path = plot_metrics(args.run_dir, args.output)
    training, _ = read_metrics(args.run_dir / METRICS_FILE)
    first, last = training[0], training[-1]
    print(f"plot: {path}")
    print(f"training loss: {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

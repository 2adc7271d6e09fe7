"""The figures of an evaluation as a table for a model card, each with what it says."""

from collections.abc import Callable
from typing import Any

from voice_cloning.training.evaluation_words import length_ratio, percent, speed

FIGURES = ("eval_accuracy_", "spoken_", "true_characters_")
"""Beginnings of the names of figures in ``metrics.jsonl``."""
Row = tuple[str, str, Callable[[dict[str, Any]], str], str]


def _share(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda record: percent(record[name])


ROWS: tuple[Row, ...] = (
    (
        "eval_accuracy_codebook_0",
        "codes of the first codebook that are right",
        _share("eval_accuracy_codebook_0"),
        "the code with the largest logit, after the true codes before it; many codes are possible, so it stays low",
    ),
    (
        "eval_accuracy_end_codebook_0",
        "ends of the first codebook that are right",
        _share("eval_accuracy_end_codebook_0"),
        "the end after the last true frame; 0 % is a model that was never taught to stop",
    ),
    (
        "spoken_stop_rate",
        "clips that ended by themselves",
        _share("spoken_stop_rate"),
        "the others were cut at a cap",
    ),
    (
        "spoken_length_ratio",
        "length ratio to the true clip",
        length_ratio,
        "median (5th to 95th percentile); 1 is the length of the true clip",
    ),
    (
        "spoken_repeated_share",
        "repeated frames",
        _share("spoken_repeated_share"),
        "frames that equal the frame before or lie in a loop",
    ),
    (
        "spoken_silent_share",
        "silent frames",
        _share("spoken_silent_share"),
        "frames in silences of 0.2 s or more, of the clips that were decoded",
    ),
    (
        "spoken_characters_per_second",
        "speed",
        speed,
        "letters and digits of the texts over the length of the clips; much above that of the data is too fast",
    ),
    (
        "spoken_wer",
        "word error rate",
        _share("spoken_wer"),
        "wrong words over words, as the recogniser of --asr heard the clips",
    ),
)
"""The name that a row needs, its title, its value and what it says."""


def figures_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the figures in a record of numbers."""
    return {name: value for name, value in record.items() if name.startswith(FIGURES)}


def figure_table(results: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table of the figures in the results of a run; no lines without figures.

    Args:
        results: with the records ``evaluation`` and ``speech``, if there are any.
    """
    evaluation, speech = results.get("evaluation", {}), results.get("speech", {})
    lines = []
    for name, title, value, meaning in ROWS:
        record = speech if name in speech else evaluation
        if name in record:
            lines.append(f"| {title} | {value(record)} | {meaning} |")
    if not lines:
        return []
    clips = f" Clips spoken: {speech['spoken_clips']:.0f}, at step {speech['step']}." if speech else ""
    return [
        "",
        f"What the losses do not show.{clips}",
        "",
        "| figure | value | what it says |",
        "|---|---|---|",
        *lines,
    ]

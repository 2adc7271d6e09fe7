"""Say the result of an evaluation in one line."""

BEST_BY = {
    "loss": "evaluation loss",
    "stop_rate": "stop rate, then evaluation loss",
    "wer": "stop rate, then word error rate, then evaluation loss",
}
"""What chooses the best evaluation, for each value of ``--keep_best_by``."""


def evaluation_line(results: dict[str, float], is_best: bool, keep_best_by: str = "loss") -> str:
    """Return what an evaluation found: its losses and accuracies, the figures of its spoken clips, or both.

    Args:
        results: numbers by their names in ``metrics.jsonl``. What is absent is left out.
        is_best: whether the evaluation is the best so far.
        keep_best_by: what chose it. Only if that is the loss, the words stand beside the loss.
    """
    parts, by_loss = [], keep_best_by == "loss"
    if "eval_loss" in results:
        parts.append(f"eval_loss {results['eval_loss']:.4f}{' (best so far)' if is_best and by_loss else ''}")
    for name, words in (("eval_accuracy_codebook_0", "first codebook"), ("eval_accuracy_end_codebook_0", "ends")):
        if name in results:
            parts.append(f"{words} {percent(results[name])} right")
    if "eval_accuracy_codebook_0" in results and "eval_accuracy_end" not in results:
        parts.append("no label is an end")  # a model that learns from such labels never stops
    best = f"best so far by {BEST_BY[keep_best_by]}" if is_best and not by_loss else ""
    return "; ".join(filter(None, [", ".join(parts), _spoken(results), best]))


def without_better(best_step: int | None) -> str:
    """Return why ``--patience`` ends a run, from the step of the best evaluation; None if there is none."""
    return "no evaluation had a finite loss" if best_step is None else f"no better evaluation since step {best_step}"


def percent(share: float) -> str:
    """Return a share in per cent. It is 0 or 100 only if the share is 0 or 1, or nearly so: one clip must show."""
    rounded = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if rounded in ("0", "100") and share not in (0, 1) else f"{rounded} %"


def length_ratio(results: dict[str, float]) -> str:
    """Return the median of the length ratio, with its 5th and 95th percentile in brackets if they are known."""
    median, low, high = (results.get(f"spoken_length_ratio{end}") for end in ("", "_p5", "_p95"))
    return f"{median:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def speed(results: dict[str, float]) -> str:
    """Return the characters per second of the spoken clips, and those of the data if they are known."""
    data = results.get("true_characters_per_second")
    in_data = "" if data is None else f" (data {data:.1f})"
    return f"{results['spoken_characters_per_second']:.1f} characters/s{in_data}"


def _spoken(results: dict[str, float]) -> str:
    """Return the figures of spoken clips; an empty text if none was spoken."""
    clips = results.get("spoken_clips", 0)
    if not clips:
        return ""
    parts = [f"{percent(results['spoken_stop_rate'])} ended"]
    if "spoken_length_ratio" in results:
        parts.append(f"length ratio {length_ratio(results)}")
    if "spoken_characters_per_second" in results:
        parts.append(speed(results))
    if "spoken_wer" in results:
        parts.append(f"word error rate {percent(results['spoken_wer'])}")
    return f"{clips:.0f} clip{'' if clips == 1 else 's'} spoken: {', '.join(parts)}"

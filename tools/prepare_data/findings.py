"""What the check can find, what to do about each, and the list of samples that it was found in."""

from collections.abc import Sequence
from typing import Any

ERRORS = {
    "unreadable_audio": "Export the clip again as WAV, FLAC, OGG or MP3, correct its path, or remove the sample.",
    "empty_audio": "Export the clip again or correct its offset; a clip needs at least one code frame (0.04 s).",
    "nan_audio": "Export the clip again: samples that are not numbers would poison the whole batch.",
    "truncated_audio": "Copy or download the file again: it ends before the length that it promises.",
    "malformed_record": "Correct the record as its details say; the trainer refuses it (--drop_invalid leaves it out).",
    "missing_text": "Write down what is said, or remove the sample; the model must be told what to say.",
    "reference_is_target_by_path": "Give another utterance of the speaker as reference "
    "(python -m tools.prepare_data build pairs them): from its own clip the model learns to copy, not to clone.",
    "reference_is_target_by_content": "The two files hold the same bytes: give another utterance as reference.",
    "reference_is_target_by_audio": "The two files hold the same recording, re-encoded, cut or resampled: give another "
    "utterance as reference.",
    "speaker_in_train_and_eval": "Move all samples of the speaker to one side "
    "(python -m tools.prepare_data build splits by speaker): the evaluation is to hear voices it never trained on.",
    "utterance_in_train_and_eval": "Remove the recording from one of the files: an evaluation on trained recordings "
    "measures memory.",
    "sample_too_long": "Cut its clips, or raise --max_positions_per_sample and --max_tokens_per_batch.",
}
WARNINGS = {
    "low_sample_rate": "Fetch the recordings at 24 kHz or more if they exist: the model speaks 24 kHz, and learns from "
    "these to leave the upper band empty.",
    "duplicate_recording": "Keep one file of each recording, or expect it to weigh double.",
    "digits": "Spell them out as they are spoken: python -m tools.prepare_data normalise.",
}
ADVICE = ERRORS | WARNINGS


class Findings:
    """All findings, by kind in the order of ``ERRORS`` and ``WARNINGS``."""

    def __init__(self) -> None:
        self._details: dict[str, dict[str, str]] = {kind: {} for kind in ADVICE}

    def add(self, kind: str, sample_id: str, detail: str) -> None:
        """Note a finding; further ones of the same kind in one sample are joined to its first."""
        details = self._details[kind]
        if sample_id not in details:
            details[sample_id] = detail
        elif detail not in details[sample_id].split("; "):
            details[sample_id] += f"; {detail}"

    def of(self, kinds: Sequence[str], seconds: dict[str, float]) -> list[dict[str, Any]]:
        """The findings of these kinds as the report lists them.

        Args:
            seconds: of the target of each sample.
        """
        total = sum(seconds.values())
        return [
            {
                "kind": kind,
                "sample_ids": list(details),
                "count": len(details),
                "hours_share": sum(seconds[name] for name in details) / total if total else 0.0,
                "advice": ADVICE[kind],
                "details": details,
            }
            for kind in kinds
            if (details := self._details[kind])
        ]

    @property
    def sample_ids(self) -> set[str]:
        """Every sample that a finding names."""
        return {name for details in self._details.values() for name in details}

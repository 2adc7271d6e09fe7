"""What the check can find: each kind with what to do about it, and the samples that it was found in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ERRORS = {
    "malformed_record": "Mend the record's fields: the trainer refuses it as it is.",
    "missing_text": "Write what the clip says, or remove the sample.",
    "unreadable_audio": "Give a file that is there and is WAV, FLAC, OGG or MP3, or remove the sample.",
    "empty_audio": "Export the clip again, or remove the sample: there is nothing in it to learn.",
    "nan_audio": "Export the clip again: it holds NaN or infinite samples.",
    "truncated_audio": "Copy or export the file again, or correct offset and duration: its end is missing, its text "
    "is not.",
    "reference_equals_target": "Give another utterance of the speaker as reference: the model would learn to copy.",
    "speaker_in_train_and_eval": "Move the speaker to one side: the evaluation would not measure unseen voices.",
    "utterance_in_train_and_eval": "Remove the utterance from one side: the evaluation would measure what was learnt "
    "by heart.",
    "over_limit": "Cut the clips or raise --max_positions_per_sample and --max_tokens_per_batch.",
}
WARNINGS = {
    "low_native_rate": "Record or fetch them at 24 kHz or more where you can: the model will speak as dull as these.",
    "clipping": "Take the original of the recording, before its gain was raised.",
    "silence_at_ends": "Cut it off: the model learns to pause before and after its words.",
    "mostly_silence": "Cut the silence out, or see whether the recording failed.",
    "low_level": "Raise the gain, if the noise allows it; voices of very different level are learnt as they are.",
    "dc_offset": "Filter it out with a high-pass of 20 Hz.",
    "implausible_speech_rate": "Listen: the text is probably that of another clip, or a part of it is missing.",
    "reference_length": "Give references of 3 to 10 s: shorter ones hold too little of a voice, longer ones cost.",
    "target_length": "Split long clips at pauses, and leave out those under half a second.",
    "digits": "Run the normalise verb or train with --text_normalisation speech, if they were read as it spells them.",
    "latin_letters": "Write them as they are spoken, in Arabic letters.",
    "tatweel": "Run the normalise verb, or train with --text_normalisation speech.",
    "presentation_forms": "Run the normalise verb, or train with --text_normalisation speech.",
    "bidi_controls": "Run the normalise verb, or train with --text_normalisation speech.",
    "zero_width": "Run the normalise verb, or train with --text_normalisation speech.",
    "emoji": "Run the normalise verb, or train with --text_normalisation speech.",
    "persian_letters": "Run the normalise verb, or train with --text_normalisation speech.",
    "unknown_characters": "Remove them, or write what they stand for.",
    "mixed_diacritisation": "Write all texts with diacritics or all without, as you will prompt later.",
    "duplicate_samples": "Keep one of them: what comes twice is learnt twice as well as the rest.",
    "conflicting_transcripts": "Listen, and keep the sample whose text is what is said.",
    "dominant_speaker": "Add other voices or take fewer clips of this one: the model would learn it, not cloning.",
    "transcript_mismatch": "Make them equal: prompt styles and tools read the one or the other.",
    "no_reference": "Give a reference clip: without one, the sample teaches no cloning.",
    "no_speaker": "Name the speaker: without it, nothing tells whether a voice is on both sides.",
}


@dataclass
class Findings:
    """Kind -> sample id -> what was found there; the first of several."""

    found: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in (*ERRORS, *WARNINGS)})

    def add(self, kind: str, sample_id: str, detail: str) -> None:
        """Note a finding."""
        self.found[kind].setdefault(sample_id, detail)

    def entries(self, kinds: Mapping[str, str], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
        """For report.json: the kinds that were found, with the share of hours of their samples.

        Args:
            kinds: ``ERRORS`` or ``WARNINGS``.
            seconds: of each sample's targets.
        """
        total = sum(seconds.values())
        entries = []
        for kind, advice in kinds.items():
            details = self.found[kind]
            if details:
                own = sum(seconds[sample_id] for sample_id in details)
                entries.append(
                    {
                        "kind": kind,
                        "sample_ids": list(details),
                        "count": len(details),
                        "hours_share": own / total if total else 0.0,
                        "advice": advice,
                        "details": details,
                    }
                )
        return entries

"""The kinds of findings of the check with advice on each, and the samples that have them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ERRORS = {
    "malformed_record": "Correct the record's fields: the trainer refuses this record.",
    "missing_text": "Write what the clip says, or remove the sample.",
    "unreadable_audio": "Give an existing WAV, FLAC, OGG or MP3 file, or remove the sample.",
    "empty_audio": "Export the clip again, or remove the sample: it has no audio to learn from.",
    "nan_audio": "Export the clip again: it holds NaN or infinite samples.",
    "overscaled_audio": "Export the clip again with samples from -1 to 1: they are far beyond full scale.",
    "cancelled_audio": "Invert one channel or export a single one: in mono, the channels cancel each other.",
    "truncated_audio": "Copy or export the file again, or correct offset and duration: the end of the audio is "
    "missing, but the end of the text is not.",
    "missing_codes": "Add the codes of these clips to the files: training with these --codes refuses the samples.",
    "invalid_codes": "Export the codes of these clips again: training refuses them.",
    "reference_equals_target": "Give another utterance of the speaker as reference: the model would learn to copy.",
    "speaker_in_train_and_eval": "Move the speaker to one side: the evaluation would not measure unseen voices.",
    "utterance_in_train_and_eval": "Remove the utterance from one side: the evaluation would measure memorised clips.",
    "references_of_other_voices": "Correct how references are paired with targets: the model would learn to ignore the "
    "reference.",
    "over_limit": "Cut the clips or raise --max_positions_per_sample and --max_tokens_per_batch.",
}
WARNINGS = {
    "low_native_rate": "Use recordings at 24 kHz or more if you can: the model learns the dull sound of these clips.",
    "clipping": "Use the original recording, before its gain was raised.",
    "silence_at_ends": "Cut the silence off: the model learns to pause before and after the words.",
    "mostly_silence": "Cut the silence out, or check whether the recording failed.",
    "low_level": "Raise the gain if the noise allows it: the model learns differences in level between voices.",
    "dc_offset": "Remove the offset with a high-pass filter at 20 Hz.",
    "implausible_speech_rate": "Listen: the text probably belongs to another clip, or a part of it is missing.",
    "reference_length": "Give references of 3 to 10 s: shorter ones hold too little voice, longer ones need memory.",
    "target_length": "Split long clips at pauses, and leave out clips under half a second.",
    "repeated_codes": "Listen: it is digital silence, or the encoder or the export repeated frames.",
    "cut_end": "Listen to the end: these clips may be cut within speech.",
    "digits": "If the speaker read them as normalise spells them, run it or train with --text_normalisation speech.",
    "latin_letters": "Write these words in Arabic letters, as they are spoken.",
    "tatweel": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "presentation_forms": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "bidi_controls": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "zero_width": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "emoji": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "persian_letters": "Run prepare_data normalise, or train with --text_normalisation speech.",
    "unknown_characters": "Remove these characters, or write the words that they stand for.",
    "mixed_diacritisation": "Write all texts with diacritics or all without, as in your later prompts.",
    "duplicate_samples": "Keep one of them: a repeated sample has more weight in training than the others.",
    "conflicting_transcripts": "Listen, and keep the sample with the right text.",
    "dominant_speaker": "Add other voices or take fewer clips of this one: the model would learn it, not cloning.",
    "transcript_mismatch": "Make the texts equal: some prompt styles and tools read one of them, some the other.",
    "reference_of_another_voice": "Listen to both clips, and give a reference of the target's voice. Noise or echo in "
    "only one of them can look like another voice.",
    "speaker_with_several_voices": "Listen, and name each voice: references are chosen by the speaker's name.",
    "no_reference": "Give a reference clip: without one, the sample does not teach cloning.",
    "no_speaker": "Name the speaker: without a name, the check cannot find a voice that is on both sides.",
}


@dataclass
class Findings:
    """What was found.

    Attributes:
        found: kind -> sample id -> detail of the first finding of that kind in the sample.
        values: kind -> sample id -> the number that was measured and its bound, for kinds that compare voices.
    """

    found: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in (*ERRORS, *WARNINGS)})
    values: dict[str, dict[str, tuple[float, float]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, kind: str, sample_id: str, detail: str, value: tuple[float, float] | None = None) -> None:
        """Add a finding, unless the sample has one of this kind already."""
        if sample_id not in self.found[kind]:
            self.found[kind][sample_id] = detail
            if value is not None:
                self.values[kind][sample_id] = value

    def entries(self, kinds: Mapping[str, str], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the entries of report.json: each kind that was found, with its samples and their share of the hours.

        Args:
            kinds: ``ERRORS`` or ``WARNINGS``.
            seconds: sample id -> length of the sample's targets.
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

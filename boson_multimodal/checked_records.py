"""The records of a ChatML file, tokenized and with their clips, and the checks of their clips and lengths."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from boson_multimodal.audio_processing.clip_encoding import ClipFacts, ClipUse, CodeSource, check_clips
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.mel_features import AS_CODES, TOKENS_AROUND_CHUNK, ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import Problem, ProblemKind
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.sample_dataset import SampleSizes, over_limit


@dataclass(slots=True)
class RecordClip:
    """A clip of a record.

    Attributes:
        clip: the audio file, and the part of it that is used.
        is_reference: whether its slot is ``<|AUDIO|>``.
        where: the field of the record that names the clip.
        name: the name of the clip in files of codes.
        facts: the results of the clip's check.
    """

    clip: Clip
    is_reference: bool
    where: str
    name: str
    facts: ClipFacts = ClipFacts()


@dataclass
class Record:
    """A record of the file, tokenized, with the problems that were found in it.

    Attributes:
        sample_id: ``misc.sample_id``, else ``record N``.
        problems: empty for a valid record.
        input_ids, label_ids: see ``prepare_chatml_sample``.
        clips: in the order of their slots.
        number: of the record in the file, from 0.
        speaker: who speaks the trained clip; None if the record does not say it.
        text_to_speak: see :func:`boson_multimodal.cloning_example.text_to_speak`.
        positions: sequence positions, after :meth:`RecordChecks.check`; until all clips are encoded, the expected ones.
            0 for a record with problems that were found before.
    """

    sample_id: str
    problems: list[Problem]
    input_ids: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    clips: list[RecordClip] = field(default_factory=list)
    number: int = 0
    speaker: str | None = None
    text_to_speak: str = ""
    positions: int = 0

    @property
    def keys(self) -> list[str]:
        """The cache key of each clip."""
        return [clip.facts.key for clip in self.clips]

    @property
    def names(self) -> list[str]:
        """The name of each clip in files of codes, for scripts that judge such data."""
        return [clip.name for clip in self.clips]


@dataclass(frozen=True)
class RecordChecks:
    """Checks records, and knows their lengths.

    Attributes:
        source: of the codes.
        frames_per_second: frame rate of the codec, to check the limits of length before codes exist.
        use_delay_pattern: the value in the model's configuration. It determines the number of columns of a clip.
        reference: how the model takes references, from its configuration.
    """

    source: CodeSource
    frames_per_second: float
    use_delay_pattern: bool
    reference: ReferenceForm = AS_CODES

    def check(self, records: Sequence[Record], max_positions: int, file_name: str, *, is_quiet: bool = False) -> None:
        """Look up or open the clips, divided among the ranks. Add to each record its positions and problems.

        Args:
            max_positions: length limit of a record, in sequence positions.
            file_name: the file of the records, for the progress bar.
            is_quiet: show no progress.
        """
        self._check_clips(records, file_name, is_quiet)
        self._check_limits(records, max_positions)

    def is_coded(self, is_reference: bool) -> bool:
        """Return whether the model takes the codes of such a clip."""
        return self.reference.codes or not is_reference

    def positions(self, record: Record, frames: Sequence[int]) -> int:
        """Return the number of sequence positions of a record. ``frames`` holds the number of frames of each clip."""
        positions = len(record.input_ids) - len(frames)
        for count, used in zip(frames, record.clips, strict=True):
            if self.is_coded(used.is_reference):
                positions += columns_of(count, self.source.num_codebooks, self.use_delay_pattern)
            if used.is_reference:
                chunks = self.reference.chunk_positions(used.facts.samples, used.facts.sampling_rate)
                positions += sum(chunks) + TOKENS_AROUND_CHUNK * max(0, len(chunks) - 1)
        return positions

    def expected_frames(self, record: Record) -> list[int]:
        """Return the number of frames of each clip of a record. Its clips need not be encoded."""
        found = [used.facts for used in record.clips]
        return [f.frames or frames_of(f.samples, f.sampling_rate, self.frames_per_second) for f in found]

    def sizes(self, records: Sequence[Record]) -> SampleSizes:
        """Return the sizes of records that were checked. Their clips need not be encoded."""
        return SampleSizes(
            np.array([r.positions for r in records], np.int32),
            np.array([len(r.input_ids) - len(r.clips) for r in records], np.int32),
            np.array([len(r.label_ids) - r.label_ids.count(IGNORE_INDEX) for r in records], np.int32),
        )

    def _check_clips(self, records: Sequence[Record], file_name: str, is_quiet: bool) -> None:
        """Look up or open every clip, divided among the ranks. Add a problem to every record that uses the clip."""
        slots: dict[tuple[Clip, str], set[bool]] = defaultdict(set)
        for record in records:
            for used in record.clips:
                slots[used.clip, used.name].add(used.is_reference)
        has_features = self.reference.chunk_seconds is not None
        uses = [
            ClipUse(clip, name, any(map(self.is_coded, found)), has_features and True in found)
            for (clip, name), found in slots.items()
        ]
        facts = check_clips(uses, self.source, self.frames_per_second, file_name, is_quiet=is_quiet)
        found = dict(zip(slots, facts, strict=True))
        for record in records:
            for used in record.clips:
                used.facts = found[used.clip, used.name]
            record.problems += [
                Problem(ProblemKind.UNUSABLE_AUDIO, f"{used.where}: {used.facts.problem}")
                for used in record.clips
                if used.facts.problem
            ]

    def _check_limits(self, records: Sequence[Record], max_positions: int) -> None:
        for record in records:
            if record.problems:
                continue
            too_long = self._long_references(record)
            frames = self.expected_frames(record)
            record.positions = self.positions(record, frames)
            if record.positions > max_positions:
                too_long.append(over_limit(record.positions, sum(frames), max_positions))
            record.problems += [Problem(ProblemKind.OVER_LIMIT, problem) for problem in too_long]

    def _long_references(self, record: Record) -> list[str]:
        """Return a problem for each reference that is longer than a chunk, if references are given as codes too.

        Codes cannot be split into chunks.
        """
        if not self.reference.codes:
            return []
        return [
            f"{used.where}: a reference of {used.facts.samples / used.facts.sampling_rate:g} s; this model takes "
            f"references as codes and as features of {self.reference.chunk_seconds} s at most: cut it (duration)"
            for used in record.clips
            if used.is_reference
            and len(self.reference.chunk_positions(used.facts.samples, used.facts.sampling_rate)) > 1
        ]

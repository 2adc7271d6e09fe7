"""Prepared data whose samples get another reference of their speaker in each epoch."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.prepared_data.candidate_pool import KEPT
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset, sample_of
from boson_multimodal.prepared_data.prepared_folder import ShardTable
from boson_multimodal.prepared_data.reference_draws import EpochDraws, ReferenceDraws
from boson_multimodal.prepared_data.target_speech import LONGEST_SECONDS, SHORTEST_SECONDS, TargetSpeech
from boson_multimodal.sample_dataset import SampleDataset, SampleSizes

EPOCHS_KEPT = 2
"""A thread reads the samples of one epoch while the next one is planned."""
LISTED_SPEAKERS = 10


class DrawnReferences(PreparedDataset):
    """The samples of a folder of prompt style voice_clone; in each epoch most of them have a drawn reference.

    A sample draws the target of another sample of its speaker, text and clip, or a join of short ones: the texts with
    one space between them, the codes side by side. It never draws speech of its own target's group. A sample that may
    draw nothing keeps the reference of the file.

    The samples of an epoch are those of :meth:`of_epoch`. This object itself has the references of the file.

    Args:
        folder, wanted, limits: see :class:`PreparedDataset`.
        seed: of the draws.

    Raises:
        InputError: as :class:`PreparedDataset`, and if the folder has no references to draw.
    """

    are_epochs_alike = False

    def __init__(self, folder: Path | str, wanted: Mapping[str, tuple[Any, str]], *, seed: int, **limits: Any) -> None:
        super().__init__(folder, wanted, **limits)
        known = self._manifest.get("references")
        if known is None:
            raise InputError(
                f"{folder}: was packed without the groups of same speech that --reference random needs; pack the data "
                "again, with this release and --prompt_style voice_clone, into another folder; or give --reference file"
            )
        self._before, self._between = known["ids_before_reference"], known["ids_between_texts"]
        self._references = ShardTable.open(self.data_path, known["shards"])
        around = columns_of(0, self.num_codebooks, limits["use_delay_pattern"])
        self._file_texts = self._fixed("reference_text")
        file_clips = self._samples.fixed("frames")[self._rows] - self._fixed("target_frames") + around
        self._speech = TargetSpeech(
            numbers=self._samples.fixed("number")[self._rows],
            speakers=self._fixed("speaker"),
            groups=self._fixed("group"),
            clips=self._fixed("clip"),
            frames=self._fixed("target_frames"),
            texts=self._fixed("target_text"),
            joined_texts=self._references.sizes("joined_ids")[self._rows].astype(np.int32),
            rest=self.sizes.positions - self._file_texts - file_clips,
            limit=limits["max_positions"],
            around_clip=around,
            frames_per_second=self.frames_per_second,
        )
        self._draws = ReferenceDraws(self._speech, seed)
        self._epoch = lru_cache(EPOCHS_KEPT)(lambda epoch: EpochReferences(self, self._draws.of_epoch(epoch)))

    def of_epoch(self, epoch: int) -> "EpochReferences":
        """Return the samples as an epoch, counted from 0, takes them. It does not change afterwards."""
        return self._epoch(epoch)

    @property
    def longest(self) -> int:
        """A number of positions that no sample exceeds in any epoch."""
        return max(super().longest, self._draws.longest)

    def _digest(self) -> str:
        """Return a hex digest of the samples of the file, and of all that decides the draws beside seed and epoch."""
        speech, digest = self._speech, hashlib.sha256(super()._digest().encode())
        digest.update(str(self.longest).encode())  # a higher limit changes no draw if everything fits
        for column in (speech.speakers, speech.groups, speech.clips, speech.frames, speech.texts, speech.joined_texts):
            digest.update(np.ascontiguousarray(column, "<i4"))
        return digest.hexdigest()[:16]

    def notes(self) -> list[str]:
        """Return what ``pack`` said about the clips, and who draws a reference and who does not."""
        known, speech, drawn = self._manifest["references"], self._speech, self.of_epoch(0).draws.drawn
        is_kept, is_unnamed = drawn == KEPT, speech.speakers < 0
        every = np.flatnonzero(~is_unnamed)
        alone = np.zeros(len(self), bool)
        alone[every] = ~speech.has_groups(every, 2)[speech.speakers[every]]
        others = int((is_kept & ~is_unnamed & ~alone).sum())
        place, found = self.data_path, [*known["findings"], *known["remarks"]]
        lines = [
            f"{place}: another reference each epoch: {int((~is_kept).sum())} of {len(self)} samples draw one in the "
            f"first epoch. Never drawn is the target's own speech, which was found as: {'; '.join(found)}"
        ]
        if is_unnamed.any():
            lines.append(f"{place}: {int(is_unnamed.sum())} samples have no speaker, and keep the file's reference")
        if alone.any():
            first = np.sort(np.unique(speech.speakers[alone], return_index=True)[1])
            names = [str(self.speaker(index)) for index in np.flatnonzero(alone)[first[:LISTED_SPEAKERS]].tolist()]
            more = f" and {len(first) - len(names)} more" if len(first) > len(names) else ""
            lines.append(
                f"{place}: {int(alone.sum())} samples keep the file's reference, because their speaker has only one "
                f"recording ({len(first)}: {', '.join(names)}{more})"
            )
        if others:
            lines.append(
                f"{place}: {others} samples keep the file's reference in the first epoch: no other recording of their "
                f"speaker, or join of short ones, has {SHORTEST_SECONDS} to {LONGEST_SECONDS} s and fits into "
                f"{speech.limit} positions"
            )
        return [*super().notes(), *lines]

    def sample_with(self, index: int, parts: list[int]) -> ChatMLDatasetSample:
        """Return a sample with the targets of other samples as its reference: one, or several side by side.

        Raises:
            InputError: if what it is made of is damaged.
        """
        ids, labels, clips = self.read_arrays(index)
        with self._naming_sample(index):
            text = np.concatenate([self._text(part, number == 0) for number, part in enumerate(parts)])
            codes = np.concatenate([self._codes(int(self._speech.clips[part])) for part in parts], axis=1)
        start, end = self._before, self._before + int(self._file_texts[index])
        ignored = np.full(len(text), IGNORE_INDEX, labels.dtype)
        return sample_of(
            np.concatenate([ids[:start], text, ids[end:]]),
            np.concatenate([labels[:start], ignored, labels[end:]]),
            [codes, *clips[1:]],
        )

    def sizes_with(self, draws: EpochDraws) -> SampleSizes:
        """Return the sizes of the samples with drawn references."""
        texts, positions = draws.sizes(self._speech)
        is_kept, was = draws.drawn == KEPT, self.sizes
        texts = np.where(is_kept, self._file_texts, texts)
        positions = np.where(is_kept, was.positions, self._speech.rest + positions)
        return SampleSizes(positions, was.text_positions - self._file_texts + texts, was.text_labels)

    def _text(self, index: int, is_first: bool) -> np.ndarray:
        """Return the ids of a target's text as a reference, or after another text and a space."""
        row = self._row(index)
        if not is_first:
            return self._references.read("joined_ids", row)
        start = self._before + int(self._file_texts[index]) + self._between
        return self._samples.read("input_ids", row)[start : start + int(self._speech.texts[index])]

    def _fixed(self, name: str) -> np.ndarray:
        return self._references.fixed(name)[self._rows]


class EpochReferences(SampleDataset):
    """The samples of an epoch. It does not change.

    Args:
        data: the data.
        draws: of the epoch.

    Attributes:
        draws: as given.
    """

    def __init__(self, data: DrawnReferences, draws: EpochDraws) -> None:
        self.draws, self._data = draws, data
        self.data_path, self.frames_per_second = data.data_path, data.frames_per_second
        self.num_dropped = data.num_dropped
        self.sizes = data.sizes_with(draws)
        self.lengths = self.sizes.positions

    def __getitem__(self, index: int) -> ChatMLDatasetSample:
        parts = self.draws.parts(index)
        return self._data.sample_with(index, parts) if parts else self._data[index]

    def sample_id(self, index: int) -> str:
        """Return the id of a sample."""
        return self._data.sample_id(index)

    def number(self, index: int) -> int:
        """Return the number of a sample in the ChatML file, from 0."""
        return self._data.number(index)

    def speaker(self, index: int) -> str | None:
        """Return who speaks the trained clip of a sample; None if the file did not say it."""
        return self._data.speaker(index)

    def text_to_speak(self, index: int) -> str:
        """Return the text of the first trained clip of a sample."""
        return self._data.text_to_speak(index)

    def _digest(self) -> str:
        """Return the fingerprint of the data, which all epochs share."""
        return self._data.fingerprint()

    def summary(self) -> dict[str, Any]:
        """Return the summary of the data."""
        return self._data.summary()

    def notes(self) -> list[str]:
        """Return the notes of the data."""
        return self._data.notes()

    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Return 0: all clips have codes."""
        return 0

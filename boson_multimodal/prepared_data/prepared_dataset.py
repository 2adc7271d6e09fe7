"""A dataset that reads its samples from a folder of prepared data."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.prepared_data.prepared_folder import ShardTable, read_manifest, refuse_other_settings
from boson_multimodal.sample_dataset import (
    SampleDataset,
    SampleSizes,
    fingerprint_line,
    over_limit,
    refuse_problems,
)


class PreparedDataset(SampleDataset):
    """The samples of a folder that ``tools.prepare_data pack`` wrote. It needs neither clips, codec nor tokenizer.

    Every sample is verified when it is read.

    Args:
        folder: the folder.
        wanted: the settings that the run needs; see :func:`refuse_other_settings`.
        use_delay_pattern: the value in the model's configuration. It determines the number of columns of a clip.
        max_positions: length limit of a sample, in sequence positions.
        drop_invalid: leave out samples over the limit instead of stopping.
        packed_from: the ChatML file, if training made the folder of it. The dataset then has its name.

    Attributes:
        codec: identity of the codec that made the codes.
        num_codebooks: K.

    Raises:
        InputError: if the folder is not whole or damaged, was made with other settings, or has samples over the limit.
            It lists all problems of the first kind that it finds.
    """

    def __init__(
        self,
        folder: Path | str,
        wanted: Mapping[str, tuple[Any, str]],
        *,
        use_delay_pattern: bool,
        max_positions: int,
        drop_invalid: bool = False,
        packed_from: Path | None = None,
    ) -> None:
        folder = Path(folder)
        self.data_path = packed_from or folder
        self._advice = "pack the data again" if packed_from is None else f"remove {folder} and start again"
        self._manifest = read_manifest(folder)
        settings = self._manifest["settings"]
        refuse_other_settings(folder, settings, wanted)
        self.codec: str = settings["codec"]
        self.frames_per_second = settings["frames_per_second"]
        self.num_codebooks: int = settings["num_codebooks"]
        self._samples = ShardTable.open(folder, self._manifest["samples"])
        self._clips = ShardTable.open(folder, self._manifest["clips"])
        frames, text = self._samples.fixed("frames"), self._samples.fixed("text_positions")
        around_clip = columns_of(0, self.num_codebooks, use_delay_pattern)
        positions = (text + frames + around_clip * self._samples.sizes("clips")).astype(np.int32)
        long = np.flatnonzero(positions > max_positions)
        offenders = [
            f"{self._samples.read_text('sample_id', row)}: {over_limit(positions[row], frames[row], max_positions)}"
            for row in long.tolist()
        ]
        refuse_problems(folder, len(positions), len(positions) - len(long), offenders, drop_invalid)
        self._rows = np.flatnonzero(positions <= max_positions)
        self.num_dropped = self._manifest["dropped"] + len(long)
        self.sizes = SampleSizes(positions, text, self._samples.fixed("text_labels"))[self._rows]
        self.lengths = self.sizes.positions

    def __getitem__(self, index: int) -> ChatMLDatasetSample:
        return sample_of(*self.read_arrays(index))

    def read_arrays(self, index: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return the token ids, the labels, and the (K, T) codes of each clip of a sample.

        Raises:
            InputError: if they are damaged.
        """
        shard, row = self._samples.place(self._row(index))
        with self._naming_sample(index):
            input_ids, label_ids = shard.read("input_ids", row), shard.read("label_ids", row)
            return input_ids, label_ids, [self._codes(number) for number in shard.read("clips", row).tolist()]

    def sample_id(self, index: int) -> str:
        """Return the id of a sample."""
        return self._samples.read_text("sample_id", self._row(index))

    def number(self, index: int) -> int:
        """Return the number of a sample in the ChatML file, from 0."""
        shard, row = self._samples.place(self._row(index))
        return int(shard.fixed["number"][row])

    def speaker(self, index: int) -> str | None:
        """Return who speaks the trained clip of a sample; None if the file did not say it."""
        shard, row = self._samples.place(self._row(index))
        return shard.read_text("speaker", row) if shard.fixed["has_speaker"][row] else None

    def text_to_speak(self, index: int) -> str:
        """Return the text of the first trained clip of a sample."""
        return self._samples.read_text("text", self._row(index))

    def _digest(self) -> str:
        """Return a hex digest of the ids, tokens, labels and clips of all samples: that of the ChatML file."""
        if len(self) == len(self._samples):
            return self._manifest["fingerprint"]
        return samples_fingerprint(self._samples, self._clips, self._rows.tolist())

    def summary(self) -> dict[str, Any]:
        """Return the folder's name, and the numbers of samples, dropped samples, distinct clips, and hours of clips."""
        frames = self._clips.fixed("frames")
        if len(self) < len(self._samples):
            used = {clip for row in self._rows.tolist() for clip in self._samples.read("clips", row).tolist()}
            frames = frames[sorted(used)]
        hours = int(frames.sum()) / self.frames_per_second / 3600
        counts = {"samples": len(self), "dropped": self.num_dropped, "clips": len(frames), "hours": hours}
        return {"file": self.data_path.name, **counts}

    def notes(self) -> list[str]:
        """Return what ``pack`` said about the clips."""
        return list(self._manifest["notes"])

    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Return 0: all clips have codes."""
        return 0

    @contextmanager
    def _naming_sample(self, index: int) -> Iterator[None]:
        """Name the sample in the error of damaged data."""
        try:
            yield
        except InputError as error:
            where = f"{self.data_path}: sample {self.number(index)} of {self._manifest['file']}"
            raise InputError(f"{where}: {error}; {self._advice}") from error

    def _row(self, index: int) -> int:
        return int(self._rows[index])

    def _codes(self, number: int) -> np.ndarray:
        return self._clips.read("codes", number).reshape(self.num_codebooks, -1)


def sample_of(input_ids: np.ndarray, label_ids: np.ndarray, codes: Sequence[np.ndarray]) -> ChatMLDatasetSample:
    """Return the sample of token ids, labels, and the (K, T) codes of each clip."""
    frames = torch.tensor([clip.shape[1] for clip in codes], dtype=torch.long)
    return ChatMLDatasetSample(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)),
        label_ids=torch.from_numpy(label_ids.astype(np.int64)),
        audio_ids_concat=torch.from_numpy(np.concatenate(codes, axis=1, dtype=np.int64)),
        audio_ids_start=frames.cumsum(0) - frames,
    )


def samples_fingerprint(samples: ShardTable, clips: ShardTable, rows: Sequence[int]) -> str:
    """Return the fingerprint of some samples: that of a ChatML file that holds them (``SampleDataset.fingerprint``)."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(fingerprint_line_of_row(samples, clips, row))
    return digest.hexdigest()[:16]


def fingerprint_line_of_row(samples: ShardTable, clips: ShardTable, row: int) -> bytes:
    """Return what the fingerprint hashes of a sample."""
    keys = [clips.read_text("key", number) for number in samples.read("clips", row).tolist()]
    tokens = [samples.read(name, row).tolist() for name in ("input_ids", "label_ids")]
    return fingerprint_line(samples.read_text("sample_id", row), *tokens, keys)

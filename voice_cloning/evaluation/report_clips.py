"""The clips of the report page: embedded as MP3 as far as a budget goes, else found beside the page."""

import base64
import io
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import soundfile

from boson_multimodal.audio_processing.audio_errors import AudioError
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import CODEC_SAMPLE_RATE
from voice_cloning.evaluation.report_form import Report

EMBEDDED_BYTES = 32 * 2**20
"""Size of the embedded clips in one page: 50 minutes of sound."""
KILOBITS_PER_SECOND = 64
"""A minute takes 0.48 MB, and 0.64 MB in the page. All browsers play MP3. Safari plays Ogg only in new releases, and
FLAC takes twice the room."""
MP3 = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.6}
"""With this level, LAME writes 24 kHz mono at ``KILOBITS_PER_SECOND``. The rate is constant: the budget is a time."""


def clips_of(item: Report) -> Iterator[str]:
    """Yield the paths of all clips of one sentence that have a waveform."""
    paths = [item["reference"], item["recording"]]
    paths += [clip["audio"] for clips in item["clips"].values() for clip in clips]
    judged = [clip["audio"] for clip in item["scales"].values()]
    yield from (path for path in [*paths, *(path for path in judged if path != item["recording"])] if path)


class PageClips:
    """The addresses of the clips that the page plays.

    Args:
        folder: the folder of report.json and of the page.
        items: the sentences, the worst one first. The worst one that is left and one drawn by chance are embedded by
            turns, until the budget is used.

    Attributes:
        worst, by_chance: how many sentences with clips are embedded, because they are the worst or by chance.
        linked: how many have their clips beside the page.
        problems: path -> why it cannot be played.
    """

    def __init__(self, folder: Path, items: Sequence[Report]) -> None:
        self.folder = folder
        self.problems: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._embedded: set[str] = set()
        self.worst = self.by_chance = 0
        with_clips = [item for item in items if any(clips_of(item))]
        self._embed(with_clips)
        self.linked = len(with_clips) - self.worst - self.by_chance

    def address(self, path: str, sentence_id: str) -> str:
        """Return what a player loads: a ``data:`` address, or a relative one. It is empty for a clip with a problem."""
        if path in self.problems:
            return ""
        # Sentences may share a clip, such as a reference: it is embedded once for each sentence that is.
        return self._addresses[path] if sentence_id in self._embedded else quote(os.fsencode(path))

    def _embed(self, items: Sequence[Report]) -> None:
        used = 0
        for item, is_worst in _worst_and_random(items):
            paths = list(clips_of(item))
            encoded = {path: self._addresses.get(path) or self._encoded(path) for path in dict.fromkeys(paths)}
            used += sum(len(encoded[path]) for path in paths)
            if used > EMBEDDED_BYTES:
                break
            self._addresses |= encoded
            self._embedded.add(item["id"])
            self.worst += is_worst
            self.by_chance += not is_worst
        for path in dict.fromkeys(path for item in items for path in clips_of(item)):
            if path not in self._addresses and path not in self.problems and not _exists(self.folder, path):
                self.problems[path] = f"not there: {path}"

    def _encoded(self, path: str) -> str:
        """Return a clip as a ``data:`` address; an empty text, with a problem noted, if it cannot be read."""
        try:
            samples = read_waveform(Clip(self.folder / path, 0.0, None)).resampled(CODEC_SAMPLE_RATE)
        except AudioError as error:
            self.problems[path] = f"not there: {path}" if not _exists(self.folder, path) else str(error)
            return ""
        file = io.BytesIO()
        soundfile.write(file, samples.clamp(-1.0, 1.0).numpy(), CODEC_SAMPLE_RATE, **MP3)
        return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _exists(folder: Path, path: str) -> bool:
    return os.path.isfile(folder / path)  # False also for a text that cannot be a path


def _worst_and_random(items: Sequence[Report]) -> Iterator[tuple[Report, bool]]:
    """Yield each item once, and whether as the worst that was left: by turns that one, and one drawn with a seed."""
    drawn = list(range(len(items)))
    random.Random(0).shuffle(drawn)
    given: set[int] = set()
    for worst, by_chance in zip(range(len(items)), drawn, strict=True):
        for index, is_worst in ((worst, True), (by_chance, False)):
            if index not in given:
                given.add(index)
                yield items[index], is_worst

"""A corpus whose clips are codes alone, with copies of recordings, for tests of drawn references."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.prepared_data.drawn_references import DrawnReferences
from tests.chatml_files import audio, record, text, write_records
from tests.voice_cloning.corpora.packed_data import pack
from voice_cloning.data_check.same_targets import same_speech

WORDS = "واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة".split()
FILE_FRAMES = 30
"""Code frames of the reference that each record has in the file."""


def codes(seed: int, frames: int) -> np.ndarray:
    """(8, frames) random codes; equal frames are as good as impossible."""
    return np.random.default_rng(seed).integers(0, 1024, (8, frames)).astype(np.int16)


class SpokenCorpus:
    """Records without a clip on disk.

    Attributes:
        records: the records.
        tensors: clip name -> codes.
        speech: for each record the number of the recording that its target is a part of.
        texts, speakers, names: for each record the target's text, its speaker, the name of its clip.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.speech: list[int] = []
        self.texts: list[str] = []
        self.speakers: list[str | None] = []
        self.names: list[str] = []

    def add(
        self, speaker: str | None, frames: int, *, like: int | None = None, words: str | None = None, **cut: Any
    ) -> int:
        """Add a record whose target has so many frames.

        Args:
            like: the record whose recording it is: its codes from the start, as far as they go.
            words: the target's text.
            cut: offset and duration of the clip; the recording then has the name of ``like``'s clip.

        Returns:
            The number of the record.
        """
        number = len(self.records)
        url = f"t{number}.wav" if not cut else self.names[like]
        part = audio(url, **cut)
        name = url if not cut else f"{url}#{float(cut['offset'])!r},{float(cut['duration'])!r}"
        made = codes(100 + number, frames)
        if like is not None and not cut:
            made = self.tensors[self.names[like]][:, :frames].copy()
        reference = f"r{number}.wav"
        self.tensors |= {name: made, reference: codes(10_000 + number, FILE_FRAMES)}
        found = record(f"s{number}", audio(reference), part, speaker=speaker)
        spoken = words or " ".join(WORDS[number % 5 : 1 + number % 5 + max(1, frames // 25)])
        user, assistant = (message["content"] for message in found["messages"][1:])
        user[0], user[2], assistant[0] = text(f"مرجع {number}"), text(spoken), text(spoken)
        self.records.append(found)
        self.speech.append(number if like is None else self.speech[like])
        self.texts.append(spoken)
        self.speakers.append(speaker)
        self.names.append(name)
        return number

    def write(self, codec: str) -> tuple[Path, Path]:
        """Write the ChatML file and the file of codes, and return both."""
        path = self.folder / "codes.safetensors"
        save_file(self.tensors, path, metadata={"codec": codec, "frames_per_second": "25"})
        return write_records(self.folder / "corpus.jsonl", self.records), path

    def pack(self, demo: Path, name: str = "packed", by_sound: bool = False, **settings: Any) -> Path:
        """Pack it, and return the folder."""
        file, path = self.write(codec_identity(demo / "audio_tokenizer"))
        how = {"prompt_style": "voice_clone", "codes": [str(path)], **settings}
        pack(demo, file, self.folder / name, same_speech=same_speech(by_sound), **how)
        return self.folder / name


def mixed_corpus(folder: Path) -> SpokenCorpus:
    """Speakers with many clips, copies of them, short clips, one recording alone, only long clips; and no speaker."""
    corpus = SpokenCorpus(folder)
    many = [corpus.add("many", frames) for frames in (75, 90, 140, 200, 250)]
    corpus.add("many", 90, like=many[1])  # the same codes under another name
    corpus.add("many", 100, like=many[2], words="خمسة")  # its beginning
    again = corpus.add("many", 75, like=many[0])
    corpus.records[again]["messages"][2]["content"][1] = audio(corpus.names[many[0]])  # the same clip twice
    corpus.names[again] = corpus.names[many[0]]
    corpus.add("many", 110, like=many[4], offset=1.0, duration=4.4)  # cuts that overlap
    corpus.add("many", 100, like=many[4], offset=1.2, duration=4.0)
    for frames in (20, 74, 251, 300):
        corpus.add("many", frames)
    short = [corpus.add("short", frames) for frames in (20, 30, 40, 50, 60, 70, 74, 33, 44, 55)]
    for number in short[:4]:
        corpus.add("short", int(corpus.tensors[corpus.names[number]].shape[1]), like=number)
    one = corpus.add("one long", 100)
    corpus.add("one long", 90, like=one)
    for frames in (40, 50, 60):
        corpus.add("one long", frames)
    alone = corpus.add("alone", 120)
    corpus.add("alone", 120, like=alone)
    corpus.add("all long", 260)
    corpus.add("all long", 270)
    for _ in range(3):
        corpus.add(None, 100)
    corpus.add(" ", 100)
    return corpus


def drawn(folder: Path, max_positions: int = 2048, seed: int = 0, drop_invalid: bool = False) -> DrawnReferences:
    """The dataset of a folder, with the delay pattern of the demo."""
    limits = {"max_positions": max_positions, "drop_invalid": drop_invalid}
    return DrawnReferences(folder, {}, seed=seed, use_delay_pattern=True, **limits)

"""Stand-in until the part that owns this module is merged: ChatML records and manifests."""

from dataclasses import dataclass
from pathlib import Path

from arabic_voice_cloning_dataset import read_json_records
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import raise_if_any
from voice_cloning.speech.requests import SpeechRequest, read_manifest


@dataclass(frozen=True)
class TestItem:
    name: str
    text: str
    request: SpeechRequest
    reference: AudioContent | None
    recording: AudioContent | None
    base_dir: Path
    speaker: str | None
    dialect: str | None
    reference_text: str | None


@dataclass(frozen=True)
class TestSet:
    items: tuple[TestItem, ...]
    kind: str


def read_test_set(
    path: Path, prompt_style: str, text_normalisation: str = "none", references: Path | None = None
) -> TestSet:
    requests, problems = read_manifest(path, prompt_style, text_normalisation=text_normalisation)
    raise_if_any(f"{path}: cannot be spoken", problems)
    raw = read_json_records(path)
    kind = "chatml" if "messages" in raw[0] else "manifest"
    items = []
    for request, record in zip(requests, raw, strict=True):
        sample = request.pieces[0].sample
        trained = [clip for turn, clip in sample.clips() if sample.trains(turn)]
        text = " ".join(piece.text for piece in request.pieces)
        recording = trained[0] if kind == "chatml" else None
        dialect = record.get("misc", {}).get("dialect")
        reference = request.references()[-1]
        items.append(
            TestItem(request.name, text, request, reference, recording, path.parent, sample.speaker, dialect, None)
        )
    return TestSet(tuple(items), kind)

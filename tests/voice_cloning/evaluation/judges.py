"""Judges without weights, and the settings of an evaluation of the demo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from voice_cloning.evaluation.evaluation import EvaluationSettings
from voice_cloning.evaluation.recognisers import Heard
from voice_cloning.evaluation.systems import SystemSettings
from voice_cloning.speech.speech import SpeechSettings

WRONG_WORDS = "كلام آخر تماما"
FAST = 9.0
"""Letters per second of the slowest speech: the base never ends, so it is cut early."""


class KnowsClips:
    """A recogniser that knows the codes of some clips, and hears the same wrong words in all others."""

    name = "knows-clips"

    def __init__(self, known: dict[str, Tensor]) -> None:
        self.known, self.heard = known, 0

    def load(self) -> "KnowsClips":
        return self

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        self.heard += len(clips)
        return [self._text(clip) for clip in clips]

    def _text(self, clip: Heard) -> str:
        for text, codes in self.known.items():
            if clip.codes_KT is not None and torch.equal(clip.codes_KT, codes):
                return text
        return WRONG_WORDS


class Loudness:
    """A speaker model and a scorer: what they say follows from the waveform alone."""

    name = "loudness"

    def __init__(self) -> None:
        self.heard = 0

    def load(self) -> "Loudness":
        return self

    def embed(self, samples: Tensor, rate: int) -> Tensor:
        self.heard += 1
        spectrum = torch.fft.rfft(samples[: rate // 4], n=rate // 4).abs()[:64]
        return torch.nn.functional.normalize(spectrum, dim=0)

    def score(self, samples: Tensor, rate: int) -> float:
        self.heard += 1
        return 1 + float(samples.abs().mean())


def settings_of(demo: Path, output: Path, *, greedy: bool = True, **fields: Any) -> EvaluationSettings:
    """Settings of an evaluation of the demo's model; fields of both settings may be given."""
    own = {name: fields.pop(name) for name in ("test_set", "seeds", "batch_size", "references") if name in fields}
    sampling = fields.pop("sampling", None) or SamplingConfig(do_sample=not greedy)
    speech = SpeechSettings(sampling=sampling, retries=0, slowest_letters_per_second=FAST)
    paths = {"model_path": str(demo / "model"), "audio_tokenizer_path": str(demo / "audio_tokenizer"), "device": "cpu"}
    systems = SystemSettings(**{**paths, "speech": speech, **fields})
    return EvaluationSettings(systems=systems, output_dir=output, **{"test_set": demo / "four.json", **own})

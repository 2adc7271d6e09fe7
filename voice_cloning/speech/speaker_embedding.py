"""Embeds speakers: speech becomes a vector of unit length, and clips of one voice have vectors with a high cosine.

    model = load_speaker_model("resemblyzer")
    embedding = model.embed(wave, sampling_rate)

The model is Resemblyzer, whose package brings its weights, or a transformers model with an x-vector head (WavLM,
Wav2Vec2, UniSpeechSat and others), as a folder or a hub id. Clips are embedded one by one, so no padding and no other
clip changes a result.
"""

import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Self, TypeVar

import numpy as np
import torch
import torchaudio

from boson_multimodal.checkpoints import is_hub_id, naming_damage, read_config, resolve_checkpoint
from boson_multimodal.device import pick_device
from boson_multimodal.errors import InputError
from boson_multimodal.progress import limit_library_bars

RESEMBLYZER = "resemblyzer"
INSTALL_RESEMBLYZER = "pip install --no-deps resemblyzer webrtcvad-wheels"
"""Without --no-deps, pip compiles webrtcvad and installs a backport of ``typing``; both are not needed."""
LEAST_SECONDS = 2.0
"""Speech that an embedding needs. A window of Resemblyzer is 1.6 s long."""
LONGEST_SECONDS = 60.0
"""Only the start of a longer clip is used, so that memory is bounded."""
WINDOWS_PER_SECOND = 2.6
"""Rate of Resemblyzer's windows; twice its default, so that short clips have several."""
DETECTION_DBFS = -20.0
"""Level of a clip for Resemblyzer's voice detection, as usual recordings have it. At -30 it takes soft speech for
silence."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class SpeakerEmbedding:
    """The voice of one clip.

    Attributes:
        vector: (dimensions,) float32 of unit length.
        seconds: speech that it was computed from.
    """

    vector: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """How similarities of a model are read.

    Attributes:
        threshold: similarity that 95 % of pairs of clips by different speakers stay below.
        half_seconds: with this much speech, half of the square of an embedding's length (before it is made a unit
            vector) is noise. A cosine with a shorter clip is therefore smaller, and :func:`scaled_vectors` corrects
            that. With 0, similarities are cosines.
    """

    threshold: float
    half_seconds: float = 0.0


RESEMBLYZER_CALIBRATION = Calibration(threshold=0.848, half_seconds=0.44)
"""Measured by ``python -m benchmarks.speaker_voices`` on 20 Arabic speakers."""


class SpeakerModel(ABC):
    """A model that embeds speakers. A new one has no weights yet; its constructor has checked what needs none.

    Attributes:
        name: the value of ``--speaker_model``.
        sampling_rate: rate in Hz of the waves that the model reads.
        calibration: how its similarities are read; None if it is not known.
        device: the device that the model runs on.
    """

    name: str
    sampling_rate: int = 16_000
    calibration: Calibration | None = None
    device: torch.device

    @abstractmethod
    def load(self) -> Self:
        """Load the weights, and return this model.

        Raises:
            InputError: if they are damaged or incomplete.
        """

    def embed(
        self, wave: np.ndarray, sampling_rate: int, least_seconds: float = LEAST_SECONDS
    ) -> SpeakerEmbedding | None:
        """Return the embedding of a mono wave of (samples,); None if it has less than ``least_seconds`` of speech."""
        (samples,) = wave.shape
        start = np.asarray(wave[: round(LONGEST_SECONDS * sampling_rate)], np.float32)
        if samples < least_seconds * sampling_rate or not start.any():
            return None
        if sampling_rate != self.sampling_rate:
            start = torchaudio.functional.resample(torch.from_numpy(start), sampling_rate, self.sampling_rate).numpy()
        speech = self._speech(start - start.mean())  # DC would count as level
        seconds = len(speech) / self.sampling_rate
        if seconds < least_seconds:
            return None
        with torch.inference_mode():
            vector = self._vector(speech)
        length = float(np.linalg.norm(vector))
        if not (np.isfinite(length) and length > 0):
            raise InputError(f"--speaker_model {self.name}: its embeddings are not finite; give another model")
        return SpeakerEmbedding((vector / length).astype(np.float32), seconds)

    def _speech(self, wave: np.ndarray) -> np.ndarray:
        """Return the part of a wave of (samples,) that the model reads."""
        return wave

    @abstractmethod
    def _vector(self, wave: np.ndarray) -> np.ndarray:
        """Return the (dimensions,) vector of a wave of (samples,), of any length."""


class ResemblyzerModel(SpeakerModel):
    """Resemblyzer's voice encoder: an LSTM over windows of 1.6 s, and the mean over the windows."""

    name = RESEMBLYZER
    calibration = RESEMBLYZER_CALIBRATION

    def __init__(self, device: torch.device | None = None) -> None:
        self._package = _import_resemblyzer()
        self.device = device or pick_device(-1)

    def load(self) -> Self:
        """Load the weights, which the package brings, and return this model."""
        self._encoder = self._package.VoiceEncoder(self.device, verbose=False).eval()
        return self

    def _speech(self, wave: np.ndarray) -> np.ndarray:
        # The package's preprocess_wav makes quiet clips louder, but not loud ones softer. Its voice detection and its
        # encoder read the level, so two clips of one voice at two levels would differ. Here each gets one level.
        package = self._package
        levelled = np.clip(package.normalize_volume(wave, DETECTION_DBFS), -1.0, 1.0)
        speech = package.trim_long_silences(levelled)
        return package.normalize_volume(speech, package.hparams.audio_norm_target_dBFS) if speech.any() else speech

    def _vector(self, wave: np.ndarray) -> np.ndarray:
        return self._encoder.embed_utterance(wave, rate=WINDOWS_PER_SECOND)


class XVectorModel(SpeakerModel):
    """A transformers model with an x-vector head.

    Args:
        path_or_id: its folder, or its hub id.
        revision: the hub's commit, branch or tag; it is ignored for a folder.

    Raises:
        InputError: if it is not there, or is not such a model.
    """

    def __init__(self, path_or_id: str, device: torch.device | None = None, revision: str | None = None) -> None:
        self.name, shown = path_or_id, f"--speaker_model {path_or_id}"
        folder = resolve_checkpoint(path_or_id, revision, "--speaker_model", [WEIGHTS, "preprocessor_config.json"])
        self._folder, self._shown = folder, shown
        architectures = self._architectures = read_config(folder, shown).get("architectures") or []
        if architectures and not any(str(name).endswith("ForXVector") for name in architectures):
            raise InputError(_no_x_vectors(shown, architectures))
        import transformers  # slow to import, and Resemblyzer does without it

        limit_library_bars()
        with naming_damage(shown):
            config = transformers.AutoConfig.from_pretrained(folder)
            if type(config) not in transformers.MODEL_FOR_AUDIO_XVECTOR_MAPPING:
                raise InputError(_no_x_vectors(shown, architectures or [config.model_type]))
            self._extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.sampling_rate = self._extractor.sampling_rate
        self.device = device or pick_device(-1)

    def load(self) -> Self:
        """Load the weights, and return this model.

        Raises:
            InputError: if they are damaged or incomplete.
        """
        import transformers

        with naming_damage(self._shown):
            model, info = transformers.AutoModelForAudioXVector.from_pretrained(
                self._folder, dtype=torch.float32, output_loading_info=True
            )
        # The objective is used in training only. Anything else that is missing would be random.
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("objective."))
        if missing:
            wrong = _no_x_vectors(self._shown, self._architectures)
            raise InputError(f"{wrong}: it has no weights for {', '.join(missing[:3])}")
        self._model = model.eval().to(self.device)
        return self

    def _vector(self, wave: np.ndarray) -> np.ndarray:
        inputs = self._extractor(wave, sampling_rate=self.sampling_rate, return_tensors="pt").to(self.device)
        return self._model(**inputs).embeddings[0].float().cpu().numpy()


def _no_x_vectors(shown: str, found: list[str]) -> str:
    given = ", ".join(map(str, found)) or "a model"
    return f"{shown}: {given}, but a model with an x-vector head is needed, such as WavLMForXVector"


def _import_resemblyzer() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it imports an old name of scipy's
            import resemblyzer
            import resemblyzer.hparams
    except ImportError as error:
        raise InputError(
            f"--speaker_model {RESEMBLYZER}: the package cannot be imported ({error}); {INSTALL_RESEMBLYZER}"
        ) from error
    return resemblyzer


def is_resemblyzer_installed() -> bool:
    """Return whether Resemblyzer is installed; whether it can be imported is seen when it is loaded."""
    return importlib.util.find_spec(RESEMBLYZER) is not None


def load_speaker_model(name: str, device: torch.device | None = None, revision: str | None = None) -> SpeakerModel:
    """Find a speaker model (:func:`find_speaker_model`), and load its weights.

    Raises:
        InputError: for the reasons of :func:`find_speaker_model`, or if the weights are damaged or incomplete.
    """
    return find_speaker_model(name, device, revision).load()


def find_speaker_model(name: str, device: torch.device | None = None, revision: str | None = None) -> SpeakerModel:
    """Return a speaker model that was checked. Its weights are not loaded yet.

    Args:
        name: ``resemblyzer``, or a folder or hub id of a transformers model with an x-vector head.
        device: None takes the GPU if there is one.
        revision: the hub's commit, branch or tag; it is ignored for a folder and for Resemblyzer.

    Raises:
        InputError: if the package is missing, or the model is not there or of another kind.
    """
    if name == RESEMBLYZER:
        return ResemblyzerModel(device)
    if not (Path(name).expanduser().exists() or is_hub_id(name)):
        raise InputError(
            f"--speaker_model {name}: no such folder; give {RESEMBLYZER}, a folder, or a hub id OWNER/NAME"
        )
    return XVectorModel(name, device, revision)


def scaled_vectors(embeddings: Iterable[SpeakerEmbedding], half_seconds: float) -> np.ndarray:
    """Return (clips, dimensions) vectors whose products are similarities that do not depend on the clips' lengths.

    An embedding is the mean of a voice and of noise. The noise falls with the seconds of speech, so the cosine of two
    clips is that of their voices times ``1 / sqrt((1 + half / one) * (1 + half / other))``.
    """
    scaled = [e.vector * np.float32(np.sqrt(1 + half_seconds / e.seconds)) for e in embeddings]
    return np.stack(scaled) if scaled else np.zeros((0, 1), np.float32)

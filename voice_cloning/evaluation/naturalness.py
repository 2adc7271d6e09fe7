"""Predicts how listeners would rate the quality of speech: MOS, a mean opinion score from 1 (bad) to 5 (excellent).

    mos = load_mos("dnsmos").score(samples, 24_000)

The only measure is DNSMOS P.835 of the package ``speechmos``, which brings its weights. It was made for noise
suppression: it hears noise, clipping and broken sound, not whether words, voice or intonation are right. Figures of
other MOS predictors, such as UTMOS, are not comparable.
"""

from types import ModuleType
from typing import Protocol

import numpy as np
import torchaudio
from torch import Tensor

from boson_multimodal.errors import InputError

DNSMOS = "dnsmos"
INSTALL_SPEECHMOS = "pip install speechmos onnxruntime requests"
"""The package does not name the packages that it imports; librosa is a requirement of this project."""
SAMPLING_RATE = 16_000


class MosModel(Protocol):
    """Anything that rates clips.

    Attributes:
        name: how reports call it.
    """

    name: str

    def score(self, samples: Tensor, sampling_rate: int) -> float | None:
        """Return the rating of (samples,), from 1 to 5; None for a clip without samples."""
        ...


class Dnsmos:
    """DNSMOS P.835. The rating is that of the overall quality (``ovrl_mos``).

    It reads 9.01 s at 16 kHz. Shorter clips are repeated; of longer ones, the mean over all windows that start at a
    whole second is taken. The networks run on the CPU.

    Raises:
        InputError: if the package or one that it needs is missing.
    """

    name = DNSMOS

    def __init__(self) -> None:
        self._package = _import_dnsmos()

    def score(self, samples: Tensor, sampling_rate: int) -> float | None:
        """Return the rating of (samples,), from 1 to 5; None for a clip without samples."""
        (count,) = samples.shape
        if not count:
            return None
        wave = torchaudio.functional.resample(samples.detach().float().cpu(), sampling_rate, SAMPLING_RATE)
        # The package refuses what lies outside. A WAV file clips it too.
        return float(self._package.run(np.clip(wave.numpy(), -1.0, 1.0), SAMPLING_RATE)["ovrl_mos"])


def load_mos(name: str) -> MosModel:
    """Load a measure of quality by the value of ``--mos``.

    Raises:
        InputError: if there is none of this name, or its package is missing.
    """
    if name != DNSMOS:
        raise InputError(f"--mos {name}: no such measure; give {DNSMOS}")
    return Dnsmos()


def _import_dnsmos() -> ModuleType:
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise InputError(f"--mos {DNSMOS}: the package cannot be imported ({error}); {INSTALL_SPEECHMOS}") from error
    return dnsmos

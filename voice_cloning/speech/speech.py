"""What is asked of a voice cloner besides the texts, and what it returns."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from boson_multimodal.errors import raise_if_any
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from voice_cloning.speech.text_pieces import SLOWEST_LETTERS_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """The settings of generation. The same settings give the same speech for a text, alone or in a batch.

    Attributes:
        sampling: how each code is sampled.
        seed: the seed for sampling.
        retries: how often a runaway piece is generated again, each time with another seed.
        slowest_letters_per_second: determines the longest plausible duration of a text (``longest_seconds``).
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    retries: int = 2
    slowest_letters_per_second: float = SLOWEST_LETTERS_PER_SECOND

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least 0"
            for name in ("seed", "retries")
            if getattr(self, name) < 0
        ]
        if not 0.0 < self.slowest_letters_per_second < math.inf:
            problems.append(f"slowest_letters_per_second is {self.slowest_letters_per_second}; it must be above 0")
        raise_if_any("wrong settings", problems)

    @property
    def attempts(self) -> int:
        """The number of attempts per piece. Greedy generation has one: further ones would be equal."""
        return 1 + (self.retries if self.sampling.do_sample else 0)


@dataclass(frozen=True)
class SpokenPiece:
    """The speech for one prompt.

    Attributes:
        text: the text of the prompt.
        codes: (K, T) codes.
        attempt: the number of the attempt, from 0.
        failure: why the speech cannot be that of the text; None if it ended in time.
    """

    text: str
    codes: Tensor
    attempt: int
    failure: str | None


@dataclass(frozen=True)
class Speech:
    """The speech for one request.

    Attributes:
        samples: (samples,) in -1..1, all pieces joined.
        sampling_rate: samples per second.
        pieces: the pieces that were joined.
    """

    samples: Tensor
    sampling_rate: int
    pieces: tuple[SpokenPiece, ...]

    @property
    def seconds(self) -> float:
        return self.samples.numel() / self.sampling_rate

    @property
    def failures(self) -> list[str]:
        """The problem and the text of each piece that is a runaway or is empty."""
        return [f"{piece.failure}: {piece.text!r}" for piece in self.pieces if piece.failure]

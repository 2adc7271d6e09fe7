"""Simulated results of test sets whose true figures are known."""

from dataclasses import dataclass

import numpy as np

SETS = 1000
"""Simulated sets of each measurement."""
SHORTEST, LONGEST = 3, 20
"""Words of a sentence, each length equally likely."""
RUNAWAY_WORDS = 15
"""Mean of the words that a runaway adds (Poisson)."""


@dataclass(frozen=True)
class WordErrorModel:
    """How the errors of a sentence come about.

    The share of wrong words of a sentence has a beta distribution with the given mean, ``mean * spread`` and ``(1 -
    mean) * spread`` as its parameters; with a spread of 2 many sentences are right or mostly wrong. The wrong words are
    binomial. A share of the sentences are runaways, whose further words are errors too.

    Attributes:
        mean: the mean share of wrong words.
        spread: the sum of the two parameters of the beta distribution.
        runaways: the share of runaways.
    """

    mean: float
    spread: float = 2.0
    runaways: float = 0.0

    @property
    def true_rate(self) -> float:
        """The word error rate of endless sentences."""
        return self.mean + self.runaways * RUNAWAY_WORDS / ((SHORTEST + LONGEST) / 2)

    def draw(self, rng: np.random.Generator, sentences: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (sentences,) errors and words."""
        words = rng.integers(SHORTEST, LONGEST + 1, sentences)
        errors = rng.binomial(words, self._shares(rng, sentences))
        return errors + (rng.random(sentences) < self.runaways) * rng.poisson(RUNAWAY_WORDS, sentences), words

    def draw_pair(
        self, rng: np.random.Generator, sentences: int, better_by: float, alike: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (sentences,) errors of systems a and b, and words.

        Args:
            better_by: by how much the word error rate of b is lower.
            alike: the share of sentences that are equally hard for both.
        """
        words = rng.integers(SHORTEST, LONGEST + 1, sentences)
        hard_for_a, own = self._shares(rng, sentences), self._shares(rng, sentences)
        hard_for_b = np.where(rng.random(sentences) < alike, hard_for_a, own)
        hard_for_b = (hard_for_b * (1 - better_by / self.mean)).clip(0, 1)
        return rng.binomial(words, hard_for_a), rng.binomial(words, hard_for_b), words

    def _shares(self, rng: np.random.Generator, sentences: int) -> np.ndarray:
        return rng.beta(self.mean * self.spread, (1 - self.mean) * self.spread, sentences)


def draw_of_speakers(
    rng: np.random.Generator, speakers: int, sentences_each: int, mean: float, spread: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return errors and words of each sentence, and its speaker.

    Each speaker has a mean share of wrong words of his own: beta with the given mean and spread. Within the speaker,
    sentences are those of :class:`WordErrorModel`. The true rate is the mean.
    """
    own = rng.beta(mean * spread, (1 - mean) * spread, speakers).clip(0.01, 0.99)
    drawn = [WordErrorModel(share).draw(rng, sentences_each) for share in own]
    speaker_of = [speaker for speaker in range(speakers) for _ in range(sentences_each)]
    return np.concatenate([e for e, _ in drawn]), np.concatenate([w for _, w in drawn]), speaker_of


def draw_pair_of_speakers(
    rng: np.random.Generator, speakers: int, sentences_each: int, mean: float, better_by: float, alike: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Return errors of systems a and b, words, and speakers.

    By how much b is better differs between speakers: normal, with the given mean and a standard deviation of 4 points.
    """
    gains = rng.normal(better_by, 0.04, speakers).clip(mean - 0.99, mean - 0.01)
    model = WordErrorModel(mean)
    drawn = [model.draw_pair(rng, sentences_each, gain, alike) for gain in gains]
    speaker_of = [speaker for speaker in range(speakers) for _ in range(sentences_each)]
    a, b, words = (np.concatenate(column) for column in zip(*drawn, strict=True))
    return a, b, words, speaker_of

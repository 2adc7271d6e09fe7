"""A stand-in for the model that draws random codes, and ends at random, by the real loop of generation."""

from typing import Any

import torch
from torch import Tensor

from boson_multimodal.model.higgs_audio import HiggsAudioModel


class RandomModel:
    """Draws the same random codes for a seed each time; each of them is an eos by chance.

    Args:
        config: the model's configuration.
        eos_chance: how probable an eos is.
        seed: of the codes.
    """

    training = False
    layers = ()
    device = torch.device("cpu")
    generate = HiggsAudioModel.generate

    def __init__(self, config: Any, eos_chance: float, seed: int = 0) -> None:
        self.config, self.eos_chance, self.seed, self.step = config, eos_chance, seed, 0
        self.audio_decoder_proj = self

    def last_hidden_states(self, cache: Any, *, input_ids: Tensor, **_: Any) -> Tensor:
        self.step = 0 if input_ids.shape[1] > 1 else self.step + 1
        return torch.zeros(len(input_ids), 1)

    def audio_lm_head(self, hidden_AD: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.step)
        shape = (len(hidden_AD), self.config.audio_num_codebooks)
        codes = torch.randint(0, self.config.audio_codebook_size, shape, generator=generator)
        codes[torch.rand(shape, generator=generator) < self.eos_chance] = self.config.audio_stream_eos_id
        return 99.0 * torch.nn.functional.one_hot(codes, self.config.codebook_rows).flatten(1)

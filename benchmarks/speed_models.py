"""Models and samples of the training benchmark: random weights in the release's proportions, lengths as in a corpus."""

import math
import random
from dataclasses import dataclass

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from benchmarks.released_size import RELEASED_TEXT
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of

NARROW = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1368,
    "vocab_size": RELEASED_TEXT["vocab_size"] // 6,
}
"""The release at a sixth of its width. A key has four queries for the release's three, and the FFN of 1365.3 is 1368,
because heads divide 512 and vectors have eight numbers."""
MODELS: dict[str, dict[str, int]] = {
    "prop": NARROW | {"num_hidden_layers": 6},
    "real": NARROW | {"num_hidden_layers": 6, "vocab_size": RELEASED_TEXT["vocab_size"]},
    "released": {"num_hidden_layers": 28},
    "tiny": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 512,
        "num_hidden_layers": 2,
    },
}
"""Fields of the backbone by the name of a model; the other fields are those of the release."""

FRAMES_PER_SECOND = 25
MEDIAN_SECONDS, SPREAD, SHORTEST, LONGEST = 5.0, 0.5, 1.5, 15.0
"""Targets: log-normal, as the clips of read speech are; the spread is that of the logarithm."""
TEXT_TOKENS, REFERENCE_FRAMES, TARGET_TOKENS = (90, 130), (100, 150), 28
"""Least and most of each sample; and how many of the text's tokens are in the trained turn."""
SLOT_TOKENS = 7
"""Ids of a sample that are no text: three around each clip, and the end of the turn."""
SHORTEST_SAMPLE, LONGEST_SAMPLE = 250, 700
"""Bounds of the positions of a sample."""


@dataclass(frozen=True)
class SampleSize:
    """What a sample is made of.

    Attributes:
        text: token ids, with those of both slots.
        reference, target: frames of the two clips.
    """

    text: int
    reference: int
    target: int

    def positions(self, config: HiggsAudioConfig) -> int:
        """Positions of the sample, once its two slots are expanded."""
        clips = (self.reference, self.target)
        columns = sum(columns_of(f, config.audio_num_codebooks, config.use_delay_pattern) for f in clips)
        return self.text - len(clips) + columns


def model_config(name: str, layers: int | None = None) -> HiggsAudioConfig:
    """Configuration of a model by its name in ``MODELS``. The last ids of the vocabulary are special, as released."""
    text = {**RELEASED_TEXT, **MODELS[name]}
    if layers is not None:
        text["num_hidden_layers"] = layers
    released = HiggsAudioConfig()
    moved = {
        field: getattr(released, field) - RELEASED_TEXT["vocab_size"] + text["vocab_size"]
        for field in (
            "audio_in_token_idx",
            "audio_out_token_idx",
            "audio_out_bos_token_id",
            "audio_eos_token_id",
            "pad_token_id",
        )
    }
    codebooks = {}
    if name == "tiny":
        codebooks = {"audio_codebook_size": 32, "audio_stream_bos_id": 32, "audio_stream_eos_id": 33}
    return HiggsAudioConfig(text_config=text, **moved, **codebooks)


def build_base(
    config: HiggsAudioConfig, device: torch.device, dtype: torch.dtype, is_computing: bool = True
) -> HiggsAudioModel:
    """Build the frozen base on the device. Norms are away from 1, so that a swapped norm shows in a comparison."""
    with torch.device("meta"):
        model = HiggsAudioModel(config).to(dtype)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    model.rotary_emb = LlamaRotaryEmbedding(config.text_config).to(device)
    if is_computing:
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0, 0.1) if "norm" in name else parameter.normal_(0.0, 0.02)
    return model


def randomise_adapter(model: nn.Module) -> None:
    """Give both factors of each adapter random values: while B is 0, as at first, A has no gradient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.02)


def corpus_sizes(count: int, seed: int) -> list[SampleSize]:
    """Sizes of the samples of a corpus, in its order."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(count):
        seconds = min(max(math.exp(rng.gauss(math.log(MEDIAN_SECONDS), SPREAD)), SHORTEST), LONGEST)
        text, reference = rng.randint(*TEXT_TOKENS), rng.randint(*REFERENCE_FRAMES)
        sizes.append(SampleSize(text, reference, round(seconds * FRAMES_PER_SECOND)))
    return sizes


def sizes_with_positions(positions: int, config: HiggsAudioConfig, seed: int) -> list[SampleSize]:
    """Sizes of samples that have so many positions in all: those of a corpus; the last one fills up."""
    chosen: list[SampleSize] = []
    left = positions
    for size in corpus_sizes(positions, seed):
        if left - size.positions(config) < SHORTEST_SAMPLE:
            break
        chosen.append(size)
        left -= size.positions(config)
    shortest = SampleSize(TEXT_TOKENS[0], REFERENCE_FRAMES[0], 1)
    return [*chosen, SampleSize(shortest.text, shortest.reference, 1 + left - shortest.positions(config))]


def build_sample(config: HiggsAudioConfig, size: SampleSize, generator: torch.Generator) -> ChatMLDatasetSample:
    """Build a sample of random text and codes: a prompt with a reference clip, and a trained turn with the target."""

    def text(count: int) -> list[int]:
        return torch.randint(0, config.audio_eos_token_id - 32, (count,), generator=generator).tolist()

    before = (size.text - TARGET_TOKENS - SLOT_TOKENS) // 2
    after = size.text - TARGET_TOKENS - SLOT_TOKENS - before
    around = (config.audio_out_bos_token_id, config.audio_eos_token_id)
    prompt = [*text(before), around[0], config.audio_in_token_idx, around[1], *text(after)]
    trained = [*text(TARGET_TOKENS), around[0], config.audio_out_token_idx, around[1], config.eot_token_id]
    codes = [
        torch.randint(0, config.audio_codebook_size, (config.audio_num_codebooks, frames), generator=generator)
        for frames in (size.reference, size.target)
    ]
    labels = [IGNORE_INDEX] * len(prompt) + trained
    return ChatMLDatasetSample.of_clips(prompt + trained, labels, codes, None, config.audio_num_codebooks)

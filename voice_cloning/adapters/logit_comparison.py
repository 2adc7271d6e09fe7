"""Compare two forms of a model by both heads' logits on a fixed batch, which is made without any data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_training_collator import (
    ArabicVoiceCloningTrainingCollator,
    ChatMLDatasetSample,
    HiggsAudioBatchInput,
)
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.packing import segment_lengths

SHAPES = ((5, 12, 9), (17, 4, 3), (2, 25, 31), (9, 9, 1))
"""For each sample: reference frames, target frames, text tokens."""
SEED = 0


@dataclass(frozen=True)
class Logits:
    """Both heads' logits in fp32: N valid positions of all samples, C columns of all targets.

    Attributes:
        text_NV: (N, vocabulary).
        audio_CKV: (C, K, codebook rows).
    """

    text_NV: Tensor
    audio_CKV: Tensor

    def heads(self) -> dict[str, Tensor]:
        """Return the logits by head name."""
        return {"text": self.text_NV, "audio": self.audio_CKV}

    def largest(self, head: str) -> float:
        """Return the largest absolute value of a head's logits."""
        return self.heads()[head].abs().max().item()


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of logits of one head.

    Attributes:
        largest: the largest absolute difference.
        rms: the root mean square over all logits.
        row_rms: the 90th percentile, over positions, of the root mean square within a position. A few positions are
            badly conditioned: their error is many times larger than that of others, and it varies a lot from one
            computation to another. The percentile is stable.
    """

    largest: float
    rms: float
    row_rms: float

    def __str__(self) -> str:
        return f"{self.largest:.3g} (RMS {self.rms:.3g}, in 90 % of rows {self.row_rms:.3g})"


def differences(one: Logits, other: Logits) -> dict[str, Difference]:
    """Return the difference by head. It is infinite if a logit is not finite."""
    found = {}
    for head, values in one.heads().items():
        squares = (values - other.heads()[head]).double().square_().flatten(1).nan_to_num_(nan=float("inf"))
        rows = squares.mean(dim=1).sqrt()
        found[head] = Difference(
            squares.max().sqrt().item(), squares.mean().sqrt().item(), rows.quantile(0.9, interpolation="higher").item()
        )
    return found


def fixed_batch(config: HiggsAudioConfig) -> HiggsAudioBatchInput:
    """Return four samples of random text and codes, the same in every run. Each has a reference and a target clip."""
    random = torch.Generator().manual_seed(SEED)
    text_below = min(
        config.audio_in_token_idx, config.audio_out_token_idx, config.audio_out_bos_token_id, config.audio_eos_token_id
    )
    samples = []
    for reference_frames, target_frames, text_tokens in SHAPES:
        text = torch.randint(text_below, (2, text_tokens), generator=random).tolist()
        reference = [config.audio_in_token_idx] if config.encode_audio_in_tokens else []
        target = [config.audio_out_bos_token_id, config.audio_out_token_idx, config.audio_eos_token_id]
        frames = [reference_frames] * len(reference) + [target_frames]
        codes = torch.randint(config.audio_codebook_size, (config.audio_num_codebooks, sum(frames)), generator=random)
        ids = torch.tensor([*text[0], *reference, *text[1], *target, config.eot_token_id])
        starts = torch.tensor([0, *frames[:-1]]).cumsum(0)
        samples.append(ChatMLDatasetSample(ids, torch.full_like(ids, IGNORE_INDEX), codes, starts))
    return ArabicVoiceCloningTrainingCollator.from_config(config)(samples)


@torch.no_grad()
def our_logits(model: nn.Module, batch: HiggsAudioBatchInput) -> Logits:
    """Compute the logits of a ``HiggsAudioModel`` on the CPU, or of a PEFT model that wraps one."""
    inputs = {name: value for name, value in vars(batch).items() if "label" not in name}
    output = model(**inputs)
    return Logits(output.logits[output.attention_mask.bool()].float(), output.audio_logits.float())


@torch.no_grad()
def transformers_logits(
    native: HiggsAudioV2ForConditionalGeneration, config: HiggsAudioConfig, batch: HiggsAudioBatchInput
) -> Logits:
    """Compute the logits of transformers' own class, sample by sample. An adapter that PEFT applied to it is included.

    The class sends only ``<|AUDIO_OUT|>`` to the audio FFN, so reference columns get that id too.

    Args:
        native: a model that was built with ``use_text_head=True``.
        config: our configuration of the same model.
        batch: the result of :func:`fixed_batch`.
    """
    references, targets = (
        codes.split(segment_lengths(codes.shape[1], starts).tolist(), dim=1)
        for codes, starts in (
            (batch.audio_in_ids, batch.audio_in_ids_start),
            (batch.audio_out_ids, batch.audio_out_ids_start),
        )
    )
    text, audio = [], []
    samples = zip(batch.input_ids, batch.attention_mask.bool(), references, targets, strict=True)
    for padded_ids, valid, reference, target in samples:
        ids = padded_ids[valid]
        columns = torch.ones_like(ids)
        columns[ids == config.audio_in_token_idx] = reference.shape[1]
        columns[ids == config.audio_out_token_idx] = target.shape[1]
        expanded = ids.repeat_interleave(columns)
        hidden = native.model(
            input_ids=expanded.masked_fill(expanded == config.audio_in_token_idx, config.audio_out_token_idx)[None],
            audio_input_ids=torch.cat([reference, target], dim=1).T[None],
        ).last_hidden_state[0]
        text.append(native.text_lm_head(hidden).float())
        audio.append(native.audio_lm_head(hidden[expanded == config.audio_out_token_idx]).float())
    return Logits(torch.cat(text), torch.cat(audio).unflatten(-1, (config.audio_num_codebooks, -1)))


@contextmanager
def computing_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within this context the model computes in ``dtype``. LoRA's weights stay in fp32.

    The weights of a module are cast only while it runs, so memory never holds a second copy of the model.
    """
    held: dict[nn.Parameter, Tensor] = {}

    def cast(module: nn.Module, _: object) -> None:
        for parameter in module.parameters(recurse=False):
            held[parameter] = parameter.data
            parameter.data = parameter.data.to(dtype)

    def restore(module: nn.Module, *_: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = held.pop(parameter)

    handles = []
    for name, module in model.named_modules():
        if ".lora_" not in name and next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_pre_hook(cast))
            handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

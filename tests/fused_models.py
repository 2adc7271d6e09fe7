"""Small models with an adapter, batches of every kind, and a judge in double precision for their gradients."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from unittest.mock import patch

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from arabic_voice_cloning_training_collator import (
    ArabicVoiceCloningTrainingCollator,
    ChatMLDatasetSample,
    HiggsAudioBatchInput,
)
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig
from tests.native_oracle import AUDIO_IN, AUDIO_OUT, random_sample, tiny_config
from tests.tower_models import TOWER
from voice_cloning.run.components import leave_casts_to_autocast
from voice_cloning.training.fused_layers import install_fused_layers

TEXT, TRAINED_TEXT, REFERENCE, CLIP, TRAINED_CLIP, BARE, TRAINED_BARE = range(7)
"""Parts of a sample. A bare clip has no tokens around it."""

BATCHES: dict[str, Sequence[Sequence[tuple[int, int]]]] = {
    "without a reference": [[(TEXT, 5), (TRAINED_TEXT, 2), (TRAINED_CLIP, 9)], [(TEXT, 3), (TRAINED_CLIP, 2)]],
    "without text before": [[(TRAINED_BARE, 6), (TRAINED_TEXT, 2)], [(REFERENCE, 4), (TRAINED_BARE, 3)]],
    "one sample": [[(TEXT, 7), (REFERENCE, 5), (TRAINED_TEXT, 2), (TRAINED_CLIP, 8), (TRAINED_TEXT, 1)]],
    "several references": [
        [(TEXT, 3), (REFERENCE, 4), (TEXT, 2), (REFERENCE, 7), (REFERENCE, 1), (TRAINED_CLIP, 9)],
        [(TEXT, 2), (REFERENCE, 2), (REFERENCE, 3), (TRAINED_TEXT, 3), (TRAINED_CLIP, 4)],
    ],
    "many clips": [
        [(TEXT, 3), (CLIP, 4), (TEXT, 2), (TRAINED_CLIP, 5), (TRAINED_CLIP, 1), (TRAINED_BARE, 3), (BARE, 2)],
        [(REFERENCE, 2), *[(TRAINED_TEXT, 2), (TRAINED_CLIP, 3)] * 4],
    ],
    "text labels after a clip": [[(TEXT, 4), (BARE, 6), (TRAINED_TEXT, 3)], [(REFERENCE, 3), (TRAINED_TEXT, 1)]],
    "no text": [[(TRAINED_BARE, 7)], [(BARE, 2), (TRAINED_BARE, 3)]],
    "no clip": [[(TEXT, 9), (TRAINED_TEXT, 4)], [(TEXT, 1), (TRAINED_TEXT, 6), (TEXT, 3)]],
    "labels in early turns": [
        [(TEXT, 3), (TRAINED_TEXT, 2), (TRAINED_CLIP, 5), (TEXT, 6), (CLIP, 4), (TEXT, 2)],
        [(TRAINED_CLIP, 3), (TEXT, 2), (REFERENCE, 4), (TEXT, 3)],
    ],
    "text labels only": [[(TEXT, 4), (TRAINED_TEXT, 3), (CLIP, 5)]],
    "audio labels only": [[(TEXT, 4), (TRAINED_BARE, 5), (TEXT, 2)], [(TEXT, 3), (TEXT, 4)]],
    "no label": [[(TEXT, 4), (CLIP, 3)]],
}


def build_sample(parts: Sequence[tuple[int, int]]) -> ChatMLDatasetSample:
    """Build a sample of (part, its tokens or frames) with random text and codes."""
    ids: list[int] = []
    labels: list[int] = []
    frames: list[int] = []
    for part, size in parts:
        tokens = torch.randint(0, 480, (size,)).tolist()
        if part == REFERENCE:
            tokens = [491, AUDIO_IN, 492]
        elif part not in (TEXT, TRAINED_TEXT):
            tokens = [AUDIO_OUT] if part in (BARE, TRAINED_BARE) else [493, AUDIO_OUT, 492]
        frames += [size] if part not in (TEXT, TRAINED_TEXT) else []
        is_trained = part in (TRAINED_TEXT, TRAINED_CLIP, TRAINED_BARE)
        ids += tokens
        labels += tokens if is_trained else [IGNORE_INDEX] * len(tokens)
    codes = [torch.randint(0, 32, (8, count)) for count in frames]
    return ChatMLDatasetSample.of_clips(ids, labels, codes, None, 8)


def build_batch(name: str, model: HiggsAudioModel) -> HiggsAudioBatchInput:
    """Build one of ``BATCHES``, or ``mixed``: samples of very different lengths, of which one has no reference."""
    torch.manual_seed(3)
    if name == "mixed":
        samples = [random_sample(7, 40, 12), random_sample(0, 3, 5), random_sample(25, 1, 40), random_sample(2, 11, 3)]
    else:
        samples = [build_sample(parts) for parts in BATCHES[name]]
    return ArabicVoiceCloningTrainingCollator.from_config(model.config)(samples)


def build_feature_batch(model: HiggsAudioModel) -> HiggsAudioBatchInput:
    """Build a batch of two samples whose references are features: one of two chunks, and two of one chunk."""
    torch.manual_seed(3)
    samples = []
    for references, frames in (([20_000], 6), ([5_000, 9_000], 4)):
        ids = [token for number in range(len(references)) for token in (number + 1, 491, AUDIO_IN, 492)] + [21]
        answer = [493, AUDIO_OUT, 492, 489]
        codes = [*[None] * len(references), torch.randint(0, 32, (8, frames))]
        waveforms = [*[0.1 * torch.randn(count) for count in references], torch.zeros(0)]
        labels = [IGNORE_INDEX] * len(ids) + answer
        samples.append(ChatMLDatasetSample.of_clips(ids + answer, labels, codes, waveforms, 8))
    return ArabicVoiceCloningTrainingCollator.from_config(model.config)(samples)


def build_base(seed: int = 0, **overrides: object) -> HiggsAudioModel:
    """Build a base of three layers whose attention, FFNs and norms all matter to the loss."""
    torch.manual_seed(seed)
    base = HiggsAudioModel(tiny_config(**overrides))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "layers" in name and parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            elif "embed" in name:
                parameter.normal_()
    return base.requires_grad_(False).eval()


def build_base_with_tower() -> HiggsAudioModel:
    """Build a base that reads references as features."""
    form = {"encode_whisper_embed": True, "encode_audio_in_tokens": False}
    return build_base(skip_audio_tower=False, audio_encoder_config=TOWER, **form)


EVERY = list(TARGET_GROUPS)
SETTINGS: dict[str, dict[str, object]] = {
    "default targets": {"lora_rank": 4},
    "every group": {"lora_targets": EVERY},
    "attention, heads and embeddings": {"lora_targets": ["attention", "heads", "audio_embeddings"]},
    "rsLoRA": {"use_rslora": True},
    "rank 1": {"lora_rank": 1, "lora_alpha": 2.0, "lora_targets": EVERY},
    **{group: {"lora_rank": 3, "lora_alpha": 6.0, "lora_targets": [group]} for group in TARGET_GROUPS},
}
"""Adapters by name. Where no rank is given, it is 16."""


def build_model(base: HiggsAudioModel, peft: dict[str, object] | None = None, **settings: object) -> PeftModel:
    """Add an adapter with random factors to a copy of the base. (At PEFT's start, B is 0, and A has no gradient.)

    Args:
        peft: fields of PEFT's configuration beyond our settings.
    """
    config = HiggsAudioLoRATrainingConfig(**settings).to_peft()
    for name, value in (peft or {}).items():
        setattr(config, name, value)
    model = get_peft_model(copy.deepcopy(base), config)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn_like(parameter))
    return model.train()


def fused(model: PeftModel, recompute: str = "none") -> PeftModel:
    """Return a copy of a plain model with fused layers."""
    copied = copy.deepcopy(model)
    assert install_fused_layers(copied, recompute) is None
    return copied


def to_bfloat16(model: PeftModel) -> PeftModel:
    """Return a copy as the trainer has it: frozen weights in bf16, the adapter in fp32, casts left to autocast."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    leave_casts_to_autocast(copied)
    return copied


@dataclass(frozen=True)
class Measured:
    """A loss, and the gradient of every trained tensor by name, in double precision."""

    loss: float
    gradients: dict[str, Tensor]

    def flat(self) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in self.gradients.values()])


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients by name. A tensor without one has zeros."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {n: torch.zeros_like(p).double() if p.grad is None else p.grad.double() for n, p in trained.items()}


def measure(model: PeftModel, batch: HiggsAudioBatchInput, dtype: torch.dtype = torch.float32) -> Measured:
    """Run one forward and backward pass as the trainer does, from no gradients."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = model(**vars(batch))
    output.loss.backward()
    return Measured(output.loss.item(), gradients_of(model))


def double_norm(self: LlamaRMSNorm, x: Tensor) -> Tensor:
    return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


def _double_loss(output: HiggsAudioModelOutput, label_audio_ids: Tensor) -> Tensor:
    """The definition in ``loss.py`` on full logits. Where there is no label, a loss is 0."""

    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum") / (labels != IGNORE_INDEX).sum().clamp(min=1)

    text = mean(output.logits[:, :-1].flatten(0, 1), output.expanded_labels[:, 1:].flatten())
    return text + sum(mean(output.audio_logits[:-1, k], label_audio_ids[k, 1:]) for k in range(8)) / 8


def judge(model: PeftModel, batch: HiggsAudioBatchInput) -> Measured:
    """Measure the plain model with double precision in every operation, on full logits.

    The gradients of small tensors have noise in fp32, with every order of the sums. Against this judge the noise of the
    tested path counts alone.
    """
    model = copy.deepcopy(model).double()
    model.get_base_model().label_layers = None
    inputs = {n: v.double() if v is not None and v.is_floating_point() else v for n, v in vars(batch).items()}
    with patch.object(LlamaRMSNorm, "forward", double_norm):
        output = model(**inputs, output_logits=True)
        loss = _double_loss(output, batch.label_audio_ids)
        loss.backward()
    assert loss.dtype == torch.float64
    return Measured(loss.item(), gradients_of(model))


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over the norm of what is wanted; infinity for anything instead of zeros."""
    difference = (found - wanted).norm().item()
    return difference and (difference / wanted.norm().item() if wanted.any() else float("inf"))


def worst_error(found: Measured, wanted: Measured) -> tuple[float, str]:
    """Return the largest error of a tensor's gradient, and its name."""
    assert found.gradients.keys() == wanted.gradients.keys()
    return max((error(found.gradients[name], wanted.gradients[name]), name) for name in wanted.gradients)


def loss_error(found: Measured, wanted: Measured) -> float:
    """Return the relative difference of the losses."""
    return abs(found.loss - wanted.loss) / wanted.loss if found.loss != wanted.loss else 0.0

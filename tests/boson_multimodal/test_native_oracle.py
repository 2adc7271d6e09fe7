"""Compare logits and LoRA gradients with transformers' class. The loss alone hardly changes with a swapped norm."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig
from tests.native_oracle import (
    loss_by_definition,
    native_logits,
    native_model,
    native_twin,
    random_sample,
    tiny_config,
)
from voice_cloning.training.config import RECOMPUTE_LEVELS
from voice_cloning.training.fused_layers import install_fused_layers

GRADIENT_TOLERANCE = 1e-4
"""The largest error of a gradient, as a share of its tensor's largest entry (fp32)."""


def mixed_batch(model: HiggsAudioModel) -> HiggsAudioBatchInput:
    """Build a batch of very different lengths. One sample has no reference."""
    samples = [random_sample(7, 40, 12), random_sample(0, 3, 5), random_sample(25, 1, 40), random_sample(2, 11, 3)]
    return ArabicVoiceCloningTrainingCollator.from_config(model.config)(samples)


def model_with_moved_norms() -> HiggsAudioModel:
    model = HiggsAudioModel(tiny_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


def randomise_adapter(model: PeftModel) -> None:
    """Set LoRA B to random values (at 0, PEFT's start, A has no gradient)."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))


def worst_gradient_error(swap_norms: bool, recompute: str | None) -> tuple[float, float]:
    """Return the largest gradient error (a share of its tensor's largest entry) and the losses' relative difference.

    Args:
        recompute: the level of the fused layers; None for the plain layers.
    """
    base = model_with_moved_norms()
    native = native_model(base)
    if swap_norms:
        layer = native.model.layers[1]
        layer.input_layernorm, layer.audio_input_layernorm = layer.audio_input_layernorm, layer.input_layernorm
    batch = mixed_batch(base)
    ours = get_peft_model(base, HiggsAudioLoRATrainingConfig(lora_rank=4, lora_targets=list(TARGET_GROUPS)).to_peft())
    randomise_adapter(ours)
    theirs, pairs = native_twin(ours, native)
    if recompute is not None:
        assert install_fused_layers(ours, recompute) is None

    output = ours(**vars(batch))
    output.loss.backward()
    logits = native_logits(theirs, base.config, batch, output.expanded_input_ids, output.attention_mask)
    reference = loss_by_definition(logits, output.expanded_labels, batch.label_audio_ids)
    reference.backward()
    errors = []
    for name, parameter, other in pairs:
        assert other.grad.abs().max() > 0, f"{name}: the oracle's gradient is 0 everywhere"
        errors.append(((parameter.grad - other.grad).abs().max() / other.grad.abs().max()).item())
    return max(errors), abs(output.loss.item() - reference.item()) / reference.item()


PATHS = pytest.mark.parametrize("recompute", [None, *RECOMPUTE_LEVELS])
"""The plain layers, and each level of the fused ones."""


@PATHS
def test_gradient_of_every_adapter_tensor_equals_the_oracle(recompute: str | None) -> None:
    gradient_error, loss_error = worst_gradient_error(swap_norms=False, recompute=recompute)
    assert gradient_error < GRADIENT_TOLERANCE
    assert loss_error < 1e-6


@PATHS
def test_a_swapped_pair_of_norms_fails_the_gradient_check(recompute: str | None) -> None:
    gradient_error, _ = worst_gradient_error(swap_norms=True, recompute=recompute)
    assert gradient_error > 100 * GRADIENT_TOLERANCE


@torch.no_grad()
def test_logits_equal_the_oracle() -> None:
    model = model_with_moved_norms()
    batch = mixed_batch(model)
    output = model(**vars(batch), output_logits=True)
    mask = output.attention_mask
    logits = native_logits(native_model(model), model.config, batch, output.expanded_input_ids, mask)
    torch.testing.assert_close(output.audio_logits, logits.audio_CKV, rtol=0, atol=2e-5)
    torch.testing.assert_close(output.logits[mask.bool()], logits.text_BSV[mask.bool()], rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_output_of_a_sample_does_not_depend_on_its_batch() -> None:
    model = model_with_moved_norms()
    collate = ArabicVoiceCloningTrainingCollator.from_config(model.config)
    samples = [random_sample(4, 9, 6), random_sample(3, 20, 2), random_sample(0, 5, 11)]
    together = model(**vars(collate(samples)))
    alone = [model(**vars(collate([sample]))) for sample in samples]
    assert together.text_loss_sum.item() == pytest.approx(sum(o.text_loss_sum.item() for o in alone), rel=1e-5)
    torch.testing.assert_close(together.audio_loss_sum, sum(o.audio_loss_sum for o in alone), rtol=1e-5, atol=0)
    assert torch.equal(together.audio_label_count, sum(o.audio_label_count for o in alone))


def test_the_heads_see_only_rows_with_a_label() -> None:
    model = model_with_moved_norms()
    batch = mixed_batch(model)
    rows: dict[str, int] = {}
    heads = model.audio_decoder_proj
    for name in ("text_lm_head", "audio_lm_head"):
        getattr(heads, name).register_forward_pre_hook(
            lambda _, args, name=name: rows.__setitem__(name, rows.get(name, 0) + args[0].shape[0])
        )
    with torch.no_grad():
        model(**vars(batch))
    text_labels = (batch.label_ids != -100).sum().item()
    # A trained clip of T frames has labels in columns 1 to T + K, so T + K rows predict one.
    audio_rows = sum(frames + 8 for frames in (40, 3, 1, 11))
    assert rows == {"text_lm_head": text_labels, "audio_lm_head": audio_rows}


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(1)
        model = model_with_moved_norms()
        batch = mixed_batch(model)
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model(**vars(batch)).loss.backward()
        gradients.append(model.layers[0].self_attn.q_proj.weight.grad)
    assert torch.equal(*gradients)


def test_slots_without_codes_are_refused() -> None:
    model = HiggsAudioModel(tiny_config())
    batch = {**vars(mixed_batch(model)), "audio_in_ids": None, "audio_in_ids_start": None}
    with pytest.raises(ValueError, match="3 reference .* slots but code columns for 0 segments"):
        model(**batch)
    with pytest.raises(ValueError, match="no audio tower"):
        model(**{**vars(mixed_batch(model)), "audio_features": torch.zeros(1, 16, 100)})

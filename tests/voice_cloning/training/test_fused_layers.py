"""Loss and gradients of the fused layers: against the plain layers in double precision, and transformers' class.

The bounds are those of fp32 for a tensor: norm of the difference over norm. Between two fp32 paths the noise of both
would count, so the judge is the plain model in double precision.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from statistics import geometric_mean
from unittest.mock import patch

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio import HiggsAudioModel, loss, modeling_higgs_audio
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import Routing
from boson_multimodal.model.higgs_audio.products import default_products
from boson_multimodal.model.higgs_audio.rms_norm import FrozenRMSNorm
from tests.fused_models import (
    BATCHES,
    EVERY,
    SETTINGS,
    Measured,
    build_base,
    build_base_with_tower,
    build_batch,
    build_feature_batch,
    build_model,
    error,
    fused,
    judge,
    loss_error,
    measure,
    to_bfloat16,
    worst_error,
)
from tests.native_oracle import loss_by_definition, native_logits, native_model, native_twin
from voice_cloning.training import fused_layers
from voice_cloning.training.adapted_matrix import AdaptedMatrix
from voice_cloning.training.config import RECOMPUTE_LEVELS

GRADIENT, LOSS = 1e-5, 1e-6
"""The largest error of a tensor's gradient and of the loss. The plain layers in fp32 have errors of 1e-6 and 2e-7."""


@cache
def base_model() -> HiggsAudioModel:
    return build_base()


@cache
def model_with(name: str) -> PeftModel:
    """A plain model, which the tests copy."""
    return build_model(base_model(), **SETTINGS[name])


@cache
def judged(name: str, batch: str) -> Measured:
    return judge(model_with(name), build_batch(batch, base_model()))


def assert_right(found: Measured, wanted: Measured) -> None:
    worst, name = worst_error(found, wanted)
    assert worst < GRADIENT, name
    assert loss_error(found, wanted) < LOSS


# -- fp32 --------------------------------------------------------------------------------------------------------------


def assert_right_at_every_level(model: PeftModel, batch: HiggsAudioBatchInput, wanted: Measured) -> None:
    """On a CPU, what is computed again has the same bits."""
    first, *others = (measure(fused(model, level), batch) for level in RECOMPUTE_LEVELS)
    assert_right(first, wanted)
    for other in others:
        assert other.loss == first.loss and torch.equal(other.flat(), first.flat())


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_of_every_adapter_are_right(name: str) -> None:
    wanted = judged(name, "mixed")
    assert all(gradient.any() for gradient in wanted.gradients.values())
    assert_right_at_every_level(model_with(name), build_batch("mixed", base_model()), wanted)


@pytest.mark.parametrize("name", ["every group", "rank 1"])
def test_gradients_with_the_default_products_are_right(name: str) -> None:
    batch = build_batch("mixed", base_model())
    with default_products():
        found = measure(fused(model_with(name)), batch)
    assert_right(found, judged(name, "mixed"))
    assert not torch.equal(found.flat(), measure(fused(model_with(name)), batch).flat()) or not onednn_is_there()


def onednn_is_there() -> bool:
    return torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("name", BATCHES)
def test_gradients_of_every_batch_are_right(name: str) -> None:
    """Heads with an adapter have no gradient at all in a batch without labels, on either path."""
    settings = "every group" if name != "no label" else "default targets"
    batch = build_batch(name, base_model())
    assert_right_at_every_level(model_with(settings), batch, judged(settings, name))


def test_the_batches_are_what_they_are_called() -> None:
    rows = {}

    def recorded(self: object, hidden_ND: Tensor, routing: Routing, rows_R: Tensor) -> Tensor:
        rows[name] = len(hidden_ND), routing.num_text, rows_R
        return call(self, hidden_ND, routing, rows_R)

    model = fused(model_with("default targets"))
    call = fused_layers.FusedLayers.__call__
    with patch.object(fused_layers.FusedLayers, "__call__", recorded):
        for name in BATCHES:
            model(**vars(build_batch(name, base_model())))
    assert {name for name, (_, text, _) in rows.items() if text == 0} == {"no text"}
    assert {name for name, (all_rows, text, _) in rows.items() if text == all_rows} == {"no clip"}
    assert {name for name, (*_, wanted) in rows.items() if not len(wanted)} == {"no label"}
    _, num_text, wanted = rows["text labels after a clip"]
    batch = build_batch("text labels after a clip", base_model())
    assert (batch.label_audio_ids == -100).all() and (wanted >= num_text).any() and (wanted < num_text).any()


def test_gradients_with_references_as_features_are_right() -> None:
    base = build_base_with_tower()
    model, batch = build_model(base, lora_targets=EVERY), build_feature_batch(base)
    assert batch.audio_features.shape[0] == 4
    assert_right_at_every_level(model, batch, judge(model, batch))


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_gradients_equal_those_of_transformers_class(recompute: str) -> None:
    model = model_with("every group")
    batch = build_batch("mixed", base_model())
    twin, pairs = native_twin(model, native_model(base_model()))
    ours = fused(model, recompute)
    found = measure(ours, batch)
    output = ours(**vars(batch))
    logits = native_logits(twin, base_model().config, batch, output.expanded_input_ids, output.attention_mask)
    reference = loss_by_definition(logits, output.expanded_labels, batch.label_audio_ids)
    reference.backward()
    gradients = {f"base_model.model.{name}": other.grad.double() for name, _, other in pairs}
    assert_right(found, Measured(reference.item(), gradients))


def test_layers_of_different_ranks_and_scales_are_right() -> None:
    """PEFT's patterns give the layers that share a product ranks and scales of their own."""
    model = build_model(base_model(), {"rank_pattern": {"k_proj": 2, "up_proj": 5}, "alpha_pattern": {"v_proj": 3}})
    batch = build_batch("mixed", base_model())
    assert_right(measure(fused(model), batch), judge(model, batch))


# -- bf16 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["every group", pytest.param("default targets", marks=pytest.mark.slow)])
def test_bfloat16_is_as_near_to_fp32_as_the_plain_layers_are(name: str) -> None:
    """Over five models. Of single models, each path is the nearer one of some."""
    ratios = []
    for seed in range(5):
        base = build_base(seed)
        model, batch = to_bfloat16(build_model(base, **SETTINGS[name])), build_batch("mixed", base)
        wanted = measure(copy.deepcopy(model).float(), batch)
        plain, found = (measure(m, batch, torch.bfloat16) for m in (model, fused(model)))
        ratios.append(error(found.flat(), wanted.flat()) / error(plain.flat(), wanted.flat()))
        for tensor, gradient in wanted.gradients.items():
            own = error(plain.gradients[tensor], gradient)
            assert error(found.gradients[tensor], gradient) < 2 * own, tensor
    assert geometric_mean(ratios) <= 1.0
    assert max(ratios) < 1.2


# -- negative controls: with a deliberate fault, the same check fails --------------------------------------------------


def layer_of(model: PeftModel) -> fused_layers.FusedLayer:
    return model.get_base_model().label_layers._layers[1]


def swap_attention_norms(model: PeftModel) -> None:
    attention = layer_of(model)._attention
    attention.norms = attention.norms[::-1]


def swap_ffn_norms(model: PeftModel) -> None:
    text, audio = layer_of(model)._ffns
    text.norm, audio.norm = audio.norm, text.norm


def change_scale(matrix: AdaptedMatrix) -> None:
    matrix.factors[-1] = dataclasses.replace(matrix.factors[-1], scale=1.01 * matrix.factors[-1].scale)


def shift_rows(model: PeftModel) -> None:
    base = model.get_base_model()
    layers = base.label_layers
    base.label_layers = lambda hidden, routing, rows: layers(hidden, routing, (rows + 1).clamp(max=len(hidden) - 1))


FAULTS_OF_MODEL: dict[str, Callable[[PeftModel], None]] = {
    "attention: norms swapped": swap_attention_norms,
    "attention: scale of v": lambda model: change_scale(layer_of(model)._attention.qkv),
    "attention: scale of o": lambda model: change_scale(layer_of(model)._attention.out),
    "FFN: norms swapped": swap_ffn_norms,
    "FFN: scale of up": lambda model: change_scale(layer_of(model)._ffns[1].gate_up),
    "FFN: scale of down": lambda model: change_scale(layer_of(model)._ffns[0].down),
    "last layer: rows shifted by one": shift_rows,
}


@contextmanager
def wrong_final_norm() -> Iterator[None]:
    """The loss of the heads with another norm."""
    right = modeling_higgs_audio.head_loss_sums
    other = base_model().layers[0].input_layernorm
    with patch.object(modeling_higgs_audio, "head_loss_sums", lambda norm, *rest: right(other, *rest)):
        yield


@contextmanager
def labels_shifted() -> Iterator[None]:
    """Each row predicts its own audio labels in place of those of the next column."""
    with patch.object(loss, "next_audio_labels", lambda label_audio_ids_KC: label_audio_ids_KC.T):
        yield


def half_norm_gradient(self: FrozenRMSNorm, dy_ND: Tensor, x_ND: Tensor, scale_N1: Tensor) -> Tensor:
    return dy_ND * self.weight * scale_N1


def without_rotation(x: Tensor, *_: object) -> Tensor:
    return x.clone()


def one_sign(
    x: Tensor, cos: Tensor, sin: Tensor, sign: int, rotate: Callable[..., Tensor] = fused_layers.rotate
) -> Tensor:
    return rotate(x, cos, sin, 1)


FAULTS_OF_CODE: dict[str, Callable[[], AbstractContextManager]] = {
    "attention: no rotation": lambda: patch.object(fused_layers, "rotate", without_rotation),
    "attention: gradient rotated the same way": lambda: patch.object(fused_layers, "rotate", one_sign),
    "norms: half of the gradient": lambda: patch.object(FrozenRMSNorm, "backward", half_norm_gradient),
    "head: another norm": wrong_final_norm,
    "head: labels shifted by one": labels_shifted,
}


@pytest.mark.parametrize("name", [*FAULTS_OF_MODEL, *FAULTS_OF_CODE])
def test_a_fault_fails_the_gradient_check(name: str) -> None:
    model, wanted = model_with("default targets"), judged("default targets", "mixed")
    batch, subject = build_batch("mixed", base_model()), fused(model)
    if name in FAULTS_OF_MODEL:
        FAULTS_OF_MODEL[name](subject)
    with FAULTS_OF_CODE.get(name, nullcontext)():
        found = measure(subject, batch)
    assert worst_error(found, wanted)[0] > 100 * GRADIENT

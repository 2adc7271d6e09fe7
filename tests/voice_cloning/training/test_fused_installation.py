"""What keeps the plain layers, and what the fused layers leave as it was."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.fused_models import (
    EVERY,
    Measured,
    build_base,
    build_batch,
    build_model,
    fused,
    gradients_of,
    judge,
    loss_error,
    measure,
    worst_error,
)
from tests.training_runs import trainer
from voice_cloning.run.components import install_layers
from voice_cloning.training.config import RECOMPUTE_LEVELS
from voice_cloning.training.fused_layers import FusedLayers, install_fused_layers

# -- reasons for the plain layers --------------------------------------------------------------------------------------


def with_another_adapter(both: bool) -> PeftModel:
    model = build_model(build_base())
    model.add_adapter("other", LoraConfig(r=2, target_modules=r"layers\.\d+\.self_attn\.q_proj"))
    model.base_model.set_adapter(["default", "other"] if both else "other")
    return model


def with_ia3() -> PeftModel:
    projections = r"layers\.\d+\.(self_attn\.v_proj|mlp\.down_proj)"
    feedforward = r"layers\.\d+\.mlp\.down_proj"
    return get_peft_model(build_base(), IA3Config(target_modules=projections, feedforward_modules=feedforward))


def with_trained_norm() -> PeftModel:
    model = build_model(build_base())
    model.get_base_model().layers[1].input_layernorm.weight.requires_grad_()
    return model


def with_frozen_factor() -> PeftModel:
    model = build_model(build_base())
    model.get_base_model().layers[0].self_attn.q_proj.lora_A["default"].weight.requires_grad_(False)
    return model


def of_text(**fields: object) -> PeftModel:
    config = build_base().config.text_config.to_dict()
    return build_model(build_base(text_config={**config, **fields}))


SKIPPED = {"audio_adapter_type": "dual_ffn_fast_forward", "audio_dual_ffn_layers": [0, 2]}
REASONS: dict[str, tuple[Callable[[], PeftModel], str]] = {
    "DoRA": (lambda: build_model(build_base(), use_dora=True), "DoRA"),
    "dropout": (lambda: build_model(build_base(), lora_dropout=0.1), "dropout"),
    "a layer that audio skips": (lambda: build_model(build_base(**SKIPPED)), "not every layer has an FFN for audio"),
    "biases of the attention": (lambda: of_text(attention_bias=True), "its layers have biases"),
    "biases of the FFNs": (lambda: of_text(mlp_bias=True), "its layers have biases"),
    "another activation": (lambda: of_text(hidden_act="gelu"), "its FFNs use gelu"),
    "biases of the adapter": (lambda: build_model(build_base(), {"lora_bias": True}), "the form of the adapter of 0"),
    "two adapters": (lambda: with_another_adapter(both=True), "the form of the adapter of 0.self_attn.q_proj"),
    "an adapter of fewer layers": (lambda: with_another_adapter(both=False), "the form of the adapter of 0.self_attn"),
    "another kind of adapter": (with_ia3, "the form of the adapter of 0.self_attn.v_proj"),
    "a trained norm": (with_trained_norm, "1.input_layernorm.weight is trained"),
    "a frozen factor": (with_frozen_factor, "0.self_attn.q_proj.lora_A.default.weight is not trained"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_model_that_keeps_its_plain_layers_trains_with_them(name: str) -> None:
    build, reason = REASONS[name]
    torch.manual_seed(1)
    model = build()
    batch = build_batch("mixed", model.get_base_model())
    torch.manual_seed(5)
    wanted = measure(copy.deepcopy(model), batch)
    for recompute in RECOMPUTE_LEVELS:
        subject = copy.deepcopy(model)
        given = install_layers(subject, recompute)
        assert given is not None and given.startswith(reason)
        assert subject.get_base_model().label_layers is None
        assert subject.get_base_model().layers[0].gradient_checkpointing == (recompute != "none")
        torch.manual_seed(5)  # of dropout
        found = measure(subject, batch)
        assert found.loss == wanted.loss and torch.equal(found.flat(), wanted.flat())
        assert sum(gradient.any().item() for gradient in found.gradients.values()) > 2


def test_the_program_says_why_it_takes_the_plain_layers(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, settings, lines in (("dropout", {"lora_dropout": 0.1}, 1), ("none", {"lora_dropout": 0.0}, 0)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            subject = trainer(demo, tmp_path / name, **settings)
        subject.components.opened.directory.close()
        said = [r.getMessage() for r in caplog.records if "plain layers" in r.getMessage()]
        assert said == ["the plain layers are used, which need more memory and time: dropout"] * lines
        assert isinstance(subject.components.model.get_base_model().label_layers, FusedLayers) == (not lines)


# -- what stays as it was ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> HiggsAudioModel:
    return build_base()


@pytest.fixture(scope="module")
def plain(base: HiggsAudioModel) -> PeftModel:
    return build_model(base, lora_rank=4, lora_targets=EVERY)


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_names_and_values_of_the_weights_and_the_saved_adapter_stay(
    plain: PeftModel, tmp_path: Path, recompute: str
) -> None:
    subject = fused(plain, recompute)
    before, after = plain.state_dict(), subject.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name, model in (("plain", plain), ("fused", subject)):
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "fused"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    save_file(after, tmp_path / "all.safetensors")  # it refuses tensors that overlap in one storage
    written = load_file(tmp_path / "all.safetensors")
    assert all(torch.equal(before[name], written[name]) for name in before)


def test_generation_and_logits_stay_bit_for_bit(base: HiggsAudioModel, plain: PeftModel) -> None:
    subject = fused(plain)
    batch = build_batch("one sample", base)
    bos = (batch.input_ids[0] == base.config.audio_out_bos_token_id).nonzero().item()
    prompt = {
        "input_ids": batch.input_ids[:, : bos + 1],
        "audio_in_ids": batch.audio_in_ids,
        "audio_in_ids_start": batch.audio_in_ids_start,
    }
    first, second = (
        model.get_base_model().eval().generate(**prompt, max_new_tokens=12, seed=3) for model in (plain, subject)
    )
    plain.train()
    assert torch.equal(first.sequences, second.sequences)
    assert first.audio_sequences and torch.equal(first.audio_sequences[0], second.audio_sequences[0])
    one, two = (model(**vars(batch), output_logits=True) for model in (plain, subject))
    assert torch.equal(one.logits, two.logits) and torch.equal(one.audio_logits, two.audio_logits)


# -- gradients as autograd has them ------------------------------------------------------------------------------------


def assert_close(found: Measured, wanted: Measured) -> None:
    worst, name = worst_error(found, wanted)
    assert worst < 1e-5, name


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_a_disabled_or_merged_adapter_is_that_of_the_plain_layers(
    base: HiggsAudioModel, plain: PeftModel, recompute: str
) -> None:
    subject, batch = fused(plain, recompute), build_batch("mixed", base)
    with torch.no_grad():
        with subject.disable_adapter():
            assert subject(**vars(batch)).loss.item() == base(**vars(batch)).loss.item()
        wanted = plain(**vars(batch)).loss.item()
        assert subject(**vars(batch)).loss.item() == pytest.approx(wanted, rel=1e-6)
        subject.merge_adapter()
        assert install_fused_layers(subject, recompute).startswith("the form of the adapter of 0.")
        assert subject(**vars(batch)).loss.item() == pytest.approx(wanted, rel=1e-6)
        subject.unmerge_adapter()
        assert subject(**vars(batch)).loss.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_a_pass_with_the_adapter_disabled_changes_no_gradient_of_an_earlier_pass(
    base: HiggsAudioModel, plain: PeftModel, recompute: str
) -> None:
    subject, batch = fused(plain, recompute), build_batch("one sample", base)
    wanted = measure(subject, batch)
    subject.zero_grad()
    loss = subject(**vars(batch)).loss
    with torch.no_grad(), subject.disable_adapter():
        subject(**vars(batch))
    loss.backward()
    assert_close(Measured(loss.item(), gradients_of(subject)), wanted)


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_gradients_of_micro_batches_add_up(base: HiggsAudioModel, plain: PeftModel, recompute: str) -> None:
    """One after the other, and as the sum of two losses, whose forward passes both come first."""
    subject = fused(plain, recompute)
    batches = [build_batch(name, base) for name in ("mixed", "many clips")]
    wanted = {
        name: sum(gradient)
        for name, *gradient in (
            (name, one, other)
            for (name, one), other in zip(
                judge(plain, batches[0]).gradients.items(), judge(plain, batches[1]).gradients.values(), strict=True
            )
        )
    }
    subject.zero_grad()
    for batch in batches:
        subject(**vars(batch)).loss.backward()
    assert_close(Measured(0.0, gradients_of(subject)), Measured(0.0, wanted))
    subject.zero_grad()
    sum(subject(**vars(batch)).loss for batch in batches).backward()
    assert_close(Measured(0.0, gradients_of(subject)), Measured(0.0, wanted))


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_a_second_backward_pass_is_refused_or_right(base: HiggsAudioModel, plain: PeftModel, recompute: str) -> None:
    subject, batch = fused(plain, recompute), build_batch("one sample", base)
    once = measure(subject, batch)
    loss = subject(**vars(batch)).loss
    subject.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()
    assert_close(
        Measured(once.loss, gradients_of(subject)),
        Measured(once.loss, {name: 2 * gradient for name, gradient in once.gradients.items()}),
    )
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_gradients_begin_where_there_are_none_and_stay_where_they_lie(base: HiggsAudioModel, plain: PeftModel) -> None:
    subject, batch = fused(plain), build_batch("one sample", base)
    trained = [parameter for parameter in subject.parameters() if parameter.requires_grad]
    assert all(parameter.grad is None for parameter in trained)
    once = measure(subject, batch).flat()
    flat = torch.full((sum(p.numel() for p in trained),), 3.0)
    for parameter, view in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = view.view_as(parameter)
    subject(**vars(batch)).loss.backward()
    torch.testing.assert_close(flat.double() - 3.0, once, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in subject.parameters() if not p.requires_grad)


@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_evaluation_has_the_loss_of_training(base: HiggsAudioModel, plain: PeftModel, recompute: str) -> None:
    subject, batch = fused(plain, recompute), build_batch("mixed", base)
    training = subject(**vars(batch))
    subject.eval()
    with torch.no_grad():
        evaluation = subject(**vars(batch))
    assert training.loss.requires_grad and not evaluation.loss.requires_grad
    assert evaluation.loss.item() == training.loss.item()
    assert torch.equal(evaluation.audio_loss_sum, training.audio_loss_sum)
    assert torch.equal(evaluation.audio_label_count, training.audio_label_count)


def test_the_reason_of_a_second_installation_is_none(base: HiggsAudioModel, plain: PeftModel) -> None:
    subject, batch = fused(plain, "layer"), build_batch("mixed", base)
    assert install_fused_layers(subject, "none") is None
    assert loss_error(measure(subject, batch), judge(plain, batch)) < 1e-6

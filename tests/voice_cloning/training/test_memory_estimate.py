"""The estimate of memory agrees with torch's allocator at the released size, and decides what fits."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model

from benchmarks.memory_table import markdown
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from lora_config import HiggsAudioLoRATrainingConfig
from tests.null_cuda import needs_null_cuda, report_of, run_null_cuda
from tests.quantised_models import needs_bitsandbytes
from voice_cloning.training.activation_memory import BatchShape, takes_fused_layers
from voice_cloning.training.config import RECOMPUTE_LEVELS
from voice_cloning.training.fused_layers import install_fused_layers
from voice_cloning.training.memory_estimate import BUDGET_STEP, RELEASED_MODEL, RELEASED_TEXT, TrainedModel
from voice_cloning.training.memory_table import table_rows
from voice_cloning.training.time_estimate import base_kl_flops, training_flops

TRAINED_TEXT = 32
"""Positions of a sample of the benchmarks that predict a text label."""
MEASURE = """
import gc, torch
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from benchmarks.released_size import (
    HiggsAudioLoRATrainingConfig, add_adapter, build_base, build_sample, build_step
)
from voice_cloning.training.checkpoint_writer import CheckpointCopy
torch.backends.cuda.enable_cudnn_sdp(False)

def peaks(samples, each, text, ref, recompute, plain, layers, lora, quantise):
    base = build_base(layers, False, plain and recompute != "none", quantise)
    model = add_adapter(base, HiggsAudioLoRATrainingConfig(**lora), None if plain else recompute)
    step = build_step(model)
    copied = CheckpointCopy(model, step.optimizer)
    collate = ArabicVoiceCloningTrainingCollator.from_config(base.config)
    batch = collate([build_sample(base.config, text, ref, each) for _ in range(samples)])
    step.run(0, [batch])
    torch.cuda.reset_peak_memory_stats()
    step.run(1, [batch])
    training = torch.cuda.max_memory_allocated()
    counts = step.count_labels([batch]).to(model.device, torch.float32)
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        step.loss(batch, counts)
    return training, torch.cuda.max_memory_allocated()

found = []
for case in CASES:
    found.append(peaks(**case))
    gc.collect()
report(found)
"""


def case(recompute: str = "none", **changes: Any) -> dict[str, Any]:
    """Arguments of one measurement: 5 samples of 410 positions, unless changed."""
    usual = {
        "samples": 5,
        "each": 410,
        "text": 110,
        "ref": 134,
        "plain": False,
        "layers": 28,
        "lora": {},
        "quantise": "none",
    }
    return {**usual, "recompute": recompute, **changes}


def model_of(lora: dict[str, Any] | None = None, layers: int = 28, quantise: str = "none") -> TrainedModel:
    config = type(RELEASED_MODEL)(text_config={**RELEASED_TEXT, "num_hidden_layers": layers})
    return TrainedModel(config, HiggsAudioLoRATrainingConfig(**(lora or {})), torch.bfloat16, quantise)


def shape_of(samples: int, each: int, text: int, ref: int) -> BatchShape:
    audio = each - (text - 2)
    return BatchShape((each,) * samples, samples * audio, samples * TRAINED_TEXT, samples * (audio - ref))


def check(cases: list[dict[str, Any]], share_over_weights: float) -> None:
    """Compare with the allocator: all within 5 %, and within a share of what the step takes beside the weights."""
    measured = report_of(f"CASES = {cases!r}\n{MEASURE}", timeout=500)
    for one, peaks in zip(cases, measured, strict=True):
        model = model_of(one["lora"], one["layers"], one["quantise"])
        shape = shape_of(one["samples"], one["each"], one["text"], one["ref"])
        estimates = model.memory(shape, one["recompute"]), model.evaluation(shape)
        for found, peak in zip(estimates, peaks, strict=True):
            assert found.allocated == pytest.approx(peak, rel=0.05), one
        beside = peaks[0] - estimates[0].weights
        assert estimates[0].allocated - estimates[0].weights == pytest.approx(beside, rel=share_over_weights), one


@needs_null_cuda
def test_each_level_of_recompute_takes_what_is_estimated_at_full_size() -> None:
    check([case(level) for level in RECOMPUTE_LEVELS], 0.05)


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
def test_larger_micro_batches_and_other_shapes_take_what_is_estimated(level: str) -> None:
    shapes = [
        {"each": 720},
        {"samples": 1, "each": 2000},
        {"samples": 30, "each": 130, "text": 80, "ref": 12},
        {"samples": 2, "each": 3000, "text": 2500},
        {"samples": 30},
    ]
    check([case(level, **{"layers": 8, **shape}) for shape in shapes] + [case(level, each=720)], 0.08)


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
@pytest.mark.parametrize(
    "lora",
    [
        {"lora_rank": 1},
        {"lora_rank": 256},
        {"lora_targets": ["attention"]},
        {"lora_targets": ["audio_mlp"]},
        {"lora_targets": ["attention", "heads", "audio_embeddings", "audio_mlp", "text_mlp"]},
    ],
)
def test_other_adapters_take_what_is_estimated(lora: dict[str, Any], level: str) -> None:
    check([case(level, layers=8, lora=lora)], 0.05)


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize("level", ["none", "layer"])
@pytest.mark.parametrize(
    "lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"use_dora": True, "lora_dropout": 0.1, "lora_rank": 64}]
)
def test_the_plain_layers_take_what_is_estimated(lora: dict[str, Any], level: str) -> None:
    check([case(level, plain=True, layers=8, samples=n, lora=lora) for n in (5, 20)], 0.08)


@pytest.mark.slow
@needs_bitsandbytes
@needs_null_cuda
def test_quantised_weights_take_what_is_estimated_at_full_size() -> None:
    cases = [case(level, quantise="nf4", each=each) for level in RECOMPUTE_LEVELS for each in (410, 720)]
    check([*cases, case(quantise="nf4", plain=True, layers=8, lora={"lora_dropout": 0.1})], 0.08)


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
def test_the_operations_are_those_that_torch_counts(level: str) -> None:
    """torch counts no operation of varlen attention; so the estimate is made without it here."""
    result = run_null_cuda("-m", "benchmarks.full_size_step", "--recompute", level)
    assert result.returncode == 0, result.stderr
    shape = replace(shape_of(5, 409, 110, 134), lengths=(1,) * 2045)
    assert training_flops(model_of(), shape, level) / 1e12 == pytest.approx(
        json.loads(result.stdout)["tflop"], rel=0.05
    )


@pytest.mark.slow
@needs_null_cuda
def test_the_divergence_from_the_base_takes_the_operations_and_the_memory_that_are_stated() -> None:
    """It waits for nothing. ``docs/recipes.md`` has these figures."""
    reports = []
    for weight in ("0", "1"):
        result = run_null_cuda("-m", "benchmarks.full_size_step", "--base_kl_weight", weight)
        assert result.returncode == 0, result.stderr
        reports.append(json.loads(result.stdout))
    without, with_it = reports
    assert without["per_step"]["syncs"] == with_it["per_step"]["syncs"] == 0
    shape = replace(shape_of(5, 409, 110, 134), lengths=(1,) * 2045)
    wanted = base_kl_flops(model_of(), shape) / 1e12
    assert with_it["tflop"] - without["tflop"] == pytest.approx(wanted, rel=0.05)
    assert with_it["peak_allocated_gb"] - without["peak_allocated_gb"] == pytest.approx(0.24, abs=0.02)
    # A chunk of the logits of the text head has these bytes in fp32.
    assert with_it["held_after_forward_gb"] - without["held_after_forward_gb"] < 2**24 * 4 / 1e9


# -- without a device ------------------------------------------------------------------------------------------------


def test_the_largest_budget_fits_and_a_step_more_does_not() -> None:
    model, available = model_of(), int(23.5e9)
    for level in RECOMPUTE_LEVELS:
        budget = model.largest_budget(available, level, 600)
        needs = [model.memory(BatchShape.full_of(n, 600), level).needed for n in (budget, budget + BUDGET_STEP)]
        assert needs[0] <= available < needs[1]
    assert model.largest_budget(int(10e9), "layer", 600) == 0


def test_the_cheapest_level_that_fits_is_taken() -> None:
    model, shape = model_of(), BatchShape((512,) * 4, 1600, 128, 1100)
    needs = [model.memory(shape, level).needed for level in RECOMPUTE_LEVELS]
    assert needs == sorted(needs, reverse=True)
    for need, level in zip(needs, RECOMPUTE_LEVELS, strict=True):
        assert model.cheapest_recompute(need, shape) == level
    assert model.cheapest_recompute(needs[-1] - 1, shape) is None


def test_plain_layers_know_two_levels() -> None:
    assert model_of().levels == RECOMPUTE_LEVELS
    assert model_of({"use_dora": True}).levels == model_of({"lora_dropout": 0.1}).levels == ("none", "layer")


@pytest.mark.parametrize(
    ("lora", "changes"),
    [
        ({}, {}),
        ({"use_dora": True}, {}),
        ({"lora_dropout": 0.1}, {}),
        ({"use_rslora": True, "lora_targets": ["attention", "heads"]}, {}),
        ({}, {"audio_dual_ffn_layers": [0]}),
    ],
)
def test_the_estimate_knows_who_takes_the_fused_layers(lora: dict[str, Any], changes: dict[str, Any]) -> None:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "head_dim": 16}
    text = {**RELEASED_TEXT, **small, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = type(RELEASED_MODEL)(text_config=text, **changes)
    settings = HiggsAudioLoRATrainingConfig(**lora)
    base = HiggsAudioModel(config).requires_grad_(False)
    reason = install_fused_layers(get_peft_model(base, settings.to_peft()), "none")
    assert takes_fused_layers(config, settings) == (reason is None)


def test_the_table_has_a_row_for_each_card() -> None:
    models = [TrainedModel(RELEASED_MODEL, HiggsAudioLoRATrainingConfig(), torch.bfloat16, q) for q in ("none", "nf4")]
    lines = markdown(list(table_rows(models, 600)))
    assert [line.split(" |")[0] for line in lines[2:]] == [f"| {size} GB" for size in (8, 12, 16, 24, 40, 80)]
    assert lines[2].startswith("| 8 GB | - | - | - |")

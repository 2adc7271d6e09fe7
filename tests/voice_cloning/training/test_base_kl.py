"""The divergence from the base in the loss: against a slow reference in double precision, and in runs."""

import copy
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel, divergence
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from lora_config import enable_checkpointing
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
    build_sample,
    double_norm,
    fused,
    gradients_of,
    loss_error,
    to_bfloat16,
    worst_error,
)
from tests.training_runs import adapter, command, flags, metrics, run, trainer
from tests.voice_cloning.training.test_resume import crash_after
from voice_cloning.training.base_kl import BaseKL, MicroBatchPlace, make_base_kl, micro_batch_loss
from voice_cloning.training.batches import count_labels
from voice_cloning.training.checkpoints import STATE_FILE, DamageError, read_state
from voice_cloning.training.losses import LossTotals

GRADIENT = 1e-4
"""The largest error of a tensor's gradient: the difference of two predictions that nearly agree, of which fp32 has
fewer digits than of the loss. The plain layers have the same error."""
VALUE = {"rel": 1e-5, "abs": 5e-8}
"""The largest error of the value, a small difference of logarithms with an error of 1e-7 each."""
WEIGHTS = LossConfig(text_weight=0.3, audio_weight=2.0)
WEIGHT = 0.7


@pytest.fixture(scope="module")
def base() -> HiggsAudioModel:
    return build_base()


def changed_model(base: HiggsAudioModel, **settings: object) -> PeftModel:
    """A model whose adapter changes the predictions so far that the divergence has few bits of noise."""
    model = build_model(base, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(2)
    return model


def fresh_model(base: HiggsAudioModel) -> PeftModel:
    """A model whose adapter changes nothing yet."""
    model = build_model(base, lora_targets=EVERY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.zero_()
    return model


def regulariser(model: PeftModel, share: float = 1.0, dtype: torch.dtype = torch.float32) -> BaseKL:
    return BaseKL(model, SimpleNamespace(base_kl_weight=WEIGHT, base_kl_share=share, seed=3), WEIGHTS, dtype)


def measure_divergence(model: PeftModel, batches: list[HiggsAudioBatchInput], dtype=torch.float32) -> Measured:
    """The divergence alone, with its gradients: what the regulariser adds to the loss of micro-batches of one step."""
    model.zero_grad(set_to_none=True)
    base_kl, counts, total = regulariser(model, dtype=dtype), count_labels(batches, 8).float(), 0.0

    def forward(batch: HiggsAudioBatchInput) -> HiggsAudioModelOutput:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(**vars(batch))

    for batch in batches:
        predicted = base_kl.predict(forward, batch)
        added = base_kl.loss(forward(batch), predicted, counts)
        if added.requires_grad:  # not in a batch without labels
            added.backward()
        total += added.item()
    return Measured(total, gradients_of(model))


def judge_divergence(model: PeftModel, batch: HiggsAudioBatchInput) -> Measured:
    """The definition, by ``kl_div`` on the full logits of plain layers in double precision."""
    model = copy.deepcopy(model).double()
    model.get_base_model().label_layers = None
    inputs = {n: v.double() if v is not None and v.is_floating_point() else v for n, v in vars(batch).items()}

    def log_predictions() -> tuple[Tensor, Tensor]:
        output = model(**inputs, output_logits=True)
        return output.logits.log_softmax(-1), output.audio_logits.log_softmax(-1)

    with patch.object(LlamaRMSNorm, "forward", double_norm):
        text, audio = log_predictions()
        labels = model(**inputs).expanded_labels
        with torch.no_grad(), model.disable_adapter():
            base_text, base_audio = log_predictions()

    def mean(log_p: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
        has_label = labels != IGNORE_INDEX
        total = F.kl_div(log_p[has_label], log_q[has_label], reduction="sum", log_target=True)
        return total / has_label.sum().clamp(min=1)

    loss = WEIGHTS.text_weight * mean(text[:, :-1], base_text[:, :-1], labels[:, 1:])
    for k in range(8):
        of_codebook = mean(audio[:-1, k], base_audio[:-1, k], batch.label_audio_ids[k, 1:])
        loss = loss + WEIGHTS.audio_weight * of_codebook / 8
    loss = WEIGHT * loss
    if loss.requires_grad:
        loss.backward()
    assert loss.dtype == torch.float64
    return Measured(loss.item(), gradients_of(model))


def assert_right(found: Measured, wanted: Measured) -> None:
    worst, name = worst_error(found, wanted)
    assert worst < GRADIENT, name
    assert found.loss == pytest.approx(wanted.loss, **VALUE)


@pytest.mark.parametrize("name", SETTINGS)
def test_value_and_gradients_are_those_of_the_definition(base: HiggsAudioModel, name: str) -> None:
    model, batch = changed_model(base, **SETTINGS[name]), build_batch("mixed", base)
    wanted = judge_divergence(model, batch)
    assert wanted.loss > 0 and all(gradient.any() for gradient in wanted.gradients.values())
    assert_right(measure_divergence(fused(model), [batch]), wanted)
    assert_right(measure_divergence(model, [batch]), wanted)


@pytest.mark.parametrize("name", ["no text", "no clip", "text labels only", "audio labels only", "many clips"])
def test_every_batch_has_its_divergence(base: HiggsAudioModel, name: str) -> None:
    model, batch = changed_model(base, lora_targets=EVERY), build_batch(name, base)
    wanted = judge_divergence(model, batch)
    assert wanted.loss > 0
    assert_right(measure_divergence(fused(model), [batch]), wanted)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_dropout": 0.5}], ids=["DoRA", "dropout"])
def test_layers_that_compute_again_give_the_same_divergence(base: HiggsAudioModel, settings: dict[str, object]) -> None:
    """The plain layers of these adapters, with and without ``--recompute layer``; the dropout has the same mask."""
    plain, batch = changed_model(base, **settings), build_batch("mixed", base)
    again = copy.deepcopy(plain)
    enable_checkpointing(again.get_base_model())
    found = []
    for model in (plain, again):
        torch.manual_seed(5)
        found.append(measure_divergence(model, [batch]))
    assert found[0].loss > 0
    assert_right(found[1], found[0])


def test_references_as_features_have_their_divergence() -> None:
    base = build_base_with_tower()
    model, batch = changed_model(base, lora_targets=EVERY), build_feature_batch(base)
    wanted = judge_divergence(model, batch)
    assert wanted.loss > 0
    assert_right(measure_divergence(fused(model), [batch]), wanted)


def test_a_batch_without_labels_adds_nothing(base: HiggsAudioModel) -> None:
    found = measure_divergence(fused(build_model(base)), [build_batch("no label", base)])
    assert found.loss == 0 and not found.flat().any()


def test_chunks_of_rows_add_up(base: HiggsAudioModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = fused(changed_model(base, lora_targets=EVERY)), build_batch("mixed", base)
    whole = measure_divergence(model, [batch])
    monkeypatch.setattr(divergence, "LOGITS_PER_HALF_CHUNK", 7 * 512)
    shapes = []
    original = divergence._chunk_sums

    def recorded(norm: object, head: object, other: object, *chunk: Tensor) -> Tensor:
        shapes.append(len(chunk[0]))
        return original(norm, head, other, *chunk)

    monkeypatch.setattr(divergence, "_chunk_sums", recorded)
    assert_right(measure_divergence(model, [batch]), whole)
    assert len(shapes) > 8 and max(shapes) == 7 * 512 // 272


def test_bfloat16_gives_the_divergence_of_its_own_predictions(base: HiggsAudioModel) -> None:
    """The bound is the noise of bfloat16: eight bits."""
    model, batch = changed_model(base, lora_targets=EVERY), build_batch("mixed", base)
    wanted = judge_divergence(model, batch)
    found = measure_divergence(fused(to_bfloat16(model)), [batch], torch.bfloat16)
    cosine = F.cosine_similarity(found.flat(), wanted.flat(), dim=0)
    assert cosine > 0.999 and loss_error(found, wanted) < 0.01


def test_without_a_change_by_the_adapter_there_is_no_divergence(base: HiggsAudioModel) -> None:
    found = measure_divergence(fused(fresh_model(base)), [build_batch("mixed", base)])
    assert abs(found.loss) < 1e-6 and found.flat().norm() < 1e-5


def test_the_split_of_a_step_changes_nothing(base: HiggsAudioModel) -> None:
    """The sums of each micro-batch are divided by the labels of all, so unequal ones add up, here and on any ranks."""
    model = fused(changed_model(base, lora_targets=EVERY))
    collate = ArabicVoiceCloningTrainingCollator.from_config(base.config)
    samples = [build_sample(parts) for name in ("many clips", "no clip", "one sample") for parts in BATCHES[name]]
    together = measure_divergence(model, [collate(samples)])
    for cuts in ((1,), (2, 4), (1, 2, 3, 4)):
        parts = [samples[a:b] for a, b in pairwise((0, *cuts, len(samples)))]
        assert_right(measure_divergence(model, [collate(part) for part in parts]), together)


def test_the_share_is_drawn_by_seed_step_and_number() -> None:
    model = fused(build_model(build_base()))
    quarter = regulariser(model, share=0.25)
    drawn = [[quarter.takes(MicroBatchPlace(step, number)) for number in range(4)] for step in range(2000)]
    assert 0.235 < sum(map(sum, drawn)) / 8000 < 0.265  # three standard deviations
    again = regulariser(model, share=0.25)
    assert [[again.takes(MicroBatchPlace(step, number)) for number in range(4)] for step in range(2000)] == drawn
    assert all(regulariser(model, share=1.0).takes(MicroBatchPlace(step, 0)) for step in range(100))
    other = BaseKL(model, SimpleNamespace(base_kl_weight=1.0, base_kl_share=0.25, seed=4), WEIGHTS, torch.float32)
    assert [other.takes(MicroBatchPlace(step, 0)) for step in range(2000)] != [row[0] for row in drawn]


def test_the_share_scales_what_it_takes(base: HiggsAudioModel) -> None:
    """On average over the draws, the gradient is that of all micro-batches."""
    model, batch = fused(build_model(base)), build_batch("mixed", base)
    counts = count_labels([batch], 8).float()
    found = []
    for share in (1.0, 0.25):
        base_kl = regulariser(model, share)
        predicted = base_kl.predict(lambda b: model(**vars(b)), batch)
        found.append(base_kl.loss(model(**vars(batch)), predicted, counts).item())
        sums, labels = base_kl.take()
        assert labels.tolist() == counts.tolist() and not base_kl.take().any()
    assert found[1] == pytest.approx(4 * found[0], rel=1e-6)


def test_it_holds_the_model_near_its_base(base: HiggsAudioModel) -> None:
    """Without it, no second forward pass is made."""
    batch, passes, far = build_batch("mixed", base), {}, {}
    counts = count_labels([batch], 8).float()
    for weight in (0.0, 30.0):
        model, calls = fused(fresh_model(base)), []
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        settings = SimpleNamespace(base_kl_weight=weight, base_kl_share=1.0, seed=3)

        def forward(batch: HiggsAudioBatchInput, model=model, calls=calls) -> HiggsAudioModelOutput:
            calls.append(0)
            return model(**vars(batch))

        for _ in range(8):
            base_kl = make_base_kl(model, settings, WEIGHTS, torch.float32)
            micro_batch_loss(forward, batch, counts, WEIGHTS, base_kl)[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        passes[weight], far[weight] = len(calls), measure_divergence(model, [batch]).loss
    assert passes == {0.0: 8, 30.0: 16}
    assert far[30.0] < 0.3 * far[0.0]


# -- runs --------------------------------------------------------------------------------------------------------------

KL = {"base_kl_weight": 0.5, "base_kl_share": 0.5}


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_a_crashed_run_ends_with_the_bits_and_lines_of_an_uninterrupted_one(
    demo: Path, tmp_path: Path, dropout: float
) -> None:
    uninterrupted, crashed = tmp_path / "uninterrupted", tmp_path / "crashed"
    settings = {"max_steps": 8, "logging_steps": 5, "save_steps": 3, "lora_dropout": dropout, **KL}
    summary = trainer(demo, uninterrupted, **settings).train()
    for step in (2, 5, 7):
        crash_after(trainer(demo, crashed, **settings), step)
    assert trainer(demo, crashed, **settings).train().finished
    first, second = adapter(summary.checkpoint), adapter(crashed / summary.checkpoint.name)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics(crashed) == metrics(uninterrupted)
    logged = [line["base_kl"] for line in metrics(crashed) if "base_kl" in line]
    assert len(logged) == 2 and all(value > 0 for value in logged)


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_accumulation(demo: Path, tmp_path: Path) -> None:
    settings = {"max_tokens_per_batch": None, "batch_size": 2, "lora_dropout": 0.0, "logging_steps": 1, **KL}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes, accumulation in ((one, None, 2), (two, 2, 1)):
        words = flags(demo, folder, gradient_accumulation_steps=accumulation, max_steps=1, **settings)
        result = run(command(words, processes))
        assert result.returncode == 0, result.stderr
    first, second = metrics(one), metrics(two)
    assert first[0]["base_kl"] == pytest.approx(second[0]["base_kl"], rel=1e-5)
    assert first[0]["grad_norm"] == pytest.approx(second[0]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_kl_weight": -0.1}, "base_kl_weight is -0.1; it must be a finite number of at least 0"),
        ({"base_kl_weight": "nan"}, "base_kl_weight is nan"),
        ({"base_kl_weight": "inf"}, "base_kl_weight is inf"),
        (
            {"base_kl_share": 0.5},
            "base_kl_share is 0.5 and base_kl_weight is 0: the share has no effect",
        ),
        ({"base_kl_share": 0.0}, "base_kl_share is 0.0; it must be above 0 and at most 1"),
        ({"base_kl_share": 1.5}, "base_kl_share is 1.5"),
    ],
)
def test_values_out_of_range_are_refused(demo: Path, tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(demo, tmp_path / "out", **values)


# -- state -------------------------------------------------------------------------------------------------------------


def written_state(folder: Path, base_kl: object) -> Path:
    totals = {"sums": [1.0, 2.0], "counts": [3.0, 4.0], "base_kl": base_kl}
    state = {"step": 1, "total_steps": 2, "finished": False, "evaluation_due": False, "best": None, "totals": totals}
    (folder / STATE_FILE).write_text(json.dumps(state))
    return folder


def test_the_sums_since_the_last_line_are_part_of_the_state(tmp_path: Path) -> None:
    base_kl = {"sums": [0.5, 0.25], "counts": [1.0, 4.0]}
    totals = LossTotals.from_state(read_state(written_state(tmp_path, base_kl))["totals"])
    assert totals.state()["base_kl"] == base_kl
    assert totals.losses(LossConfig())["base_kl"] == pytest.approx(0.5 + 0.0625)
    totals.reset()
    assert "base_kl" not in totals.state() and "base_kl" not in totals.losses(LossConfig())


@pytest.mark.parametrize(
    ("base_kl", "message"),
    [
        (None, "totals.base_kl must hold sums and counts"),
        ({"sums": [1.0, "a"], "counts": [1.0, 1.0]}, "totals.base_kl must hold sums and counts, lists of finite"),
        ({"sums": [1.0, 1.0], "counts": [1.0, -1.0]}, "totals.base_kl must hold as many sums as counts, and no count"),
        ({"sums": [1.0] * 3, "counts": [1.0] * 3}, "totals.base_kl holds 3 sums; it must hold 2, as totals does"),
    ],
)
def test_damaged_sums_are_named(tmp_path: Path, base_kl: object, message: str) -> None:
    with pytest.raises(DamageError, match=message):
        read_state(written_state(tmp_path, base_kl))

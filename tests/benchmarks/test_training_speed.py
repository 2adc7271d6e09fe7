"""The training benchmark on a tiny model: equal steps, figures of known size, and a wrong side, which is refused."""

import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import step_sides, training_speed
from benchmarks.needed_products import Product, needed_products, rows_of, total_flops
from benchmarks.speed_models import build_base, build_sample, corpus_sizes, model_config, sizes_with_positions
from benchmarks.step_memory import measure, measure_apart, peak_over
from benchmarks.step_sides import UnequalStepsError, our_batches, side_as_used
from benchmarks.training_speed import AS_USED, BEST, OURS, OURS_SAME_PRODUCTS, main
from benchmarks.transformers_training import PaddedBatch, build_peft_model, expand_sample
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import HiggsAudioLoRATrainingConfig
from tests.null_cuda import needs_null_cuda, run_null_cuda

RANK = 4
TINY = "--model tiny --samples 3 --rounds 2 --positions 700 --rank 4".split()
CPU = torch.device("cpu")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in this process, whose start costs nothing."""

    def measure_here(**arguments: Any) -> dict[str, Any]:
        return measure(argparse.Namespace(**{"layers": None, **arguments}), CPU, is_computing=True)

    monkeypatch.setattr(training_speed, "measure_apart", measure_here)


def rows_printed(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def random_samples(config: HiggsAudioConfig, count: int) -> tuple[list[ChatMLDatasetSample], list[int]]:
    """Samples, and the positions of each."""
    sizes, generator = corpus_sizes(count, seed=3), torch.Generator().manual_seed(0)
    return [build_sample(config, size, generator) for size in sizes], [size.positions(config) for size in sizes]


@pytest.mark.usefixtures("in_process")
def test_the_report_has_equal_steps_then_times_ratios_share_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TINY) == 0
    rows = rows_printed(capsys.readouterr().out)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["measured"], []).append(row)
    equal = {row["with"]: row for row in by_kind["equal steps"]}
    assert set(equal) == {OURS_SAME_PRODUCTS, AS_USED, BEST}
    assert all(row["loss"] <= 1e-6 and 0 < row["gradient"] <= 1e-5 for row in equal.values())
    steps = {row["side"]: row for row in by_kind["step"]}
    assert set(steps) == {OURS, OURS_SAME_PRODUCTS, AS_USED, BEST}
    assert all(len(row["seconds"]) == 2 for row in steps.values())
    ratios = {(row["against"], row["products"]): row for row in by_kind["speed"]}
    assert set(ratios) == {
        (side, backend) for side in (AS_USED, BEST) for backend in ("as shipped", "the same backend")
    }
    pairs = zip(steps[BEST]["seconds"], steps[OURS_SAME_PRODUCTS]["seconds"], strict=True)
    wanted = sorted(theirs / ours for theirs, ours in pairs)
    found = ratios[BEST, "the same backend"]
    assert (found["least"], found["most"]) == (wanted[0], wanted[-1])
    (share,) = by_kind["share of the machine's GEMM rate"]
    assert 0 < share["share"] < 1
    assert share["share"] == pytest.approx(share["ours_gflops"] / share["machine_gflops"])
    memory = {row["side"]: row["peak_bytes"] for row in by_kind["peak of a step over the model"]}
    assert set(memory) == {"ours", "transformers"} and min(memory.values()) > 0


@pytest.mark.usefixtures("in_process")
def test_steps_in_bf16_are_about_as_far_from_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--dtype", "bfloat16", "--rounds", "1"]) == 0
    rows = [row for row in rows_printed(capsys.readouterr().out) if row["measured"] == "distance to fp32"]
    assert {row["with"] for row in rows} == {AS_USED, BEST}
    for row in rows:
        assert 1e-4 < row["ours"]["gradient"] < 0.05 and 1e-4 < row["theirs"]["gradient"] < 0.05


def shift_one_text_label(batch: PaddedBatch) -> None:
    """Move the last text label of the first sample by one position."""
    (places,) = (batch["labels"][0] != IGNORE_INDEX).nonzero(as_tuple=True)
    last = int(places[-1])
    batch["labels"][0, last - 1] = batch["labels"][0, last]
    batch["labels"][0, last] = IGNORE_INDEX


def shift_one_code_label(batch: PaddedBatch) -> None:
    """Give one codebook of one column the label of the next column."""
    labels = batch["audio_labels"][0, :, 3]
    (places,) = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    first = int(places[0])
    assert labels[first] != labels[first + 1]
    labels[first] = labels[first + 1]


@pytest.mark.parametrize("damage", [shift_one_text_label, shift_one_code_label])
def test_a_side_with_one_shifted_label_is_refused_before_anything_is_timed(
    damage: Callable[[PaddedBatch], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = step_sides.pad_batches

    def wrong(*arguments: Any) -> list[PaddedBatch]:
        batches = right(*arguments)
        damage(batches[0])
        return batches

    monkeypatch.setattr(step_sides, "pad_batches", wrong)
    with pytest.raises(UnequalStepsError, match=f"ours and {AS_USED}, fp32: the losses differ by"):
        main(TINY)
    assert [row["measured"] for row in rows_printed(capsys.readouterr().out)] == ["set-up"]


def test_a_wrong_step_in_bf16_is_refused() -> None:
    exact = step_sides.Outcome(4.0, {"a": torch.ones(4).double()})
    near = step_sides.Outcome(4.001, {"a": torch.tensor([1.0, 1.0, 1.0, 1.01]).double()})
    far = step_sides.Outcome(4.001, {"a": torch.tensor([1.0, 1.0, 1.0, 1.03]).double()})
    step_sides.require_equal_rounding(near, near, exact, "theirs")
    for ours, theirs in ((near, far), (far, near), (step_sides.Outcome(float("nan"), near.gradients), near)):
        with pytest.raises(UnequalStepsError, match="ours and theirs, bf16"):
            step_sides.require_equal_rounding(ours, theirs, exact, "theirs")


def test_a_middle_layer_needs_the_products_that_transformers_class_computes_without_padding() -> None:
    """Three layers against two: first layer, last layer and heads, of which less is needed, cancel."""
    torch.manual_seed(0)
    counted, needed = [], []
    for layers in (3, 2):
        config = model_config("tiny", layers)
        samples, lengths = random_samples(config, 1)
        model = build_peft_model(build_base(config, CPU, torch.float32), HiggsAudioLoRATrainingConfig(lora_rank=RANK))
        side = side_as_used(model, config, samples, 1)
        with FlopCounterMode(display=False) as counter:
            side.accumulate()
        operations = counter.get_flop_counts()["Global"]
        counted.append(sum(flops for name, flops in operations.items() if "mm" in str(name)))
        (batch,) = our_batches(config, samples, lengths, 2048)
        needed.append(total_flops(needed_products(config, rows_of(batch, config), RANK)))
    assert needed[0] - needed[1] == counted[0] - counted[1] > 0


def test_rows_are_those_of_the_labels() -> None:
    config = model_config("tiny")
    samples, lengths = random_samples(config, 4)
    (batch,) = our_batches(config, samples, lengths, 4096)
    rows = rows_of(batch, config)
    expanded = [expand_sample(sample, config) for sample in samples]
    assert rows.text + rows.audio == sum(lengths) == sum(sample.input_ids.numel() for sample in expanded)
    assert rows.audio == sum(len(sample.audio_input_ids) for sample in expanded)
    assert rows.text_labels == sum(int((sample.labels[1:] != IGNORE_INDEX).sum()) for sample in expanded)
    columns = sum(int((sample.audio_labels != IGNORE_INDEX).any(dim=1).sum()) for sample in expanded)
    assert rows.audio_labels == columns
    # The position before the clip predicts no code, and the clip's last column predicts the text after it.
    assert rows.predicting_audio == columns + len(samples)
    assert rows.predicting_text == rows.text_labels - len(samples)


def test_products_of_the_last_and_the_first_layer_are_those_that_are_needed() -> None:
    config = model_config("tiny", 1)
    rows = rows_of(our_batches(config, *random_samples(config, 1), 2048)[0], config)
    products = needed_products(config, rows, RANK)
    everywhere, predicting = rows.text + rows.audio, rows.predicting_text + rows.predicting_audio
    assert products[Product(everywhere, 48, 32)] == 1  # k and v, and no gradient of their input
    assert Product(everywhere, 32, 48) not in products
    assert products[Product(predicting, 48, 48)] == 3  # q; o and the gradient of its input
    assert products[Product(rows.predicting_text, 48, 256)] == products[Product(rows.predicting_audio, 48, 256)] == 1
    assert products[Product(rows.text_labels, 48, 512)] == products[Product(rows.text_labels, 512, 48)] == 1


def test_the_peak_of_a_known_allocation_is_found_and_what_is_held_before_is_not() -> None:
    held = torch.ones(16 * 2**20)  # 64 MB

    def work() -> float:
        first = torch.ones(40 * 2**20)  # 160 MB, of which this block holds 240 at its peak
        second = first[: 20 * 2**20] + 1
        del first
        return float(second[0] + held[0] + torch.ones(2**20)[0])

    work()
    assert peak_over(work, CPU) == pytest.approx(240 * 2**20, rel=0.02)


def test_samples_fill_the_positions_of_the_step_whose_memory_is_measured() -> None:
    config = model_config("real")
    for positions in (700, 2048, 3600):
        sizes = sizes_with_positions(positions, config, seed=0)
        assert sum(size.positions(config) for size in sizes) == positions
        assert min(size.target for size in sizes) >= 1


@pytest.mark.slow
def test_a_process_of_its_own_measures_the_memory_of_a_side() -> None:
    found = measure_apart(side="ours", model="tiny", positions=700)
    assert found["peak_bytes"] > 0 and found["positions"] == 700


@needs_null_cuda
def test_the_released_size_runs_on_the_null_device_without_times() -> None:
    result = run_null_cuda(
        "-m", "benchmarks.training_speed", *"--model released --layers 2 --dtype bfloat16 --samples 3".split()
    )
    assert result.returncode == 0, result.stderr
    rows = rows_printed(result.stdout)
    times, ours, theirs = rows[1:]
    assert "computes no number" in times["not_measured"] and times["needed_tflop"] > 0.5
    assert ours["peak_bytes"] > 1e8
    assert "numbers" in theirs["not_measured"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rounds 0", "must be at least 1"),
        ("--layers 0", "must be at least 1"),
        ("--positions 200", "at least 700"),
        ("--budget 200", "at least 700"),
        ("--model released", "needs a GPU"),
        ("--model huge", "invalid choice"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(flags.split())
    assert message in capsys.readouterr().err

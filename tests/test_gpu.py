"""What only a CUDA device can show of the model and of a step; run with ``make test-gpu``.

``tests/benchmarks/test_on_gpu.py`` runs these tests on a null device up to their assertions on numbers, so that they
cannot fail on a GPU for another reason. Such an assertion therefore comes last in its test.
"""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from benchmarks.released_size import RELEASED_TEXT, TrainerStep, add_adapter, build_base, build_sample, build_step
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel, attention
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from lora_config import HiggsAudioLoRATrainingConfig
from tests.native_oracle import random_sample, tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LAYERS = 2
"""Of a model with the released widths."""
VARIED = (1, 7, 128, 129, 640, 33)


def losses(model: HiggsAudioModel, device: str, dtype: torch.dtype) -> Tensor:
    """Text and codebook loss sums of a fixed mixed batch whose ids stay on the CPU."""
    with torch.no_grad():
        output = model.to(device, dtype)(**vars(mixed_batch(model)))
    return torch.cat([output.text_loss_sum.view(1), output.audio_loss_sum]).cpu()


def mixed_batch(model: HiggsAudioModel) -> HiggsAudioBatchInput:
    """Samples with and without a reference, of varied lengths."""
    torch.manual_seed(3)
    samples = [random_sample(7, 40, 12), random_sample(0, 3, 5), random_sample(25, 1, 40)]
    return ArabicVoiceCloningTrainingCollator.from_config(model.config)(samples)


def test_float32_on_the_device_equals_the_cpu() -> None:
    model = HiggsAudioModel(tiny_config()).eval()
    torch.testing.assert_close(
        losses(model, "cuda", torch.float32), losses(model, "cpu", torch.float32), rtol=1e-4, atol=0
    )


def test_bfloat16_on_the_device_equals_the_cpu() -> None:
    """bf16 on CUDA takes another kernel than bf16 on the CPU; they differ by rounding only."""
    model = HiggsAudioModel(tiny_config()).eval()
    torch.testing.assert_close(
        losses(model, "cuda", torch.bfloat16), losses(model, "cpu", torch.bfloat16), rtol=2e-2, atol=0
    )


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


# -- attention ---------------------------------------------------------------------------------------------------------


def projections(lengths: tuple[int, ...]) -> list[Tensor]:
    """Random queries, keys and values of the released heads, (N, heads, 128) each, in bf16, with gradients."""
    return [torch.randn(sum(lengths), heads, 128, device="cuda").bfloat16().requires_grad_() for heads in (24, 8, 8)]


def sequences(lengths: tuple[int, ...]) -> attention.Sequences:
    angles = torch.ones(sum(lengths), 128, device="cuda")
    return attention.build_sequences(lengths, angles, angles, None, None)


def by_definition(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Causal attention of each sample in fp32 on the CPU, by products and a mask."""
    outputs = []
    for q, k, v in zip(*(x.cpu().float().split(lengths) for x in (query, key, value)), strict=True):
        k, v = (x.repeat_interleave(3, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / 128**0.5
        future = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(future, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


def test_varlen_attention_and_its_gradients_are_those_of_each_sample() -> None:
    inputs, weights = projections(VARIED), torch.randn(sum(VARIED), 24, 128)
    attended = attention.attend(*inputs, sequences(VARIED))
    found = [attended, *torch.autograd.grad((attended.cpu().float() * weights).sum(), inputs)]
    expected = by_definition(*inputs, VARIED)
    expected = [expected, *torch.autograd.grad((expected * weights).sum(), inputs)]
    errors = [distance(one.cpu().float(), other.cpu().float()) for one, other in zip(found, expected, strict=True)]
    assert all(error < 1e-2 for error in errors), errors  # bf16 rounds to 2 ** -9 = 2e-3


def test_varlen_attention_does_not_see_other_samples() -> None:
    """The kernel takes the same blocks for both, so that not a bit may change."""
    query, key, value = (x.detach() for x in projections(VARIED))
    alone = attention.attend(query, key, value, sequences(VARIED)).split(VARIED)
    for x in (query, key, value):
        x[: sum(VARIED[:3])] += 1.0
    beside = attention.attend(query, key, value, sequences(VARIED)).split(VARIED)
    assert all(torch.equal(*pair) for pair in zip(alone[3:], beside[3:], strict=True))
    assert not torch.equal(alone[1], beside[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoded_row_attends_to_its_own_sample_whatever_the_lengths(dtype: torch.dtype) -> None:
    """Against fp32 on the CPU; the rows of the cache beyond a sample hold numbers that nobody may see."""
    past, capacity = (300, 5, 129, 0), 320
    query, keys, values = (
        torch.randn(len(past), *shape, 128).to(dtype) for shape in ((24,), (capacity, 8), (capacity, 8))
    )

    def attended(device: str, kind: torch.dtype) -> Tensor:
        angles = torch.ones(len(past), 128, device=device, dtype=kind)
        rows = torch.arange(len(past))
        told = attention.build_sequences((1,) * len(past), angles, angles, past, rows)
        return attention.attend_to_cache(*(x.to(device, kind) for x in (query, keys, values)), told).cpu().float()

    found, expected = attended("cuda", dtype), attended("cpu", torch.float32)
    alone = torch.cat([_attend_alone(query, keys, values, sample, held + 1) for sample, held in enumerate(past)])
    assert distance(expected, alone) < 1e-5
    assert distance(found, expected) < (1e-5 if dtype == torch.float32 else 1e-2)


def _attend_alone(query: Tensor, keys: Tensor, values: Tensor, sample: int, held: int) -> Tensor:
    """(1, heads, d) of one sample by definition."""
    k, v = (x[sample, :held].float().repeat_interleave(3, dim=1) for x in (keys, values))
    weights = torch.einsum("hd,khd->hk", query[sample].float(), k).div(128**0.5).softmax(-1)
    return torch.einsum("hk,khd->hd", weights, v)[None]


# -- a step ------------------------------------------------------------------------------------------------------------


def released_step(
    layers: int = LAYERS, recompute: str = "none"
) -> tuple[TrainerStep, Callable[[int], HiggsAudioBatchInput]]:
    """The trainer's step at the released widths, and a maker of batches of two samples with so many positions each."""
    base = build_base(layers, True, False)
    collate = ArabicVoiceCloningTrainingCollator.from_config(base.config)
    step = build_step(add_adapter(base, HiggsAudioLoRATrainingConfig(lora_rank=16), recompute))
    return step, lambda each: collate([build_sample(base.config, 110, 134, each) for _ in range(2)])


@pytest.fixture
def waits_are_errors() -> Callable[[bool], None]:
    """Sets whether a wait for the device raises an error; at the end of the test it does not."""
    yield lambda on: torch.cuda.set_sync_debug_mode("error" if on else "default")
    torch.cuda.set_sync_debug_mode("default")


def test_a_steady_step_waits_for_nothing(waits_are_errors: Callable[[bool], None], tmp_path: Path) -> None:
    """Neither in a first run nor in a resumed one."""
    step, batch = released_step()
    step.run(0, [batch(400)])
    waits_are_errors(True)
    for number, each in enumerate((420, 380, 511)):
        step.run(1 + number, [batch(each), batch(each + 1)])
    waits_are_errors(False)
    step.optimizer.save(tmp_path)
    step.optimizer.load(tmp_path)
    step.run(4, [batch(400)])
    waits_are_errors(True)
    step.run(5, [batch(410)])


def test_a_step_computes_finite_numbers_and_changes_the_adapter() -> None:
    step, batch = released_step()
    before = [parameter.detach().clone() for parameter in step.trainable]
    for number in range(4):  # the first has a learning rate of 0
        step.run(number, [batch(400 + number)])
    assert all(bool(parameter.isfinite().all()) for parameter in step.trainable)
    assert any(not torch.equal(*pair) for pair in zip(before, step.trainable, strict=True))


# -- the hand-written blocks -------------------------------------------------------------------------------------------


def adapted(dtype: torch.dtype, recompute: str | None) -> PeftModel:
    """A tiny model with an adapter that changes its results, on the device; ``recompute`` None has plain layers."""
    torch.manual_seed(0)
    base = HiggsAudioModel(tiny_config()).to("cuda", dtype).requires_grad_(False)
    model = add_adapter(base, HiggsAudioLoRATrainingConfig(lora_rank=4, lora_dropout=0.0), recompute)
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.copy_(0.1 * torch.randn(parameter.shape))  # drawn on the CPU: the same for every type
    return model


def loss_and_gradients(model: PeftModel, dtype: torch.dtype) -> Tensor:
    """The loss of the mixed batch and all gradients of the adapter, in one row of fp32."""
    batch = mixed_batch(model.get_base_model())
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(**vars(batch)).loss
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([loss.detach().view(1), *gradients]).float()


@pytest.mark.parametrize("recompute", ["none", "ffn", "layer"])
def test_fused_layers_equal_plain_ones_in_float32(recompute: str) -> None:
    fused = loss_and_gradients(adapted(torch.float32, recompute), torch.float32)
    plain = loss_and_gradients(adapted(torch.float32, None), torch.float32)
    assert distance(fused, plain) < 1e-5


@pytest.mark.parametrize("recompute", ["none", "ffn", "layer"])
def test_fused_layers_are_as_near_to_float32_as_plain_ones_in_bfloat16(recompute: str) -> None:
    """The weights are those of bf16, held in fp32 for the reference; a fifth is allowed for chance."""
    reference = adapted(torch.bfloat16, None).float()
    exact = loss_and_gradients(reference, torch.float32)
    fused = loss_and_gradients(adapted(torch.bfloat16, recompute), torch.bfloat16)
    plain = loss_and_gradients(adapted(torch.bfloat16, None), torch.bfloat16)
    assert distance(fused, exact) < 1.2 * distance(plain, exact)


# -- loading, 4-bit weights, generation --------------------------------------------------------------------------------


def test_weights_reach_the_device_as_the_cpu_gets_them(tmp_path: Path) -> None:
    """There they go by way of a pinned buffer, rounded on the way."""
    model = HiggsAudioModel(tiny_config())
    save_checkpoint(model, model.config, tmp_path, "transformers")
    for dtype in (torch.float32, torch.bfloat16):
        found = HiggsAudioModel.from_pretrained(tmp_path, dtype=dtype, device_map={"": "cuda"})
        assert {tensor.device.type for tensor in (*found.parameters(), *found.buffers())} == {"cuda"}
        for name, tensor in model.state_dict().items():
            assert torch.equal(found.state_dict()[name].cpu(), tensor.to(dtype)), name


def test_4_bit_weights_of_the_device_are_those_of_the_cpu() -> None:
    quantised_weights = pytest.importorskip("boson_multimodal.model.higgs_audio.quantised_weights")
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(256, 512).bfloat16()
    on_cpu, on_device = (
        quantised_weights.dequantised_by(quantised_weights.quantise_weight(weight.to(device)))
        for device in ("cpu", "cuda")
    )
    # A weight in the middle between two of the 16 values may go either way.
    is_other = (on_device.cpu().float() - on_cpu.float()).abs() > 0.02 * weight.float().abs().max()
    assert float(is_other.float().mean()) < 1e-3


def prompts(model: HiggsAudioModel) -> dict[str, Tensor]:
    """Prompts of different lengths, padded on the left; the second has a reference clip."""
    config = model.config
    ids = torch.randint(0, 480, (3, 12))
    ids[:, -1] = config.audio_out_bos_token_id
    ids[1, 4] = config.audio_in_token_idx
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(12) >= torch.tensor([0, 3, 6])[:, None]).long(),
        "audio_in_ids": torch.randint(0, 32, (config.audio_num_codebooks, 20)),
        "audio_in_ids_start": torch.tensor([0]),
    }


def test_greedy_generation_in_float32_equals_the_cpu() -> None:
    model = HiggsAudioModel(tiny_config()).eval()
    asked = prompts(model)
    on_cpu = model.generate(**asked, do_sample=False, max_new_tokens=40)
    on_device = model.to("cuda").generate(**asked, do_sample=False, max_new_tokens=40)
    assert on_device.ended == on_cpu.ended
    for one, other in zip(on_device.audio_sequences, on_cpu.audio_sequences, strict=True):
        assert torch.equal(one.cpu(), other)


def test_generation_in_bfloat16_repeats_itself() -> None:
    """With seeds; another seed speaks otherwise."""
    model = HiggsAudioModel(tiny_config()).eval().to("cuda", torch.bfloat16)
    asked = prompts(model)
    first, again, other = (model.generate(**asked, max_new_tokens=40, seed=seed) for seed in (1, 1, 2))
    assert first.ended == again.ended
    assert all(torch.equal(*pair) for pair in zip(first.audio_sequences, again.audio_sequences, strict=True))
    assert not all(map(_equal, first.audio_sequences, other.audio_sequences))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def test_clips_end_by_the_delay_pattern() -> None:
    """In the last column all codebooks but the last are at their ends. A column too many or too few shows here."""
    model = HiggsAudioModel(tiny_config()).eval().to("cuda")
    found = model.generate(**prompts(model), max_new_tokens=200, seed=list(range(3)))
    eos, codebooks = model.config.audio_stream_eos_id, model.config.audio_num_codebooks
    at_end = [(segment[:, -1] == eos).sum().item() for segment in found.audio_sequences]
    assert found.ended == [True] * 3 and at_end == [codebooks - 1] * 3


@pytest.mark.parametrize("recompute", ["none", "ffn", "layer"])
def test_the_peak_of_a_step_is_within_5_percent_of_the_estimate(recompute: str) -> None:
    memory_estimate = pytest.importorskip("voice_cloning.training.memory_estimate")
    each, text, layers = 1024, 110, 8
    gc.collect()
    before = torch.cuda.memory_allocated()
    step, batch = released_step(layers, recompute)
    batches = [batch(each)]
    step.run(0, batches)
    torch.cuda.reset_peak_memory_stats()
    step.run(1, batches)
    peak = torch.cuda.max_memory_allocated() - before
    counts = step.count_labels(batches)
    shape = memory_estimate.BatchShape(
        lengths=(each, each),
        audio_positions=2 * (each - text + 2),  # both slots expand to columns
        text_rows=int(counts[0]),
        audio_rows=int(counts[1:].max()),
    )
    config = HiggsAudioConfig(text_config={**RELEASED_TEXT, "num_hidden_layers": layers})
    lora = HiggsAudioLoRATrainingConfig(lora_rank=16)
    model = memory_estimate.TrainedModel(config, lora, torch.bfloat16, "none")
    assert model.memory(shape, recompute).allocated == pytest.approx(peak, rel=0.05)

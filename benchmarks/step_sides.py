"""Our training step, and transformers' under PEFT, over the same samples with the same weights and adapter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from benchmarks.released_size import TrainerStep, add_adapter, build_step
from benchmarks.speed_models import randomise_adapter
from benchmarks.transformers_training import (
    TransformersStep,
    batches_by_length,
    batches_in_order,
    build_optimizer,
    build_peft_model,
    pad_batches,
    sample_positions,
)
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import to_original_name
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.products import default_products
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.adapters.adapter_files import PREFIX
from voice_cloning.training.batch_planning import plan_epoch
from voice_cloning.training.batches import count_labels

BEST_ATTENTION = "sdpa"
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5
"""The largest difference of two fp32 steps: of the loss, relative; of the gradient, norm over norm."""
BF16_ROUNDING = 2.0**-8
"""The largest distance of a bf16 loss to that in fp32, relative: one rounding of bf16."""
DISTANCE_RATIO = 2.0
"""A step in bf16 is at most so many times as far from fp32 as the other step in bf16."""


class UnequalStepsError(RuntimeError):
    """The two sides do not compute the same step, so their times say nothing."""


class Side(Protocol):
    """One way to take an optimizer step over all samples."""

    def accumulate(self) -> Tensor:
        """Add the gradients of the mean loss over all labels, and return that loss."""

    def run(self) -> None:
        """Take the whole step: gradients, clipping, update."""


@dataclass(frozen=True)
class StepForm:
    """What is chosen for a step.

    Attributes:
        adapter: settings of the adapter, on both sides.
        recompute: level of recompute of our layers.
    """

    adapter: HiggsAudioLoRATrainingConfig
    recompute: str


@dataclass
class OurStep:
    """The trainer's step over the micro-batches of its batch plan.

    Attributes:
        model: base and adapter.
        step: of the trainer; its loss is the mean over all labels of the step, of both heads.
        batches: micro-batches, on the host.
        settings: gives a context for the step.
        steps_done: number of steps taken.
    """

    model: PeftModel
    step: TrainerStep
    batches: list[HiggsAudioBatchInput]
    settings: Callable[[], AbstractContextManager] = nullcontext
    steps_done: int = 0

    def accumulate(self) -> Tensor:
        device = self.model.device
        counts = self.step.count_labels(self.batches).to(device, torch.float32)
        total = torch.zeros((), device=device)
        with self.settings():
            for batch in self.batches:
                loss = self.step.loss(batch, counts)
                loss.backward()
                total += loss.detach()
        return total

    def run(self) -> None:
        with self.settings():
            self.step.run(self.steps_done, self.batches)
        self.steps_done += 1


@dataclass(frozen=True)
class Models:
    """Our model and transformers', with the same weights and equal adapters.

    Attributes:
        ours, theirs: under PEFT, in training mode.
    """

    ours: PeftModel
    theirs: PeftModel


def build_models(base: HiggsAudioModel, form: StepForm, adapter: dict[str, Tensor] | None = None) -> Models:
    """Put an adapter on the base and on transformers' class, random or of the given values."""
    theirs = build_peft_model(base, form.adapter)
    ours = add_adapter(base, form.adapter, form.recompute)
    randomise_adapter(ours)
    parameters, twins = our_adapter(ours), their_adapter(theirs)
    if parameters.keys() != twins.keys():
        raise UnequalStepsError(f"the adapters differ in {sorted(parameters.keys() ^ twins.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if adapter is not None:
                parameter.copy_(adapter[name])
            twins[name].copy_(parameter)
    return Models(ours, theirs)


def our_adapter(model: PeftModel) -> dict[str, nn.Parameter]:
    """The trained parameters by name."""
    return _trained(model, lambda name: name)


def their_adapter(model: PeftModel) -> dict[str, nn.Parameter]:
    """The trained parameters of transformers' class, by our names."""
    return _trained(model, to_original_name)


def _trained(model: PeftModel, rename: Callable[[str], str]) -> dict[str, nn.Parameter]:
    return {rename(n.removeprefix(PREFIX)): p for n, p in model.named_parameters() if p.requires_grad}


def our_batches(
    config: HiggsAudioConfig, samples: Sequence[ChatMLDatasetSample], lengths: Sequence[int], budget: int
) -> list[HiggsAudioBatchInput]:
    """The micro-batches of at most ``budget`` positions that the trainer's batch plan makes of the samples."""
    plan = plan_epoch(
        lengths,
        max_tokens_per_batch=budget,
        batch_size=None,
        world_size=1,
        gradient_accumulation_steps=1,
        seed=42,
        epoch=0,
    )
    collate = ArabicVoiceCloningTrainingCollator.from_config(config)
    return [collate([samples[i] for i in indices]) for indices in plan.micro_batches]


def with_default_products(step: OurStep) -> OurStep | None:
    """The same step with the GEMM backend of the other side; None if ours takes no other."""
    base = step.model.get_base_model()
    takes_another = base.device.type == "cpu" and base.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return replace(step, settings=default_products) if takes_another else None


def our_side(model: PeftModel, batches: list[HiggsAudioBatchInput]) -> OurStep:
    """The trainer's step over these micro-batches. Its objective is the mean over all labels, of both heads."""
    base = model.get_base_model()
    counts = count_labels(batches, base.config.audio_num_codebooks)
    if (counts[1:] != counts[1]).any():
        raise UnequalStepsError(f"the codebooks have different numbers of labels, {counts[1:].tolist()}")
    share_of_text = float(counts[0] / counts.sum())
    loss = LossConfig(text_weight=share_of_text, audio_weight=1 - share_of_text)
    return OurStep(model, build_step(model, base.dtype, loss), batches)


def side_as_used(
    model: PeftModel, config: HiggsAudioConfig, samples: Sequence[ChatMLDatasetSample], samples_per_batch: int
) -> TransformersStep:
    """Transformers' class as its users run it: batches in the given order, its default attention and AdamW's.

    Args:
        config: our configuration of the same model.
    """
    batches = pad_batches(samples, config, batches_in_order(len(samples), samples_per_batch))
    default = model.get_base_model().config._attn_implementation
    return TransformersStep(model, build_optimizer(model), batches, default)


def side_at_best(
    model: PeftModel, config: HiggsAudioConfig, samples: Sequence[ChatMLDatasetSample], budget: int
) -> TransformersStep:
    """The same with the best settings: sorted by length, SDPA, fused AdamW, TF32 for what a bf16 model has in fp32."""
    lengths = [sample_positions(sample, config) for sample in samples]
    batches = pad_batches(samples, config, batches_by_length(lengths, budget))
    settings = tf32_products if model.get_base_model().dtype == torch.bfloat16 else nullcontext
    return TransformersStep(model, build_optimizer(model, fused=True), batches, BEST_ATTENTION, settings)


@contextmanager
def tf32_products() -> Iterator[None]:
    """Within this context, fp32 products on a GPU, those of PEFT's fp32 adapter, use TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Outcome:
    """What a step gives before its update: the loss, and the gradient of each adapter tensor by our name."""

    loss: float
    gradients: dict[str, Tensor]


def outcome_of(side: Side, adapter: dict[str, nn.Parameter]) -> Outcome:
    """Compute loss and gradients of a side, and set its gradients back to zero."""
    for parameter in adapter.values():
        if parameter.grad is not None:
            parameter.grad.zero_()
    loss = float(side.accumulate())
    gradients = {name: parameter.grad.double().cpu() for name, parameter in adapter.items()}
    for parameter in adapter.values():
        parameter.grad.zero_()
    return Outcome(loss, gradients)


@dataclass(frozen=True)
class Difference:
    """How far one outcome is from another: the loss, relative; the gradient, norm over norm."""

    loss: float
    gradient: float


def difference(found: Outcome, wanted: Outcome) -> Difference:
    apart = sum(float((found.gradients[n] - wanted.gradients[n]).square().sum()) for n in wanted.gradients)
    size = sum(float(gradient.square().sum()) for gradient in wanted.gradients.values())
    return Difference(abs(found.loss / wanted.loss - 1), (apart / size) ** 0.5)


def require_equal(ours: Outcome, theirs: Outcome, name: str) -> Difference:
    """Return the difference of two fp32 steps.

    Raises:
        UnequalStepsError: if it is larger than rounding.
    """
    found = difference(ours, theirs)
    # Written so that NaN is refused.
    if not (found.loss <= LOSS_TOLERANCE and found.gradient <= GRADIENT_TOLERANCE):
        raise UnequalStepsError(
            f"ours and {name}, fp32: the losses differ by {found.loss:.1e}, relative, and the gradients by "
            f"{found.gradient:.1e}; at most {LOSS_TOLERANCE:.0e} and {GRADIENT_TOLERANCE:.0e} is rounding"
        )
    return found


def require_equal_rounding(ours: Outcome, theirs: Outcome, exact: Outcome, name: str) -> tuple[Difference, Difference]:
    """Return how far each of two bf16 steps is from the step in fp32 with the same weights.

    Their difference is no more than the sum of these distances. A wrong step is far from fp32, while rounding takes
    both about as far.

    Raises:
        UnequalStepsError: if a loss is further away than one rounding of bf16, or one gradient is more than twice as
            far away as the other.
    """
    distances = difference(ours, exact), difference(theirs, exact)
    near, far = sorted(distance.gradient for distance in distances)
    if not (all(d.loss <= BF16_ROUNDING for d in distances) and far <= DISTANCE_RATIO * near):
        raise UnequalStepsError(
            f"ours and {name}, bf16: the losses are {distances[0].loss:.1e} and {distances[1].loss:.1e} from fp32, "
            f"relative, and the gradients {distances[0].gradient:.1e} and {distances[1].gradient:.1e}; one rounding is "
            f"{BF16_ROUNDING:.1e}, and neither gradient may be more than {DISTANCE_RATIO:g} times as far as the other"
        )
    return distances

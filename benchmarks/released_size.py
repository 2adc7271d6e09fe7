"""A model of the released size on a GPU, without a checkpoint; random samples for it, and the trainer's step on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, load_quantised
from boson_multimodal.process_group import Ranks
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.run.components import Placement, leave_casts_to_autocast
from voice_cloning.training.base_kl import make_base_kl, micro_batch_loss
from voice_cloning.training.batches import StepBatches, count_labels
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.fused_layers import install_fused_layers
from voice_cloning.training.losses import LossTotals
from voice_cloning.training.memory_estimate import RELEASED_TEXT
from voice_cloning.training.optimizer import AdapterOptimizer
from voice_cloning.training.state import TrainingState

WEIGHTS_DTYPE = torch.bfloat16
BEGIN_OF_TEXT, AUDIO_BOS = 128000, 128011
INSTRUCTION_TOKENS, TARGET_TEXT_TOKENS = 40, 28
"""Text tokens of a sample before its reference clip, and those of its trained turn."""
FIXED_TEXT = 1 + INSTRUCTION_TOKENS + 3 + TARGET_TEXT_TOKENS + 4
"""Token ids of the shortest text: the first id, the reference slot's three, and four that end the trained turn."""


@dataclass(frozen=True)
class TrainerStep:
    """One optimizer step of the trainer, whole and in parts.

    Attributes:
        trainable: parameters of the adapter.
        optimizer: holds them and AdamW's state.
        count_labels: gives the (1 + K,) label counts of some micro-batches, on the host.
        loss: gives the loss of one micro-batch by a forward pass; takes the step's label counts, on the device.
        update: clips the gradients, updates the adapter, and sets the gradients to zero.
        run: takes a whole step; its arguments are the number of steps before it, and its micro-batches.
    """

    trainable: list[nn.Parameter]
    optimizer: AdapterOptimizer
    count_labels: Callable[[list[HiggsAudioBatchInput]], Tensor]
    loss: Callable[[HiggsAudioBatchInput, Tensor], Tensor]
    update: Callable[[], None]
    run: Callable[[int, list[HiggsAudioBatchInput]], None]


def add_adapter(base: HiggsAudioModel, settings: HiggsAudioLoRATrainingConfig, recompute: str | None) -> PeftModel:
    """Put a fresh adapter on the base, in training mode, as the trainer has it.

    Args:
        recompute: level of recompute of the fused layers; None keeps the plain layers.
    """
    model = get_peft_model(base, settings.to_peft())
    leave_casts_to_autocast(model)
    if recompute is not None and (reason := install_fused_layers(model, recompute)):
        raise ValueError(f"the fused layers do not take this adapter: {reason}")
    return model.train()


def build_step(
    model: PeftModel,
    dtype: torch.dtype = WEIGHTS_DTYPE,
    loss_config: LossConfig | None = None,
    base_kl_weight: float = 0.0,
) -> TrainerStep:
    """The step of a trainer that has this model; no other function knows what the trainer is made of.

    Args:
        base_kl_weight: as the trainer's flag; every micro-batch takes part.
    """
    config = model.get_base_model().config
    trainer = object.__new__(ArabicVoiceCloningDistributedTrainer)
    flags = {"base_kl_weight": base_kl_weight, "base_kl_share": 1.0} if base_kl_weight else {}
    trainer.config = DistributedTrainingConfig(data_path="none", output_dir="none", **flags)
    trainer.loss_config = loss_config or LossConfig()
    trainer.ranks, trainer.placement = Ranks(), Placement(model.device, dtype)
    optimizer = AdapterOptimizer(model.parameters(), trainer.config, trainer.ranks)
    state = TrainingState(total_steps=100, totals=LossTotals.zeros(config.audio_num_codebooks))
    # The step takes no more of the components than these.
    base_kl = make_base_kl(model, trainer.config, trainer.loss_config, dtype)
    trainer.components = SimpleNamespace(model=model, optimizer=optimizer, state=state, warmup_steps=3, base_kl=base_kl)

    def count(batches: list[HiggsAudioBatchInput]) -> Tensor:
        return count_labels(batches, config.audio_num_codebooks)

    def loss(batch: HiggsAudioBatchInput, counts: Tensor) -> Tensor:
        return micro_batch_loss(trainer._training_step, batch, counts, trainer.loss_config, base_kl)[0]

    def update() -> None:
        optimizer.step(trainer.config.learning_rate)

    def run(steps_before: int, batches: list[HiggsAudioBatchInput]) -> None:
        state.step = steps_before
        trainer._optimizer_step(StepBatches(0, (), tuple(batches), 0), count(batches))

    return TrainerStep(optimizer.parameters, optimizer, count, loss, update, run)


def build_base(
    layers: int, is_computing: bool, gradient_checkpointing: bool, quantise: str = NOT_QUANTISED
) -> HiggsAudioModel:
    """The frozen base on the GPU; its weights are random where numbers are computed, and unset elsewhere."""

    def weights(shapes: dict[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes.items():
            weight = torch.empty(shape, dtype=WEIGHTS_DTYPE, device="cuda:0")
            if is_computing:
                weight.fill_(1.0) if "norm" in name else weight.normal_(0, 0.02)
            yield name, weight

    config = HiggsAudioConfig(text_config={**RELEASED_TEXT, "num_hidden_layers": layers})
    with torch.device("meta"):
        model = HiggsAudioModel(config)
    made = weights({name: tensor.shape for name, tensor in model.state_dict().items()})
    if quantise == NOT_QUANTISED:
        model.load_state_dict(dict(made), assign=True)
    else:
        load_quantised(model, made, WEIGHTS_DTYPE)
    model.requires_grad_(False).eval()
    model.rotary_emb = LlamaRotaryEmbedding(config.text_config).to("cuda:0")
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def shortest_clip(config: HiggsAudioConfig) -> int:
    """Columns of a clip of one frame."""
    return columns_of(1, config.audio_num_codebooks, config.use_delay_pattern)


def build_sample(config: HiggsAudioConfig, text: int, reference: int, positions: int) -> ChatMLDatasetSample:
    """A random sample: instruction, reference clip, the rest of the text, then target text and target clip.

    Args:
        text: token ids of the sample, both audio slots among them.
        reference: columns of the reference clip.
        positions: of the whole sample, once the slots are expanded.
    """
    ids = [BEGIN_OF_TEXT, *[100] * INSTRUCTION_TOKENS, AUDIO_BOS, config.audio_in_token_idx, config.audio_eos_token_id]
    ids += [200] * (text - FIXED_TEXT)
    trained = [300] * TARGET_TEXT_TOKENS + [config.audio_out_bos_token_id, config.audio_out_token_idx]
    trained += [config.audio_eos_token_id, config.eot_token_id]
    codebooks, around = config.audio_num_codebooks, shortest_clip(config) - 1
    target = positions - (text - 2) - reference
    codes = [
        torch.randint(0, config.audio_codebook_size, (codebooks, columns - around)) for columns in (reference, target)
    ]
    labels = [IGNORE_INDEX] * len(ids) + trained
    return ChatMLDatasetSample.of_clips(ids + trained, labels, codes, None, codebooks)

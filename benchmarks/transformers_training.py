"""Training with transformers' own class and PEFT: the same weights, adapter, samples and labels as ours.

The class sends only ``<|AUDIO_OUT|>`` to the audio FFN, so the columns of references get that id too. Batches are
padded on the right, so that each position has the rotary angle that it has in our batches.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import (
    TRANSFORMERS,
    to_transformers_config,
    to_transformers_name,
)
from boson_multimodal.model.higgs_audio.packing import segment_lengths
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.adapters.export import TARGETS
from voice_cloning.training.config import DistributedTrainingConfig

MAX_GRAD_NORM = DistributedTrainingConfig(data_path="none", output_dir="none").max_grad_norm
PaddedBatch = dict[str, Tensor]
"""Arguments of the class's forward: ids, mask, codes and their mask, and both kinds of labels."""


@dataclass(frozen=True)
class ExpandedSample:
    """One sample as transformers' class takes it, without padding. S positions, C columns of clips.

    Attributes:
        input_ids, labels: (S,).
        audio_input_ids, audio_labels: (C, K).
    """

    input_ids: Tensor
    labels: Tensor
    audio_input_ids: Tensor
    audio_labels: Tensor


def expand_sample(sample: ChatMLDatasetSample, config: HiggsAudioConfig) -> ExpandedSample:
    """Repeat each slot for the columns of its clip. A reference has no labels."""
    batch = ArabicVoiceCloningTrainingCollator.from_config(config)([sample])
    ids, labels = (x[0, : sample.input_ids.numel()] for x in (batch.input_ids, batch.label_ids))
    clips = {
        config.audio_in_token_idx: _clips(batch.audio_in_ids, batch.audio_in_ids_start),
        config.audio_out_token_idx: _clips(batch.audio_out_ids, batch.audio_out_ids_start),
    }
    clip_labels = {
        config.audio_in_token_idx: [torch.full_like(c, IGNORE_INDEX) for c in clips[config.audio_in_token_idx]],
        config.audio_out_token_idx: _clips(batch.label_audio_ids, batch.audio_out_ids_start),
    }
    slots = [token for token in ids.tolist() if token in clips]
    codes = [clips[token].pop(0) for token in slots]
    audio_labels = [clip_labels[token].pop(0) for token in slots]
    is_slot = torch.isin(ids, torch.tensor(list(clips)))
    columns = torch.ones_like(ids)
    columns[is_slot] = torch.tensor([clip.shape[0] for clip in codes])
    return ExpandedSample(
        input_ids=ids.masked_fill(is_slot, config.audio_out_token_idx).repeat_interleave(columns),
        labels=labels.masked_fill(is_slot, IGNORE_INDEX).repeat_interleave(columns),
        audio_input_ids=torch.cat(codes),
        audio_labels=torch.cat(audio_labels),
    )


def pad_samples(samples: Sequence[ExpandedSample], config: HiggsAudioConfig) -> PaddedBatch:
    """Make one batch, padded to its longest sample."""

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "input_ids": pad([s.input_ids for s in samples], config.pad_token_id),
        "attention_mask": pad([torch.ones_like(s.input_ids) for s in samples], 0),
        "labels": pad([s.labels for s in samples], IGNORE_INDEX),
        "audio_input_ids": pad([s.audio_input_ids for s in samples], config.audio_stream_eos_id),
        "audio_input_ids_mask": pad([torch.ones(len(s.audio_input_ids), dtype=torch.bool) for s in samples], False),
        "audio_labels": pad([s.audio_labels for s in samples], IGNORE_INDEX),
    }


def pad_batches(
    samples: Sequence[ChatMLDatasetSample], config: HiggsAudioConfig, groups: Sequence[Sequence[int]]
) -> list[PaddedBatch]:
    """Make a batch of each group of samples, which are given by their indices."""
    expanded = [expand_sample(sample, config) for sample in samples]
    return [pad_samples([expanded[i] for i in group], config) for group in groups]


def sample_positions(sample: ChatMLDatasetSample, config: HiggsAudioConfig) -> int:
    """Positions of a sample, once its slots are expanded."""
    return expand_sample(sample, config).input_ids.numel()


def batches_in_order(samples: int, samples_per_batch: int) -> list[list[int]]:
    """Samples of each batch: a fixed number, in the given order, as a data loader without a sampler takes them."""
    starts = range(0, samples, samples_per_batch)
    return [list(range(start, min(start + samples_per_batch, samples))) for start in starts]


def batches_by_length(lengths: Sequence[int], max_positions: int) -> list[list[int]]:
    """Samples of each batch, sorted by length: as many as fit into so many positions, padding included."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_positions:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def build_peft_model(base: HiggsAudioModel, settings: HiggsAudioLoRATrainingConfig) -> PeftModel:
    """Transformers' class with the weights of ``base``, which are shared and not copied, under PEFT's adapter.

    PEFT is left as it is: the adapter is fp32, and its input is cast to fp32.
    """
    fields = to_transformers_config(base.config)
    config = HiggsAudioV2Config(**{name: value for name, value in fields.items() if name != "model_type"})
    with torch.device("meta"):
        native = HiggsAudioV2ForConditionalGeneration(config, use_text_head=True)
    weights = {to_transformers_name(name): tensor for name, tensor in base.state_dict().items()}
    native.load_state_dict(weights, strict=True, assign=True)
    native.model.rotary_emb = type(native.model.rotary_emb)(config).to(base.device)
    first_rows = torch.arange(config.num_codebooks, device=base.device) * config.codebook_size
    native.model.embed_audio_tokens.audio_tokens_offsets = first_rows
    left = [name for name, tensor in (*native.named_parameters(), *native.named_buffers()) if tensor.is_meta]
    if left:
        raise RuntimeError(f"transformers' class has tensors that ours lacks: {left}")
    adapter = settings.to_peft()
    adapter.target_modules = "|".join(f"({TARGETS[TRANSFORMERS][group]})" for group in settings.lora_targets)
    return get_peft_model(native.requires_grad_(False), adapter).train()


@dataclass(frozen=True)
class TransformersStep:
    """One optimizer step of transformers' class under PEFT over some padded batches.

    Attributes:
        model: the class under PEFT.
        optimizer: AdamW over the adapter.
        batches: on the host.
        attention: name of the attention implementation.
        settings: gives a context for the step, in which the process has the settings that this user gave.
    """

    model: PeftModel
    optimizer: torch.optim.Optimizer
    batches: list[PaddedBatch]
    attention: str
    settings: Callable[[], AbstractContextManager] = nullcontext

    @property
    def labels(self) -> int:
        """Labels of the step, of both heads."""
        return sum(int((b[name] != IGNORE_INDEX).sum()) for b in self.batches for name in ("labels", "audio_labels"))

    def accumulate(self) -> Tensor:
        """Add the gradients of the mean loss over all labels of the step, and return that loss.

        ``num_items_in_batch`` is how transformers' Trainer gives a loss its divisor. Without it the class divides each
        codebook's sum and the text's by their labels in the batch, and adds the nine means.
        """
        self.model.get_base_model().set_attn_implementation(self.attention)
        device, labels = self.model.device, self.labels
        total = torch.zeros((), device=device)
        for batch in self.batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            loss = self.model(**inputs, num_items_in_batch=labels).loss
            loss.backward()
            total += loss.detach()
        return total

    def run(self) -> None:
        """Take the step."""
        with self.settings():
            self.accumulate()
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()


def build_optimizer(model: PeftModel, fused: bool | None = None) -> torch.optim.Optimizer:
    """AdamW over the adapter with the trainer's settings; ``fused`` is torch's argument, None is its default."""
    config = DistributedTrainingConfig(data_path="none", output_dir="none")
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _clips(ids_KC: Tensor, starts: Tensor) -> list[Tensor]:
    """The (columns, K) of each clip."""
    return [clip.T for clip in ids_KC.split(segment_lengths(ids_KC.shape[1], starts).tolist(), dim=1)]

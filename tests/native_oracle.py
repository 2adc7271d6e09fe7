"""transformers' own Higgs Audio v2 as an independent oracle: padded batches, full logits, boolean masks in each layer.

It routes only ``<|AUDIO_OUT|>`` to the audio FFN, so reference columns are given to it under that id.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_training_collator import ChatMLDatasetSample, HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.packing import segment_lengths

AUDIO_IN, AUDIO_OUT = 495, 496
"""Ids of the shrunken vocabulary that the goldens use too (real id - 128000 + 480)."""


def tiny_config(**overrides: object) -> HiggsAudioConfig:
    """A model of the released form with a vocabulary of 512 and 32 codes per codebook."""
    text_config = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    }
    fields = {
        "text_config": text_config,
        "audio_codebook_size": 32,
        "audio_stream_bos_id": 32,
        "audio_stream_eos_id": 33,
        "audio_in_token_idx": AUDIO_IN,
        "audio_out_token_idx": AUDIO_OUT,
        "audio_out_bos_token_id": 493,
        "audio_eos_token_id": 492,
        "pad_token_id": 481,
    }
    return HiggsAudioConfig(**{**fields, **overrides})


def random_sample(reference_frames: int, target_frames: int, text_tokens: int) -> ChatMLDatasetSample:
    """A sample of one reference clip in a user turn and one trained target clip; 0 frames leave a clip out."""
    text = torch.randint(0, 480, (text_tokens,)).tolist()
    reference = [491, AUDIO_IN, 492] if reference_frames else []
    answer = torch.randint(0, 480, (3,)).tolist() + ([493, AUDIO_OUT, 492] if target_frames else []) + [489]
    prompt = [480, *text, *reference, 489]
    frames = [count for count in (reference_frames, target_frames) if count]
    starts = torch.tensor([0, *frames]).cumsum(0)[: len(frames)]
    return ChatMLDatasetSample(
        input_ids=torch.tensor(prompt + answer),
        label_ids=torch.tensor([IGNORE_INDEX] * len(prompt) + answer),
        audio_ids_concat=torch.randint(0, 32, (8, sum(frames))),
        audio_ids_start=starts,
    )


def native_name(name: str) -> str:
    """transformers' name of one of our parameters or modules."""
    for ours, theirs in (
        ("audio_decoder_proj.", ""),
        ("audio_codebook_embeddings", "model.embed_audio_tokens.embed_audio_tokens"),
        ("layers.", "model.layers."),
        ("embed_tokens", "model.embed_tokens"),
        ("norm.", "model.norm."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(name)


def native_model(model: HiggsAudioModel) -> HiggsAudioV2ForConditionalGeneration:
    """transformers' class with the weights of ``model``."""
    config, text = model.config, model.config.text_config
    native = HiggsAudioV2ForConditionalGeneration(
        HiggsAudioV2Config(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            rms_norm_eps=text.rms_norm_eps,
            max_position_embeddings=text.max_position_embeddings,
            rope_parameters=text.rope_parameters,
            num_codebooks=config.audio_num_codebooks,
            codebook_size=config.codebook_rows,
            audio_token_id=config.audio_out_token_idx,
            audio_delay_token_id=494,
            audio_bos_token_id=config.audio_out_bos_token_id,
            audio_stream_bos_id=config.audio_stream_bos_id,
            audio_stream_eos_id=config.audio_stream_eos_id,
            pad_token_id=config.pad_token_id,
        ),
        use_text_head=True,
    )
    native.load_state_dict({native_name(k): v for k, v in model.state_dict().items()}, strict=True)
    return native.eval()


NATIVE_TARGETS = (
    r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|(audio_)?mlp\.(gate|up|down)_proj)"
    r"|(text|audio)_lm_head|model\.embed_audio_tokens\.embed_audio_tokens"
)


def native_twin(
    model: PeftModel, native: HiggsAudioV2ForConditionalGeneration
) -> tuple[PeftModel, list[tuple[str, Tensor, Tensor]]]:
    """Add the adapter of ``model``, which has every group of targets, to transformers' class.

    Returns:
        (the twin, the pairs of trained tensors: the name in ``model``, the tensor there, the tensor in the twin).
    """
    ours = model.peft_config["default"]
    twin = get_peft_model(native, LoraConfig(r=ours.r, lora_alpha=ours.lora_alpha, target_modules=NATIVE_TARGETS))
    theirs = {n.removeprefix("base_model.model."): p for n, p in twin.named_parameters() if p.requires_grad}
    pairs = []
    for full_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = full_name.removeprefix("base_model.model.")
            pairs.append((name, parameter, theirs[native_name(name)]))
    assert len(theirs) == len(pairs)
    with torch.no_grad():
        for _, parameter, other in pairs:
            other.copy_(parameter)
    return twin, pairs


@dataclass(frozen=True)
class NativeLogits:
    """Full logits of a padded batch.

    Attributes:
        text_BSV: (B, S, vocabulary).
        audio_CKV: (target columns, K, codebook rows).
    """

    text_BSV: Tensor
    audio_CKV: Tensor


def native_logits(
    native: torch.nn.Module, config: HiggsAudioConfig, batch: HiggsAudioBatchInput, expanded: Tensor, mask: Tensor
) -> NativeLogits:
    """Run transformers' class (or PEFT's wrapper of it) on a batch.

    Args:
        expanded, mask: (B, S) expanded ids and attention mask, pads on the right.
    """
    references = iter(_segments(batch.audio_in_ids, batch.audio_in_ids_start))
    targets = iter(_segments(batch.audio_out_ids, batch.audio_out_ids_start))
    rows = []
    for ids in batch.input_ids:  # the codes of each sample, in order of its slots
        slots = [next(references) if t == AUDIO_IN else next(targets) for t in ids if t in (AUDIO_IN, AUDIO_OUT)]
        rows.append(torch.cat(slots, dim=1).T)
    audio_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    audio_mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r), dtype=torch.bool) for r in rows], batch_first=True)
    base = native.get_base_model() if hasattr(native, "get_base_model") else native
    hidden = base.model(
        input_ids=expanded.masked_fill(expanded == AUDIO_IN, AUDIO_OUT),
        attention_mask=mask,
        audio_input_ids=audio_ids,
        audio_input_ids_mask=audio_mask,
    ).last_hidden_state
    audio = base.audio_lm_head(hidden[expanded == AUDIO_OUT])
    return NativeLogits(base.text_lm_head(hidden), audio.view(-1, config.audio_num_codebooks, config.codebook_rows))


def loss_by_definition(logits: NativeLogits, expanded_labels: Tensor, label_audio_ids: Tensor) -> Tensor:
    """The loss as ``boson_multimodal.model.higgs_audio.loss`` defines it, from full logits."""
    text = F.cross_entropy(logits.text_BSV[:, :-1].flatten(0, 1), expanded_labels[:, 1:].flatten())
    codebooks = [
        F.cross_entropy(logits.audio_CKV[:-1, k], label_audio_ids[k, 1:]) for k in range(label_audio_ids.shape[0])
    ]
    return text + torch.stack(codebooks).mean()


def _segments(ids_KC: Tensor, starts: Tensor) -> list[Tensor]:
    return list(ids_KC.split(segment_lengths(ids_KC.shape[1], starts).tolist(), dim=1))

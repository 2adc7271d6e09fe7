"""HiggsAudioModel: a Llama backbone whose layers hold a second FFN and two more norms for audio positions.

The forward signature and the parameter names are those of Boson's original release, so its checkpoints load as they
are. Inside, a batch is packed: see ``packing.py`` for the two orders of positions, ``loss.py`` for the heads.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.utils import ModelOutput

from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.audio_tower import HiggsAudioEncoder, HiggsAudioFeatureProjector
from boson_multimodal.model.higgs_audio.checkpoint_files import (
    check_fit,
    read_weights,
    single_device,
    stored_tensors,
    weights_dtype,
)
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.generation import HiggsAudioGenerationOutput, SamplingConfig, generate
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from boson_multimodal.model.higgs_audio.loss import (
    LossConfig,
    head_loss_sums,
    next_audio_labels,
    next_text_labels,
    weighted_loss,
)
from boson_multimodal.model.higgs_audio.packing import PackedBatch, pack_batch, segment_lengths
from boson_multimodal.model.higgs_audio.transfer import to_device

VARLEN_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Not yet so in torch 2.11."""


@dataclass
class HiggsAudioModelOutput(ModelOutput):
    """What ``HiggsAudioModel.forward`` returns. S is the padded length after audio slots are expanded.

    Attributes:
        loss: scalar; both heads weighted 1, means over this batch's own label counts. Given labels only.
        text_loss_sum, text_label_count: scalars: summed cross entropy of the text head and how many labels it is over.
        audio_loss_sum, audio_label_count: (K,) the same for each codebook.
        logits: (B, S, vocabulary) text logits. Without labels, or with ``output_logits=True``.
        audio_logits: (columns of all targets, K, codebook rows). Likewise.
        expanded_input_ids, expanded_labels, attention_mask: (B, S).
        audio_in_mask, audio_in_discrete_codes_mask, audio_out_mask: (B, S) booleans: reference columns, those of them
            given as codes, target columns.
        hidden_states: with ``output_hidden_states=True``, (B, S, D) before each layer and after the final norm.
        audio_hidden_states: (columns of all targets, D) after the final norm. Wherever ``audio_logits`` are.
        cache: with ``use_cache=True``, what to give as ``past_key_values`` with the positions that follow.
    """

    loss: Tensor | None = None
    text_loss_sum: Tensor | None = None
    text_label_count: Tensor | None = None
    audio_loss_sum: Tensor | None = None
    audio_label_count: Tensor | None = None
    logits: Tensor | None = None
    audio_logits: Tensor | None = None
    expanded_input_ids: Tensor | None = None
    expanded_labels: Tensor | None = None
    attention_mask: Tensor | None = None
    audio_in_mask: Tensor | None = None
    audio_in_discrete_codes_mask: Tensor | None = None
    audio_out_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    audio_hidden_states: Tensor | None = None
    cache: KeyValueCache | None = None

    @property
    def past_key_values(self) -> KeyValueCache | None:
        """``cache`` by the original's name; no field, since transformers 5.24 renames fields of that name."""
        return self.cache


@dataclass(frozen=True)
class Sequences:
    """N rows of hidden states, sample after sample, each of which attends to its own sample.

    Attributes:
        lengths: rows of each sample.
        bounds: (B + 1,) int32, where each sample begins and ends.
        cos_Nd, sin_Nd: rotary angles of each row's position.
        past_lengths: what a cache holds of each sample before these rows; None without a cache.
        cache_rows_N: where the rows' keys and values go in it.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    cos_Nd: Tensor
    sin_Nd: Tensor
    past_lengths: tuple[int, ...] | None = None
    cache_rows_N: Tensor | None = None


@dataclass(frozen=True)
class Routing:
    """What a layer needs to know of the batch, on the device of the hidden states, made once per batch.

    Attributes:
        num_text: rows of the text slice.
        sample_from_routed, routed_from_sample: see ``PackedBatch``.
        every: all positions, in sample order.
        text: those of the text slice alone, for layers that audio skips; None where no layer is one.
    """

    num_text: int
    sample_from_routed: Tensor
    routed_from_sample: Tensor
    every: Sequences
    text: Sequences | None


def attend(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """Causal attention of each sample to itself. (N, heads, d) in sample order -> (N, heads, d).

    On CUDA in half precision one varlen kernel takes all samples; elsewhere SDPA runs sample by sample, which spends
    nothing on the pairs of positions that one call under a block mask would compute and discard.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        bounds, longest = sequences.bounds, max(sequences.lengths)
        groups = {"enable_gqa": True}
        if not VARLEN_GROUPS_HEADS:
            groups = {}
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        return varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=(-1, 0), **groups)
    outputs = []
    for q, k, v in zip(*(x.split(sequences.lengths) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        outputs.append(attended.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def attend_to_cache(query: Tensor, keys: Tensor, values: Tensor, sequences: Sequences) -> Tensor:
    """As :func:`attend`, but to all that a cache holds. Keys and values are (B, capacity, heads, d)."""
    past = sequences.past_lengths
    if all(length == 1 for length in sequences.lengths):
        longest = max(past) + 1
        mask = None
        if min(past) + 1 < longest:
            held = torch.tensor(past)[:, None, None, None] + 1
            mask = to_device(torch.arange(longest) < held, query.device)
        q, k, v = query.unsqueeze(2), keys[:, :longest].transpose(1, 2), values[:, :longest].transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).squeeze(2)
    outputs = []
    for sample, q in enumerate(query.split(sequences.lengths)):
        new, held = q.shape[0], past[sample] + q.shape[0]
        mask = torch.ones(new, held, dtype=torch.bool, device=query.device).tril(past[sample])
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, keys[sample, :held], values[sample, :held]))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        outputs.append(attended.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


class HiggsAudioAttention(nn.Module):
    """Grouped-query attention with rotary positions, shared by text and audio."""

    def __init__(self, config: HiggsAudioConfig, layer_index: int) -> None:
        super().__init__()
        text = config.text_config
        self.layer_index = layer_index
        self.head_dim = text.head_dim
        self.q_proj = nn.Linear(text.hidden_size, text.num_attention_heads * text.head_dim, bias=text.attention_bias)
        self.k_proj = nn.Linear(text.hidden_size, text.num_key_value_heads * text.head_dim, bias=text.attention_bias)
        self.v_proj = nn.Linear(text.hidden_size, text.num_key_value_heads * text.head_dim, bias=text.attention_bias)
        self.o_proj = nn.Linear(text.num_attention_heads * text.head_dim, text.hidden_size, bias=text.attention_bias)

    def forward(self, hidden_ND: Tensor, sequences: Sequences, cache: KeyValueCache | None) -> Tensor:
        """(N, D) in sample order -> (N, D) in sample order."""
        query, key, value = (
            projection(hidden_ND).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, sequences.cos_Nd, sequences.sin_Nd)
        if cache is not None:
            keys, values = cache.write(self.layer_index, sequences.cache_rows_N, key, value)
        if cache is not None and any(sequences.past_lengths):
            attended = attend_to_cache(query, keys, values, sequences)
        else:
            attended = attend(query, key, value, sequences)
        return self.o_proj(attended.flatten(-2))


class HiggsAudioDecoderLayer(GradientCheckpointingLayer):
    """A plain Llama layer: text and audio take the same norms and FFN (``dual_ffn`` outside its dual layers)."""

    def __init__(self, config: HiggsAudioConfig, layer_index: int) -> None:
        super().__init__()
        text = config.text_config
        self.self_attn = HiggsAudioAttention(config, layer_index)
        self.mlp = LlamaMLP(text)
        self.input_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)

    def forward(self, hidden_ND: Tensor, routing: Routing, cache: KeyValueCache | None = None) -> Tensor:
        """(N, D) in routed order -> (N, D) in routed order."""
        normed = self.input_layernorm(hidden_ND)
        attended = self.self_attn(normed[routing.sample_from_routed], routing.every, cache)
        hidden_ND = hidden_ND + attended[routing.routed_from_sample]
        return hidden_ND + self.mlp(self.post_attention_layernorm(hidden_ND))


class HiggsAudioFastForwardDecoderLayer(HiggsAudioDecoderLayer):
    """A layer that audio positions skip, and in which text attends to text alone."""

    def forward(self, hidden_ND: Tensor, routing: Routing, cache: KeyValueCache | None = None) -> Tensor:
        """(N, D) in routed order -> (N, D) in routed order."""
        if routing.num_text == 0:
            return hidden_ND
        text, audio = hidden_ND[: routing.num_text], hidden_ND[routing.num_text :]
        text = text + self.self_attn(self.input_layernorm(text), routing.text, cache)
        return torch.cat([text + self.mlp(self.post_attention_layernorm(text)), audio])


class HiggsAudioDualFFNDecoderLayer(HiggsAudioDecoderLayer):
    """A layer in which audio positions take norms and an FFN of their own; attention is shared."""

    def __init__(self, config: HiggsAudioConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        text = config.text_config
        self.audio_mlp = LlamaMLP(replace_ffn_width(text, config.audio_ffn_intermediate_size))
        self.audio_input_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.audio_post_attention_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)

    def forward(self, hidden_ND: Tensor, routing: Routing, cache: KeyValueCache | None = None) -> Tensor:
        """(N, D) in routed order -> (N, D) in routed order."""
        text, audio = hidden_ND[: routing.num_text], hidden_ND[routing.num_text :]
        normed = torch.cat([self.input_layernorm(text), self.audio_input_layernorm(audio)])
        attended = self.self_attn(normed[routing.sample_from_routed], routing.every, cache)
        hidden_ND = hidden_ND + attended[routing.routed_from_sample]

        text, audio = hidden_ND[: routing.num_text], hidden_ND[routing.num_text :]
        return torch.cat(
            [
                text + self.mlp(self.post_attention_layernorm(text)),
                audio + self.audio_mlp(self.audio_post_attention_layernorm(audio)),
            ]
        )


def build_decoder_layer(config: HiggsAudioConfig, layer_index: int) -> HiggsAudioDecoderLayer:
    """The kind of layer that the configuration has at an index."""
    if layer_index in config.audio_dual_ffn_layers:
        return HiggsAudioDualFFNDecoderLayer(config, layer_index)
    if config.audio_adapter_type == "dual_ffn_fast_forward":
        return HiggsAudioFastForwardDecoderLayer(config, layer_index)
    return HiggsAudioDecoderLayer(config, layer_index)


def replace_ffn_width(text_config: Any, intermediate_size: int) -> Any:
    """A copy of the Llama configuration with another FFN width."""
    return type(text_config).from_dict({**text_config.to_dict(), "intermediate_size": intermediate_size})


class HiggsAudioDecoderProjection(nn.Module):
    """The two heads: text vocabulary, and K codebooks side by side."""

    def __init__(self, config: HiggsAudioConfig) -> None:
        super().__init__()
        codebook_logits = config.audio_num_codebooks * config.codebook_rows
        self.text_lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.audio_lm_head = nn.Linear(config.hidden_size, codebook_logits, bias=False)


class HiggsAudioPreTrainedModel(PreTrainedModel):
    """Loading, saving and gradient checkpointing, as transformers has them."""

    config_class = HiggsAudioConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "HiggsAudioDecoderLayer",
        "HiggsAudioFastForwardDecoderLayer",
        "HiggsAudioDualFFNDecoderLayer",
        "WhisperEncoderLayer",
    ]


class HiggsAudioModel(HiggsAudioPreTrainedModel):
    """Higgs Audio v2 in all forms of the original: as released every layer is dual and references are codes."""

    def __init__(self, config: HiggsAudioConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.audio_codebook_embeddings = nn.Embedding(
            config.audio_num_codebooks * config.codebook_rows, text.hidden_size
        )
        self.layers = nn.ModuleList(build_decoder_layer(config, i) for i in range(text.num_hidden_layers))
        self.norm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(text)
        self.audio_decoder_proj = HiggsAudioDecoderProjection(config)
        if not config.skip_audio_tower:
            self.audio_tower = HiggsAudioEncoder(config.audio_encoder_config)
            self.audio_encoder_proj = HiggsAudioFeatureProjector(config)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *,
        config: HiggsAudioConfig | None = None,
        revision: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | torch.device | dict[str, Any] | None = None,
    ) -> Any:
        """A checkpoint in either published layout, in evaluation mode; each tensor is read straight into its place.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            config: instead of the checkpoint's own.
            revision: the hub's commit, branch or tag.
            dtype: of the weights; ``"auto"`` or None: the config's, else the file's.
            torch_dtype: the older name of ``dtype``.
            device_map: one device, as such or as ``{"": device}``; None is the CPU, ``"auto"`` the first CUDA device
                where there is one.

        Raises:
            InputError: if a file is missing or damaged, or listing the tensors that are missing, unexpected or
                misshapen; before any weight is read.
        """
        folder = resolve_checkpoint(str(pretrained_model_name_or_path), revision, "model", ())
        config = HiggsAudioConfig.from_pretrained(folder) if config is None else copy.deepcopy(config)
        device = single_device(device_map)
        with torch.device("meta"):
            model = cls(config)
        stored = stored_tensors(folder)
        wanted = model.state_dict()
        fitting = check_fit(stored, wanted, f"{pretrained_model_name_or_path}: tensors do not fit the configuration")
        config.dtype = weights_dtype(torch_dtype or dtype, config, stored.values())
        config.name_or_path = model.name_or_path = str(pretrained_model_name_or_path)
        model.load_state_dict(read_weights(fitting, wanted, config.dtype, device), assign=True)
        model.rotary_emb = LlamaRotaryEmbedding(config.text_config).to(device)  # computed, not stored
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_feature_attention_mask: Tensor | None = None,
        audio_in_ids: Tensor | None = None,
        audio_in_ids_start: Tensor | None = None,
        audio_out_ids: Tensor | None = None,
        audio_out_ids_start: Tensor | None = None,
        audio_out_ids_start_group_loc: Tensor | None = None,
        label_ids: Tensor | None = None,
        label_audio_ids: Tensor | None = None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_audio_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_logits: bool | None = None,
    ) -> HiggsAudioModelOutput:
        """Run the model on a padded batch; with labels, return loss sums and counts instead of logits.

        Ids may lie on the CPU while the weights are elsewhere: the index arithmetic then needs no synchronisation.

        Args:
            input_ids: (B, S0) token ids, one id per audio slot.
            attention_mask: (B, S0), 0 at padding; None means no padding.
            audio_features: (references, mel bins, frames) log-mel features for the audio tower; a slot that has both
                features and codes holds its features first.
            audio_feature_attention_mask: (references, frames), 0 at padding.
            audio_in_ids: (K, columns) delayed codes of the references, side by side in order of appearance.
            audio_in_ids_start: first column of each reference.
            audio_out_ids, audio_out_ids_start: the same for targets.
            audio_out_ids_start_group_loc: sample of each target; the order of the slots already says it.
            label_ids: (B, S0) text labels aligned with ``input_ids``; ``IGNORE_INDEX`` where there is no loss.
            label_audio_ids: (K, columns) labels aligned with ``audio_out_ids``.
            past_key_values: what an earlier call returned; all other arguments then describe only what follows.
            use_cache: return ``past_key_values``. For inference, under ``torch.no_grad()``.
            output_hidden_states: also return padded hidden states.
            output_logits: also return logits where labels are given.
            inputs_embeds, output_attentions, output_audio_hidden_states, return_dict: of the original signature.

        Raises:
            ValueError: if an argument asks for what this form of the model does not have, or audio slots and
                segments differ in number.
        """
        _refuse_unsupported(inputs_embeds=inputs_embeds, output_attentions=output_attentions)
        has_labels = label_ids is not None or label_audio_ids is not None
        if past_key_values is not None or use_cache:
            past_key_values = self._cache(past_key_values, input_ids.shape[0], has_labels)
        hidden, all_hidden, packed = self._run(
            input_ids=input_ids,
            attention_mask=attention_mask,
            audio_features=audio_features,
            audio_feature_attention_mask=audio_feature_attention_mask,
            audio_in_ids=audio_in_ids,
            audio_in_ids_start=audio_in_ids_start,
            audio_out_ids=audio_out_ids,
            audio_out_ids_start=audio_out_ids_start,
            label_ids=label_ids,
            cache=past_key_values,
            keep_hidden=bool(output_hidden_states),
        )
        output = _masks(packed, self.config)
        output.cache = past_key_values
        if all_hidden:
            in_sample_order = packed.sample_from_routed.to(self.device)
            output.hidden_states = tuple(packed.pad(h[in_sample_order], 0.0) for h in all_hidden)
        if has_labels:
            self._add_losses(output, hidden, packed, label_audio_ids)
        if output_logits or not has_labels:
            self._add_logits(output, hidden, packed)
        return output

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        audio_in_ids: Tensor | None = None,
        audio_in_ids_start: Tensor | None = None,
        audio_out_ids: Tensor | None = None,
        audio_out_ids_start: Tensor | None = None,
        max_new_tokens: int = 1024,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 0.95,
        ras_win_len: int | None = 7,
        ras_win_max_num_repeat: int = 2,
        seed: int | Sequence[int] | None = None,
        audio_features: Tensor | None = None,
        audio_feature_attention_mask: Tensor | None = None,
    ) -> HiggsAudioGenerationOutput:
        """Go on from prompts until ``<|audio_eos|>`` or ``<|eot_id|>``; a prompt that is to be spoken ends with
        ``<|audio_out_bos|>``.

        A sample gets in a batch what it gets alone with the same seed. Lengths may differ; padding may be on either
        side.

        Args:
            input_ids, attention_mask, audio_in_ids, audio_in_ids_start, audio_out_ids, audio_out_ids_start,
                audio_features, audio_feature_attention_mask: the prompts, as :meth:`forward` takes them.
            max_new_tokens: text tokens and audio columns (25 a second) of each sample at most.
            do_sample, temperature, top_k, top_p, ras_win_len, ras_win_max_num_repeat: see ``SamplingConfig``.
            seed: one for all samples (equal prompts then give equal speech) or one each; None draws them from torch's
                global generator.

        Raises:
            InputError: for a setting out of range, an empty prompt, or a model in training mode.
        """
        return generate(
            self,
            SamplingConfig(do_sample, temperature, top_k, top_p, ras_win_len, ras_win_max_num_repeat),
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            seed=seed,
            audio_in_ids=audio_in_ids,
            audio_in_ids_start=audio_in_ids_start,
            audio_out_ids=audio_out_ids,
            audio_out_ids_start=audio_out_ids_start,
            audio_features=audio_features,
            audio_feature_attention_mask=audio_feature_attention_mask,
        )

    def last_hidden_states(self, cache: KeyValueCache, **inputs: Tensor | None) -> Tensor:
        """(B, D) after the final norm at the last position of each sample, without any logits: for generation.

        Args:
            cache: is filled.
            inputs: ids, codes, features and masks as :meth:`forward` takes them.
        """
        hidden, _, packed = self._run(cache=cache, **inputs)
        last = torch.tensor(packed.sample_lengths).cumsum(0) - 1
        return hidden[to_device(packed.sample_from_routed[last], self.device)]

    def _run(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_feature_attention_mask: Tensor | None = None,
        audio_in_ids: Tensor | None = None,
        audio_in_ids_start: Tensor | None = None,
        audio_out_ids: Tensor | None = None,
        audio_out_ids_start: Tensor | None = None,
        label_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        keep_hidden: bool = False,
    ) -> tuple[Tensor, list[Tensor], PackedBatch]:
        """Embed, pack and run the layers.

        Returns:
            (N, D) after the final norm in routed order; if kept, that and the input of every layer; the packing.
        """
        audio_in_ids, audio_in_lengths = _segments(audio_in_ids, audio_in_ids_start, input_ids, self.config)
        audio_out_ids, audio_out_lengths = _segments(audio_out_ids, audio_out_ids_start, input_ids, self.config)
        features, feature_lengths = self._embed_features(audio_features, audio_feature_attention_mask)
        packed = pack_batch(
            input_ids,
            attention_mask,
            audio_in_lengths,
            audio_out_lengths,
            label_ids,
            self.config.audio_in_token_idx,
            self.config.audio_out_token_idx,
            feature_lengths,
            None if cache is None else cache.lengths,
        )
        text_rows = packed.routed_from_sample[: packed.num_text]
        text = self.embed_tokens(to_device(packed.input_ids_N[text_rows], self.device))
        if features is not None:
            is_feature = packed.is_feature_N[text_rows].nonzero().squeeze(-1)
            text = text.index_copy(0, to_device(is_feature, self.device), features)
        hidden = torch.cat([text, self._embed_audio(audio_in_ids), self._embed_audio(audio_out_ids)])
        routing = self._routing(packed, hidden, cache)
        all_hidden = []
        for layer in self.layers:
            if keep_hidden:
                all_hidden.append(hidden)
            hidden = layer(hidden, routing, cache)
        if cache is not None:
            cache.advance(packed.sample_lengths, packed.text_lengths)
        hidden = self.norm(hidden)
        if keep_hidden:
            all_hidden.append(hidden)
        return hidden, all_hidden, packed

    def _routing(self, packed: PackedBatch, hidden: Tensor, cache: KeyValueCache | None) -> Routing:
        """The batch's index tensors and rotary angles, on the device of ``hidden``."""
        cos, sin = self.rotary_emb(hidden, to_device(packed.position_ids_N, self.device)[None])
        rows = None
        if cache is not None:
            longest = max(a + b for a, b in zip(cache.lengths, packed.sample_lengths, strict=True))
            cache.reserve(longest)
            rows = packed.sample_N * cache.capacity + packed.position_ids_N
        every = _sequences(packed.sample_lengths, cos[0], sin[0], cache and cache.lengths, rows)
        text = None
        if any(isinstance(layer, HiggsAudioFastForwardDecoderLayer) for layer in self.layers):
            text_rows = packed.routed_from_sample[: packed.num_text]
            if cache is not None:
                held = torch.tensor(cache.text_lengths)
                bounds = torch.tensor(packed.text_lengths).cumsum(0) - torch.tensor(packed.text_lengths)
                sample = packed.sample_N[text_rows].cpu()
                rows = sample * cache.capacity + held[sample] + torch.arange(packed.num_text) - bounds[sample]
            on_device = to_device(text_rows, self.device)
            past = cache and cache.text_lengths
            text = _sequences(packed.text_lengths, cos[0][on_device], sin[0][on_device], past, rows)
        return Routing(
            num_text=packed.num_text,
            sample_from_routed=to_device(packed.sample_from_routed, self.device),
            routed_from_sample=to_device(packed.routed_from_sample, self.device),
            every=every,
            text=text,
        )

    def _cache(self, cache: KeyValueCache | None, num_samples: int, has_labels: bool) -> KeyValueCache:
        """The cache to go on with, or a new one."""
        if has_labels or torch.is_grad_enabled():
            raise InputError(
                "HiggsAudioModel.forward: past_key_values and use_cache are for inference; give no labels, and call "
                "under torch.no_grad()"
            )
        if cache is None:
            return KeyValueCache(len(self.layers), num_samples)
        if not isinstance(cache, KeyValueCache) or len(cache.lengths) != num_samples:
            raise InputError(
                f"HiggsAudioModel.forward: past_key_values is {type(cache).__name__}; it must be what an earlier call "
                f"with use_cache=True returned for the same {num_samples} samples"
            )
        return cache

    def _embed_features(
        self, audio_features: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(positions of all references, D) in order, and how many each reference takes; None where none is given."""
        if audio_features is None or audio_features.numel() == 0:
            return None, None
        if self.config.skip_audio_tower:
            raise InputError(
                "HiggsAudioModel.forward: audio_features given, but this checkpoint has no audio tower "
                "(skip_audio_tower); give references as codes in audio_in_ids"
            )
        states, lengths = self.audio_tower(audio_features, attention_mask)
        clips, longest, _ = states.shape
        rows = (torch.arange(longest, device=lengths.device) < lengths[:, None]).flatten().nonzero().squeeze(-1)
        return self.audio_encoder_proj(states.flatten(0, 1)[to_device(rows, states.device)]), lengths

    def _embed_audio(self, codes_KC: Tensor) -> Tensor:
        """(K, C) code columns -> (C, D): the embeddings of a column's K codes, summed."""
        first_row = torch.arange(self.config.audio_num_codebooks, device=codes_KC.device) * self.config.codebook_rows
        return self.audio_codebook_embeddings(to_device(codes_KC.T + first_row, self.device)).sum(dim=1)

    def _add_losses(
        self, output: HiggsAudioModelOutput, hidden: Tensor, packed: PackedBatch, label_audio_ids: Tensor | None
    ) -> None:
        """Run each head on the rows that predict a label, and add the sums, counts and the batch's own loss."""
        heads, config = self.audio_decoder_proj, self.config
        label_ids_N = packed.label_ids_N
        if label_ids_N is None:
            label_ids_N = torch.full_like(packed.input_ids_N, IGNORE_INDEX)
        targets = next_text_labels(label_ids_N, packed.position_ids_N)
        rows = (targets != IGNORE_INDEX).nonzero().squeeze(-1)
        text_rows = to_device(packed.sample_from_routed[rows], self.device)
        text_targets = to_device(targets[rows], self.device)
        output.text_label_count = torch.tensor(rows.numel(), device=self.device)
        output.text_loss_sum = head_loss_sums(
            heads.text_lm_head, hidden[text_rows], text_targets[:, None], config.vocab_size
        ).squeeze(0)

        if label_audio_ids is None:
            label_audio_ids = torch.full((config.audio_num_codebooks, packed.num_audio_out), IGNORE_INDEX)
        targets = next_audio_labels(label_audio_ids)
        rows = (targets != IGNORE_INDEX).any(dim=1).nonzero().squeeze(-1)
        audio_rows = to_device(rows + packed.num_text + packed.num_audio_in, self.device)
        audio_targets = to_device(targets[rows], self.device)
        output.audio_label_count = (audio_targets != IGNORE_INDEX).sum(dim=0)
        output.audio_loss_sum = head_loss_sums(
            heads.audio_lm_head, hidden[audio_rows], audio_targets, config.audio_num_codebooks * config.codebook_rows
        )
        output.loss = weighted_loss(
            output.text_loss_sum,
            output.text_label_count,
            output.audio_loss_sum,
            output.audio_label_count,
            LossConfig(),
        )

    def _add_logits(self, output: HiggsAudioModelOutput, hidden: Tensor, packed: PackedBatch) -> None:
        """Add both heads' logits at every position, text padded to the grid."""
        heads, config = self.audio_decoder_proj, self.config
        in_sample_order = to_device(packed.sample_from_routed, self.device)
        output.logits = packed.pad(heads.text_lm_head(hidden[in_sample_order]), 0.0)
        output.audio_hidden_states = hidden[packed.num_text + packed.num_audio_in :]
        output.audio_logits = heads.audio_lm_head(output.audio_hidden_states).view(
            -1, config.audio_num_codebooks, config.codebook_rows
        )


def _sequences(
    lengths: tuple[int, ...], cos_Nd: Tensor, sin_Nd: Tensor, past: tuple[int, ...] | None, rows_N: Tensor | None
) -> Sequences:
    """Sequences on the device of the angles."""
    bounds = F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    rows = None if rows_N is None else to_device(rows_N, cos_Nd.device)
    return Sequences(lengths, to_device(bounds, cos_Nd.device), cos_Nd, sin_Nd, past, rows)


def _segments(
    ids_KC: Tensor | None, starts: Tensor | None, input_ids: Tensor, config: HiggsAudioConfig
) -> tuple[Tensor, Tensor]:
    """Codes and the columns of each segment; no codes at all (None, or the original's empty tensor) give none."""
    if ids_KC is None or ids_KC.numel() == 0:
        return input_ids.new_zeros((config.audio_num_codebooks, 0)), input_ids.new_zeros(0)
    if ids_KC.shape[0] != config.audio_num_codebooks:
        raise ValueError(f"{ids_KC.shape[0]} rows of codes for a model with {config.audio_num_codebooks} codebooks")
    return ids_KC, segment_lengths(ids_KC.shape[1], starts)


def _masks(packed: PackedBatch, config: HiggsAudioConfig) -> HiggsAudioModelOutput:
    """The padded ids, labels and masks that the original returns beside its logits, on the device of the ids."""
    in_mask = packed.pad(packed.input_ids_N == config.audio_in_token_idx, False)
    labels = packed.label_ids_N
    return HiggsAudioModelOutput(
        expanded_input_ids=packed.pad(packed.input_ids_N, config.pad_token_id),
        expanded_labels=None if labels is None else packed.pad(labels, IGNORE_INDEX),
        attention_mask=packed.pad(torch.ones_like(packed.input_ids_N), 0),
        audio_in_mask=in_mask,
        audio_in_discrete_codes_mask=in_mask & ~packed.pad(packed.is_feature_N, False),
        audio_out_mask=packed.pad(packed.input_ids_N == config.audio_out_token_idx, False),
    )


def _refuse_unsupported(**arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        raise InputError(f"HiggsAudioModel.forward: {given} given, but this form of the model cannot use it")

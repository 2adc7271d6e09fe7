"""HiggsAudioModel: a Llama backbone whose layers have a second FFN and two more norms for audio positions.

The forward signature and the parameter names are those of Boson's original release, so its checkpoints load without
changes. The model packs a batch into one row: ``packing.py`` describes the two orders of positions, ``loss.py`` the
loss.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils import ModelOutput

from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.attention import HiggsAudioAttention, Sequences, build_sequences
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
    LabelRows,
    LossConfig,
    RightAnswers,
    head_loss_sums,
    weighted_loss,
)
from boson_multimodal.model.higgs_audio.packing import PackedBatch, pack_batch, segment_lengths
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, check_quantisation, load_quantised
from boson_multimodal.model.higgs_audio.transfer import to_device


@dataclass(frozen=True)
class LabelStates:
    """The positions of a batch that predict a label, as the heads see them.

    Attributes:
        text_RD: (R, D) states before the final norm of the rows that predict a text label.
        audio_RD: (R, D) the same for the rows that predict an audio label in any codebook.
        text_labels_RG, audio_labels_RG: (R, 1) and (R, K) labels; ``IGNORE_INDEX`` where a codebook has none.
    """

    text_RD: Tensor
    audio_RD: Tensor
    text_labels_RG: Tensor
    audio_labels_RG: Tensor


@dataclass
class HiggsAudioModelOutput(ModelOutput):
    """The output of ``HiggsAudioModel.forward``. S is the padded length after the expansion of audio slots.

    Attributes:
        loss: scalar, only with labels. Both heads have weight 1, and the means are over the labels of this batch.
        text_loss_sum, text_label_count: scalars: the summed cross entropy of the text head and its number of labels.
        audio_loss_sum, audio_label_count: (K,) the same for each codebook.
        right_code_count, right_end_count, end_label_count: (K,) in evaluation mode without gradients: the code labels
            and the end labels whose logit is the largest of their codebook, and the number of end labels.
        logits: (B, S, vocabulary) text logits, without labels or with ``output_logits=True``.
        audio_logits: (columns of all targets, K, codebook rows), under the same condition.
        expanded_input_ids, expanded_labels, attention_mask: (B, S).
        audio_in_mask, audio_in_discrete_codes_mask, audio_out_mask: (B, S) booleans: reference columns, reference
            columns that are codes, target columns.
        hidden_states: with ``output_hidden_states=True``, (B, S, D) before each layer and after the final norm.
        audio_hidden_states: (columns of all targets, D) after the final norm. Given together with ``audio_logits``.
        label_states: with labels, if the model's ``keep_label_states`` is set.
        cache: with ``use_cache=True``, the ``past_key_values`` for the call with the next positions.
    """

    loss: Tensor | None = None
    text_loss_sum: Tensor | None = None
    text_label_count: Tensor | None = None
    audio_loss_sum: Tensor | None = None
    audio_label_count: Tensor | None = None
    right_code_count: Tensor | None = None
    right_end_count: Tensor | None = None
    end_label_count: Tensor | None = None
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
    label_states: LabelStates | None = None
    cache: KeyValueCache | None = None

    @property
    def past_key_values(self) -> KeyValueCache | None:
        """``cache`` under the original's name. It is not a field, because transformers 5.24 renames such fields."""
        return self.cache


@dataclass(frozen=True)
class Routing:
    """The index tensors of a batch that the layers use, on the device of the hidden states. Built once per batch.

    Attributes:
        num_text: the number of rows of the text slice.
        sample_from_routed, routed_from_sample: see ``PackedBatch``.
        every: all positions, in sample order.
        text: the positions of the text slice, for layers that audio skips; None if no layer is skipped.
    """

    num_text: int
    sample_from_routed: Tensor
    routed_from_sample: Tensor
    every: Sequences
    text: Sequences | None


class LabelLayers(Protocol):
    """All layers at once, for the rows that predict a label. It can take the place of ``HiggsAudioModel.layers``."""

    def __call__(self, hidden_ND: Tensor, routing: Routing, rows_R: Tensor) -> Tensor:
        """Return (R, D) after the last layer.

        Args:
            hidden_ND: the embeddings in routed order.
            rows_R: the wanted rows in ascending order, on the CPU.
        """
        ...


class HiggsAudioDecoderLayer(GradientCheckpointingLayer):
    """A plain Llama layer: text and audio use the same norms and FFN (in ``dual_ffn``, outside the dual layers)."""

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
    """A layer that audio positions skip. Text positions attend to text positions only."""

    def forward(self, hidden_ND: Tensor, routing: Routing, cache: KeyValueCache | None = None) -> Tensor:
        """(N, D) in routed order -> (N, D) in routed order."""
        if routing.num_text == 0:
            return hidden_ND
        text, audio = hidden_ND[: routing.num_text], hidden_ND[routing.num_text :]
        text = text + self.self_attn(self.input_layernorm(text), routing.text, cache)
        return torch.cat([text + self.mlp(self.post_attention_layernorm(text)), audio])


class HiggsAudioDualFFNDecoderLayer(HiggsAudioDecoderLayer):
    """A layer with separate norms and a separate FFN for audio positions. Text and audio share the attention."""

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
    """Build the layer at an index, of the kind that the configuration asks for."""
    if layer_index in config.audio_dual_ffn_layers:
        return HiggsAudioDualFFNDecoderLayer(config, layer_index)
    if config.audio_adapter_type == "dual_ffn_fast_forward":
        return HiggsAudioFastForwardDecoderLayer(config, layer_index)
    return HiggsAudioDecoderLayer(config, layer_index)


def replace_ffn_width(text_config: Any, intermediate_size: int) -> Any:
    """Return a copy of the Llama configuration with another FFN width."""
    return type(text_config).from_dict({**text_config.to_dict(), "intermediate_size": intermediate_size})


class HiggsAudioDecoderProjection(nn.Module):
    """The two heads: one for the text vocabulary, one for all K codebooks."""

    def __init__(self, config: HiggsAudioConfig) -> None:
        super().__init__()
        codebook_logits = config.audio_num_codebooks * config.codebook_rows
        self.text_lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.audio_lm_head = nn.Linear(config.hidden_size, codebook_logits, bias=False)


class HiggsAudioPreTrainedModel(PreTrainedModel):
    """The settings for transformers' saving and gradient checkpointing."""

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
    """Higgs Audio v2 in all forms of the original. In the released form every layer is dual and references are codes.

    The arguments of ``forward``, with K codebooks and B samples of S0 tokens:

    - ``input_ids``: (B, S0) token ids, one id per audio slot.
    - ``attention_mask``: (B, S0), 0 at padding; None means no padding.
    - ``audio_features``: (references, mel bins, frames) log-mel features for the audio tower. If a slot has both
      features and codes, the features come first.
    - ``audio_feature_attention_mask``: (references, frames), 0 at padding.
    - ``audio_in_ids``: (K, columns) delayed codes of the references, concatenated in order of appearance.
    - ``audio_in_ids_start``: the first column of each reference.
    - ``audio_out_ids``, ``audio_out_ids_start``: the same for targets.
    - ``audio_out_ids_start_group_loc``: the sample of each target. Not used: the order of the slots determines it.
    - ``label_ids``: (B, S0) text labels aligned with ``input_ids``; ``IGNORE_INDEX`` for positions without loss.
    - ``label_audio_ids``: (K, columns) labels aligned with ``audio_out_ids``.
    - ``past_key_values``: the cache of an earlier call. All other arguments then describe only the new positions.
    - ``use_cache``: return ``past_key_values``. For inference, under ``torch.no_grad()``.
    - ``output_hidden_states``: also return padded hidden states.
    - ``output_logits``: return logits although labels are given.
    - ``inputs_embeds``, ``output_attentions``: must not be given. ``output_audio_hidden_states``, ``return_dict``: not
      used. They are part of the original's signature.

    Attributes:
        label_layers: what computes the layers of a batch with labels, instead of ``layers``. By default None. Only the
            loss is returned then.
        keep_label_states: whether the output of a batch with labels has ``label_states``. They take memory.
    """

    label_layers: LabelLayers | None = None
    keep_label_states: bool = False

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
        quantise: str = NOT_QUANTISED,
    ) -> Any:
        """Load a checkpoint in either published layout, in evaluation mode. Tensors are read directly into the model.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            config: a configuration that replaces the checkpoint's.
            revision: the hub's commit, branch or tag.
            dtype: the type of the weights; ``"auto"`` or None: the config's type, or else that of the file.
            torch_dtype: the older name of ``dtype``.
            device_map: one device, or ``{"": device}``. None is the CPU; ``"auto"`` is the first CUDA device, or the
                CPU if there is none.
            quantise: ``nf4`` holds the layers' linear weights in 4 bits (``quantised_weights.py``); ``none`` does not.

        Raises:
            InputError: if a file is missing or damaged, or listing the tensors that are missing, are unexpected or have
                a wrong shape; or if the model cannot be quantised here. It is raised before any weight is read.
        """
        folder = resolve_checkpoint(str(pretrained_model_name_or_path), revision, "model", ())
        config = HiggsAudioConfig.from_pretrained(folder) if config is None else copy.deepcopy(config)
        device = single_device(device_map)
        check_quantisation(quantise, device, config, str(pretrained_model_name_or_path))
        with torch.device("meta"):
            model = cls(config)
        stored = stored_tensors(folder)
        wanted = model.state_dict()
        fitting = check_fit(stored, wanted, f"{pretrained_model_name_or_path}: tensors do not fit the configuration")
        config.dtype = weights_dtype(torch_dtype or dtype, config, stored.values())
        config.name_or_path = model.name_or_path = str(pretrained_model_name_or_path)
        weights = read_weights(fitting, wanted, config.dtype, device)
        if quantise == NOT_QUANTISED:
            model.load_state_dict(dict(weights), assign=True)
        else:
            load_quantised(model, weights, config.dtype)
        model.rotary_emb = LlamaRotaryEmbedding(config.text_config).to(device)  # computed: files do not contain it
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
        """Run the model on a padded batch. With labels, return loss sums and counts instead of logits.

        The class describes the arguments. If ids are on the CPU, the index arithmetic needs no synchronisation.

        Raises:
            ValueError: if this form of the model does not support an argument, or if the numbers of audio slots and
                segments differ.
        """
        _refuse_unsupported(inputs_embeds=inputs_embeds, output_attentions=output_attentions)
        has_labels = label_ids is not None or label_audio_ids is not None
        if past_key_values is not None or use_cache:
            past_key_values = self._cache(past_key_values, input_ids.shape[0], has_labels)
        hidden, packed, routing = self._embed(
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
        )
        output = _masks(packed, self.config)
        output.cache = past_key_values
        rows = LabelRows.of(packed, label_audio_ids, self.config.audio_num_codebooks) if has_labels else None
        needs_all = bool(output_logits or output_hidden_states or not has_labels)
        if self.label_layers is not None and not needs_all:
            self._add_losses(output, *self._label_states(hidden, routing, rows), rows)
            return output
        hidden, all_hidden = self._run_layers(hidden, packed, routing, past_key_values, bool(output_hidden_states))
        if rows is not None:
            text, audio = (hidden[to_device(rows_R, self.device)] for rows_R in (rows.text_R, rows.audio_R))
            self._add_losses(output, text, audio, rows)
        if needs_all:
            self._add_states(output, self.norm(hidden), all_hidden, packed, bool(output_logits or not has_labels))
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
        """Continue prompts until ``<|audio_eos|>`` or ``<|eot_id|>``. To get speech, end a prompt with
        ``<|audio_out_bos|>``.

        The result of a sample for a given seed does not depend on the rest of the batch. Prompts may have different
        lengths, with padding on either side.

        Args:
            input_ids, attention_mask, audio_in_ids, audio_in_ids_start, audio_out_ids, audio_out_ids_start,
                audio_features, audio_feature_attention_mask: the prompts, as for :meth:`forward`.
            max_new_tokens: the most text tokens and audio columns (25 a second) of each sample.
            do_sample, temperature, top_k, top_p, ras_win_len, ras_win_max_num_repeat: see ``SamplingConfig``.
            seed: one for all samples (equal prompts then give equal speech) or one per sample. None draws the seeds
                from torch's global generator.

        Raises:
            InputError: if a setting is out of range, a prompt is empty, or the model is in training mode.
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
        """Return (B, D) after the final norm at the last position of each sample. Generation uses it.

        Args:
            cache: the cache of earlier positions. The new positions are added to it.
            inputs: ids, codes, features and masks, as for :meth:`forward`.
        """
        hidden, packed, routing = self._embed(cache=cache, **inputs)
        hidden, _ = self._run_layers(hidden, packed, routing, cache, keep_hidden=False)
        last = torch.tensor(packed.sample_lengths).cumsum(0) - 1
        return self.norm(hidden[to_device(packed.sample_from_routed[last], self.device)])

    def _embed(
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
    ) -> tuple[Tensor, PackedBatch, Routing]:
        """Pack a batch and embed it as (N, D) in routed order."""
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
        return hidden, packed, self._routing(packed, hidden, cache)

    def _run_layers(
        self, hidden: Tensor, packed: PackedBatch, routing: Routing, cache: KeyValueCache | None, keep_hidden: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return (N, D) before the final norm in routed order, and with ``keep_hidden`` the input of every layer."""
        all_hidden = []
        for layer in self.layers:
            if keep_hidden:
                all_hidden.append(hidden)
            hidden = layer(hidden, routing, cache)
        if cache is not None:
            cache.advance(packed.sample_lengths, packed.text_lengths)
        return hidden, all_hidden

    def _label_states(self, hidden_ND: Tensor, routing: Routing, rows: LabelRows) -> tuple[Tensor, Tensor]:
        """Run ``label_layers``; return the states of the rows with a text label, and of those with an audio label."""
        rows_R, place = torch.cat([rows.text_R, rows.audio_R]).unique(return_inverse=True)
        states_RD = self.label_layers(hidden_ND, routing, rows_R)
        # index_select, because the gradient of an index by brackets sorts the index.
        by_head = states_RD.index_select(0, to_device(place, self.device))
        text, audio = by_head.split([rows.text_R.numel(), rows.audio_R.numel()])
        return text, audio

    def _routing(self, packed: PackedBatch, hidden: Tensor, cache: KeyValueCache | None) -> Routing:
        """Compute the batch's index tensors and rotary angles on the device of ``hidden``."""
        cos, sin = self.rotary_emb(hidden, to_device(packed.position_ids_N, self.device)[None])
        rows = None
        if cache is not None:
            longest = max(a + b for a, b in zip(cache.lengths, packed.sample_lengths, strict=True))
            cache.reserve(longest)
            rows = packed.sample_N * cache.capacity + packed.position_ids_N
        every = build_sequences(packed.sample_lengths, cos[0], sin[0], cache and cache.lengths, rows)
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
            text = build_sequences(packed.text_lengths, cos[0][on_device], sin[0][on_device], past, rows)
        return Routing(
            num_text=packed.num_text,
            sample_from_routed=to_device(packed.sample_from_routed, self.device),
            routed_from_sample=to_device(packed.routed_from_sample, self.device),
            every=every,
            text=text,
        )

    def _cache(self, cache: KeyValueCache | None, num_samples: int, has_labels: bool) -> KeyValueCache:
        """Return the given cache after checking it, or a new one."""
        if has_labels or torch.is_grad_enabled():
            raise InputError(
                "HiggsAudioModel.forward: past_key_values and use_cache are for inference; give no labels, and call "
                "under torch.no_grad()"
            )
        if cache is None:
            return KeyValueCache(len(self.layers), num_samples)
        if not isinstance(cache, KeyValueCache) or len(cache.lengths) != num_samples:
            raise InputError(
                f"HiggsAudioModel.forward: past_key_values is {type(cache).__name__}; it must be the result of an "
                f"earlier call with use_cache=True for the same {num_samples} samples"
            )
        return cache

    def _embed_features(
        self, audio_features: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (positions of all references, D) in order, and the number of positions of each reference.

        Both are None without features.
        """
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
        """Embed (K, C) code columns as (C, D): the sum of the embeddings of a column's K codes."""
        first_row = torch.arange(self.config.audio_num_codebooks, device=codes_KC.device) * self.config.codebook_rows
        embedded = self.audio_codebook_embeddings(to_device(codes_KC.T + first_row, self.device))
        # Under CUDA autocast a sum without a type is fp32, and then the whole residual stream would be.
        return embedded.sum(dim=1, dtype=embedded.dtype)

    def _add_losses(self, output: HiggsAudioModelOutput, text_RD: Tensor, audio_RD: Tensor, rows: LabelRows) -> None:
        """Add sums, counts and the batch's loss to ``output``.

        Args:
            text_RD, audio_RD: states before the final norm, of the rows that predict a text label and an audio label.
            rows: the labels.
        """
        heads, config = self.audio_decoder_proj, self.config
        text_labels = to_device(rows.text_labels_R, self.device)[:, None]
        audio_labels = to_device(rows.audio_labels_RK, self.device)
        if self.keep_label_states:
            output.label_states = LabelStates(text_RD, audio_RD, text_labels, audio_labels)
        # torch.tensor() would wait for the device.
        output.text_label_count = torch.full((), rows.text_labels_R.numel(), device=self.device)
        output.audio_label_count = (audio_labels != IGNORE_INDEX).sum(dim=0)
        output.text_loss_sum = head_loss_sums(
            self.norm, heads.text_lm_head, text_RD, text_labels, config.vocab_size
        ).squeeze(0)
        answers = None
        if not (self.training or torch.is_grad_enabled()):
            answers = RightAnswers(config.audio_num_codebooks, config.audio_stream_eos_id, self.device)
        num_logits = config.audio_num_codebooks * config.codebook_rows
        output.audio_loss_sum = head_loss_sums(
            self.norm, heads.audio_lm_head, audio_RD, audio_labels, num_logits, answers
        )
        if answers is not None:
            output.right_code_count, output.right_end_count = answers.counts_2G
            output.end_label_count = (audio_labels == config.audio_stream_eos_id).sum(dim=0)
        output.loss = weighted_loss(
            output.text_loss_sum,
            output.text_label_count,
            output.audio_loss_sum,
            output.audio_label_count,
            LossConfig(),
        )

    def _add_states(
        self,
        output: HiggsAudioModelOutput,
        normed_ND: Tensor,
        all_hidden: list[Tensor],
        packed: PackedBatch,
        with_logits: bool,
    ) -> None:
        """Add to ``output`` the hidden states if there are any, and both heads' logits if they are wanted.

        The text logits are those of every position, padded; the audio logits those of the targets.
        """
        heads, config = self.audio_decoder_proj, self.config
        order = to_device(packed.sample_from_routed, self.device)
        if all_hidden:
            output.hidden_states = tuple(packed.pad(state[order], 0.0) for state in [*all_hidden, normed_ND])
        if with_logits:
            output.logits = packed.pad(heads.text_lm_head(normed_ND[order]), 0.0)
            output.audio_hidden_states = normed_ND[packed.num_text + packed.num_audio_in :]
            output.audio_logits = heads.audio_lm_head(output.audio_hidden_states).view(
                -1, config.audio_num_codebooks, config.codebook_rows
            )


def _segments(
    ids_KC: Tensor | None, starts: Tensor | None, input_ids: Tensor, config: HiggsAudioConfig
) -> tuple[Tensor, Tensor]:
    """Return the codes, and the number of columns of each segment.

    Without codes (None, or an empty tensor as in the original), both results are empty.
    """
    if ids_KC is None or ids_KC.numel() == 0:
        return input_ids.new_zeros((config.audio_num_codebooks, 0)), input_ids.new_zeros(0)
    if ids_KC.shape[0] != config.audio_num_codebooks:
        raise ValueError(f"{ids_KC.shape[0]} rows of codes for a model with {config.audio_num_codebooks} codebooks")
    return ids_KC, segment_lengths(ids_KC.shape[1], starts)


def _masks(packed: PackedBatch, config: HiggsAudioConfig) -> HiggsAudioModelOutput:
    """Return the padded ids, labels and masks that are part of the original's output, on the device of the ids."""
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
        raise InputError(f"HiggsAudioModel.forward: {given} given, but this form of the model does not support it")

"""HiggsAudioConfig: the fields of the released ``config.json``, and the checks of their values."""

from os import PathLike
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import HiggsAudioV2Config, LlamaConfig, WhisperConfig
from transformers.configuration_utils import PreTrainedConfig

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.checkpoint_layouts import from_transformers_config

ADAPTER_TYPES = ("dual_ffn_fast_forward", "dual_ffn")

AUDIO_EOS_AFTER_EOT = 3
"""``<|audio_eos|>`` comes 3 ids after ``<|eot_id|>``; between them are ``<|python_tag|>`` and ``<|audio_bos|>``."""
AUDIO_MARKS = ("audio_in_token_idx", "audio_out_token_idx", "audio_out_bos_token_id", "audio_eos_token_id")

OTHER_FORMS = (
    "audio_embed_avg use_audio_out_embed_projector use_audio_out_self_attention use_rq_transformer "
    "audio_decoder_proj_num_layers"
).split()
"""Switches of the original's config for forms that were never released. They must be off in a checkpoint."""

STREAM_TOKENS_PER_CODEBOOK = 2
"""Each codebook has two rows more than codes: the stream's bos and eos."""


class HiggsAudioConfig(PreTrainedConfig):
    """Configuration of :class:`HiggsAudioModel`. The audio fields default to ``higgs-audio-v2-generation-3B-base``.

    Attributes:
        text_config: the Llama backbone (vocabulary, widths, layers, RoPE).
        audio_encoder_config: the Whisper-style tower that reads ``audio_features``; not used with ``skip_audio_tower``.
        audio_adapter_type: ``dual_ffn_fast_forward`` (audio positions skip the layers outside
            ``audio_dual_ffn_layers``) or ``dual_ffn`` (audio positions use the text FFN in those layers).
        audio_dual_ffn_layers: indices of the layers that have a second FFN for audio positions.
        audio_ffn_hidden_size, audio_ffn_intermediate_size: widths of that FFN; the first equals the backbone's.
        audio_num_codebooks: K, codebooks per frame.
        audio_codebook_size: codes per codebook, without the stream's bos and eos (1024; each table has 1026 rows).
        audio_stream_bos_id, audio_stream_eos_id: the two extra rows of each codebook.
        audio_in_token_idx, audio_out_token_idx: ids of ``<|AUDIO|>`` and ``<|AUDIO_OUT|>``.
        audio_out_bos_token_id, audio_eos_token_id: ids of ``<|audio_out_bos|>`` and ``<|audio_eos|>``.
        pad_token_id: id of padding in ``input_ids``.
        encode_audio_in_tokens: the model reads reference clips as codes.
        encode_whisper_embed: the model reads reference clips as Whisper features.
        skip_audio_tower: the model has no tower, so it cannot read Whisper features.
        use_delay_pattern: codebook k is shifted right by k columns.
    """

    model_type = "higgs_audio"
    sub_configs = {"text_config": LlamaConfig, "audio_encoder_config": WhisperConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_adapter_type: str = "dual_ffn_fast_forward"
    audio_dual_ffn_layers: list[int] | None = None
    audio_ffn_hidden_size: int | None = None
    audio_ffn_intermediate_size: int | None = None
    audio_num_codebooks: int = 8
    audio_codebook_size: int = 1024
    audio_stream_bos_id: int = 1024
    audio_stream_eos_id: int = 1025
    audio_in_token_idx: int = 128015
    audio_out_token_idx: int = 128016
    audio_out_bos_token_id: int = 128013
    audio_eos_token_id: int = 128012
    pad_token_id: int = 128001
    encode_audio_in_tokens: bool = True
    encode_whisper_embed: bool = False
    skip_audio_tower: bool = True
    use_delay_pattern: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in self.sub_configs.items():
            found = getattr(self, name)
            if not isinstance(found, config_class):
                # The released file names its tower "higgs_audio_encoder", a type that transformers does not know.
                fields = {key: value for key, value in (found or {}).items() if key != "model_type"}
                setattr(self, name, config_class(**fields))
        super().__post_init__(**kwargs)
        if self.audio_dual_ffn_layers is None:
            self.audio_dual_ffn_layers = list(range(self.text_config.num_hidden_layers))
        if self.audio_ffn_hidden_size is None:
            self.audio_ffn_hidden_size = self.text_config.hidden_size
        if self.audio_ffn_intermediate_size is None:
            self.audio_ffn_intermediate_size = self.text_config.intermediate_size
        self._check()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """Load a ``config.json`` of either layout, with the arguments of transformers' method.

        Raises:
            InputError: if ``config.json`` belongs to another kind of model or has values that this model cannot have.
        """
        found, unused = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        kinds = (cls.model_type, HiggsAudioV2Config.model_type)
        if found.get("model_type") not in kinds:
            raise InputError(
                f"{pretrained_model_name_or_path}: config.json has model_type {found.get('model_type')!r}, not "
                f"{kinds[0]!r} (original layout) or {kinds[1]!r} (transformers layout): give a Higgs Audio v2 model"
            )
        try:
            fields = found if found["model_type"] == cls.model_type else from_transformers_config(found)
            return cls.from_dict(fields, **unused)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise InputError(f"{pretrained_model_name_or_path}: config.json: {error}") from error

    @property
    def codebook_rows(self) -> int:
        """The rows of one codebook's embedding and head: its codes, and the stream's bos and eos (released: 1026)."""
        return self.audio_codebook_size + STREAM_TOKENS_PER_CODEBOOK

    @property
    def reads_audio_features(self) -> bool:
        """Whether the model reads references through the audio tower. Without a tower it would drop the features."""
        return self.encode_whisper_embed and not self.skip_audio_tower

    @property
    def hidden_size(self) -> int:
        """The width D of the residual stream."""
        return self.text_config.hidden_size

    @property
    def vocab_size(self) -> int:
        """The number of rows of the text embedding and head."""
        return self.text_config.vocab_size

    @property
    def eot_token_id(self) -> int:
        """The id of ``<|eot_id|>`` (released: 128009). No field has it, but the special tokens have a fixed order."""
        return self.audio_eos_token_id - AUDIO_EOS_AFTER_EOT

    def _check(self) -> None:
        """Raise ``ValueError`` for field values that no Higgs Audio v2 checkpoint can have."""
        layers = self.text_config.num_hidden_layers
        problems = []
        if self.audio_adapter_type not in ADAPTER_TYPES:
            problems.append(f"audio_adapter_type {self.audio_adapter_type!r} is not one of {ADAPTER_TYPES}")
        if any(not 0 <= layer < layers for layer in self.audio_dual_ffn_layers):
            problems.append(f"audio_dual_ffn_layers {self.audio_dual_ffn_layers} are not all in 0..{layers - 1}")
        if self.audio_ffn_hidden_size != self.text_config.hidden_size:
            problems.append(
                f"audio_ffn_hidden_size {self.audio_ffn_hidden_size} is not the backbone's width {self.hidden_size}"
            )
        for name in ("audio_stream_bos_id", "audio_stream_eos_id"):
            if not 0 <= getattr(self, name) < self.codebook_rows:
                problems.append(f"{name} {getattr(self, name)} is not in 0..{self.codebook_rows - 1}")
        marks = {name: getattr(self, name) for name in AUDIO_MARKS}
        if len(set(marks.values())) < len(marks):
            problems.append(f"{marks} are not {len(marks)} different ids")
        for name in OTHER_FORMS:
            if getattr(self, name, None):
                problems.append(f"{name} {getattr(self, name)!r}: this form of the model is not supported")
        if problems:
            raise ValueError("HiggsAudioConfig: " + "; ".join(problems))

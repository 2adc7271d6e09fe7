"""The audio language model Higgs Audio v2."""

from transformers import AutoConfig

from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModel

__all__ = ["HiggsAudioConfig", "HiggsAudioModel"]

# AutoTokenizer also reads the model's config.json, and prints a warning for an unknown model_type.
AutoConfig.register(HiggsAudioConfig.model_type, HiggsAudioConfig)

"""The audio language model."""

from transformers import AutoConfig

from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModel

__all__ = ["HiggsAudioConfig", "HiggsAudioModel"]

# AutoTokenizer reads the model's config.json too, and warns of a type that it does not know.
AutoConfig.register(HiggsAudioConfig.model_type, HiggsAudioConfig)

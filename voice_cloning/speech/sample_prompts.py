"""Cut a sample of a dataset off where its trained clip begins, so that a model can be asked to speak that clip."""

from dataclasses import dataclass

from torch import Tensor

from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.packing import segment_lengths


@dataclass(frozen=True)
class SamplePrompt:
    """A sample, cut in two at its first trained clip.

    Attributes:
        prompt: the head of the sample, up to ``<|audio_out_bos|>`` of the trained clip, with the clips before it.
        reference_KT: codes of the last clip before it; None if there is none, or if it is not given as codes.
        target_KT: codes of the trained clip.
    """

    prompt: ChatMLDatasetSample
    reference_KT: Tensor | None
    target_KT: Tensor


def cut_at_target(sample: ChatMLDatasetSample, config: HiggsAudioConfig) -> SamplePrompt:
    """Cut a sample off at its first trained clip, as ``boson_multimodal.chatml.speech_prompt`` does with a record.

    Args:
        sample: a sample of the dataset; its trained clips have the label ``<|AUDIO_OUT|>``.
        config: gives the ids of the audio slots.

    Raises:
        ValueError: if the sample has no trained clip.
    """
    trained = (sample.label_ids == config.audio_out_token_idx).nonzero().flatten().tolist()
    if not trained:
        raise ValueError("a sample has no trained clip that could be spoken")
    slot = trained[0]
    ids = sample.input_ids[:slot]
    before = int(((ids == config.audio_in_token_idx) | (ids == config.audio_out_token_idx)).sum())
    lengths = segment_lengths(sample.audio_ids_concat.shape[1], sample.audio_ids_start).tolist()
    clips = sample.audio_ids_concat.split(lengths, dim=1)
    is_coded = before > 0 and lengths[before - 1] > 0
    waveforms = {}
    if sample.audio_waveforms_concat is not None:
        end = int(sample.audio_waveforms_start[before])
        waveforms["audio_waveforms_concat"] = sample.audio_waveforms_concat[:end]
        waveforms["audio_waveforms_start"] = sample.audio_waveforms_start[:before]
        waveforms["audio_sample_rate"] = sample.audio_sample_rate[:before]
    prompt = ChatMLDatasetSample(
        input_ids=ids,
        label_ids=sample.label_ids[:slot],
        audio_ids_concat=sample.audio_ids_concat[:, : sum(lengths[:before])],
        audio_ids_start=sample.audio_ids_start[:before],
        **waveforms,
    )
    return SamplePrompt(prompt, clips[before - 1] if is_coded else None, clips[before])

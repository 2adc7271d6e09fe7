"""Voice cloners of the tiny model, a script in the place of the model, and what was memorised."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal import seeds
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from boson_multimodal.model.higgs_audio.generation import HiggsAudioGenerationOutput, SamplingConfig
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner

SAMPLES_PER_FRAME = 960
GREEDY = SpeechSettings(sampling=SamplingConfig(do_sample=False))
STYLES = ("as_written", "voice_clone")


def checkpoint_of(subject: ArabicVoiceCloningDistributedTrainer) -> Path:
    return Path(subject.config.output_dir) / "checkpoint-000080"


def make_cloner(demo: Path, **settings: Any) -> VoiceCloner:
    return VoiceCloner(
        model_path=str(demo / "model"), audio_tokenizer_path=str(demo / "audio_tokenizer"), device="cpu", **settings
    )


def targets(subject: ArabicVoiceCloningDistributedTrainer) -> list[Tensor]:
    """Return the (K, T) codes of each sample's last clip."""
    samples = [subject.components.data.train_dataset[i] for i in range(len(subject.components.data.train_dataset))]
    return [s.audio_ids_concat[:, s.audio_ids_start[-1] :] for s in samples]


# -- the prompt --------------------------------------------------------------------------------------------------------


def entry_of(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert a training record to a manifest entry."""
    reference = raw["messages"][1]["content"][1]["audio_url"]
    texts = {"text": raw["misc"]["target_transcript"], "reference_text": raw["misc"]["ref_transcript"]}
    return {"id": raw["misc"]["sample_id"], "reference": reference, **texts}


# -- runaways and pieces ----------------------------------------------------------------------------------------------


class Script:
    """A stand-in for the model: the number of frames for each seed is fixed."""

    def __init__(self, config: Any, frames: dict[int, int | None]) -> None:
        self.config, self.frames, self.seeds = config, frames, []

    def generate(self, *, input_ids: Tensor, max_new_tokens: int, seed: list[int], **_: Any) -> Any:
        self.seeds.append(seed)
        columns, ended = [], []
        for one in seed:
            frames = self.frames.get(one, 20)
            codes = torch.full((8, 5000 if frames is None else frames), one % 1024)
            all_columns = build_audio_columns(codes, 1024, 1025, True)
            columns.append(all_columns[:, :max_new_tokens])
            ended.append(all_columns.shape[1] <= max_new_tokens)
        return HiggsAudioGenerationOutput(input_ids, columns, list(range(len(seed))), ended)


def seed_of(piece: int, attempt: int) -> int:
    return seeds.seed_of(0, piece, attempt)

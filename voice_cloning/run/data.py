"""Load everything that a run needs except the weights of the model."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import WhisperFeatureExtractor

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.device_memory import release_cached_memory
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, check_widths
from boson_multimodal.process_group import rank
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.run.own_packing import OwnPacking
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.data import (
    Codec,
    find_codec,
    find_local_codec,
    load_datasets,
    load_feature_extractor,
    reads_chatml,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The data of a run and the configuration of its model.

    Attributes:
        model_folder: the local folder of the base model.
        model_config: its configuration.
        codec: the codec that makes or made the codes.
        feature_extractor: makes features of references; None for a model that takes references as codes alone.
        collator: makes batches.
        train_dataset, eval_dataset: the samples; their clips may not be encoded yet.
        packing: finds and makes folders of prepared data of the ChatML files.
    """

    model_folder: Path
    model_config: HiggsAudioConfig
    codec: Codec
    feature_extractor: WhisperFeatureExtractor | None
    collator: ArabicVoiceCloningTrainingCollator
    train_dataset: SampleDataset
    eval_dataset: SampleDataset | None
    packing: OwnPacking

    @property
    def datasets(self) -> list[SampleDataset]:
        """The training data, and the evaluation data if there are any."""
        return [dataset for dataset in (self.train_dataset, self.eval_dataset) if dataset is not None]

    @property
    def parts(self) -> list[SampleDataset]:
        """The data of each file and folder by itself."""
        return [part for dataset in self.datasets for part in dataset.parts]


def load_run_data(
    config: DistributedTrainingConfig, dataset_config: ArabicVoiceCloningDatasetConfig, model_folder: Path
) -> RunData:
    """Read and check everything that the flags name, before any weight is loaded.

    Raises:
        InputError: if something is wrong. It lists the problems.
    """
    named_codec = config.audio_tokenizer_path, config.audio_tokenizer_revision
    if dataset_config.codes or not reads_chatml(config):
        codec = find_local_codec(*named_codec)
    else:
        codec = find_codec(*named_codec, Path(dataset_config.code_cache_dir))
    model_config = HiggsAudioConfig.from_pretrained(model_folder)
    if config.quantise != NOT_QUANTISED:
        check_widths(model_config, f"--model_path {config.model_path}")
    feature_extractor = load_feature_extractor(config, model_config)
    packing = OwnPacking(dataset_config.code_cache_dir, dataset_config.drop_invalid)
    named = config, dataset_config, model_config, model_folder, codec
    train_dataset, eval_dataset = load_datasets(*named, packing.find)
    return RunData(
        model_folder,
        model_config,
        codec,
        feature_extractor,
        ArabicVoiceCloningTrainingCollator.from_config(model_config, feature_extractor),
        train_dataset,
        eval_dataset,
        packing,
    )


def _encode_clips(data: RunData, device: torch.device) -> None:
    """Encode the clips whose codes are missing, and say how many. The codec leaves no memory in use."""
    encoded = sum(
        dataset.encode_missing(lambda: load_higgs_audio_tokenizer(data.codec.folder, device))
        for dataset in data.datasets
    )
    release_cached_memory(device)
    if encoded and rank() == 0:
        logger.info("%d clips were encoded", encoded)


def encode_and_pack(data: RunData, device: torch.device) -> RunData:
    """Encode the clips whose codes are missing, pack the ChatML files, and return the same data from the folders.

    The samples that were read from the files are then no longer in memory, if the caller drops them.
    """
    _encode_clips(data, device)
    train = data.train_dataset.with_parts(data.packing.pack)
    held_out = None if data.eval_dataset is None else data.packing.pack(data.eval_dataset)
    data.packing.close()
    return replace(data, train_dataset=train, eval_dataset=held_out)

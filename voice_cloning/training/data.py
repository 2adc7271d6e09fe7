"""Load and check the training and evaluation data that the flags name, before any weight is loaded."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor
from transformers.configuration_utils import PreTrainedConfig

from arabic_voice_cloning_dataset import DRAWN, ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from boson_multimodal import constants
from boson_multimodal.audio_processing.clip_encoding import CodeSource
from boson_multimodal.audio_processing.code_cache import CodeCache, remember_codec, remembered_codecs
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import CODEC_WEIGHTS, codec_config, codec_identity
from boson_multimodal.audio_processing.mel_features import (
    STATES_PER_SECOND,
    ReferenceForm,
    build_feature_extractor,
    chunk_seconds,
)
from boson_multimodal.checkpoints import local_checkpoint, resolve_checkpoint
from boson_multimodal.errors import InputError, Problems, raise_if_any
from boson_multimodal.hub import hub_access
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.prepared_data.drawn_references import DrawnReferences
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from boson_multimodal.prepared_data.prepared_folder import MANIFEST, NO_TEMPLATE, settings_of_folder
from boson_multimodal.prompt_template import tokenizer_problems
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.training.config import AUTO, DistributedTrainingConfig
from voice_cloning.training.fingerprints import file_fingerprint
from voice_cloning.training.joined_dataset import join_datasets, refuse_other_codecs, refuse_same_samples
from voice_cloning.training.mixtures import GIVEN_ONCE

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Codec:
    """The codec that made the codes of a run.

    Attributes:
        folder: the local folder; None if the codec is not on this machine, which only ``--codes`` allows.
        identity: see :func:`codec_identity`; None if it is not known.
        is_whole: whether the folder holds weights. Without them all codes must be in the cache or in files.
    """

    folder: Path | None
    identity: str | None
    is_whole: bool


@dataclass(frozen=True)
class ChatMLData:
    """A ChatML file of a run, and all that determines the samples that are read from it.

    Attributes:
        path: the file.
        model_folder: of the tokenizer.
        source: of the codes.
        settings: what determines prepared data; see :func:`prepared_settings`.
        use_delay_pattern, frames_per_second, max_positions: as in ``ArabicVoiceCloningDataset``.
        open: opens a folder of the same samples as prepared data.
    """

    path: Path
    model_folder: Path
    source: CodeSource
    settings: dict[str, Any]
    use_delay_pattern: bool
    frames_per_second: float
    max_positions: int
    open: Callable[[Path], PreparedDataset]


def find_codec(
    path_or_id: str, revision: str | None, code_cache_dir: Path, flag: str = "--audio_tokenizer_path"
) -> Codec:
    """Return the codec that a flag names. If its folder holds no weights, its identity comes from the code cache.

    Raises:
        InputError: if the codec or its weights are missing and the cache does not hold codes of exactly one codec with
            its configuration.
    """
    folder = local_checkpoint(path_or_id, revision)
    if folder is not None and not has_weights(folder):
        identities = remembered_codecs(code_cache_dir, folder)
        if len(identities) == 1:
            return Codec(folder, identities[0], False)
        if identities:
            raise InputError(
                f"{flag} {path_or_id}: has no weights, and {code_cache_dir} holds codes of "
                f"{len(identities)} codecs with its configuration ({', '.join(identities)}); give the whole codec"
            )
    folder = resolve_checkpoint(path_or_id, revision, flag, (CODEC_WEIGHTS,))
    identity = codec_identity(folder)
    remember_codec(code_cache_dir, identity, folder)
    return Codec(folder, identity, True)


def find_local_codec(path_or_id: str, revision: str | None) -> Codec:
    """Return the codec that a flag names, without a download. Files of codes do not need the codec."""
    folder = local_checkpoint(path_or_id, revision)
    is_whole = folder is not None and has_weights(folder)
    return Codec(folder, codec_identity(folder) if is_whole else None, is_whole)


def has_weights(codec_folder: Path) -> bool:
    """Return whether a codec's folder holds weights."""
    return any(any(codec_folder.glob(pattern)) for pattern in CODEC_WEIGHTS)


def check_data_files(training_config: DistributedTrainingConfig) -> None:
    """Check that the data files exist. This is done first, because the other checks may start a download.

    Raises:
        InputError: if files are missing, or if one is given twice. It names each one.
    """
    flags = ["--data_path"] * len(training_config.data_path) + ["--eval_data_path"]
    problems, seen = [], dict[str, str]()
    for flag, path in zip(flags, _data_paths(training_config), strict=False):
        if Path(path).is_dir():
            if not (Path(path) / MANIFEST).is_file():
                problems.append(
                    f"{flag} {path}: a folder without {MANIFEST}: no prepared data, or not packed to the end"
                )
        elif not Path(path).is_file():
            problems.append(f"{flag} {path}: no such file")
        if flag == "--data_path":
            if (place := os.path.realpath(path)) in seen:
                problems.append(f"{flag} {path}: is the same as {seen[place]}; {GIVEN_ONCE}")
            seen[place] = path
    raise_if_any("give ChatML files, .json or .jsonl, or folders of prepared data", problems)


def reads_chatml(training_config: DistributedTrainingConfig) -> bool:
    """Return whether any of the data are a ChatML file, and not a folder of prepared data."""
    return any(not Path(path).is_dir() for path in _data_paths(training_config))


def _data_paths(training_config: DistributedTrainingConfig) -> list[str]:
    return [*training_config.data_path, *filter(None, [training_config.eval_data_path])]


def load_feature_extractor(
    training_config: DistributedTrainingConfig, model_config: HiggsAudioConfig
) -> WhisperFeatureExtractor | None:
    """Return the feature extractor for references: that of ``whisper_processor_path``, or one made for the model.

    Returns:
        None for a model that takes references as codes alone. This includes a model whose configuration asks for
        features but that has no audio tower, because it has no weights that read features.

    Raises:
        InputError: if the model cannot take references, or if the processor is not found or does not fit the model.
    """
    path = training_config.whisper_processor_path
    if not model_config.reads_audio_features:
        problems = reference_problems(model_config)
        if path is not None:
            problems.append(f"--whisper_processor_path {path}: this model reads references as codes; leave it out")
        raise_if_any(f"{training_config.model_path}: cannot take references as asked", problems)
        return None
    if chunk_seconds(model_config) < 1:
        raise InputError(
            f"{training_config.model_path}: config.json has audio_encoder_config.max_source_positions "
            f"{model_config.audio_encoder_config.max_source_positions}, less than a second of audio; it is "
            f"{STATES_PER_SECOND} times the seconds of a chunk of the tower (1500 in Whisper)"
        )
    wanted = build_feature_extractor(model_config)
    if path is None:
        return wanted
    try:
        with hub_access("--whisper_processor_path", path):
            found = WhisperFeatureExtractor.from_pretrained(
                os.path.expanduser(path), revision=training_config.whisper_processor_revision
            )
    except OSError as error:
        raise InputError(
            f"--whisper_processor_path {path}: neither a processor's folder nor available from the hub "
            f"({str(error).splitlines()[0]}); leave it out to build one from the model's mel bins"
        ) from error
    names = {"feature_size": "mel bins", "sampling_rate": "samples per second", "hop_length": "samples per frame"}
    names["chunk_length"] = "seconds per chunk"
    differ = [
        f"makes features of {getattr(found, name)} {what}, the model's tower reads {getattr(wanted, name)}"
        for name, what in names.items()
        if getattr(found, name) != getattr(wanted, name)
    ]
    raise_if_any(f"--whisper_processor_path {path}: does not fit the model", differ)
    return found


def reference_problems(config: HiggsAudioConfig) -> list[str]:
    """Return why a model cannot use references; an empty list if it takes them as codes or as features."""
    if config.encode_audio_in_tokens or config.reads_audio_features:
        return []
    if config.encode_whisper_embed:
        return [
            "config.json has encode_whisper_embed true, but skip_audio_tower true: there is no tower to read the "
            "features, and encode_audio_in_tokens is false: the model would ignore the reference"
        ]
    return [
        "config.json has encode_audio_in_tokens and encode_whisper_embed false: the model would ignore the reference"
    ]


def load_datasets(
    training_config: DistributedTrainingConfig,
    dataset_config: ArabicVoiceCloningDatasetConfig,
    model_config: HiggsAudioConfig,
    model_folder: Path,
    codec: Codec,
    find_prepared: Callable[[ChatMLData], PreparedDataset | None] = lambda _: None,
) -> tuple[SampleDataset, SampleDataset | None]:
    """Read and check the training and evaluation data and their audio.

    Args:
        find_prepared: returns the samples of a ChatML file from a folder that was made of it before, or None.

    Returns:
        The training data, and the evaluation data or None. Their clips may not be encoded yet. Several data sets to
        train on are joined to one.

    Raises:
        InputError: if the tokenizer or the codec does not fit the model, if a file is wrong, or if data sets cannot be
            used together. It lists all problems.
    """
    reader = _DataReader(training_config, dataset_config, model_config, model_folder, codec, find_prepared)
    number, problems = len(training_config.data_path), reader.problems
    paths = enumerate(_data_paths(training_config))
    datasets = [problems.tried(partial(reader.read, path, place < number)) for place, path in paths]
    problems.raise_all()
    return _used_together(datasets, training_config, reader.codec_of_source)


def _used_together(
    datasets: Sequence[SampleDataset], training_config: DistributedTrainingConfig, codec_of_source: str | None
) -> tuple[SampleDataset, SampleDataset | None]:
    """Return the training data as one, and the evaluation data, after a check that all can be used in one run.

    Raises:
        InputError: if they cannot. It lists all problems.
    """
    number, problems = len(training_config.data_path), Problems()
    problems.tried(lambda: refuse_other_codecs(datasets, codec_of_source))
    problems.tried(lambda: refuse_same_samples(datasets[:number]))
    train = problems.tried(lambda: join_datasets(datasets[:number], training_config.data_weights))
    problems.raise_all()
    return train, datasets[number] if training_config.eval_data_path else None


class _DataReader:
    """Reads the files and folders of a run. For the arguments and errors see :func:`load_datasets`.

    Attributes:
        problems: with what all files are read with; those of the files come on top.
    """

    def __init__(
        self,
        training_config: DistributedTrainingConfig,
        dataset_config: ArabicVoiceCloningDatasetConfig,
        model_config: HiggsAudioConfig,
        model_folder: Path,
        codec: Codec,
        find_prepared: Callable[[ChatMLData], PreparedDataset | None],
    ) -> None:
        self._dataset_config, self._model_config, self._model_folder = dataset_config, model_config, model_folder
        self._codec, self._find_prepared = codec, find_prepared
        self._tokenizer = AutoTokenizer.from_pretrained(model_folder)
        self._form = None if codec.folder is None else codec_config(codec.folder)
        misfits = checkpoint_misfits(model_config, self._tokenizer, self._form)
        misfits += tokenizer_problems(dataset_config.prompt, self._tokenizer)
        raise_if_any(f"{model_folder}: tokenizer or codec do not fit", misfits)
        self._source, self.problems = None, Problems()
        if reads_chatml(training_config):
            self._source, misfits = _open_codes(dataset_config, model_config, codec)
            for misfit in misfits:
                self.problems.add(misfit)
        self._max_positions = dataset_config.max_positions_per_sample
        if training_config.batch_size is None and training_config.max_tokens_per_batch != AUTO:
            self._max_positions = min(self._max_positions, training_config.max_tokens_per_batch)
        self._seed = training_config.seed if dataset_config.reference == DRAWN else None
        self._wanted = prepared_settings(dataset_config, model_config, model_folder)
        self._wanted["codec"] = codec.identity, f"--audio_tokenizer_path {training_config.audio_tokenizer_path}"

    @property
    def codec_of_source(self) -> str | None:
        """Identity of the codec of the codes that come from the cache or from files of codes."""
        return self._source.codec if isinstance(self._source, CodesFiles) else self._codec.identity

    def read(self, path: str, is_training: bool) -> SampleDataset:
        """Return the samples of a file or folder. Training may draw other references than those of the file."""
        seed = self._seed if is_training else None
        if Path(path).is_dir():
            return self._open_folder(path, seed=seed)
        if seed is not None:
            raise InputError(_pack_first(path))
        files = isinstance(self._source, CodesFiles)
        form = {
            "use_delay_pattern": self._model_config.use_delay_pattern,
            "frames_per_second": self._source.frames_per_second if files else self._form.frame_rate,
            "max_positions": self._max_positions,
        }
        if not self._model_config.reads_audio_features:
            settings = settings_of_folder({name: value for name, (value, _) in self._wanted.items()})
            settings["codec"] = self.codec_of_source
            opened = partial(self._open_folder, packed_from=Path(path))
            data = ChatMLData(Path(path), self._model_folder, self._source, settings, **form, open=opened)
            if (found := self._find_prepared(data)) is not None:
                return found
        how = {**form, "reference": ReferenceForm.of(self._model_config)}
        return ArabicVoiceCloningDataset(path, self._tokenizer, self._source, self._dataset_config, **how)

    def _open_folder(
        self, folder: Path | str, *, packed_from: Path | None = None, seed: int | None = None
    ) -> PreparedDataset:
        """Open a folder of prepared data; if a seed is given, with references that are drawn."""
        if self._model_config.reads_audio_features:
            raise InputError(
                f"{folder}: prepared data hold codes, and this model reads references as features of their waveforms; "
                "give the ChatML file"
            )
        how = {
            "use_delay_pattern": self._model_config.use_delay_pattern,
            "max_positions": self._max_positions,
            "drop_invalid": self._dataset_config.drop_invalid,
        }
        if seed is not None:
            return DrawnReferences(folder, self._wanted, seed=seed, **how)
        return PreparedDataset(folder, self._wanted, packed_from=packed_from, **how)


def _pack_first(path: str) -> str:
    return (
        f"{path}: --reference {DRAWN} draws references from prepared data, and this is a ChatML file. Pack it first "
        f"(python -m tools.prepare_data pack {path} --output_dir DIR, with --model_path, --audio_tokenizer_path and "
        "--prompt_template as here) and give --data_path DIR; or give --reference file"
    )


def prepared_settings(
    dataset_config: ArabicVoiceCloningDatasetConfig, model_config: HiggsAudioConfig, model_folder: Path
) -> dict[str, tuple[Any, str]]:
    """Return what determines prepared data, except the codec: for each setting its value, and where that comes from."""
    tokenizer = model_folder / TOKENIZER_FILE
    return {
        "prompt_style": (dataset_config.prompt_style, "--prompt_style"),
        "prompt_template": (dataset_config.prompt_template or NO_TEMPLATE, "--prompt_template"),
        "text_normalisation": (dataset_config.text_normalisation, "--text_normalisation"),
        "tokenizer": (file_fingerprint(tokenizer), str(tokenizer)),
        "num_codebooks": (model_config.audio_num_codebooks, f"config.json of {model_folder}"),
        "codebook_size": (model_config.audio_codebook_size, f"config.json of {model_folder}"),
    }


def _open_codes(
    dataset_config: ArabicVoiceCloningDatasetConfig, model_config: HiggsAudioConfig, codec: Codec
) -> tuple[CodeSource, list[str]]:
    """Return the source of the codes, and the problems with it."""
    if not dataset_config.codes:
        form = (model_config.audio_num_codebooks, model_config.audio_codebook_size)
        return CodeCache(Path(dataset_config.code_cache_dir), codec.identity, *form), []
    return open_codes_files(dataset_config.codes, model_config, codec)


def open_codes_files(
    paths: Sequence[str | Path], model_config: HiggsAudioConfig, codec: Codec
) -> tuple[CodesFiles, list[str]]:
    """Open the files of ``--codes``. Return them, and a problem if they are not of this codec.

    Raises:
        InputError: if the files cannot be used.
    """
    files = CodesFiles(paths, model_config.audio_num_codebooks, model_config.audio_codebook_size)
    problems = []
    if codec.identity not in (None, files.codec):
        problems.append(
            f"--codes: made by the codec {files.codec}, and --audio_tokenizer_path is {codec.identity} "
            f"({codec.folder}): codes of another codec mean nothing; give the codec that made them"
        )
    return files, problems


def checkpoint_misfits(
    model: HiggsAudioConfig, tokenizer: PreTrainedTokenizerBase, codec: PreTrainedConfig | None
) -> list[str]:
    """Return where the tokenizer or the codec disagrees with the model about ids and codes; ``codec`` may be None."""
    ids = {
        constants.AUDIO_IN: model.audio_in_token_idx,
        constants.AUDIO_OUT: model.audio_out_token_idx,
        constants.AUDIO_OUT_BOS: model.audio_out_bos_token_id,
        constants.AUDIO_EOS: model.audio_eos_token_id,
    }
    found = [
        f"{token} is {tokenizer.convert_tokens_to_ids(token)} in the tokenizer and {wanted} in config.json"
        for token, wanted in ids.items()
        if tokenizer.convert_tokens_to_ids(token) != wanted
    ]
    if codec is None:
        return found
    for name, here, there in (
        ("codebooks", model.audio_num_codebooks, codec.num_quantizers),
        ("codes per codebook", model.audio_codebook_size, codec.codebook_size),
    ):
        if here != there:
            found.append(f"the model has {here} {name}, the codec {there}")
    return found

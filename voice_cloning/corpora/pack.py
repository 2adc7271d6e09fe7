"""Packs a ChatML file into a folder of prepared data: checks what the flags name; ``packing.py`` does the work."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_config, load_higgs_audio_tokenizer
from boson_multimodal.checkpoints import CONFIG_FILES, resolve_checkpoint
from boson_multimodal.circumstances import home_path
from boson_multimodal.disk_errors import naming_disk_errors
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.prepared_data.prepared_folder import MANIFEST, read_manifest, settings_of_folder
from boson_multimodal.prompt_template import PromptForm, PromptTemplate, tokenizer_problems
from boson_multimodal.whole_files import TEMPORARY_PREFIX, sync
from boson_multimodal.worker_pool import WorkerPool
from voice_cloning.corpora.packing import pack_records, packing_key
from voice_cloning.corpora.packing_jobs import BLOCKS, SHARDS, PackSettings
from voice_cloning.corpora.packing_references import SameSpeech
from voice_cloning.training.data import (
    TOKENIZER_FILE,
    Codec,
    checkpoint_misfits,
    find_codec,
    find_local_codec,
    open_codes_files,
    prepared_settings,
    reference_problems,
)


@dataclass(frozen=True)
class PackSummary:
    """The result of :func:`pack_file`.

    Attributes:
        samples, dropped, clips: numbers of them.
        hours: of the clips.
        bytes: of the shards.
        was_there: whether the folder held these data before.
        notes: messages about the clips.
    """

    samples: int
    dropped: int
    clips: int
    hours: float
    bytes: int
    was_there: bool
    notes: tuple[str, ...]

    @classmethod
    def of_folder(cls, folder: Path, was_there: bool) -> "PackSummary":
        manifest = read_manifest(folder)
        samples, clips = (sum(entry["rows"] for entry in manifest[name]) for name in ("samples", "clips"))
        size = sum((folder / entry["file"]).stat().st_size for name in ("samples", "clips") for entry in manifest[name])
        return cls(samples, manifest["dropped"], clips, manifest["hours"], size, was_there, tuple(manifest["notes"]))


def pack_file(
    data_path: Path,
    output_dir: Path,
    config: ArabicVoiceCloningDatasetConfig,
    *,
    model: tuple[str, str | None],
    codec: tuple[str, str | None],
    workers: int,
    device: torch.device | str = "cpu",
    same_speech: SameSpeech | None = None,
) -> PackSummary:
    """Pack a ChatML file. If the folder holds the same data already, nothing is done.

    Args:
        data_path: ``.json`` or ``.jsonl``.
        output_dir: the folder of prepared data. It is created if it does not exist.
        config: prompt style, normalisation, source of the codes and limits, as in training.
        model: path or hub id of the model, whose tokenizer and configuration are read, and its revision.
        codec: path or hub id of the codec, and its revision.
        workers: number of processes.
        device: where clips are encoded.
        same_speech: finds targets with the same speech, for references that are drawn (if ids can be exchanged).

    Raises:
        InputError: if something is wrong, with a list of all problems; or if the folder holds other data.
    """
    if not data_path.is_file():
        raise InputError(f"{data_path}: no such file; give a ChatML .json or .jsonl")
    model_folder = resolve_checkpoint(*model, "--model_path", (TOKENIZER_FILE,), CONFIG_FILES)
    model_config = HiggsAudioConfig.from_pretrained(model_folder)
    _check_references(model_folder, model_config)
    cache_dir = home_path(config.code_cache_dir, "--code_cache_dir")
    used = find_local_codec(*codec) if config.codes else find_codec(*codec, cache_dir, "--codec")
    described = _described(config, model_config, model_folder, used)
    settings = _settings(data_path, output_dir, config, model_config, model_folder, described, same_speech)
    key = packing_key(settings, described, config.drop_invalid)
    settings = replace(settings, key=key)
    _check_folder(output_dir)
    if is_packed(output_dir, key):
        remove_remains(output_dir, settings.shards)  # of a process that was killed after it wrote the manifest
        return PackSummary.of_folder(output_dir, was_there=True)
    try:
        with naming_disk_errors(output_dir, "what is packed so far stays, and the same command goes on from it"):
            for folder in (settings.blocks, settings.shards):
                folder.mkdir(parents=True, exist_ok=True)
            sync(output_dir.parent)
            with WorkerPool(workers) as pool:
                pack_records(
                    settings,
                    described,
                    lambda: load_higgs_audio_tokenizer(used.folder, device),
                    drop_invalid=config.drop_invalid,
                    same_speech=same_speech if settings.findings else None,
                    pool=pool,
                )
    except InputError:
        if not is_packed(output_dir, key):  # another process has packed the same data, and removed the blocks
            raise
    remove_remains(output_dir, settings.shards)
    return PackSummary.of_folder(output_dir, was_there=False)


def _settings(
    data_path: Path,
    output_dir: Path,
    config: ArabicVoiceCloningDatasetConfig,
    model_config: HiggsAudioConfig,
    model_folder: Path,
    described: dict[str, Any],
    same_speech: SameSpeech | None,
) -> PackSettings:
    return PackSettings(
        data_path=data_path,
        model_folder=model_folder,
        prompt_style=config.prompt_style,
        prompt_template=config.prompt_template,
        text_normalisation=config.text_normalisation,
        codes=tuple(str(home_path(path, "--codes")) for path in config.codes),
        code_cache_dir=home_path(config.code_cache_dir, "--code_cache_dir"),
        codec=described["codec"],
        num_codebooks=model_config.audio_num_codebooks,
        codebook_size=model_config.audio_codebook_size,
        frames_per_second=described["frames_per_second"],
        use_delay_pattern=model_config.use_delay_pattern,
        max_positions=config.max_positions_per_sample,
        folder=output_dir,
        findings=same_speech.findings if same_speech is not None and _can_exchange_texts(config.prompt) else (),
    )


def _can_exchange_texts(form: PromptForm) -> bool:
    """Return whether the reference of a sample can be exchanged in its token ids, as ``--reference random`` does."""
    return form.is_same_around_texts if isinstance(form, PromptTemplate) else form == "voice_clone"


def remove_remains(folder: Path, shards: Path) -> None:
    """Remove the blocks, and what killed packings left. Another process may be writing there; it finds the manifest."""
    for path in _own_paths(folder):
        if path.is_dir() and path != shards:
            shutil.rmtree(path, ignore_errors=True)
    for path in [*folder.glob(f"{TEMPORARY_PREFIX}*"), *shards.glob(f"{TEMPORARY_PREFIX}*")]:
        path.unlink(missing_ok=True)


def _check_references(model_folder: Path, config: HiggsAudioConfig) -> None:
    problems = reference_problems(config)
    if config.reads_audio_features:
        problems.append("this model reads references as features of their waveforms, which prepared data do not hold")
    raise_if_any(f"{model_folder}: cannot be trained from prepared data", problems)


def _described(
    config: ArabicVoiceCloningDatasetConfig, model_config: HiggsAudioConfig, model_folder: Path, codec: Codec
) -> dict[str, Any]:
    """Return the settings that determine the prepared data.

    Raises:
        InputError: if the tokenizer, the codec or the files of codes do not fit.
    """
    form = None if codec.folder is None else codec_config(codec.folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    misfits = checkpoint_misfits(model_config, tokenizer, form) + tokenizer_problems(config.prompt, tokenizer)
    raise_if_any(f"{model_folder}: tokenizer or codec do not fit", misfits)
    wanted = prepared_settings(config, model_config, model_folder)
    described = settings_of_folder({name: value for name, (value, _) in wanted.items()})
    if not config.codes:
        return {**described, "codec": codec.identity, "frames_per_second": form.frame_rate}
    files, problems = open_codes_files(config.codes, model_config, codec)
    raise_if_any("--codes: cannot be used", problems)
    return {**described, "codec": files.codec, "frames_per_second": files.frames_per_second}


def _own_paths(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith((BLOCKS, SHARDS, TEMPORARY_PREFIX))]


def _check_folder(folder: Path) -> None:
    """Check that a folder is new, empty, or one of prepared data.

    Raises:
        InputError: if not, because nothing of others is mixed with what is packed.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: is a file; give a folder")
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        others = sorted(path.name for path in {*folder.iterdir()} - {*_own_paths(folder)})
        raise_if_any(f"--output_dir {folder}: holds other files; give a new folder", others)


def is_packed(folder: Path, key: str) -> bool:
    """Return whether a folder holds the data of a packing.

    Raises:
        InputError: if it holds other data.
    """
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    if manifest["key"] != key:
        raise InputError(
            f"--output_dir {folder}: holds {manifest['file']} as prepared before, from another file or with other "
            "settings (--same_speech is one, which earlier releases did not have); give another folder, or remove it"
        )
    return True

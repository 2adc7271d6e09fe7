"""Checks the clips of samples from files of codes, as the trainer's ``--codes`` takes them; decodes codes if asked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import (
    CODEC_WEIGHTS,
    codec_config,
    codec_identity,
)
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.checkpoints import local_checkpoint, resolve_checkpoint
from boson_multimodal.constants import AUDIO_TOKENIZER_REVISION
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.progress import progress
from boson_multimodal.worker_pool import map_in_processes
from voice_cloning.data_check.clip_measures import ClipMeasures, measure_file
from voice_cloning.data_check.code_measures import CodedClip, codes_hash, measure_codes
from voice_cloning.data_check.decoded_clips import decode_clips, decoded_path
from voice_cloning.data_check.samples import CheckedSample, UsedClip

RELEASED_FORM = (8, 1024)
"""Codebooks, and codes of each, of the released model. It is used if no model and no codec is given."""
OF_THE_SOUND = "levels, clipping, silence, bandwidth, noise, pitch, voices, and the same recording encoded twice"
"""What codes do not show, in words."""


@dataclass(frozen=True)
class CheckedCodes:
    """The files of codes of a check.

    Attributes:
        files: the codes by name.
        codec_folder: the codec that decodes them; None if they are not decoded.
    """

    files: CodesFiles
    codec_folder: Path | None


def open_codes(
    paths: Sequence[Path | str], model_path: str | None, audio_tokenizer_path: str | None
) -> CheckedCodes | None:
    """Open the files of ``--codes``; None if there are none.

    Args:
        model_path: the model, whose configuration says how many codebooks and codes there are; None takes the codec's
            form, or that of the released model.
        audio_tokenizer_path: folder or hub id of the codec that decodes the codes; None does not decode.

    Raises:
        InputError: if files cannot be used, the codec is not there or is not the one that made the codes, or the model
            is not a Higgs Audio v2 model or has another
            form than the codec.
    """
    if not paths:
        if audio_tokenizer_path is not None:
            raise InputError(f"--audio_tokenizer_path {audio_tokenizer_path}: it decodes codes; give --codes too")
        return None
    forms = {"the model": _form_of_model(model_path)}
    folder = None
    if audio_tokenizer_path is not None:
        flag = "--audio_tokenizer_path"
        folder = resolve_checkpoint(audio_tokenizer_path, AUDIO_TOKENIZER_REVISION, flag, (CODEC_WEIGHTS,))
        config = codec_config(folder)
        forms["the codec"] = (config.num_quantizers, config.codebook_size)
    known = {owner: form for owner, form in forms.items() if form is not None}
    if len(set(known.values())) > 1:
        told = "; ".join(f"{owner} has {books} codebooks of {size} codes" for owner, (books, size) in known.items())
        raise InputError(f"--model_path, --audio_tokenizer_path: do not fit: {told}")
    files = CodesFiles(paths, *next(iter(known.values()), RELEASED_FORM))
    if folder is not None and codec_identity(folder) != files.codec:
        raise InputError(
            f"--codes: made by the codec {files.codec}, and --audio_tokenizer_path is {codec_identity(folder)} "
            f"({folder}): codes of another codec mean nothing; give the codec that made them"
        )
    if folder is not None and files.frames_per_second != config.frame_rate:
        raise InputError(
            f"--codes: frames_per_second is {files.frames_per_second:g} in {files.paths[0]}; the codec makes "
            f"{config.frame_rate:g} frames a second: correct the file's metadata"
        )
    return CheckedCodes(files, folder)


def measure_coded_clips(
    samples: Sequence[CheckedSample], codes: CheckedCodes | None, folder: Path, workers: int
) -> dict[Clip, ClipMeasures]:
    """Measure every clip that has codes, and make it a :class:`CodedClip` in the samples.

    A sample with a clip without codes gets the problem ``missing_codes``, because training with these files refuses it.
    If the file of such a clip is there, the clip stays as it is, so that it can be measured from the file.

    Args:
        folder: the folder of the report, for decoded clips.

    Returns:
        The measures of the clips with codes, and of those that have neither codes nor a file.
    """
    if codes is None:
        return {}
    measures: dict[Clip, ClipMeasures] = {}
    known: dict[str, ClipMeasures] = {}
    for sample in progress(samples, "reading codes", unit="sample"):
        for number, used in enumerate(sample.clips):
            if not codes.files.holds(used.codes_name):
                _add_missing(sample, used, codes.files, measures)
                continue
            if used.codes_name not in known:
                known[used.codes_name] = _measure(used, codes.files)
            measured = known[used.codes_name]
            sample.clips[number] = replace(used, clip=_coded(used, measured, codes, folder))
            measures[sample.clips[number].clip] = measured
    if codes.codec_folder is None:
        return measures
    clips = [c for c, m in measures.items() if isinstance(c, CodedClip) and not m.problems]
    decode_clips({clip.source: clip.codes_name for clip in clips}, codes.files, codes.codec_folder)
    heard = map_in_processes(measure_file, [[_plain(c)] for c in clips], workers, "measuring decoded clips", "file")
    return measures | {clip: _joined(measures[clip], sound) for clip, (sound,) in zip(clips, heard, strict=True)}


def summarise_codes(codes: CheckedCodes | None, measures: dict[Clip, ClipMeasures]) -> dict[str, Any]:
    """Return what the summary says about codes: the files, and what was not measured or comes from the codec."""
    if codes is None:
        return {}
    coded = [m for clip, m in measures.items() if isinstance(clip, CodedClip)]
    told: dict[str, Any] = {
        "files": [str(path) for path in codes.files.paths],
        "codec": codes.files.codec,
        "frames_per_second": codes.files.frames_per_second,
        "form": f"{codes.files.num_codebooks} codebooks of {codes.files.codebook_size} codes",
        "clips_checked_from_codes": len(coded),
        "clips_checked_from_files": sum(m.is_heard for clip, m in measures.items() if not isinstance(clip, CodedClip)),
    }
    if codes.codec_folder is None and coded:
        told["not_measured"] = f"{OF_THE_SOUND}: these need waveforms, and {len(coded)} clips came as codes"
        told["advice"] = "Give --audio_tokenizer_path to decode the codes, or check the clips themselves."
    elif coded:
        told["decoded"] = (
            f"the measures of sound of {len(coded)} clips are of the codec's output, not of the recordings"
        )
    return {"codes": told}


def _form_of_model(model_path: str | None) -> tuple[int, int] | None:
    folder = None if model_path is None else local_checkpoint(model_path, None)
    if folder is None:
        return None
    config = HiggsAudioConfig.from_pretrained(folder)
    return config.audio_num_codebooks, config.audio_codebook_size


def _add_missing(sample: CheckedSample, used: UsedClip, files: CodesFiles, measures: dict[Clip, ClipMeasures]) -> None:
    is_there = isinstance(used.clip.source, bytes) or os.path.isfile(used.clip.source)
    where = "its file was checked instead" if is_there else "its file is not there either"
    message = f"{used.where}: {files.missing(used.codes_name)} ({where})"
    sample.problems.setdefault("missing_codes", []).append(message)
    if not is_there:
        measures[used.clip] = ClipMeasures(problems={"missing": message})


def _measure(used: UsedClip, files: CodesFiles) -> ClipMeasures:
    try:
        codes = files.find(used.clip, used.codes_name).codes_KT.numpy().astype("<i2")
    except InputError as error:
        return ClipMeasures(problems={"invalid": str(error)})
    measured = measure_codes(codes)
    seconds = measured.frames / files.frames_per_second
    return ClipMeasures(content=codes_hash(codes), seconds=seconds, codes=measured)


def _coded(used: UsedClip, measured: ClipMeasures, codes: CheckedCodes, folder: Path) -> CodedClip:
    """Return the clip with its name. After decoding, its sound is the decoded file."""
    clip = used.clip
    is_cut = clip.offset or clip.duration is not None
    recording = used.codes_name.rpartition("#")[0] if is_cut else used.codes_name
    source, offset, duration = clip.source, clip.offset, clip.duration
    if codes.codec_folder is not None and not measured.problems:
        source, offset, duration = decoded_path(folder, codes.files.codec, measured.content), 0.0, None
    return CodedClip(source, offset, duration, codes_name=used.codes_name, recording=recording, start=clip.offset)


def _plain(clip: CodedClip) -> Clip:
    return Clip(clip.source, clip.offset, clip.duration)


def _joined(measured: ClipMeasures, sound: ClipMeasures) -> ClipMeasures:
    """Return the measures of sound with the content, the length and the measures of the codes."""
    return replace(sound, content=measured.content, seconds=measured.seconds, codes=measured.codes)

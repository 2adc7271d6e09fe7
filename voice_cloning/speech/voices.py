"""Several adapters in one process: a cloner for each, over one base and one codec.

    voices = open_voices(named_adapters(["adapters"]), model_path=..., audio_tokenizer_path=...)
    speech = voices["najdi"].speak("...", reference="voice.wav", reference_text="...")
    speech = voices["base"].speak(...)

Each voice has the prompt style and the text normalisation of its adapter. The weights are loaded at the first use, and
each cloner switches them to its own adapter before it speaks.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, Problems
from boson_multimodal.prompt_template import PromptForm
from voice_cloning.adapters.run_record import read_record
from voice_cloning.speech.adapter_folders import BASE
from voice_cloning.speech.adapter_run import quantisation_of_adapter
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.voice_cloner import VoiceCloner
from voice_cloning.training.fingerprints import folder_fingerprint
from voice_cloning.training.run_directory import RUN_FILE


def open_voices(folders: Mapping[str, Path], **settings: Any) -> dict[str, VoiceCloner]:
    """Return a cloner by name for the base and for each adapter. No weight is loaded.

    Args:
        folders: the folders of the adapters by name (:func:`named_adapters`).
        settings: those of :class:`VoiceCloner`, for all of them; ``adapter_scale`` weakens every adapter. Also those of
            :func:`find_voices`.

    Raises:
        InputError: listing everything that is missing or does not fit.
    """
    problems = Problems()
    voices = find_voices({BASE: None, **folders}, problems, **settings)
    problems.raise_all()
    return voices


def find_voices(
    folders: Mapping[str, Path | None],
    problems: Problems,
    *,
    quantise: str | None = None,
    adapter_scale: float = 1.0,
    forms: Mapping[str, PromptForm] | None = None,
    given_turns: Collection[str] = (),
    held_model: HeldModel | None = None,
    **settings: Any,
) -> dict[str, VoiceCloner]:
    """Return a cloner for each voice with which nothing is wrong, and add what is wrong with others.

    If one of several adapters names another base in its ``run.json``, a warning is printed.

    Args:
        folders: the folder of each voice's adapter, by the name of the voice; None is the base alone.
        quantise, adapter_scale, settings: those of :class:`VoiceCloner`, for all voices. The base is not scaled.
        forms: the form of each voice's prompts; a voice without one takes that of its adapter's training.
        given_turns: the voices that speak ChatML records alone (``turns_are_given``).
        held_model: holds the weights for all of them; None makes one.
    """
    adapters = [folder for folder in folders.values() if folder is not None]
    shared = problems.tried(lambda: shared_quantisation(quantise, adapters))
    voices: dict[str, VoiceCloner] = {}
    for name, folder in folders.items():
        own = {"adapter": folder, "adapter_scale": adapter_scale if folder else 1.0, "quantise": shared}
        own |= {"prompt_style": forms[name]} if forms and name in forms else {}
        turns = name in given_turns
        cloner = problems.tried(lambda own=own, turns=turns: VoiceCloner(**settings | own, turns_are_given=turns))
        if cloner is not None:
            voices[name] = cloner
    first = next(iter(voices.values()), None)
    held = held_model or HeldModel()
    for cloner in voices.values():
        cloner.held_model = held
        if cloner is not first:
            cloner.share_codec_of(first)
        found = problems.tried(lambda own=cloner: warn_of_other_base(own)) if len(adapters) > 1 else None
        print_warnings(found or ())
    return voices


def shared_quantisation(wanted: str | None, folders: Sequence[Path]) -> str | None:
    """Return the quantisation of the base that all adapters share.

    Raises:
        InputError: if the adapters were trained with different ones, and none was asked for.
    """
    if wanted is not None or not folders:
        return wanted
    found = {str(folder): quantisation_of_adapter(folder) for folder in folders}
    if len(set(found.values())) > 1:
        each = "; ".join(f"{folder}: {quantise}" for folder, quantise in found.items())
        raise InputError(f"--adapter: trained with different --quantise ({each}); give --quantise: they share one base")
    return next(iter(found.values()))


def warn_of_other_base(cloner: VoiceCloner) -> list[str]:
    """Return a warning if an adapter's ``run.json`` names another base of the same shape."""
    if cloner.adapter is None or not (cloner.adapter / RUN_FILE).is_file():
        return []
    run = read_record(cloner.adapter / RUN_FILE)
    trained = run.get("base_fingerprint") or run.get("identity", {}).get("model")
    own = folder_fingerprint(cloner.model_folder)
    if trained in (None, own):
        return []
    return [
        f"--adapter {cloner.adapter}: was trained on a base with the fingerprint {trained}, and --model_path has "
        f"{own}: another model of the same shape, or the same model in another layout or type"
    ]


def print_warnings(warnings: Sequence[str]) -> None:
    """Print warnings to stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)

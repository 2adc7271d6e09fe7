"""Read the settings for prompts from the ``run.json`` of an adapter or of a merged model."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_dataset import has_as_written_turns, read_json_records, usable_template
from boson_multimodal.cloning_example import PROMPT_STYLES
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.flags import value_before
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, QUANTISATIONS
from boson_multimodal.prepared_data.prepared_folder import AS_WRITTEN_TURNS, MANIFEST, read_manifest
from boson_multimodal.prompt_template import PromptForm, PromptTemplate
from voice_cloning.adapters.prompt_record import saved_template
from voice_cloning.speech.requests import unused_fields
from voice_cloning.training.config import flag_fields
from voice_cloning.training.run_directory import RUN_FILE

LONGEST_VALUE = 200
"""Characters of a value that a message shows."""
STYLE_WITHOUT_RUN = "voice_clone"
"""The prompt style of a model without ``run.json``: the one that the release was shown to clone voices with."""


def style_of_adapter(folder: Path) -> PromptForm:
    """Return the prompt style, or the template, with which an adapter or the one in a merged model was trained.

    Raises:
        InputError: if ``run.json`` is not one of the trainer's, or ``prompt_template.json`` is not that of the run.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return saved_template(folder, None, str(path)) or STYLE_WITHOUT_RUN
    flags = _flags_of_run(folder, "prompt_style")
    style = _choice(flags, folder, "prompt_style", PROMPT_STYLES)
    return saved_template(folder, flags, str(path)) or style


def form_of_prompts(given: PromptForm | None, folder: Path) -> PromptForm:
    """Return the form of prompts that is given, else that of the training of what is in a folder.

    Raises:
        InputError: if the given one is no style, or as :func:`style_of_adapter`.
    """
    form = given or style_of_adapter(folder)
    if not isinstance(form, PromptTemplate) and form not in PROMPT_STYLES:
        raise InputError(f"prompt_style is {form!r}; it must be one of {list(PROMPT_STYLES)}")
    return form


def form_for(
    folder: Path, prompt_style: str | None, prompt_template: str | None, fields: Mapping[str, str]
) -> PromptForm:
    """Return the form of the prompts for an adapter or a model, as flags ask for it.

    Args:
        folder: of the adapter, else of the model.
        prompt_style, prompt_template: the flags; None takes what the training had.
        fields: values for a template where an input names none.

    Raises:
        InputError: as :func:`style_of_adapter` and :func:`asked_form`, or if a value cannot be in a prompt.
    """
    return with_fields(asked_form(prompt_style, prompt_template) or style_of_adapter(folder), fields)


def refuse_unused_fields(forms: Iterable[PromptForm], fields: Mapping[str, str]) -> None:
    """Check that one of the prompts uses each field that flags give.

    Raises:
        InputError: naming each flag that changes nothing.
    """
    unused = [set(unused_fields(form, fields, "--")) for form in forms]
    raise_if_any("values for a prompt template", sorted(set.intersection(*unused)) if unused else [])


def with_fields(form: PromptForm, fields: Mapping[str, str]) -> PromptForm:
    """Return a form whose template, if it is one, takes these values where an input names none."""
    return form.with_defaults(fields) if isinstance(form, PromptTemplate) else form


def asked_form(prompt_style: str | None, prompt_template: str | None) -> PromptForm | None:
    """Return what flags ask for as form of the prompts; None for that of each adapter's training.

    A style that is given leaves an adapter's template out.

    Raises:
        InputError: if the template is wrong, or is given with another style than voice_clone.
    """
    return prompt_style if prompt_template is None else usable_template(prompt_template, prompt_style)


def normalisation_of_adapter(folder: Path) -> str:
    """Return the text normalisation with which an adapter was trained; ``none`` for runs older than that flag.

    Raises:
        InputError: if ``run.json`` is not one of the trainer's.
    """
    name = "text_normalisation"
    of_older_runs = value_before(flag_fields()[name])
    if not (folder / RUN_FILE).is_file():
        return of_older_runs
    return _choice({name: of_older_runs, **_flags_of_run(folder, name)}, folder, name, TEXT_NORMALISATIONS)


def quantisation_of_adapter(folder: Path | None) -> str:
    """Return the ``--quantise`` with which an adapter was trained; ``none`` without an adapter or for older runs.

    A merged model has no such record of its own weights: they are always in full precision.

    Raises:
        InputError: if ``run.json`` is not one of the trainer's.
    """
    if folder is None or not (folder / RUN_FILE).is_file():
        return NOT_QUANTISED
    return _choice({"quantise": NOT_QUANTISED, **_flags_of_run(folder, "quantise")}, folder, "quantise", QUANTISATIONS)


def _flags_of_run(folder: Path, name: str) -> dict[str, Any]:
    """Return the flags in the ``run.json`` of a folder. Error messages ask for the flag ``name``."""
    path = folder / RUN_FILE
    try:
        return {**json.loads(path.read_bytes().decode("utf-8-sig"))["flags"]}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not have flags.{name} ({error}); give --{name}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give --{name}") from error


def _choice(flags: dict[str, Any], folder: Path, name: str, allowed: Collection[str]) -> str:
    """Return the value of a flag if it is one of the allowed values."""
    if name not in flags:
        raise InputError(f"{folder / RUN_FILE}: does not have flags.{name}; give --{name}")
    if not isinstance(flags[name], str) or flags[name] not in allowed:
        found = json.dumps(flags[name], ensure_ascii=False)[:LONGEST_VALUE]
        raise InputError(
            f"{folder / RUN_FILE}: flags.{name} is {found}; it must be one of {list(allowed)}; correct it, or give "
            f"--{name}"
        )
    return flags[name]


def turns_warning(adapter: Path | None) -> str | None:
    """Return a warning if an adapter was trained on other turns than those of prompt style ``as_written``, else None.

    The first record of each file of training data is compared. If none of them exists any more, there is no warning.

    Raises:
        InputError: if ``run.json`` does not hold flags, or if the data are damaged.
    """
    if adapter is None or not (adapter / RUN_FILE).is_file():
        return None
    found = _flags_of_run(adapter, "prompt_style").get("data_path")
    paths = [Path(path) for path in (found if isinstance(found, list) else [found]) if isinstance(path, str)]
    others = [str(path) for path in paths if _has_other_turns(path)]
    if not others:
        return None
    return (
        f"{', '.join(others)}, the training data of the adapter, has other turns than the prompts for a text; give the "
        "texts as ChatML records in a manifest to use the turns of the training data"
    )


def _has_other_turns(path: Path) -> bool:
    """Return whether training data have other turns than those of ``as_written``; False if that is not known."""
    if (path / MANIFEST).is_file():
        are_those = read_manifest(path).get(AS_WRITTEN_TURNS)
    elif path.is_file():
        are_those = has_as_written_turns(read_json_records(path)[0])
    else:
        are_those = None
    return are_those is False

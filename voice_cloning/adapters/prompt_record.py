"""The prompt with which an adapter was trained, as the files beside it record it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from boson_multimodal.prompt_template import PROMPT_TEMPLATE_FILE, PromptForm, PromptTemplate

TEMPLATE_FLAG = "prompt_template"


def template_of_flags(flags: Mapping[str, Any], origin: str) -> PromptTemplate | None:
    """Return the template in the flags of a run; None for a run without one, or of an earlier release.

    Args:
        flags: of ``run.json``.
        origin: its path, for messages.

    Raises:
        InputError: if the value is no template.
    """
    found = flags.get(TEMPLATE_FLAG)
    if found is None:
        return None
    if not isinstance(found, str) or not found.startswith("{"):
        raise InputError(f"{origin}: flags.{TEMPLATE_FLAG} is {found!r}; it must be null or the JSON of a template")
    return PromptTemplate.read(found, f"{origin}: flags.{TEMPLATE_FLAG}")


def form_of_flags(flags: Mapping[str, Any], origin: str = "run.json") -> PromptForm | None:
    """Return what decided the turns of the training; None if that is not recorded."""
    style = flags.get("prompt_style")
    return template_of_flags(flags, origin) or (style if isinstance(style, str) else None)


def write_template(folder: Path, flags: Mapping[str, Any]) -> None:
    """Write the template of a run beside its adapter, in the form that ``--prompt_template`` reads, if it has one."""
    template = template_of_flags(flags, str(folder))
    if template is not None:
        (folder / PROMPT_TEMPLATE_FILE).write_text(template.text() + "\n", encoding="utf-8")


def saved_template(folder: Path, flags: Mapping[str, Any] | None, origin: str) -> PromptTemplate | None:
    """Return the template with which the adapter in a folder was trained, or None.

    Args:
        folder: of the adapter or of a merged model.
        flags: those of its ``run.json``; None if it has none. Then the file of the template alone counts.
        origin: the path of ``run.json``, for messages.

    Raises:
        InputError: if the two files say different things, or one of them is wrong.
    """
    path = folder / PROMPT_TEMPLATE_FILE
    of_file = PromptTemplate.read(str(path), "") if path.is_file() else None
    if flags is None:
        return of_file
    of_run = template_of_flags(flags, origin)
    if of_file not in (None, of_run):
        trained = "without a template" if of_run is None else f"with {of_run.text()}"
        raise InputError(
            f"{path}: is not the template of the training: {origin} says that the adapter was trained {trained}; put "
            "the right file there or remove it; a command takes another one by --prompt_template"
        )
    return of_run

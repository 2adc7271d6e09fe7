"""Reads the two files of an adapter's folder, and checks every field and tensor before PEFT sees them.

PEFT takes what it finds: a wrong value ends in an error deep in a library, or changes what the adapter computes.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.strict_json import parse_json
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE

OTHER_FORMAT_FILE = "adapter_model.bin"
"""PEFT's older format of the tensors. It is a pickle, which may hold a program, so it is not read."""

PREFIX = "base_model.model."
"""The prefix that PEFT adds to the name of every module that it wraps."""
TENSOR_NAME = re.compile(
    re.escape(PREFIX) + r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|embedding_A|embedding_B|magnitude_vector)"
)
FIRST_FACTORS = ("A.weight", "embedding_A")
"""Parts of the names of the (r, inputs) factors."""
TENSOR_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

LONGEST_VALUE = 200
"""Characters of a field's value that a message shows."""
HARMLESS_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that do not change the base's weights. Others (PiSSA, OLoRA, ...) change them."""
NEUTRAL_FIELDS = "auto_mapping peft_version inference_mode task_type peft_type".split()
"""Fields that do not change what an adapter computes. A task type only determines the arguments of PEFT's wrapper."""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < sys.float_info.max


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


NEEDED_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda v: type(v) is int and 1 <= v < 2**16, "a whole number from 1"),
    "lora_alpha": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "target_modules": (
        lambda v: _is_list_of_names(v) or (isinstance(v, str) and v != ""),
        "a pattern, or a list of names of modules",
    ),
}
"""Field that every adapter must have -> whether a value is allowed, and which values are."""
OPTIONAL_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lora_dropout": (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "use_rslora": (lambda v: isinstance(v, bool), "true or false"),
    "use_dora": (lambda v: isinstance(v, bool), "true or false"),
    "base_model_name_or_path": (_is_text_or_null, "a name or null"),
    "revision": (_is_text_or_null, "a name or null"),
}
"""The same for fields that an older PEFT did not write. Without them, PEFT's defaults are right."""


def require_adapter_files(folder: Path, flag: str) -> None:
    """Raise :class:`InputError` if a folder lacks one of an adapter's files."""
    try:
        missing = [name for name in (ADAPTER_CONFIG_FILE, ADAPTER_FILE) if not (folder / name).is_file()]
        has_other_format = (folder / OTHER_FORMAT_FILE).is_file()
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be read ({error.strerror}); give an adapter's folder") from error
    if missing == [ADAPTER_FILE] and has_other_format:
        raise InputError(
            f"{flag} {folder}: holds {OTHER_FORMAT_FILE} and no {ADAPTER_FILE}; load it with PEFT and save it again "
            "(save_pretrained), which writes that file"
        )
    if missing:
        raise InputError(f"{flag} {folder}: no {' and no '.join(missing)} in it; give an adapter's folder")


def read_settings(folder: Path, flag: str) -> LoraConfig:
    """Read an adapter's settings. PEFT's configuration is made of checked fields alone.

    Raises:
        InputError: if ``adapter_config.json`` cannot be read or is not of LoRA; or listing each field with a wrong
            value, or with a value that this project does not support.
    """
    heading = f"{flag} {folder}: {ADAPTER_CONFIG_FILE}"
    content = _read_object(folder / ADAPTER_CONFIG_FILE, heading)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{heading} has peft_type {kind!r}; it must be LORA")
    raise_if_any(f"{heading}: fields with wrong values", _wrong_values(content))
    raise_if_any(f"{heading}: settings that this project does not support", _unsupported(content))
    known = (*NEEDED_FIELDS, *OPTIONAL_FIELDS, "init_lora_weights")
    return LoraConfig(**{name: content[name] for name in known if name in content})


def read_tensors(folder: Path, flag: str, settings: LoraConfig) -> dict[str, Tensor]:
    """Read an adapter's tensors by their names in the file.

    Raises:
        InputError: if the file is damaged; or listing each tensor that is not one of an adapter, not finite, or not of
            a type for weights; or if no tensor has the rank of the settings.
    """
    heading = f"{flag} {folder}: {ADAPTER_FILE}"
    try:
        tensors = load_file(folder / ADAPTER_FILE)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{heading} is damaged ({error}); fetch it again") from error
    offenders = [problem for name, tensor in tensors.items() if (problem := _tensor_problem(name, tensor))]
    raise_if_any(heading, offenders or ([] if tensors else ["holds no tensors"]))
    ranks = {t.shape[0] for name, t in tensors.items() if t.ndim == 2 and _part(name) in FIRST_FACTORS}
    if settings.r not in ranks:
        found = " and ".join(map(str, sorted(ranks))) or "none"
        raise InputError(
            f"{flag} {folder}: {ADAPTER_CONFIG_FILE} has r {settings.r}, but the rank of the tensors in {ADAPTER_FILE} "
            f"is {found}; the files are not of one adapter"
        )
    return tensors


def module_of(name: str) -> str:
    """Return the name of the module that a tensor adapts."""
    return TENSOR_NAME.fullmatch(name)["module"]


def incomplete_modules(tensors: dict[str, Tensor], settings: LoraConfig) -> list[str]:
    """Return a problem for each adapted module that lacks a tensor or has one of another shape. No model is needed."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        modules.setdefault(module_of(name), {})[_part(name)] = tensor
    problems = []
    for module, parts in modules.items():
        is_embedding = any(part.startswith("embedding") for part in parts)
        first, second = ("embedding_A", "embedding_B") if is_embedding else ("A.weight", "B.weight")
        wanted = {first, second} | ({"magnitude_vector"} if settings.use_dora else set())
        problems += [f"{module}.lora_{part}: missing" for part in sorted(wanted - parts.keys())]
        problems += [f"{module}.lora_{part}: the settings ask for none" for part in sorted(parts.keys() - wanted)]
        for part, axis in ((first, 0), (second, 1)):
            shape = tuple(parts[part].shape) if part in parts else (settings.r, settings.r)
            if len(shape) != 2 or shape[axis] != settings.r:
                problems.append(f"{module}.lora_{part}: has shape {shape}, dimension {axis} must be r, {settings.r}")
    return problems


def _read_object(path: Path, heading: str) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{heading} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{heading} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{heading} does not hold a JSON object; fetch it again")
    return content


def _wrong_values(content: dict[str, Any]) -> list[str]:
    problems = [
        f"{name} is missing; it must be {right}" for name, (_, right) in NEEDED_FIELDS.items() if name not in content
    ]
    problems += [
        f"{name} is {_shown(content[name])}; it must be {right}"
        for name, (is_allowed, right) in {**NEEDED_FIELDS, **OPTIONAL_FIELDS}.items()
        if name in content and not is_allowed(content[name])
    ]
    targets = content.get("target_modules")
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except (re.error, OverflowError, RecursionError) as error:
            problems.append(
                f"target_modules is {_shown(targets)}, which is not a pattern ({error}); correct the pattern"
            )
    return problems


def _shown(value: Any) -> str:
    """Return the start of a value as it stands in the file."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _unsupported(content: dict[str, Any]) -> list[str]:
    """Return a problem for each setting that differs from its default, except those that are supported or neutral."""
    usual = LoraConfig().to_dict()
    read = {*NEEDED_FIELDS, *OPTIONAL_FIELDS, *NEUTRAL_FIELDS, "init_lora_weights"}
    offenders = [
        f"{name} is {value!r}, not {usual.get(name)!r}"
        for name, value in content.items()
        if name not in read and value != usual.get(name)
    ]
    initialisation = content.get("init_lora_weights", True)
    if initialisation not in HARMLESS_INITIALISATIONS:
        offenders.append(f"init_lora_weights is {initialisation!r}, which changes the base's weights")
    return offenders


def _tensor_problem(name: str, tensor: Tensor) -> str | None:
    if TENSOR_NAME.fullmatch(name) is None:
        return f"{name}: not the name of a tensor of a LoRA adapter"
    if tensor.dtype not in TENSOR_DTYPES:
        return f"{name}: has type {tensor.dtype}; it must be float32, bfloat16, float16 or float64"
    if not tensor.isfinite().all():
        return f"{name}: not finite"
    return None


def _part(name: str) -> str:
    return TENSOR_NAME.fullmatch(name)["part"]

"""Reads the ``run.json`` beside an adapter or a merged model, and checks the fields that cards are made of."""

import json
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from voice_cloning.adapters.licence_lines import LICENCES
from voice_cloning.training.config import flag_fields
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.evaluation_words import BEST_BY
from voice_cloning.training.metrics import LARGEST_STEP

REMEDY = "correct it or remove it"
TEXT, NUMBER = (str,), (int, float)
NONE = type(None)
TEXT_FLAGS = frozenset(name for name, flag_field in flag_fields().items() if flag_field.type in (str, str | None))
"""Flags that hold a text or nothing."""
DATA = {"file": TEXT, "samples": NUMBER, "dropped": NUMBER, "clips": NUMBER, "hours": NUMBER}
PART = {**DATA, "samples_of_epoch": NUMBER}
"""One of several data sets that a run was trained on."""
BEST = {"eval_loss": NUMBER, "step": NUMBER}
TEXT_OR_NONE = "version python git_commit torch_dtype base_fingerprint".split()
NAMES_OF_TYPES = {str: "a text", int: "a number", float: "a number", NONE: "null", dict: "an object", list: "a list"}


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a ``run.json``.

    Raises:
        InputError: if the file cannot be read, is not JSON, or is not one that the trainer or an export wrote. It lists
            each field with a wrong value.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    run = read_json_object(content, str(path))
    if not isinstance(run.get("flags"), dict):
        raise InputError(f"{path}: does not describe a training run; remove it")
    raise_if_any(f"{path}: fields with wrong values; {REMEDY}", _wrong_fields(run))
    return run


def read_json_object(content: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that a file or line ``where`` holds.

    Raises:
        InputError: if it does not hold one.
    """
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); {REMEDY}") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: does not describe a training run; {REMEDY}")
    return found


def check_results(results: dict[str, Any], where: str) -> None:
    """Raise :class:`InputError` listing each field of the results of a run that has a wrong value."""
    raise_if_any(f"{where}: fields with wrong values; {REMEDY}", _wrong_results(results))


def _wrong_fields(run: dict[str, Any]) -> list[str]:
    flags = run["flags"]
    problems = []
    for name in sorted(TEXT_FLAGS & flags.keys()):
        problems += _wrong(flags[name], (str, NONE), f"flags.{name}")
    problems += _wrong(flags.get("lora_targets", []), (list,), "flags.lora_targets")
    problems += _wrong(flags.get("data_path"), (str, list, NONE), "flags.data_path")
    for name in ("lora_targets", "data_path"):
        for number, text in enumerate(flags[name] if isinstance(flags.get(name), list) else []):
            problems += _wrong(text, TEXT, f"flags.{name}[{number}]")
    for name in TEXT_OR_NONE:
        problems += _wrong(run.get(name), (str, NONE), name)
    problems += _wrong(run.get("versions"), (dict, NONE), "versions")
    problems += _wrong(run.get("identity", {}), (dict,), "identity")
    problems += _wrong_object(run.get("data", {}), {}, "data")
    if isinstance(run.get("data"), dict):
        for part, data in run["data"].items():
            problems += [] if data is None else _wrong_data(data, f"data.{part}")
    if run.get("results"):
        problems += _wrong_results(run["results"])
    return problems


def _wrong_data(data: Any, name: str) -> list[str]:
    problems = _wrong_object(data, DATA, name) + _wrong_licences(data, name)
    if isinstance(data, dict) and "parts" in data:
        problems += _wrong(data["parts"], (list,), f"{name}.parts")
        for number, part in enumerate(data["parts"] if isinstance(data["parts"], list) else []):
            problems += _wrong_object(part, PART, f"{name}.parts[{number}]")
            problems += _wrong_licences(part, f"{name}.parts[{number}]")
    return problems


def _wrong_licences(data: Any, name: str) -> list[str]:
    """Return the problems of the licences of a data set; runs of earlier releases have none."""
    texts = data.get(LICENCES, []) if isinstance(data, dict) else []
    if not isinstance(texts, list):
        return _wrong(texts, (list,), f"{name}.{LICENCES}")
    return [problem for n, text in enumerate(texts) for problem in _wrong(text, TEXT, f"{name}.{LICENCES}[{n}]")]


def _wrong_results(results: Any) -> list[str]:
    problems = _wrong_object(results, {"step": NUMBER, "total_steps": NUMBER}, "results")
    if problems:
        return problems
    for kind in ("training", "evaluation", "speech"):
        if kind in results:
            problems += _wrong_metrics(results[kind], f"results.{kind}.")
    if isinstance(results.get("speech"), dict):
        problems += _wrong(results["speech"].get("spoken_clips"), NUMBER, "results.speech.spoken_clips")
    if results.get("best_by", BY_LOSS) not in list(BEST_BY):
        problems.append(f"results.best_by: {results['best_by']!r}; it must be one of {list(BEST_BY)}")
    return problems + (_wrong_object(results["best"], BEST, "results.best") if results.get("best") else [])


def _wrong_metrics(record: Any, prefix: str) -> list[str]:
    problems = _wrong_object(record, {"step": NUMBER}, prefix.removesuffix("."), prefix)
    if isinstance(record, dict):
        metrics = {name: value for name, value in record.items() if name != "step"}
        problems += [problem for name, found in metrics.items() for problem in _wrong(found, NUMBER, f"{prefix}{name}")]
    return problems


def _wrong_object(value: Any, fields: dict[str, tuple[type, ...]], name: str, prefix: str | None = None) -> list[str]:
    """Return a problem if a value is no object, or one for each field that is missing or of another type."""
    if not isinstance(value, dict):
        return _wrong(value, (dict,), name)
    prefix = f"{name}." if prefix is None else prefix
    return [problem for field, types in fields.items() for problem in _wrong(value.get(field), types, prefix + field)]


def _wrong(value: Any, types: tuple[type, ...], name: str) -> list[str]:
    if isinstance(value, types) and not (type(value) is int and abs(value) >= LARGEST_STEP):
        return []
    right = " or ".join(dict.fromkeys(NAMES_OF_TYPES[kind] for kind in types))
    return [f"{name} is {json.dumps(value, ensure_ascii=False)[:200]}; it must be {right}"]

"""The form of report.json: read it, check it, and fill in what may be absent."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any

REPORT_FILE = "report.json"
FORMAT = 1

Report = dict[str, Any]


@dataclass(frozen=True)
class Plain:
    """A text, a number (finite, no truth value), or a truth value."""

    kind: str
    default: None = None


@dataclass(frozen=True)
class Listed:
    """A list of entries of one form."""

    entry: "Form"

    @property
    def default(self) -> list[Any]:
        return []


@dataclass(frozen=True)
class Named:
    """A mapping from any names to values of one form; values that are null are left out."""

    value: "Form"

    @property
    def default(self) -> Report:
        return {}


@dataclass(frozen=True)
class Record:
    """A mapping with known fields. Other fields stay as they are.

    Attributes:
        needed: fields that must be there.
        optional: fields that may be absent or null: then they are filled with None, {} or [].
    """

    needed: dict[str, "Form"]
    optional: dict[str, "Form"]
    default: None = None


Form = Plain | Listed | Named | Record
TEXT, NUMBER, TRUTH = Plain("text"), Plain("number"), Plain("truth value")
ANYTHING = Plain("value")
INTERVAL = Record({}, {"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": NUMBER, "method": TEXT})
FIGURES = Named(INTERVAL)
ERRORS = Record({"word_errors": NUMBER, "words": NUMBER}, {})
CLIP = Record(
    {},
    {
        "seed": NUMBER,
        "audio": TEXT,
        "ended": TRUTH,
        "seconds": NUMBER,
        "true_seconds": NUMBER,
        "length_ratio": NUMBER,
        "recognised": TEXT,
        "errors": Named(ERRORS),
        "alignment": Listed(Listed(TEXT)),
        "sim_reference": NUMBER,
        "sim_recording": NUMBER,
        "mos": NUMBER,
    },
)
SYSTEM = Record(
    {"name": TEXT},
    {
        "kind": TEXT,
        "figures": FIGURES,
        "differences": FIGURES,
        "groups": Named(Named(FIGURES)),
        "cost": Named(NUMBER),
    },
)
SET = Record({}, {"name": TEXT, "kind": TEXT, "sentences": NUMBER, "speakers": NUMBER})
ITEM = Record(
    {"id": TEXT, "text": TEXT},
    {
        "speaker": TEXT,
        "dialect": TEXT,
        "kind": TEXT,
        "reference": TEXT,
        "recording": TEXT,
        "clips": Named(Listed(CLIP)),
        "scales": Named(CLIP),
    },
)
COMPARISON = Record(
    {"candidate": TEXT}, {"compared_with": TEXT, "is_better": TRUTH, "rule": TEXT, "difference": INTERVAL}
)
REPORT = Record(
    {"title": TEXT, "set": SET, "systems": Listed(SYSTEM), "items": Listed(ITEM)},
    {
        "recogniser": TEXT,
        "normalisations": Listed(TEXT),
        "speaker_model": TEXT,
        "mos": TEXT,
        "seeds": Listed(NUMBER),
        "sampling": Named(ANYTHING),
        "confidence": NUMBER,
        "lengths": Named(TEXT),
        "retention": Record({"set": SET, "systems": Listed(SYSTEM)}, {}),
        "selection": Record({}, {"chosen": TEXT, "by_eval_loss": TEXT, "comparisons": Listed(COMPARISON)}),
        "scales": Named(FIGURES),
        "warnings": Listed(TEXT),
    },
)


def read_report(path: Path) -> Report:
    """Return the content of a report.json, with what may be absent filled in (:class:`Record`).

    Raises:
        InputError: if it is missing or damaged, or has another form.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; tools.evaluate writes it") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); let tools.evaluate write it again") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        found = report.get("format") if isinstance(report, dict) else type(report).__name__
        raise InputError(f"{path}: format is {found!r}; this release reads format {FORMAT}")
    problems: list[str] = []
    checked = _checked(report, REPORT, "", problems)
    raise_if_any(f"{path}: not the form of a report", problems or _wrong_names(checked))
    return checked


def _checked(value: Any, form: Form, where: str, problems: list[str]) -> Any:
    """Return a value in its form. What is wrong is added to ``problems``; the value is of no use then."""
    if isinstance(form, Plain):
        if not _is_plain(value, form):
            problems.append(f"{where} is {_short(value)}; it must be a {form.kind}")
        return value
    if not isinstance(value, list if isinstance(form, Listed) else dict):
        problems.append(f"{where or 'it'} is {_short(value)}; it must be a {_kind(form)}")
        return form.default
    if isinstance(form, Listed):
        return [_checked(entry, form.entry, f"{where}[{index}]", problems) for index, entry in enumerate(value)]
    if isinstance(form, Named):
        present = {name: entry for name, entry in value.items() if not _is_null(entry)}
        return {name: _checked(entry, form.value, f"{where}.{name}", problems) for name, entry in present.items()}
    inside = dict(value)
    for name, field in (form.needed | form.optional).items():
        path = f"{where}.{name}" if where else name
        if name in form.optional and _is_null(value.get(name)):
            inside[name] = field.default
        elif name in value:
            inside[name] = _checked(value[name], field, path, problems)
        else:
            problems.append(f"{path} is missing; it must be a {_kind(field)}")
    return inside


def _is_null(value: Any) -> bool:
    """Return whether a value does not exist: null, or a number that is none (NaN, infinite)."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _is_plain(value: Any, form: Plain) -> bool:
    if form is TEXT:
        return isinstance(value, str)
    if form is NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return form is ANYTHING or isinstance(value, bool)


def _kind(form: Form) -> str:
    return form.kind if isinstance(form, Plain) else "list" if isinstance(form, Listed) else "mapping"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong_names(report: Report) -> list[str]:
    """Return names that occur twice, and names of models and lengths of alignments that mean nothing."""
    problems = []
    for field, key in (("systems", "name"), ("items", "id")):
        counts = Counter(entry[key] for entry in report[field])
        twice = [name for name, count in counts.items() if count > 1]
        problems += [f"{field}: {counts[name]} of them have the {key} {name!r}; give each its own" for name in twice]
    names = {system["name"] for system in report["systems"]}
    for index, item in enumerate(report["items"]):
        where = f"items[{index}]"
        problems += [f"{where}.clips has {name!r}; systems has no such name" for name in item["clips"].keys() - names]
        clips = [(f"clips.{name}[{i}]", clip) for name, of in item["clips"].items() for i, clip in enumerate(of)]
        clips += [(f"scales.{name}", clip) for name, clip in item["scales"].items()]
        problems += [f"{where}.{name}.{problem}" for name, clip in clips for problem in _wrong_alignment(clip)]
    return problems


def _wrong_alignment(clip: Report) -> Sequence[str]:
    return [
        f"alignment[{index}] has {len(triple)} texts; it must have 3: operation, word, recognised word"
        for index, triple in enumerate(clip["alignment"])
        if len(triple) != 3
    ]

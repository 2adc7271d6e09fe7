"""A prompt template: the voice-cloning prompt of the released model with a scene, a dialect, or other words.

The file is JSON (``docs/prompts.md``) ::

    {"system": "Generate audio following instruction.",
     "scene": "Audio is recorded from a quiet room.\\nDialect: {dialect}",
     "reference_text": "{reference_text}", "target_text": "{target_text}",
     "defaults": {"dialect": "Modern Standard Arabic"}}

The turns are those of prompt style voice_clone. Without ``system`` there is no system turn. ``scene`` stands in the
system turn between two tokens, which only the program writes. ``{speaker}``, ``{dialect}`` and ``{scene}`` come from
the record: ``speaker``, ``misc.dialect``, ``misc.scene``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any

from transformers import PreTrainedTokenizerBase

from boson_multimodal.chatml import text_problem
from boson_multimodal.constants import SCENE_END, SCENE_START
from boson_multimodal.errors import InputError, Problem, ProblemKind, raise_if_any

PROMPT_TEMPLATE_FILE = "prompt_template.json"
"""The name of the copy beside an adapter."""
PARTS = ("system", "scene", "reference_text", "target_text")
"""The texts of a template, in the order of the prompt."""
TEXT_FIELDS = ("reference_text", "target_text")
"""The fields that a template must have, each once and in the text of its own name."""
RECORD_FIELDS = ("speaker", "dialect", "scene")
"""The fields whose values come from a record."""
DEFAULTS = "defaults"
SHOWN_FIELDS = ", ".join(f"{{{name}}}" for name in RECORD_FIELDS)


@dataclass(frozen=True)
class PromptTemplate:
    """The words around the two texts of a voice-cloning prompt. It can be a key of a dictionary.

    Attributes:
        reference_text, target_text: the texts of the two user turns.
        system: the text of the system turn; None leaves that turn out.
        scene: what the system turn says about the recording, or None.
        defaults: (field, value) for records without a value.
        given: the same, of flags. They come before ``defaults``, and are no part of the template's text and name.
    """

    reference_text: str
    target_text: str
    system: str | None = None
    scene: str | None = None
    defaults: tuple[tuple[str, str], ...] = ()
    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, given: str, origin: str = "--prompt_template") -> "PromptTemplate":
        """Return the template in a file, or the one in a text that begins with ``{``.

        Args:
            given: the path of the file, or its content.
            origin: where it comes from, for messages.

        Raises:
            InputError: if there is no such file, or listing everything that is wrong with its content.
        """
        if given.lstrip().startswith("{"):
            return cls._parse(given, origin)
        path, name = Path(given).expanduser(), f"{origin} {given}".strip()
        try:
            content = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise InputError(f"{name}: no such file; give a JSON file (docs/prompts.md)") from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: not readable as UTF-8 text ({error})") from error
        return cls._parse(content, name)

    @classmethod
    def _parse(cls, content: str, name: str) -> "PromptTemplate":
        repeated: list[str] = []
        try:
            found = json.loads(content, object_pairs_hook=lambda pairs: _without_repeats(pairs, repeated))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{name}: not JSON ({error}); give an object with {list(PARTS)}") from error
        if not isinstance(found, dict):
            raise InputError(f"{name}: holds a JSON {type(found).__name__}; give an object with {list(PARTS)}")
        problems = [f"{key}: is there twice; give it once" for key in repeated]
        raise_if_any(f"{name}: not a prompt template", problems + _problems(found))
        texts = {part: found[part].strip() for part in PARTS if found.get(part) is not None}
        defaults = tuple(sorted((field, value.strip()) for field, value in (found.get(DEFAULTS) or {}).items()))
        return cls(**texts, defaults=defaults)

    def text(self) -> str:
        """Return the template as one line of JSON. Equal templates give equal lines."""
        parts = {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None}
        return json.dumps({**parts, **({DEFAULTS: dict(self.defaults)} if self.defaults else {})}, ensure_ascii=False)

    def __str__(self) -> str:
        return f"voice_clone with the template {hashlib.sha256(self.text().encode()).hexdigest()[:8]}"

    @property
    def _for_missing(self) -> dict[str, str]:
        """The values of fields for records without one."""
        return dict(self.defaults) | dict(self.given)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields that it takes from a record, in the order of ``RECORD_FIELDS``."""
        used = {field for part in PARTS for field in self.fields_in(part)}
        return tuple(field for field in RECORD_FIELDS if field in used)

    def fields_in(self, part: str) -> list[str]:
        """Return the fields in one of its texts, ``TEXT_FIELDS`` among them; none in a text that it does not have."""
        return _fields(getattr(self, part) or "")

    @property
    def is_same_around_texts(self) -> bool:
        """Whether every prompt has the same ids around the two texts, so that a text can be exchanged in the ids."""
        texts_alone = all(getattr(self, name) == f"{{{name}}}" for name in TEXT_FIELDS)
        return not self.fields and texts_alone

    def with_defaults(self, values: Mapping[str, str], places: str = "--") -> "PromptTemplate":
        """Return the template with values of flags before its defaults. It leaves out those that it does not use.

        Raises:
            InputError: naming each value that cannot be in a prompt.
        """
        problems, used = [], {}
        for field in self.fields:
            if (value := values.get(field)) is None:
                continue
            if _is_missing(value):
                problems.append(f"{places}{field}: is empty; give a value, or leave it out")
            elif (reason := _value_problem(value)) is not None:
                problems.append(f"{places}{field}: {reason}")
            else:
                used[field] = value.strip()
        raise_if_any("values for the prompt template", problems)
        return replace(self, given=tuple(sorted({**dict(self.given), **used}.items())))

    def field_problems(self, speaker: str | None, misc: Mapping[str, Any], prefix: str = "misc.") -> list[Problem]:
        """Return what is wrong with the values of a record.

        Args:
            speaker: of the record.
            misc: its other facts.
            prefix: what stands before the names of the others in messages; a flag's ``--`` before all.
        """
        problems, known = [], self._for_missing
        for field in self.fields:
            where = field if field == "speaker" and prefix != "--" else f"{prefix}{field}"
            value = speaker if field == "speaker" else misc.get(field)
            if _is_missing(value):
                if field not in known:
                    default = f'"{DEFAULTS}": {{"{field}": ...}} in the template of a training, --{field} for speech'
                    remedy = "give it" if prefix == "--" else f"give it, or a default: {default}"
                    problems.append(f"{where}: missing, and the prompt template uses {{{field}}}; {remedy}")
            elif (reason := _value_problem(value)) is not None:
                problems.append(f"{where}: {reason}")
        return [Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in problems]

    def filled(self, texts: Mapping[str, str], speaker: str | None, misc: Mapping[str, Any]) -> dict[str, str]:
        """Return the texts of a prompt by part, without a part that the template does not have.

        Args:
            texts: the value of each of ``TEXT_FIELDS``.
            speaker, misc: of the record.

        Raises:
            InputError: if :meth:`field_problems` finds something.
        """
        raise_if_any("the prompt cannot be written", self.field_problems(speaker, misc))
        values = self._for_missing | dict(texts)
        for field in self.fields:
            value = speaker if field == "speaker" else misc.get(field)
            values |= {} if _is_missing(value) else {field: value.strip()}
        parts = {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None}
        return {part: text.format_map(values).strip() for part, text in parts.items()}

    def system_text(self, filled: Mapping[str, str]) -> str | None:
        """Return the whole text of the system turn, with the scene between its tokens; None without that turn."""
        if "scene" not in filled:
            return filled.get("system")
        return f"{filled['system']}\n\n{SCENE_START}\n{filled['scene']}\n{SCENE_END}"

    def tokenizer_problems(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return which tokens of the prompt a tokenizer lacks."""
        if self.scene is None:
            return []
        return [
            f"{token} is missing in the tokenizer, and the prompt template has a scene; leave scene out"
            for token in (SCENE_START, SCENE_END)
            if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
        ]


PromptForm = str | PromptTemplate
"""What decides the turns of a prompt: a style of ``PROMPT_STYLES``, or a template for those of voice_clone."""


def prompt_form(prompt_style: str, prompt_template: str | None) -> PromptForm:
    """Return the template that settings give (:meth:`PromptTemplate.read`), else their style."""
    return prompt_style if prompt_template is None else PromptTemplate.read(prompt_template)


def tokenizer_problems(form: PromptForm, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return which tokens of the prompt a tokenizer lacks; none for a style, whose tokens are checked elsewhere."""
    return form.tokenizer_problems(tokenizer) if isinstance(form, PromptTemplate) else []


def _without_repeats(pairs: list[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    """Return an object of JSON, and note the keys that it has twice: JSON would take the last one in silence."""
    keys = [key for key, _ in pairs]
    repeated += sorted({key for key in keys if keys.count(key) > 1})
    return dict(pairs)


def _problems(found: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong with the content of a file."""
    known = [*PARTS, DEFAULTS]
    problems = [f"{key}: unknown key; known are {known}" for key in found if key not in known]
    used: set[str] = set()
    for part in PARTS:
        text = found.get(part)
        if text is None:
            if part in TEXT_FIELDS:
                problems.append(f"{part}: missing; give a text that holds {{{part}}}")
        elif not isinstance(text, str) or not text.strip():
            problems.append(f"{part}: {text!r}; it must be a text that is not empty" + _leave_out(part))
        else:
            problems += [f"{part}: {problem}" for problem in _text_problems(part, text)]
            used |= set(_fields(text))
    if found.get("scene") is not None and found.get("system") is None:
        problems.append("scene: there is no system; a scene stands in the system turn, after its text")
    return problems + _default_problems(found.get(DEFAULTS), used)


def _leave_out(part: str) -> str:
    return "" if part in TEXT_FIELDS else ", or be left out"


def _text_problems(part: str, text: str) -> list[str]:
    """Return what is wrong with a text of a template."""
    if (reason := _value_problem(text)) is not None:
        return [reason]
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        return [f"{text!r} is not a template ({error}); write {{{{ and }}}} for braces of the text"]
    problems = []
    names = [name for _, name, _, _ in pieces if name is not None]
    allowed = (*([part] if part in TEXT_FIELDS else []), *RECORD_FIELDS)
    shown = ", ".join(f"{{{name}}}" for name in allowed)
    for _, name, spec, conversion in pieces:
        if name in TEXT_FIELDS and name != part:
            problems.append(f"{{{name}}} stands in the wrong place; it belongs in {name}")
        elif name is not None and (name not in allowed or spec or conversion):
            whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            problems.append(
                f"{{{whole}}} is no field; the fields here are {shown}; write {{{{ and }}}} for braces of the text"
            )
    if part in TEXT_FIELDS and names.count(part) != 1:
        problems.append(f"holds {{{part}}} {names.count(part)} times; it must hold it once")
    return problems


def _default_problems(defaults: Any, used: set[str]) -> list[str]:
    if defaults is None:
        return []
    if not isinstance(defaults, dict):
        return [f"{DEFAULTS}: {defaults!r}; it must be an object with some of {SHOWN_FIELDS}"]
    problems = []
    for field, value in defaults.items():
        if field not in RECORD_FIELDS:
            problems.append(f"{DEFAULTS}.{field}: unknown; only {SHOWN_FIELDS} can have a default")
        elif field not in used:
            problems.append(f"{DEFAULTS}.{field}: no text holds {{{field}}}; leave it out")
        elif _is_missing(value):
            problems.append(f"{DEFAULTS}.{field}: {value!r}; it must be a text that is not empty")
        elif (reason := _value_problem(value)) is not None:
            problems.append(f"{DEFAULTS}.{field}: {reason}")
    return problems


def _fields(text: str) -> list[str]:
    """Return the fields in a text; none if it is not a template."""
    try:
        return [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError:
        return []


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value_problem(value: Any) -> str | None:
    """Return why a value cannot stand in a prompt."""
    if not isinstance(value, str):
        return f"{value!r}; it must be a text"
    if forged := [token for token in (SCENE_START, SCENE_END) if token in value]:
        return f"{value!r} holds {forged}, which only the program writes; remove them"
    return text_problem(value)

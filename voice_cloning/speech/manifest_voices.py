"""Which adapter speaks an entry of a manifest, where there are several.

    {"id": "news_01", "text": "...", "reference": "...", "reference_text": "...", "adapter": "najdi"}

A ChatML record names its adapter in ``misc.adapter``. With ``by_dialect``, an entry that names none is spoken by the
adapter that has the name of its ``dialect`` (in a record ``misc.dialect``). ``base`` is the model without an adapter.
Every entry may have the fields of a prompt template, because one manifest is spoken by adapters with and without one.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arabic_voice_cloning_dataset import read_json_records
from boson_multimodal.errors import call_for_each, listed
from boson_multimodal.prompt_template import RECORD_FIELDS, PromptForm, PromptTemplate
from voice_cloning.speech.adapter_folders import BASE
from voice_cloning.speech.requests import SpeechRequest, read_entries

ADAPTER_KEY, DIALECT_KEY = "adapter", "dialect"
FURTHER_KEYS = (ADAPTER_KEY, *RECORD_FIELDS)

VoiceForm = tuple[PromptForm, str]
"""The form of a voice's prompts, and its text normalisation."""


@dataclass(frozen=True)
class VoiceChoice:
    """How an entry gets its voice.

    Attributes:
        names: the names of the adapters.
        default: the voice of an entry that names none; None if each must name one.
        by_dialect: whether the dialect of an entry names its adapter.
    """

    names: Sequence[str]
    default: str | None
    by_dialect: bool = False

    @property
    def voices(self) -> list[str]:
        """The adapters and the base."""
        return [*self.names, BASE]

    def of_entry(self, raw: Any) -> tuple[str | None, str | None]:
        """Return the voice of an entry as JSON gives it and None; or None and why it has none."""
        facts, prefix = _facts_of(raw)
        asked, dialect = facts.get(ADAPTER_KEY), facts.get(DIALECT_KEY)
        if asked is not None:
            if asked in self.voices:
                return asked, None
            if not prefix and (not isinstance(asked, str) or not asked):
                return None, None  # a wrong value of an entry's field, which is named anyway
            return None, f"{prefix}{ADAPTER_KEY}: {asked!r}; there is no such adapter; there are {self._listed()}"
        if self.by_dialect and (found := self._of_dialect(dialect)):
            return found, None
        if self.default is not None:
            return self.default, None
        if self.by_dialect:
            found = (
                "missing; with --adapter_by it names the adapter"
                if dialect is None
                else f"{dialect!r}; there is no adapter of this name"
            )
            return None, (
                f"{prefix}{DIALECT_KEY}: {found}; there are {self._listed()}; name one in "
                f"{prefix}{ADAPTER_KEY}, or give --adapter_name for all such entries"
            )
        return None, f"{prefix}{ADAPTER_KEY}: missing; name one of {self._listed()}, or give --adapter_name"

    def is_dialect_without_adapter(self, dialect: Any) -> bool:
        """Whether an entry of this dialect is spoken by the default because no adapter has this name."""
        return self.by_dialect and dialect is not None and self._of_dialect(dialect) is None

    def _of_dialect(self, dialect: Any) -> str | None:
        """Return the adapter that has the name of a dialect; upper and lower case do not matter if there is one."""
        if not isinstance(dialect, str):
            return None
        if dialect in self.names:
            return dialect
        found = [name for name in self.names if name.casefold() == dialect.casefold()]
        return found[0] if len(found) == 1 else None

    def _listed(self) -> str:
        return ", ".join(self.voices)


def _facts_of(raw: Any) -> tuple[dict[str, Any], str]:
    """Return the object in which an entry names its adapter and its dialect, and how its fields are called."""
    if isinstance(raw, dict) and "messages" in raw:
        return (raw["misc"] if isinstance(raw.get("misc"), dict) else {}), "misc."
    return (raw if isinstance(raw, dict) else {}), ""


def read_voiced_manifest(
    path: Path, choice: VoiceChoice, form_of: Callable[[str], VoiceForm], letters_per_piece: int
) -> tuple[list[SpeechRequest], dict[str, str], list[str]]:
    """Read a manifest in which each entry is spoken by its voice.

    Args:
        form_of: returns the form in which a voice is prompted. It is called for voices that speak.

    Returns:
        The requests in order; the voice of each by its name; and a list of every problem with the entries.

    Raises:
        InputError: if the file is missing, is empty or is not JSON; or an error of ``form_of``.
    """
    raws = read_json_records(path)
    found = [choice.of_entry(raw) for raw in raws]
    speaking = list(dict.fromkeys(voice for voice, _ in found if voice is not None))
    forms = dict(zip(speaking, call_for_each(form_of, speaking), strict=True))
    of_none = _without_template(next(iter(forms.values()), None) or form_of(BASE))
    entries_of = {
        form: read_entries(raws, path.parent, form[0], letters_per_piece, form[1], FURTHER_KEYS)
        for form in dict.fromkeys([*forms.values(), of_none])
    }
    requests: list[SpeechRequest] = []
    voices: dict[str, str] = {}
    problems: list[str] = []
    for number, (voice, problem) in enumerate(found):
        entry = entries_of[forms.get(voice, of_none)][number]
        problems += [f"{entry.name}: {message}" for message in (*entry.problems, problem) if message]
        if entry.request is not None and voice is not None:
            requests.append(entry.request)
            voices[entry.request.name] = voice
    _tell_of_unused_fields(raws, [voice for voice, _ in found], forms)
    _tell_of_default([_facts_of(raw)[0] for raw in raws], choice)
    return requests, voices, problems


def _without_template(form: VoiceForm) -> VoiceForm:
    """Return how an entry without a voice is read, so that all its problems are named: but none of another's prompt."""
    return ("voice_clone" if isinstance(form[0], PromptTemplate) else form[0]), form[1]


def _tell_of_unused_fields(raws: Sequence[Any], voices: Sequence[str | None], forms: Mapping[str, VoiceForm]) -> None:
    """Print which speakers and scenes of entries are in no prompt. A dialect is a label of any data, as in a record."""
    unused: Counter[tuple[str, str]] = Counter()
    for raw, voice in zip(raws, voices, strict=True):
        if isinstance(raw, dict) and "messages" not in raw and voice is not None:
            form = forms[voice][0]
            used = (DIALECT_KEY, *(form.fields if isinstance(form, PromptTemplate) else ()))
            unused.update((field, voice) for field in RECORD_FIELDS if field in raw and field not in used)
    for (field, voice), count in unused.items():
        print(f"{field} of {count} entries is not sent: the prompts of {voice} have no {{{field}}}", file=sys.stderr)


def _tell_of_default(entries: Sequence[dict[str, Any]], choice: VoiceChoice) -> None:
    """Print which dialects have no adapter and are spoken by the default."""
    dialects = [
        str(facts[DIALECT_KEY])
        for facts in entries
        if facts.get(ADAPTER_KEY) is None and choice.is_dialect_without_adapter(facts.get(DIALECT_KEY))
    ]
    if dialects and choice.default is not None:
        heading = f"{len(dialects)} entries have a dialect without an adapter and are spoken by {choice.default}"
        print(*listed(heading, list(dict.fromkeys(dialects))), sep="\n", file=sys.stderr)

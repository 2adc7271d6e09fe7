"""What a condition (``--where``) may name of utterances and records, and which of them it keeps."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from arabic_text.normalise import count_letters
from boson_multimodal.cloning_example import text_to_speak
from boson_multimodal.data_types import parse_sample
from boson_multimodal.errors import InputError, raise_if_any
from voice_cloning.corpora.utterances import Cell, Member, Utterance
from voice_cloning.corpora.where import Condition, Value, is_equal, number_in, plain_value

SHOWN_VALUES, LONGEST_SHOWN = 10, 40

Item = TypeVar("Item")


class Values(Mapping[str, Any]):
    """The values of an utterance or record by name. Some are computed when they are asked for."""

    def __init__(self, given: Mapping[str, Any], computed: Mapping[str, Callable[[], Any]]) -> None:
        self._given, self._computed = given, computed

    def __getitem__(self, name: str) -> Any:
        return self._computed[name]() if name in self._computed else self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._computed, **self._given})

    def __len__(self) -> int:
        return len({**self._computed, **self._given})


def values_of_utterance(utterance: Utterance) -> Values:
    """Return what a condition may name of an utterance: its ``misc`` (dialect, gender ...) and these.

    ``utterance_id``, ``speaker``, ``text``, ``duration`` in seconds, ``characters`` (letters as they are scored:
    numbers as words, no diacritics), ``file`` (the name of the audio file, without its folder).
    """
    audio = utterance.audio
    return Values(
        utterance.misc,
        {
            "utterance_id": lambda: utterance.utterance_id,
            "speaker": lambda: utterance.speaker,
            "text": lambda: utterance.text,
            "duration": lambda: utterance.seconds,
            "characters": lambda: count_letters(utterance.text),
            "file": lambda: audio.name if isinstance(audio, Cell | Member) else utterance.file.name,
        },
    )


def values_of_record(record: Mapping[str, Any]) -> Values:
    """Return what a condition may name of a ChatML record: its ``misc`` and, of its target, these.

    ``sample_id``, ``speaker``, ``text``, ``duration`` in seconds, ``characters``, ``file``; as of an utterance. A
    record without a duration has none here.

    Raises:
        InputError: if it is no record, or has no target clip.
    """
    sample, problems = parse_sample(record)
    raise_if_any("--where: a record cannot be read", problems)
    target = next((clip for turn, clip in sample.clips() if sample.trains(turn)), None)
    if target is None:
        raise InputError("--where: a record has no target clip in an assistant turn")
    return Values(
        sample.misc,
        {
            "sample_id": lambda: sample.misc.get("sample_id"),
            "speaker": lambda: sample.speaker,
            "text": lambda: text_to_speak(sample),
            "duration": lambda: sample.misc.get("duration", target.duration),
            "characters": lambda: count_letters(text_to_speak(sample)),
            "file": lambda: (target.audio_url or "").replace("\\", "/").rpartition("/")[2],
        },
    )


@dataclass(frozen=True)
class Kept(Generic[Item]):
    """What a condition keeps.

    Attributes:
        kept, left_out: the items, in their order.
        facts: how many, and texts in the condition that no item has; one line each, for the user.
    """

    kept: list[Item]
    left_out: list[Item]
    facts: list[str]


def keep_where(
    items: Sequence[Item], condition: Condition, values_of: Callable[[Item], Mapping[str, Any]] = values_of_utterance
) -> Kept[Item]:
    """Divide utterances, or with :func:`values_of_record` records, by a condition.

    Raises:
        InputError: if it names a value that none has, with the names that exist; or if it keeps nothing, with the
            values that exist.
    """
    names: set[str] = set()
    counts: dict[str, Counter[Value | None]] = {name: Counter() for name in condition.names}
    kept, left_out, unknown = [], [], 0
    for item in items:
        values = values_of(item)
        names |= values.keys()
        asked = {name: values.get(name) for name in condition.names}  # each is computed once
        for name, value in asked.items():
            counts[name][plain_value(value)] += 1
        answer = condition.answer(asked)
        unknown += answer is None
        (kept if answer else left_out).append(item)
    _refuse_unknown_names(condition, names, counts)
    if items and not kept:
        shown = [f"{name}: {_shown_values(count)}" for name, count in counts.items()]
        raise_if_any(f"--where {condition.text}: keeps none of {len(items)}; there are these values", shown)
    because = f" ({unknown} of them because a value is missing)" if unknown else ""
    facts = [f"--where {condition.text}: keeps {len(kept)} of {len(items)}, leaves out {len(left_out)}{because}"]
    for name, text in dict.fromkeys(condition.literals):
        if not any(is_equal(value, text) for value in counts[name]):
            facts.append(f"--where: no {name} is {text!r}; there are {_shown_values(counts[name])}")
    return Kept(kept, left_out, facts)


def _refuse_unknown_names(
    condition: Condition, names: Collection[str], counts: Mapping[str, Counter[Value | None]]
) -> None:
    unknown = [name for name, count in counts.items() if count and count.keys() == {None}]
    raise_if_any(
        f"--where {condition.text}: names values that none has; there are {', '.join(sorted({*names} - {*unknown}))}",
        [f"{name}: no such value; a text is written in quotes: '{name}'" for name in unknown],
    )


def _shown_values(counts: Counter[Value | None]) -> str:
    """Return the most frequent values with their numbers; of many different numbers, the smallest and the largest."""
    found = Counter({value: count for value, count in counts.items() if value is not None})
    missing = f"; missing {counts[None]} times" if counts[None] else ""
    numbers = [number_in(value) for value in found]
    if len(found) > SHOWN_VALUES and None not in numbers:
        return f"{len(found)} different numbers from {min(numbers):g} to {max(numbers):g}{missing}"
    shown = [
        f"{str(value)[:LONGEST_SHOWN]!r} ({count})" if isinstance(value, str) else f"{value} ({count})"
        for value, count in found.most_common(SHOWN_VALUES)
    ]
    more = f" and {len(found) - SHOWN_VALUES} other ones" if len(found) > SHOWN_VALUES else ""
    return ", ".join(shown) + more + missing

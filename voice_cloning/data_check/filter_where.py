"""Divides the records of a filter by the condition of ``--where``, before a clip of them is measured."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from arabic_voice_cloning_dataset import read_json_records
from boson_multimodal.errors import InputError, result_or_message, visible
from voice_cloning.corpora.where import Condition
from voice_cloning.corpora.where_values import keep_where, values_of_record
from voice_cloning.data_check.filter_faults import Fault
from voice_cloning.data_check.filter_rules import WHERE
from voice_cloning.data_check.samples import CheckedSample

UNREADABLE = "cannot be read, or has no target clip"
Item = tuple[CheckedSample, Mapping[str, Any]]
"""A sample, and the values that a condition may name."""


@dataclass(frozen=True)
class Chosen:
    """The samples that a condition chooses.

    Attributes:
        samples: those that the other rules look at, in order: the kept ones, and those that cannot be read, so that
            the rule ``errors`` says why.
        faults: sample id -> why it is dropped, for each sample that is not kept.
        where: the condition, on one line.
    """

    samples: list[CheckedSample]
    faults: dict[str, Fault]
    where: str | None = None

    def with_faults(self, faults: Mapping[str, list[Fault]]) -> dict[str, list[Fault]]:
        """Return the faults that the other rules found, after those of the condition."""
        own = {sample_id: [fault, *faults.get(sample_id, ())] for sample_id, fault in self.faults.items()}
        return {**faults, **own}


def choose_samples(samples: Sequence[CheckedSample], where: str | None, announce: Callable[[str], object]) -> Chosen:
    """Divide samples by a condition; None keeps all.

    Args:
        samples: all samples of their files, in order.
        announce: is told what the condition keeps, and which of its texts no record has.

    Raises:
        InputError: if the condition cannot be read, names a value that no record has, or keeps nothing of a file.
    """
    if where is None:
        return Chosen(list(samples), {})
    condition = Condition.parse(where)
    paths = dict.fromkeys(sample.path for sample in samples)
    records = [record for path in paths for record in read_json_records(path)]
    items: list[Item] = []
    not_read: set[str] = set()
    for sample, record in zip(samples, records, strict=True):
        values, problem = result_or_message(partial(values_of_record, record))
        if problem is None:
            items.append((sample, values))
        else:
            not_read.add(sample.sample_id)
    divided = keep_where(items, condition, _values)
    kept = {sample.sample_id for sample, _ in divided.kept}
    _refuse_empty_files(samples, items, condition, kept)
    faults = {}
    for sample in samples:
        if sample.sample_id not in kept:
            detail = condition.text + (f" (the record {UNREADABLE})" if sample.sample_id in not_read else "")
            faults[sample.sample_id] = Fault(WHERE, WHERE, detail, text=sample.target_text)
    facts = [*divided.facts]
    if not_read:
        facts.append(f"--where: leaves out {len(not_read)} more, which cannot be read or have no target clip")
    announce(visible("\n".join(facts)))
    looked_at = [sample for sample in samples if sample.sample_id in kept or sample.sample_id in not_read]
    return Chosen(looked_at, faults, condition.text)


def _values(item: Item) -> Mapping[str, Any]:
    return item[1]


def _refuse_empty_files(
    samples: Sequence[CheckedSample], items: Sequence[Item], condition: Condition, kept: Container[str]
) -> None:
    """Refuse a condition that keeps something, but nothing of one of the files.

    Raises:
        InputError: naming each of these files, with the values that exist in it.
    """
    messages = []
    filled = {sample.path for sample in samples if sample.sample_id in kept}
    for path in dict.fromkeys(sample.path for sample in samples if sample.path not in filled):
        own = [item for item in items if item[0].path == path]
        _, why = result_or_message(partial(keep_where, own, condition, _values))
        messages.append(f"{path}: {why or f'--where {condition.text}: keeps nothing; each record {UNREADABLE}'}")
    if messages:
        raise InputError("\n".join([*messages, "nothing is written"]))

"""The rules by which samples are dropped: their names, their bounds, and the findings of the check that they take."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from boson_multimodal.constants import CODEC_SAMPLE_RATE
from boson_multimodal.errors import raise_if_any
from voice_cloning.corpora.pairing import REFERENCE_SECONDS
from voice_cloning.data_check.corpus_rules import LETTERS_PER_SECOND, RATE_DEVIATIONS
from voice_cloning.data_check.findings import ERRORS
from voice_cloning.data_check.sample_rules import (
    CLIPPED_SHARE,
    LEAST_ACTIVE_DBFS,
    MOST_SILENCE,
    SILENCE_AT_AN_END_SECONDS,
    TARGET_SECONDS,
)

LEAST_SNR_DB = 20.0
"""White noise 15 dB below speech measures about 20 dB, and clean speech without any pause 24 dB or more
(``python -m benchmarks.filtered_defects``)."""
LEAST_BAND_HZ = 7000.0
"""Keeps recordings at 16 kHz, which most Arabic corpora are, and drops those of a telephone."""
MOST_CER = 0.3

WHERE = "where"
"""The rule that applies if there is a condition, and only then."""
TRANSCRIPT, VOICE = "transcript", "reference_of_another_voice"
"""The rules that need a model."""
CONFLICTS, DUPLICATES, BOTH_SIDES = "conflicting_transcripts", "duplicates", "both_sides"
"""The rules that compare samples with each other."""


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        what: what is dropped, in words.
        bounds: fields of :class:`Bounds` that the rule reads.
        kinds: findings of the check that are a reason to drop a sample.
        is_between_samples: only samples that the rules before keep are compared with each other, so that none is
            dropped for the sake of one that is dropped itself.
    """

    what: str
    bounds: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    is_between_samples: bool = False


_OF_SIDES = ("speaker_in_train_and_eval", "utterance_in_train_and_eval")
RULES: dict[str, Rule] = {
    WHERE: Rule("records that a condition leaves out"),
    "errors": Rule(
        "records and clips that training refuses, and references that are their target",
        kinds=tuple(kind for kind in ERRORS if kind not in (*_OF_SIDES, "references_of_other_voices")),
    ),
    "length": Rule("clips that are too short or too long", ("target_seconds", "reference_seconds")),
    "speech_rate": Rule("texts that do not fit the length of their clip", ("rate_deviations", "letters_per_second")),
    "snr": Rule("noisy clips", ("min_snr",)),
    "bandwidth": Rule("clips without the upper frequencies", ("min_bandwidth",)),
    "clipping": Rule("clipped clips", ("max_clipped_share",)),
    "silence": Rule("clips with much silence", ("max_end_silence", "max_silence_share")),
    "level": Rule("very soft clips", ("min_level",)),
    VOICE: Rule("references of another voice than the target", kinds=(VOICE,)),
    TRANSCRIPT: Rule("texts that a recogniser does not hear", ("max_cer",)),
    CONFLICTS: Rule("one recording with two texts: both", kinds=(CONFLICTS,), is_between_samples=True),
    DUPLICATES: Rule("repeated samples, after the first one", kinds=("duplicate_samples",), is_between_samples=True),
    BOTH_SIDES: Rule(
        "evaluation samples with a speaker or an utterance of the training data",
        kinds=_OF_SIDES,
        is_between_samples=True,
    ),
}
"""Name -> rule, in the order in which the table shows them."""
CHOOSABLE = tuple(name for name in RULES if name != WHERE)
"""The rules that can be named, or left out."""


@dataclass(frozen=True)
class Range:
    """The values that a bound may have, and its words in ``--help``."""

    lowest: float
    highest: float
    unit: str
    what: str


RANGES: dict[str, Range] = {
    "target_seconds": Range(0, 3600, "S", "length: shortest and longest target, in seconds"),
    "reference_seconds": Range(0, 3600, "S", "length: shortest and longest reference, in seconds"),
    "rate_deviations": Range(0.1, 100, "K", "speech_rate: standard deviations around the median of the file"),
    "letters_per_second": Range(0, 1000, "X", "speech_rate: lowest and highest plausible rate of any speech"),
    "min_snr": Range(0, 120, "DB", "snr: least level of the loud frames above the noise floor"),
    "min_bandwidth": Range(
        0, CODEC_SAMPLE_RATE / 2, "HZ", "bandwidth: frequency that a clip must reach; the codec keeps 12000"
    ),
    "max_clipped_share": Range(0, 1, "X", "clipping: largest share of clipped samples"),
    "max_end_silence": Range(0, 3600, "S", "silence: longest silence at an end, in seconds"),
    "max_silence_share": Range(0, 1, "X", "silence: largest share of silence"),
    "min_level": Range(-120, 0, "DBFS", "level: least level of the loud frames"),
    "max_cer": Range(0, 10, "X", "transcript: largest character error rate between text and recognition"),
}
"""Field of :class:`Bounds` -> its range."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of the rules; a sample at a bound is kept. Most defaults are those of the check.

    Attributes:
        target_seconds, reference_seconds: shortest and longest clip.
        rate_deviations: standard deviations (from the median deviation) of the logarithm of letters per second.
        letters_per_second: plausible rates of any speech, lowest and highest.
        min_snr: dB between the loud frames and the noise floor.
        min_bandwidth: Hz that a clip reaches.
        max_clipped_share: share of the samples in flat tops.
        max_end_silence: seconds of silence at one end.
        max_silence_share: share of silences of 0.2 s or more.
        min_level: dBFS of the loud frames.
        max_cer: character errors per character of the text.

    Raises:
        InputError: naming each bound that is out of its range.
    """

    target_seconds: tuple[float, float] = TARGET_SECONDS
    reference_seconds: tuple[float, float] = REFERENCE_SECONDS
    rate_deviations: float = RATE_DEVIATIONS
    letters_per_second: tuple[float, float] = LETTERS_PER_SECOND
    min_snr: float = LEAST_SNR_DB
    min_bandwidth: float = LEAST_BAND_HZ
    max_clipped_share: float = CLIPPED_SHARE
    max_end_silence: float = SILENCE_AT_AN_END_SECONDS
    max_silence_share: float = MOST_SILENCE
    min_level: float = LEAST_ACTIVE_DBFS
    max_cer: float = MOST_CER

    def __post_init__(self) -> None:
        raise_if_any("bounds of the rules", [p for f in fields(self) for p in _problems(f.name, getattr(self, f.name))])

    def values(self) -> dict[str, Any]:
        """Return name -> bound, as JSON holds it."""
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}


def _problems(name: str, value: float | tuple[float, float]) -> list[str]:
    """Return what is wrong with a bound."""
    held = RANGES[name]
    values = value if isinstance(value, tuple) else (value,)
    shown = " ".join(f"{v:g}" for v in values)
    problems = []
    if not all(math.isfinite(v) and held.lowest <= v <= held.highest for v in values):
        problems.append(f"--{name} {shown}: must be from {held.lowest:g} to {held.highest:g}")
    elif len(values) == 2 and values[0] >= values[1]:
        problems.append(f"--{name} {shown}: the first must be below the second")
    return problems


def chosen_rules(
    named: Sequence[str] | None, without: Sequence[str] = (), has_condition: bool = False
) -> tuple[str, ...]:
    """Return the names of the rules that apply, in the order of ``RULES``.

    Args:
        named: the rules to apply; None takes all.
        without: rules to leave out.
        has_condition: the rule ``where`` applies too.

    Raises:
        InputError: naming each name that is no rule; or if no rule is left.
    """
    flags = [("--rules", name) for name in named or ()] + [("--without", name) for name in without]
    raise_if_any(
        "names of rules", [f"{flag} {name}: {_nearest(name)}" for flag, name in flags if name not in CHOOSABLE]
    )
    chosen = tuple(name for name in CHOOSABLE if (named is None or name in named) and name not in without)
    chosen = (WHERE, *chosen) if has_condition else chosen
    raise_if_any("--rules, --without", [] if chosen else ["no rule is left; nothing would be dropped"])
    return chosen


def _nearest(name: str) -> str:
    if name == WHERE:
        return "cannot be chosen: it applies if --where CONDITION is given"
    near = difflib.get_close_matches(name.casefold().replace("-", "_"), CHOOSABLE, 1)
    known = f"it must be one of {', '.join(CHOOSABLE)}"
    return f"no such rule; do you mean {near[0]}? {known}" if near else f"no such rule; {known}"


def bounds_of(given: Mapping[str, Any], rules: Sequence[str]) -> Bounds:
    """Return the bounds with those that the user gave.

    Args:
        given: field of :class:`Bounds` -> value; None stands for the default.
        rules: the rules that apply.

    Raises:
        InputError: if a bound is out of its range, or belongs to a rule that does not apply.
    """
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    rule_of = {bound: name for name, rule in RULES.items() for bound in rule.bounds}
    unused = [
        f"--{name}: a bound of the rule {rule_of[name]}, which does not apply; leave it out, or apply the rule"
        for name in own
        if rule_of[name] not in rules
    ]
    problems = [problem for name, value in own.items() for problem in _problems(name, value)]
    raise_if_any("bounds of the rules", [*problems, *unused])
    return replace(Bounds(), **own)


def shown_bounds(rule: str, bounds: Bounds) -> str:
    """Return the bounds of a rule as flags; empty for a rule without any."""
    return " ".join(f"--{name} {shown_value(getattr(bounds, name))}" for name in RULES[rule].bounds)


def shown_value(value: float | tuple[float, float]) -> str:
    """Return a bound as the command line takes it."""
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"

"""Writes the card of built data: what they are, their licence, how much there is, what was left out, and how."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from voice_cloning.corpora.card_licences import BUILT_CARD
from voice_cloning.corpora.known_corpora import licence_facts
from voice_cloning.corpora.utterances import Collection, Utterance, speakers_of

COUNTED_BY = ("dialect", "country", "gender", "environment", "split")
"""Attributes by which the card counts utterances, if the source has them."""
NOT_NAMED = "not named"


def data_card(collection: Collection, summary: Mapping[str, Any], source_name: str, licence: str | None) -> str:
    """Return the card as Markdown. It depends on the data and settings only.

    Args:
        summary: what ``build_summary.json`` holds.
        source_name: the name of the source, without its folder.
        licence: the licence that the user states.
    """
    usable = collection.usable()
    corpus = collection.corpus
    lines = [f"{BUILT_CARD} {corpus.name if corpus else source_name}", ""]
    lines += [f"Built from `{source_name}`, read as {collection.form}.", "", "## Licence", ""]
    lines += [f"- {fact}" for fact in licence_facts(corpus, licence, collection.licences)]
    lines.append("- The licence of the source also holds for these files, and may hold for models trained with them.")
    lines += ["", "## Content", "", "| | samples | speakers | hours |", "|---|---|---|---|"]
    for side, title in (("train", "training"), ("val", "evaluation")):
        found = summary[side]
        lines.append(f"| {title} | {found['samples']} | {found['speakers']} | {found['hours']:.3f} |")
    lines += ["", f"The source has {len(usable)} utterances that can be used, of {len(speakers_of(usable))} speakers."]
    for name in COUNTED_BY:
        lines += _counts(usable, name)
    lines += ["", "## Left out", ""]
    left = {**summary["left_aside"], **summary["left_out"]}
    lines += [f"- {reason.replace('_', ' ')}: {len(places)}" for reason, places in left.items() if places]
    lines += ["Nothing."] if not any(left.values()) else []
    lines += ["", "## How the source was read", "", *(f"- {fact}" for fact in collection.facts)]
    settings = ", ".join(f"`{name}` {value}" for name, value in summary["settings"].items())
    lines += ["", f"Settings: {settings}.", ""]
    return "\n".join(lines)


def _counts(utterances: Sequence[Utterance], name: str) -> list[str]:
    """Return a table of the utterances by the values of an attribute; nothing if no utterance has it."""
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[str(utterance.misc.get(name, NOT_NAMED))].append(utterance)
    if groups.keys() <= {NOT_NAMED}:
        return []
    lines = ["", f"| {name} | utterances | speakers | hours |", "|---|---|---|---|"]
    for value, own in sorted(groups.items()):
        hours = sum(utterance.seconds for utterance in own) / 3600
        lines.append(f"| {value.replace('|', '/')} | {len(own)} | {len(speakers_of(own))} | {hours:.3f} |")
    return lines

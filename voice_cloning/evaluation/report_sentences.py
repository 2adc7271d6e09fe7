"""The sentences of the report page: players of all clips, the recogniser's mistakes marked, keys for the sorting."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from voice_cloning.evaluation.page_parts import visible
from voice_cloning.evaluation.report_clips import PageClips
from voice_cloning.evaluation.report_figures import is_number
from voice_cloning.evaluation.report_form import Report

MEASURES = {
    "error": ("word errors", True),
    "length": ("length ratio", True),
    "sim": ("SIM", False),
    "mos": ("MOS", False),
}
"""Name of a sorting key -> its words, and whether larger is worse. ``id`` is a further key, which always exists."""
FAILED_ERROR = 0.5
"""From this share of wrong words on, a clip counts as failed."""
FAILED_RATIO = 2.0
"""Longer than this multiple of the true length, or shorter than its inverse, a clip counts as failed."""
FAILURE = (
    "A failure: the clip did not end by itself, at least half of its words are wrong, or it is more than twice or less "
    "than half as long as the true recording."
)
LARGEST_KEY = 1e6
"""In the place of an infinite key: JSON has none."""
HAS_ARABIC = re.compile(r"[\u0600-\u06ff\u0750-\u077f\u0870-\u08ff\ufb50-\ufdff\ufe70-\ufeff]")


def error_share(clips: Iterable[Report], normalisation: str) -> float | None:
    """Return the word errors of clips as a share of their words; None if they were not counted."""
    counted = [clip["errors"][normalisation] for clip in clips if normalisation in clip["errors"]]
    if not counted:
        return None
    return sum(c["word_errors"] for c in counted) / max(1, sum(c["words"] for c in counted))


def _length_key(clip: Report) -> float | None:
    """Return how far a clip's length ratio is from 1, shorter or longer: 0 for 1, more for 0.5 and for 2."""
    ratio = clip["length_ratio"]
    if not is_number(ratio):
        return None
    return abs(math.log(ratio)) if ratio > 0 else LARGEST_KEY


def _similarity(clip: Report) -> float | None:
    found = (clip["sim_reference"], clip["sim_recording"])
    return next((value for value in found if is_number(value)), None)


def has_failed(clip: Report, normalisation: str) -> bool:
    """Return whether a clip is a failure, as ``FAILURE`` says it."""
    error, length = error_share([clip], normalisation), _length_key(clip)
    too_many = error is not None and error >= FAILED_ERROR
    return clip["ended"] is False or too_many or (length is not None and length > math.log(FAILED_RATIO))


def _worst(values: Iterable[float | None], larger_is_worse: bool) -> float | None:
    found = [value for value in values if is_number(value)]
    return None if not found else max(found) if larger_is_worse else min(found)


class Sentence:
    """One sentence of the test set with what all models made of it.

    Args:
        item: its entry in ``items``.
        names: the names of the models.
        normalisation: that of the errors by which sentences are sorted.

    Attributes:
        keys: measure -> [the worst of all models, then that of each model]; None where it was not measured.
        failed: [whether any model failed, then each model].
    """

    def __init__(self, item: Report, names: Sequence[str], normalisation: str) -> None:
        self.item = item
        self.clips = [item["clips"].get(name, []) for name in names]
        of_each = {
            "error": [error_share(clips, normalisation) for clips in self.clips],
            "length": [_worst(map(_length_key, clips), True) for clips in self.clips],
            "sim": [_worst(map(_similarity, clips), False) for clips in self.clips],
            "mos": [_worst((clip["mos"] for clip in clips), False) for clips in self.clips],
        }
        self.keys = {name: [_worst(of, MEASURES[name][1]), *of] for name, of in of_each.items()}
        failed = [any(has_failed(clip, normalisation) for clip in clips) for clips in self.clips]
        self.failed = [any(failed), *failed]


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts ``s10`` after ``s9``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def sorted_by(sentences: Sequence[Sentence], measure: str) -> list[Sentence]:
    """Return the sentences with the worst first by the worst model; those without the measure last, ties by id."""
    by_id = sorted(sentences, key=lambda sentence: natural_order(sentence.item["id"]))
    if measure == "id":
        return by_id
    sign = -1.0 if MEASURES[measure][1] else 1.0

    def key(sentence: Sentence) -> tuple[bool, float]:
        value = sentence.keys[measure][0]
        return (True, 0.0) if value is None else (False, sign * value)

    return sorted(by_id, key=key)


class SentenceList:
    """Makes the list items of the page.

    Args:
        report: the content of report.json.
        players: the addresses of its clips.
        normalisation: as in :class:`Sentence`.
    """

    def __init__(self, report: Report, players: PageClips, normalisation: str) -> None:
        self.names = [system["name"] for system in report["systems"]]
        self.several_seeds = len(report["seeds"] or [0]) > 1
        self.players = players
        self.normalisation = normalisation
        self.choices = {
            field: list(dict.fromkeys(item[field] for item in report["items"] if item[field] is not None))
            for field in ("speaker", "dialect", "kind")
        }

    def item(self, sentence: Sentence, rank: int) -> str:
        """Return one sentence. ``rank`` is its place by id."""
        item = sentence.item
        who = [f"<bdi>{visible(item['id'])}</bdi>"]
        data = ""
        for field, choices in self.choices.items():
            if item[field] is not None:
                who.append(f"<span class='soft'>{field} <bdi>{visible(str(item[field]))}</bdi></span>")
                data += f" data-{field}='{choices.index(item[field])}'"
        keys, failed = (escape(json.dumps(value)) for value in (sentence.keys, sentence.failed))
        given = self._given(item)
        clips = f"<div class='players'>{given}</div>" if given else ""
        spoken = [
            self._spoken(item["id"], number, name, clip)
            for number, (name, of_model) in enumerate(zip(self.names, sentence.clips, strict=True))
            for clip in of_model
        ]
        clips += f"<div class='players'>{''.join(spoken)}</div>"
        return (
            f'<li data-rank="{rank}" data-keys="{keys}" data-failed="{failed}"{data}><p class="who">{"".join(who)}</p>'
            f"{_paragraph(item['text'])}{clips}</li>"
        )

    def _given(self, item: Report) -> str:
        """Return the reference, the true recording, and what else the report judges for its scales."""
        paths = {"Reference": item["reference"], "True recording": item["recording"]}
        shown: dict[str, tuple[str | None, Report | None]]
        shown = {title: (path, None) for title, path in paths.items() if path}
        for name, clip in item["scales"].items():
            of_recording = "True recording" in shown and clip["audio"] == item["recording"]
            shown["True recording" if of_recording else name] = (clip["audio"], clip)
        return "".join(self._given_clip(title, path, clip, item["id"]) for title, (path, clip) in shown.items())

    def _given_clip(self, title: str, path: str | None, clip: Report | None, sentence_id: str) -> str:
        player = self._player(path, title, sentence_id) if path else ""
        told = f"<p class='soft'>{self._measured(clip)}</p>{_heard(clip)}" if clip else ""
        return f"<figure class='given'><figcaption>{visible(title)}</figcaption>{player}{told}</figure>"

    def _spoken(self, sentence_id: str, number: int, name: str, clip: Report) -> str:
        title = f"{name}, seed {clip['seed']}" if self.several_seeds else name
        player = "<p class='soft'>no waveform: codes only</p>"
        if clip["audio"]:
            player = self._player(clip["audio"], title, sentence_id)
        failed = " failed" if has_failed(clip, self.normalisation) else ""
        return (
            f"<figure class='spoken{failed}' data-system='{number}'>"
            f"<figcaption><bdi>{visible(title)}</bdi></figcaption>{player}"
            f"<p class='soft'>{self._measured(clip)}</p>{_heard(clip)}</figure>"
        )

    def _player(self, path: str, title: str, sentence_id: str) -> str:
        address = self.players.address(path, sentence_id)
        if not address:
            return f"<p class='mark bad'>{visible(self.players.problems[path])}</p>"
        label = escape(f"{title} of {sentence_id}")
        return f'<audio controls preload="none" aria-label="{label}" src="{escape(address)}"></audio>'

    def _measured(self, clip: Report) -> str:
        """Return what was measured of one clip, as HTML."""
        parts = []
        if clip["ended"] is not None:
            parts.append("ended by itself" if clip["ended"] else "<span class='mark bad'>did not end by itself</span>")
        if is_number(clip["length_ratio"]):
            parts.append(f"length ratio {clip['length_ratio']:.2f}")
        if is_number(clip["seconds"]):
            true = f" for {clip['true_seconds']:.2f} s" if is_number(clip["true_seconds"]) else ""
            parts.append(f"{clip['seconds']:.2f} s{true}")
        counts: dict[str, list[str]] = {}
        for normalisation, errors in clip["errors"].items():
            counts.setdefault(f"{errors['word_errors']} wrong of {errors['words']} words", []).append(normalisation)
        for text, under in counts.items():
            parts.append(text if len(counts) == 1 else f"{text} ({visible(', '.join(under))})")
        for field, title in (("sim_reference", "SIM"), ("sim_recording", "SIM to the recording"), ("mos", "MOS")):
            if is_number(clip[field]):
                parts.append(f"{title} {clip[field]:.2f}")
        return "; ".join(parts)


def _paragraph(text: str) -> str:
    """Return a text in its direction. Test sets of what the base could do before may hold other languages."""
    direction = 'dir="rtl" lang="ar"' if HAS_ARABIC.search(text) else 'dir="auto"'
    return f'<p class="text" {direction}>{visible(text)}</p>' if text else ""


def _heard(clip: Report) -> str:
    """Return what the recogniser heard, its mistakes marked: what is missing struck out, what is new underlined."""
    recognised = clip["recognised"]
    if recognised is None:
        return ""
    words = [_marked(*triple) for triple in clip["alignment"]] or [visible(recognised)]
    if not recognised.strip():
        words.insert(0, '<span class="soft" dir="ltr" lang="en">nothing was recognised</span>')
    whole = " ".join([recognised, *(word for triple in clip["alignment"] for word in triple[1:] if word)])
    direction = 'dir="rtl" lang="ar"' if HAS_ARABIC.search(whole) else 'dir="auto"'
    return f'<p class="text heard" {direction}>{" ".join(words)}</p>'


def _marked(operation: str, wanted: str | None, heard: str | None) -> str:
    missing = f"<del>{visible(wanted)}</del>" if wanted and operation != "equal" else ""
    new = f"<ins>{visible(heard)}</ins>" if heard and operation != "equal" else ""
    return visible(heard or wanted or "") if operation == "equal" else f"{missing}{' ' if missing and new else ''}{new}"

"""Writes report.html from the content of report.json: one page without network or script, with players for clips.

The page is beside report.json. Its players find the clips by relative paths, so that it opens from disk (``file://``).
All data are escaped, and the page's security policy forbids scripts and network addresses, so that a transcript is
always shown as text.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from boson_multimodal.whole_files import write_whole
from voice_cloning.data_check.report_plots import characters_grid, histogram, speakers_table
from voice_cloning.evaluation.page_parts import facts, number, page_style, visible

PAGE_FILE = "report.html"
TEMPLATE_FILE = Path(__file__).with_name("report_page.html")
TITLE = "Check of the training data"
SAMPLES_SHOWN = 50
"""Samples of one finding on the page; the others are counted, and report.json holds their ids."""
SAMPLES_AT_ONCE = 10
"""Samples of these that are shown open."""
EMBEDDED_BYTES = 16 * 2**20
"""Size of embedded audio in one page, from records that hold their audio; with more, browsers open the page slowly."""

Report = dict[str, Any]


def write_page(report: Report, folder: Path) -> Path:
    """Write ``report.html``.

    Args:
        report: the content of report.json: ``errors``, ``warnings``, ``summary`` and ``samples``. In ``samples``,
            ``audio`` and ``reference`` are paths, or ``data:`` addresses of audio that the record holds. Optional are
            ``text``, ``reference_text``, ``speaker``, ``seconds``, ``reference_seconds``, and ``offset`` and
            ``reference_offset``, the start of a cut in its file.
        folder: the folder to write to; it must exist.

    Returns:
        The path of the written file.
    """
    errors, warnings, summary = report["errors"], report["warnings"], report["summary"]
    samples = _Samples(report.get("samples", {}), folder)
    page = Template(TEMPLATE_FILE.read_text(encoding="utf-8")).substitute(
        title=TITLE,
        style=page_style(),
        verdict=_verdict(errors, warnings),
        files=_files(summary),
        navigation=f'<a href="#errors">Errors ({len(errors)})</a><a href="#warnings">Warnings ({len(warnings)})</a>'
        '<a href="#summary">Summary</a>',
        errors="\n".join(_finding(f, "error", samples) for f in errors) or '<p class="soft">None.</p>',
        warnings="\n".join(_finding(f, "warning", samples) for f in warnings) or '<p class="soft">None.</p>',
        summary="\n".join(_summary(summary)),
    )
    path = folder / PAGE_FILE
    # errors="replace" is for lone surrogates in paths; texts show them as numbers.
    write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def _verdict(errors: Sequence[Report], warnings: Sequence[Report]) -> str:
    warned = f"{len(warnings)} {'kind' if len(warnings) == 1 else 'kinds'} of warning"
    if errors:
        kinds = "kind" if len(errors) == 1 else "kinds"
        return f'<p class="verdict bad">{len(errors)} {kinds} of error: correct these before training. {warned}.</p>'
    if warnings:
        return f'<p class="verdict warn">No errors. {warned}: listen, then decide.</p>'
    return '<p class="verdict good">No errors and no warnings.</p>'


def _files(summary: Report) -> str:
    items = [
        f"<li><bdi>{visible(str(file['path']))}</bdi> <span class='soft'>{_file_facts(file)}</span></li>"
        for file in summary.get("files", [])
    ]
    return f"<ul class='files'>{''.join(items)}</ul>"


def _file_facts(file: Report) -> str:
    side = f"{file['side']}, " if "side" in file else ""
    hours = f", {number(file['hours'])} h" if "hours" in file else ""
    return f"{side}{number(file['samples'])} samples{hours}"


def _finding(finding: Report, severity: str, samples: "_Samples") -> str:
    """Return one kind of error (open) or warning (closed): the advice, then the samples."""
    ids, count = finding["sample_ids"], finding["count"]
    title = visible(finding["kind"].replace("_", " ").capitalize())
    share = finding.get("hours_share")
    size = f"{number(count)} {'sample' if count == 1 else 'samples'}"
    size += "" if share is None else f", {100 * share:.1f} % of the hours"
    details = finding.get("details", {})
    shown = [samples.item(sample_id, details.get(sample_id, "")) for sample_id in ids[:SAMPLES_SHOWN]]
    body = f"<ul class='samples'>{''.join(shown[:SAMPLES_AT_ONCE])}</ul>" if shown else ""
    if more := shown[SAMPLES_AT_ONCE:]:
        body += f"<details class='more'><summary>{len(more)} more</summary><ul class='samples'>{''.join(more)}</ul>"
        body += "</details>"
    if count > len(shown):
        body += f"<p class='soft'>{number(count - len(shown))} further samples are listed in report.json only.</p>"
    return (
        f'<details class="finding {severity}" id="{severity}-{quote(finding["kind"], safe="")}"'
        f"{' open' if severity == 'error' else ''}><summary><h3>{title}</h3><span class='soft'>{size}</span></summary>"
        f"<div class='inside'><p>{visible(finding['advice'])}</p>{body}</div></details>"
    )


class _Samples:
    """Makes list items with players from the samples of findings.

    Args:
        samples: ``report["samples"]``.
        folder: the folder of the page.
    """

    def __init__(self, samples: dict[str, Report], folder: Path) -> None:
        self.samples = samples
        self.folder = folder
        self.embedded = 0

    def item(self, sample_id: str, detail: str) -> str:
        """Return one sample: its id, speaker, finding, texts and players; an unknown sample has only its id."""
        sample = self.samples.get(sample_id, {})
        seconds, speaker = sample.get("seconds"), sample.get("speaker")
        who = [f"<bdi>{visible(str(sample_id))}</bdi>"]
        if speaker is not None:
            who.append(f"<span class='soft'>speaker <bdi>{visible(str(speaker))}</bdi></span>")
        if seconds is not None:
            who.append(f"<span class='soft'>{seconds:.2f} s</span>")
        clips = self._clip(sample_id, sample, "Target", "audio", "")
        clips += self._clip(sample_id, sample, "Reference", "reference", "reference_")
        found = f"<p class='soft'>{visible(detail)}</p>" if detail else ""
        return f"<li><p class='who'>{''.join(who)}</p>{found}<div class='players'>{clips}</div></li>"

    def _clip(self, sample_id: str, sample: Report, title: str, field: str, prefix: str) -> str:
        """Return the text and the player of one of a sample's clips, or a note if the clip cannot be played."""
        source, text = sample.get(field), _text(sample.get(f"{prefix}text"))
        if not source:
            return text
        if not source.startswith("data:") and not os.path.exists(source):  # also a text that cannot be a path
            note = f"<p class='soft'>not there: {visible(source)}</p>"
            return f"<figure><figcaption>{title}</figcaption>{note}{text}</figure>"
        address = self._address(source, sample.get(f"{prefix}offset"), sample.get(f"{prefix}seconds"))
        label = escape(f"{title} of {sample_id}")
        player = f'<audio controls preload="none" aria-label="{label}" src="{escape(address)}"></audio>'
        if not address:
            player = "<p class='soft'>the record itself holds this clip, which is too long for this page</p>"
        return f"<figure><figcaption>{title}</figcaption>{player}{text}</figure>"

    def _address(self, source: str, offset: float | None, seconds: float | None) -> str:
        """Return the address that the player loads; it is empty for embedded audio that is too large for the page."""
        if source.startswith("data:"):
            self.embedded += len(source)
            return source if self.embedded <= EMBEDDED_BYTES else ""
        # The kernel follows links before "..", but browsers do not: the path must not hold links.
        relative = os.path.relpath(os.path.realpath(source), os.path.abspath(self.folder))
        cut = ""
        if offset is not None:
            cut = f"#t={offset:g}" + ("" if seconds is None else f",{offset + seconds:g}")
        return quote(os.fsencode(relative)) + cut


def _text(text: str | None) -> str:
    return f'<p class="text" dir="rtl" lang="ar">{visible(text)}</p>' if text else ""


def _summary(summary: Report) -> list[str]:
    """Return the parts of the summary that exist, in their order on the page."""
    parts = [_facts(summary)]
    if codes := summary.get("codes"):
        told = {name.replace("_", " "): value for name, value in codes.items()}
        parts.append(f"<div class='card'><h3>Checked from codes</h3>{facts(told)}</div>")
    if histograms := summary.get("histograms"):
        plots = [histogram(name, h["edges"], h["counts"]) for name, h in histograms.items()]
        parts.append(f"<div class='plots'>{''.join(plots)}</div>")
    if speakers := summary.get("speakers"):
        parts.append(f"<div class='card'><h3>Speakers</h3>{speakers_table(speakers)}</div>")
    if characters := summary.get("characters"):
        parts.append(f"<div class='card'><h3>Characters of the texts</h3>{characters_grid(characters)}</div>")
    if settings := summary.get("settings"):
        parts.append(f"<div class='card'><h3>Settings of this check</h3>{facts(settings)}</div>")
    return parts


def _facts(summary: Report) -> str:
    """Return the single figures of the summary."""
    names = {
        "hours": "Hours",
        "clips": "Clips",
        "tokens": "Text tokens",
        "frames": "Audio frames (25 per second)",
        "positions": "Positions per sample",
        "native_rates": "Clips by native rate (Hz)",
        "expected_steps": "Optimizer steps expected",
        "memory_class": "Memory expected",
        "voices": "Voices",
    }
    found = {title: summary[name] for name, title in names.items() if summary.get(name) is not None}
    return f"<div class='card'>{facts(found)}</div>"

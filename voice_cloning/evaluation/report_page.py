"""Writes report.html from report.json: figures of all models with intervals, plots, groups, and sentences to listen to.

The page opens from disk without network. Its only script is its own: the security policy names it by its hash, so that
no text of the data can become another one.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation.page_parts import facts, number, page_style, visible
from voice_cloning.evaluation.report_clips import EMBEDDED_BYTES, KILOBITS_PER_SECOND, PageClips
from voice_cloning.evaluation.report_figures import is_number
from voice_cloning.evaluation.report_form import REPORT_FILE, Report, read_report
from voice_cloning.evaluation.report_plots import interval_plots, spread_plots
from voice_cloning.evaluation.report_sentences import FAILURE, MEASURES, Sentence, SentenceList, error_share, sorted_by
from voice_cloning.evaluation.report_tables import groups_tables, selection_marks, selection_steps, systems_tables

PAGE_FILE = "report.html"
TEMPLATE_FILE = Path(__file__).with_name("report_page.html")
SCRIPT_FILE = Path(__file__).with_name("report_page.js")
SENTENCES_AT_ONCE = 100
"""Sentences that are shown before the reader asks for more. With 4,000 players shown, sorting took Chromium 12 s."""


def write_page(folder: Path) -> Path:
    """Write ``report.html`` beside ``report.json``. The same report and clips give the same bytes.

    Args:
        folder: the folder of report.json; the paths in it are relative to this folder.

    Returns:
        The path of the written file.

    Raises:
        InputError: if report.json is missing or damaged, or has another form.
    """
    report = read_report(folder / REPORT_FILE)
    normalisation = (report["normalisations"] or ["scoring"])[0]
    names = [system["name"] for system in report["systems"]]
    sentences = [Sentence(item, names, normalisation) for item in report["items"]]
    measures = [name for name in MEASURES if any(s.keys[name][0] is not None for s in sentences)]
    order = sorted_by(sentences, (measures or ["id"])[0])
    players = PageClips(folder, [sentence.item for sentence in order])
    sections = [
        ("models", "Models", _models(report, normalisation)),
        ("retention", "What the base could do before", _retention(report["retention"])),
        ("groups", "Groups of sentences", groups_tables(report["systems"], report["lengths"])),
        ("sentences", "Sentences", _sentences(report, order, measures, players, normalisation)),
        ("settings", "Settings of this evaluation", _settings(report)),
    ]
    sections = [section for section in sections if section[2]]
    script = SCRIPT_FILE.read_text(encoding="utf-8")
    page = Template(TEMPLATE_FILE.read_text(encoding="utf-8")).substitute(
        title=visible(report["title"]),
        style=page_style(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        subtitle=_subtitle(report),
        warnings=_warnings(report["warnings"], players),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        sections="\n".join(_section(*section) for section in sections),
        clips=_clips(players),
    )
    path = folder / PAGE_FILE
    # errors="replace" is for lone surrogates in paths; texts show them as numbers.
    write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def _section(name: str, title: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n{content}\n</section>'
    )


def _subtitle(report: Report) -> str:
    found = report["set"]
    parts = [f"<bdi>{visible(str(found['name']))}</bdi>"] if found["name"] is not None else []
    for field, one, many in (("sentences", "sentence", "sentences"), ("speakers", "speaker", "speakers")):
        if is_number(found[field]):
            parts.append(f"{number(found[field])} {one if found[field] == 1 else many}")
    return f"<p>{', '.join(parts)}</p>"


def _warnings(warnings: Sequence[str], players: PageClips) -> str:
    """Return the warnings of the evaluation, and a further one if clips cannot be played."""
    told = [visible(str(warning)) for warning in warnings]
    if players.problems:
        paths = list(players.problems)
        others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        told.append(f"Clips that cannot be played: {visible(paths[0])}{others}")
    if not told:
        return ""
    return f"<div class='verdict warn'>Warnings<ul class='notes'>{''.join(f'<li>{t}</li>' for t in told)}</ul></div>"


def _models(report: Report, normalisation: str) -> str:
    systems, scales = report["systems"], report["scales"]
    selection = report["selection"]
    marks = selection_marks(selection) if selection else {}
    tables = systems_tables(systems, scales, "Figures of the models", marks)
    chosen = selection_steps(selection) if selection else ""
    plots = interval_plots(systems, scales) + spread_plots(systems, _spreads(report, normalisation))
    confidence = report["confidence"]
    share = f"{100 * confidence:g} % interval" if is_number(confidence) else "interval"
    compared = any(system["differences"] for system in systems)
    note = f"Below each value its {share}"
    note += "; below that the paired difference against the base. " if compared else ". "
    if compared:
        note += "A difference is unclear where its interval holds 0."
    return (
        f"<div class='stack'><p class='soft'>{note}</p><div class='card'>{tables}</div>"
        f"{chosen}<div class='plots'>{plots}</div></div>"
    )


def _spreads(report: Report, normalisation: str) -> dict[str, list[list[float]]]:
    """Return what spreads over the clips: title -> for each model the values of its clips."""
    spreads: dict[str, list[list[float]]] = {
        "Word errors per clip (%)": [],
        "Length ratio per clip": [],
        "SIM to the reference per clip": [],
    }
    for system in report["systems"]:
        clips = [clip for item in report["items"] for clip in item["clips"].get(system["name"], [])]
        shares = [error_share([clip], normalisation) for clip in clips]
        found = (
            [None if share is None else 100.0 * share for share in shares],
            [clip["length_ratio"] for clip in clips],
            [clip["sim_reference"] for clip in clips],
        )
        for values, of_all in zip(found, spreads.values(), strict=True):
            of_all.append([value for value in values if is_number(value)])
    return spreads


def _retention(retention: Report | None) -> str:
    """Return the same table for the set of what the base could do before; nothing without one."""
    if not retention:
        return ""
    note = "Below each value the change against the base: what was forgotten shows here."
    tables = systems_tables(retention["systems"], {}, "Figures of what the base could do before")
    plots = interval_plots(retention["systems"], {})
    return (
        f"<div class='stack'>{_subtitle(retention)}<p class='soft'>{note}</p><div class='card'>{tables}</div>"
        f"<div class='plots'>{plots}</div></div>"
    )


def _sentences(
    report: Report, order: Sequence[Sentence], measures: Sequence[str], players: PageClips, normalisation: str
) -> str:
    if not order:
        return ""
    ranks = {id(sentence): rank for rank, sentence in enumerate(sorted_by(order, "id"))}
    maker = SentenceList(report, players, normalisation)
    items = [maker.item(sentence, ranks[id(sentence)]) for sentence in order]
    first, further = ("\n".join(part) for part in (items[:SENTENCES_AT_ONCE], items[SENTENCES_AT_ONCE:]))
    further = further and f'<template id="further-sentences">\n{further}\n</template>'
    legend = (
        "<p class='soft'>What the recogniser heard: <del>struck out</del> is what it missed, <ins>underlined</ins> "
        "what it heard instead or in addition.</p>"
        if any(clip["recognised"] is not None for s in order for clips in s.clips for clip in clips)
        else ""
    )
    controls = _controls(maker, measures)
    return (
        f'{controls}{legend}<p class="soft">{FAILURE}</p>\n<ul id="sentence-list" data-at-once="{SENTENCES_AT_ONCE}">\n'
        f'{first}\n</ul>{further}<p><button type="button" id="more" hidden></button></p>'
    )


def _controls(maker: SentenceList, measures: Sequence[str]) -> str:
    """Return the buttons that sort and the fields that filter; the script shows them."""
    buttons = [(name, MEASURES[name][0], "largest" if MEASURES[name][1] else "smallest") for name in measures]
    buttons.append(("id", "id", "smallest"))
    sort = "".join(
        f'<button type="button" data-sort="{name}" data-worst="{worst}" aria-pressed="false">{title}<span></span>'
        "</button>"
        for name, title, worst in buttons
    )
    names = {str(index): name for index, name in enumerate(maker.names)}
    fields = _select("filter-system", "Model", {"-1": "all", **names})
    for field, choices in maker.choices.items():
        if len(choices) > 1:
            values = {str(index): str(choice) for index, choice in enumerate(choices)}
            fields += _select(f"filter-{field}", field.capitalize(), {"": "all", **values})
    fields += "<label><input type='checkbox' id='only-failures'> Only failures</label>"
    return (
        f'<div id="controls" class="card" hidden><div class="buttons" role="group" aria-label="Sort the sentences">'
        f'Sort by {sort}</div>{fields}<span id="shown" role="status" class="soft"></span></div>'
    )


def _select(name: str, title: str, options: dict[str, str]) -> str:
    listed = "".join(f'<option value="{value}">{escape(_one_line(text))}</option>' for value, text in options.items())
    return f'<label>{title} <select id="{name}">{listed}</select></label>'


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _settings(report: Report) -> str:
    names = {
        "recogniser": "Recogniser",
        "normalisations": "Normalisations of texts",
        "speaker_model": "Speaker model",
        "mos": "MOS by",
        "seeds": "Seeds",
        "confidence": "Confidence of intervals",
    }
    found = {title: report[name] for name, title in names.items() if report[name] not in (None, [])}
    kind = report["set"]["kind"]
    found |= {} if kind is None else {"Kind of the set": kind}
    found |= {f"Sampling: {name}": value for name, value in report["sampling"].items() if value is not None}
    return f"<div class='card'>{facts(found)}</div>" if found else ""


def _clips(players: PageClips) -> str:
    """Return where the players find their clips."""
    embedded = players.worst + players.by_chance
    if not embedded and not players.linked:
        return ""
    megabytes = f"{KILOBITS_PER_SECOND * 60 / 8 / 1000 * 4 / 3:.2f} MB for a minute of sound"
    how = f"MP3 at {KILOBITS_PER_SECOND} kbit/s, {megabytes}; all figures were measured on the clips themselves"
    if not players.linked:
        return f"The clips of all {number(embedded)} sentences are inside this page ({how})."
    return (
        f"The clips of {number(embedded)} sentences are inside this page: the {number(players.worst)} worst, and "
        f"{number(players.by_chance)} others drawn at random ({how}; the limit is {EMBEDDED_BYTES / 2**20:g} MiB). The "
        f"clips of the other {number(players.linked)} are played from the folder of this page: keep them together."
    )

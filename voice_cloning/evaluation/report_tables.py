"""The tables of the report page: models with intervals and differences, groups of sentences, scales."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from voice_cloning.evaluation.page_parts import number, visible
from voice_cloning.evaluation.report_figures import (
    FIGURES,
    MAIN_FIGURES,
    difference_text,
    figure,
    interval_text,
    is_number,
    measured,
    methods_text,
)
from voice_cloning.evaluation.report_form import Report

COSTS = {"real_time_factor": "Real-time factor", "peak_memory_gb": "Peak memory (GB)"}
"""Name in a system's ``cost`` -> heading."""
GROUPINGS = {
    "speaker": "By speaker",
    "dialect": "By dialect",
    "kind": "By kind of sentence",
    "length": "By length of the text",
}
KINDS = {"base": "base model", "adapter": "adapter", "merged": "merged model", "wavs": "folder of WAVs"}


def systems_tables(systems: Sequence[Report], scales: Report, title: str, marks: dict[str, str] | None = None) -> str:
    """Return the table of the main figures, and that of all others with the costs.

    Args:
        systems: ``systems`` of report.json.
        scales: its ``scales``: figure -> name of a measurement -> interval. They are rows below the models.
        title: what the tables are of, for readers that hear the page.
        marks: name of a model -> what stands below it, as which one was chosen.
    """
    scale_rows: dict[str, Report] = {}
    for name, measurements in scales.items():
        for label, interval in measurements.items():
            scale_rows.setdefault(label, {})[name] = interval
    names = measured([s["figures"] for s in systems] + list(scale_rows.values()))
    main = [name for name in names if name in MAIN_FIGURES]
    others = [name for name in names if name not in MAIN_FIGURES]
    costs = [name for name in COSTS if any(is_number(s["cost"].get(name)) for s in systems)]
    systems = [system | {"mark": (marks or {}).get(system["name"], "")} for system in systems]
    tables = _systems_table(systems, scale_rows, main, [], title)
    if others or costs:
        further = _systems_table(systems, scale_rows, others, costs, f"{title}, further figures")
        tables += f"<details class='card'><summary>Further figures</summary>{further}</details>"
    return tables


def _systems_table(
    systems: Sequence[Report], scale_rows: dict[str, Report], names: list[str], costs: list[str], title: str
) -> str:
    rows = [(system["figures"], system) for system in systems]
    usual = {name: _usual_n([figures for figures, _ in rows], name) for name in names}
    heads = "".join(_head(name, usual[name]) for name in names)
    heads += "".join(f"<th scope='col'>{COSTS[name]}</th>" for name in costs)
    body = "".join(_system_row(system, names, costs, usual) for system in systems)
    told = {label: figures for label, figures in scale_rows.items() if figures.keys() & set(names)}
    scale = "".join(_scale_row(label, figures, names, costs, usual) for label, figures in told.items())
    if scale:
        columns = 1 + len(names) + len(costs)
        heading = "For comparison: figures that the same measuring gives for recordings"
        scale = f"<tbody class='scales'><tr><th scope='rowgroup' colspan='{columns}'>{heading}</th></tr>{scale}</tbody>"
    figures = [(name, system["figures"].get(name)) for system in systems for name in names]
    methods = methods_text(figures)
    note = f"<p class='soft'>Intervals: {methods}.</p>" if methods else ""
    return (
        f"<div class='wide' role='region' tabindex='0' aria-label='{escape(title)}'><table class='systems'>"
        f"<thead><tr><th scope='col'>Model</th>{heads}</tr></thead><tbody>{body}</tbody>{scale}</table></div>{note}"
    )


def _head(name: str, usual: int | None) -> str:
    n = f"<span class='range'>n {number(usual)}</span>" if usual is not None else ""
    better = {"more": "more is better", "less": "less is better", None: ""}[figure(name).better]
    return f"<th scope='col'>{visible(figure(name).title)} <span class='range'>{better}</span>{n}</th>"


def _short_title(name: str) -> str:
    """Return what stands before a value where the table has no room for its head."""
    return escape(figure(name).title)


def _usual_n(figure_sets: Sequence[Report], name: str) -> int | None:
    """Return the number of values that most intervals of a figure have."""
    counts = Counter(f[name]["n"] for f in figure_sets if f.get(name) and is_number(f[name]["n"]))
    return counts.most_common(1)[0][0] if counts else None


def _system_row(system: Report, names: list[str], costs: list[str], usual: dict[str, int | None]) -> str:
    figures, differences = system["figures"], system["differences"]
    cells = "".join(
        f"<td data-title='{_short_title(name)}'>{interval_text(name, figures.get(name), usual[name])}"
        f"{difference_text(name, differences.get(name))}</td>"
        for name in names
    )
    for name in costs:
        value = system["cost"].get(name)
        cells += f"<td data-title='{COSTS[name]}'>{f'{value:.2f}' if is_number(value) else '&mdash;'}</td>"
    kind = KINDS.get(system["kind"], system["kind"] or "")
    label = f"<bdi>{visible(system['name'])}</bdi><span class='range'>{visible(kind)}</span>"
    label += f"<span class='mark {_mark_class(system)}'>{visible(system['mark'])}</span>" if system["mark"] else ""
    return f"<tr><th scope='row'>{label}</th>{cells}</tr>"


def _mark_class(system: Report) -> str:
    return "good" if system["mark"].startswith("chosen") else "none"


def _scale_row(label: str, figures: Report, names: list[str], costs: list[str], usual: dict[str, int | None]) -> str:
    cells = "".join(
        f"<td data-title='{_short_title(name)}'>{interval_text(name, figures[name], usual[name])}</td>"
        if figures.get(name)
        else "<td></td>"
        for name in names
    )
    return f"<tr><th scope='row'>{visible(label)}</th>{cells}{'<td></td>' * len(costs)}</tr>"


def selection_marks(selection: Report) -> dict[str, str]:
    """Return what stands below the checkpoint that was chosen, and below the one that the loss would have chosen."""
    chosen, by_loss = selection["chosen"], selection["by_eval_loss"]
    marks = {by_loss: "lowest evaluation loss"} if by_loss else {}
    if chosen:
        marks[chosen] = "chosen, and the lowest evaluation loss" if chosen == by_loss else "chosen"
    return marks


def selection_steps(selection: Report) -> str:
    """Return which checkpoint was chosen, and every comparison on the way."""
    chosen = selection["chosen"]
    told = (
        f"Chosen: <bdi>{visible(chosen)}</bdi>" if chosen else "No checkpoint was chosen: all have forgotten too much"
    )
    steps = []
    for step in selection["comparisons"]:
        name, rule, difference = step["candidate"], step["rule"] or "", step["difference"]
        figures = f": {difference_text(rule.partition(',')[0], difference)}" if difference else ""
        after = f" against <bdi>{visible(step['compared_with'])}</bdi>" if step["compared_with"] else ""
        taken = "taken" if step["is_better"] else "not taken"
        measured_by, comma, certainty = rule.partition(",")
        title = figure(measured_by).title + comma + certainty if measured_by in FIGURES else rule
        steps.append(f"<li><bdi>{visible(name)}</bdi>{after}: {taken} ({visible(title)}){figures}</li>")
    return f"<details class='card'><summary><h3>{told}</h3></summary><ol class='notes'>{''.join(steps)}</ol></details>"


def groups_tables(systems: Sequence[Report], lengths: Report) -> str:
    """Return the tables of each grouping: a row for each group, a column for each model, one table for each figure.

    A grouping with a single group is left out: its figures are those of the whole set.

    Args:
        systems: ``systems`` of report.json.
        lengths: what the names of the groups by length mean.
    """
    groupings = dict.fromkeys(grouping for s in systems for grouping in s["groups"] if s["groups"][grouping])
    tables = "".join(_grouping(str(grouping), systems, lengths) for grouping in groupings)
    return f"<div class='stack'>{tables}</div>" if tables else ""


def _grouping(grouping: str, systems: Sequence[Report], lengths: Report) -> str:
    tables_of = [system["groups"].get(grouping, {}) for system in systems]
    groups = list(dict.fromkeys(group for groups in tables_of for group in groups))
    if len(groups) < 2:
        return ""
    meanings = lengths if grouping == "length" else {}
    names = measured([figures for groups in tables_of for figures in groups.values()])
    tables = []
    for name in names:
        usual = _usual_n([figures for groups in tables_of for figures in groups.values()], name)
        rows = "".join(
            f"<tr><th scope='row'><bdi>{visible(group)}</bdi>{_meaning(meanings.get(group))}</th>"
            + "".join(f"<td>{interval_text(name, of.get(group, {}).get(name), usual)}</td>" for of in tables_of)
            + "</tr>"
            for group in groups
        )
        heads = "".join(f"<th scope='col'><bdi>{visible(system['name'])}</bdi></th>" for system in systems)
        n = f", n {number(usual)} in each group if not told otherwise" if usual is not None else ""
        tables.append(
            f"<table data-figure='{escape(name)}'><caption class='soft'>{visible(figure(name).title)}{n}</caption>"
            f"<thead><tr><th scope='col'>Group</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )
    title = GROUPINGS.get(grouping, f"By {grouping}")
    options = "".join(f"<option value='{escape(name)}'>{visible(figure(name).title)}</option>" for name in names)
    choice = f"<label class='choice'>Figure <select class='figure-choice'>{options}</select></label>"
    body = f"<div class='wide' role='region' tabindex='0' aria-label='{escape(title)}'>{''.join(tables)}</div>"
    return (
        f"<details class='card grouping' open><summary><h3>{visible(title)}</h3> "
        f"<span class='soft'>{number(len(groups))} groups</span></summary>{choice}{body}</details>"
    )


def _meaning(text: str | None) -> str:
    return f"<span class='range'>{visible(text)}</span>" if text else ""

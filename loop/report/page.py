"""From the record of a campaign to one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from matterloop.loop.budget import Spending
from matterloop.loop.chemistry.metrics import STABLE_EV_PER_ATOM
from matterloop.loop.experiment import UNITS
from matterloop.loop.report import charts, wording
from matterloop.loop.report.crystals import cif_uri, crystal_figure
from matterloop.loop.report.curves import best_so_far, pareto_ids, ranked
from matterloop.loop.report.failures import failures
from matterloop.loop.report.hull_plot import (
    composition_figure,
    hull_figure,
    hull_phases,
    stability_points,
)
from matterloop.loop.report.lineage import Step, lineage
from matterloop.loop.report.outcomes import Outcome, distinct, outcomes_by_arm
from matterloop.loop.report.property_plot import property_figure
from matterloop.loop.report.record import CampaignRecord, FigureRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pymatgen.core import Structure

    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.spec import Objective

BEST = 12
"""Rows of the table of best candidates."""
DRAWN = 6
"""Candidates with a 3D figure: browsers keep about 16 of them alive at once."""
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A chart in the page: the figure as JSON that is safe inside a script element."""

    id: str
    json: Markup
    label: str
    caption: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure in the table of the best candidates."""

    text: str
    title: str
    screening: bool


@dataclass(frozen=True)
class Winner:
    """A row of the table of the best candidates, and all that hangs on it."""

    place: int
    outcome: Outcome
    arms: str
    cells: tuple[Cell | None, ...]
    badges: tuple[tuple[str, str, str], ...]
    """(kind, word, explanation)"""
    cif: str
    file_name: str
    plot: Plot | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class ArmRow:
    """One arm in the comparison of arms."""

    text: str
    selector: str
    colour: str
    experiments: int
    made: int
    counting: int
    waiting: int
    best: str


def render(
    record: CampaignRecord,
    structures: Mapping[str, Structure],
    spent: Spending,
    hull: ReferenceHull | None,
) -> str:
    """Return the page.

    Parameters
    ----------
    structures
        Crystals of the chosen candidates by hash (`query.read_structures`).
    hull
        Drawn only if it is the one that the campaign used.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        formula=wording.formula_html,
        space_group=wording.space_group_text,
        bare=wording.bare_text,
    )
    template = environment.get_template("report.html")
    content = _content(record, structures, hull)
    inlined = {
        name: Markup((_TEMPLATES / file).read_text(encoding="utf-8"))  # noqa: S704 - our own files
        for name, file in (("style", "report.css"), ("script", "report.js"))
    }
    plotly = Markup(get_plotlyjs())  # noqa: S704 - the installed package's own script
    return template.render(
        record=record, spent=spent, plotly=plotly, STABLE=STABLE_EV_PER_ATOM, **inlined, **content
    )


def _content(
    record: CampaignRecord, structures: Mapping[str, Structure], hull: ReferenceHull | None
) -> dict[str, Any]:
    objectives = record.spec.objectives
    outcomes = outcomes_by_arm(record)
    curves, box = best_so_far(outcomes, objectives)
    best = ranked(outcomes)
    columns = tuple(dict.fromkeys((*record.spec.wanted_properties, *_measured(best))))
    front = pareto_ids([outcome for outcome, _ in best])
    winners = tuple(
        _winner(place, pair, columns, front, structures, objectives)
        for place, pair in enumerate(best[:BEST], start=1)
    )
    progress = _plot(
        "progress",
        charts.progress_figure(curves, objectives, UNITS),
        "Best so far against the number of experiments",
        charts.progress_caption(objectives, box, UNITS),
    )
    return {
        "aim": wording.aim_text(record.spec, UNITS),
        "columns": [(name, wording.property_text(name, UNITS[name])) for name in columns],
        "progress": progress,
        "arm_rows": _arm_rows(record, outcomes, curves, len(objectives)),
        "properties": _plot(
            "properties",
            property_figure(outcomes, objectives, UNITS),
            "Property against property",
            "Every measured crystal with its uncertainty (one standard deviation); large markers"
            " lie on the Pareto front, hollow ones break a constraint.",
        ),
        "stability": _stability(record, outcomes, hull),
        "winners": winners,
        "measured_count": len(best),
        "failures": failures(record),
        "experiment_count": len(distinct(outcomes)),
        "made_count": sum(outcome.made for outcome, _ in distinct(outcomes).values()),
        "states": _states(record),
        "selectors": {a.name: a.selector.name for a in record.spec.control_arms}
        | {"main": record.spec.selector.name},
    }


def _plot(name: str, figure: go.Figure | None, label: str, caption: str = "") -> Plot | None:
    if figure is None:
        return None
    safe = Markup(charts.figure_json(figure))  # noqa: S704 - escaped for script by figure_json
    return Plot(f"plot-{name}", safe, label, caption)


def _stability(
    record: CampaignRecord, outcomes: Mapping[str, Sequence[Outcome]], hull: ReferenceHull | None
) -> tuple[Plot, ...]:
    points = stability_points(record, outcomes)
    elements = record.spec.search_space.allowed_elements
    note = ""
    if hull is not None and record.hull_sha256 not in (None, hull.sha256):
        note = " The reference phases are not drawn: the hull at hand is not the campaign's."
        hull = None
    phases = (
        hull_phases(hull, elements)
        if hull is not None and 2 <= len(elements) <= 4 and set(elements) <= hull.elements
        else None
    )
    diagram = _plot(
        "hull",
        hull_figure(points, elements, phases) if points else None,
        f"Hull diagram of {'-'.join(elements)}",
        "Squares: stable phases of the reference hull, lines join phases that coexist. Circles:"
        " candidates, large ones measured in an experiment, coloured by energy above hull."
        f"{note}"
        if phases
        else f"Circles: candidates, large ones measured in an experiment.{note}",
    )
    limits = [
        c.at_most
        for c in record.spec.constraints
        if c.property == "energy_above_hull" and c.at_most is not None
    ]
    strip = composition_figure(points, min(limits, default=None))
    by_composition = None
    if strip is not None and len(elements) != 2:
        figure, shown, total = strip
        part = f" The {shown} most stable of {total} compositions." if shown < total else ""
        by_composition = _plot(
            "compositions",
            figure,
            "Energy above hull by composition",
            f"Below zero: more stable than everything in the reference hull.{part}",
        )
    return tuple(plot for plot in (diagram, by_composition) if plot is not None)


def _measured(best: Sequence[tuple[Outcome, list[str]]]) -> list[str]:
    names = {
        name
        for outcome, _ in best
        for name, figure in outcome.figures.items()
        if figure.fidelity == "experiment"
    }
    return [name for name in UNITS if name in names]


def _winner(
    place: int,
    pair: tuple[Outcome, list[str]],
    columns: Sequence[str],
    front: set[str],
    structures: Mapping[str, Structure],
    objectives: Sequence[Objective],
) -> Winner:
    outcome, arms = pair
    crystal = outcome.candidate.best_crystal
    structure = structures[crystal.sha256]
    formula = crystal.reduced_formula
    figure = crystal_figure(structure) if place <= DRAWN else None
    return Winner(
        place=place,
        outcome=outcome,
        arms=wording.listing([charts.arm_text(arm) for arm in arms]),
        cells=tuple(_cell(outcome.figures.get(name)) for name in columns),
        badges=_badges(outcome, objectives, len(objectives) > 1 and outcome.candidate.id in front),
        cif=cif_uri(structure),
        file_name=f"{formula}-{outcome.candidate.id}.cif",
        plot=_plot(f"crystal-{place}", figure, f"Crystal structure of {formula}"),
        steps=lineage(outcome, UNITS),
    )


def _cell(figure: FigureRecord | None) -> Cell | None:
    if figure is None:
        return None
    return Cell(
        wording.figure_text(figure.value, figure.uncertainty, "1"),  # unit: in the heading
        f"{figure.method}; measurement {figure.id}",
        figure.fidelity == "screening",
    )


def _badges(
    outcome: Outcome, objectives: Sequence[Objective], on_front: bool
) -> tuple[tuple[str, str, str], ...]:
    badges = []
    if on_front:
        badges.append(("good", "Pareto front", "No other result is better in all objectives."))
    for objective in objectives:
        figure = outcome.figures.get(objective.property)
        if figure is not None and objective.reached(figure.value):
            name = wording.property_text(objective.property)
            badges.append(("good", f"{name} on target", "Within the tolerance of the target."))
    for limit in outcome.broken:
        text = wording.constraint_text(limit, UNITS[limit.property])
        badges.append(("bad", "breaks a constraint", f"Wanted: {text}."))
    for name in outcome.unknown:
        text = wording.property_text(name)
        badges.append(("warn", "constraint not checked", f"No figure for {text}."))
    flags = dict.fromkeys(
        flag
        for figure in outcome.candidate.figures
        if outcome.figures.get(figure.property) == figure or figure.fidelity == "screening"
        for flag in figure.flags
    )
    badges += [("warn", flag, wording.flag_text(flag)) for flag in flags]
    return tuple(badges)


def _arm_rows(
    record: CampaignRecord,
    outcomes: Mapping[str, Sequence[Outcome]],
    curves: Sequence[Any],
    objectives: int,
) -> list[ArmRow]:
    selectors = {arm.name: arm.selector.name for arm in record.spec.control_arms}
    selectors["main"] = record.spec.selector.name
    unit = UNITS[record.spec.objectives[0].property]
    rows = []
    for curve in curves:
        found = outcomes[curve.arm]
        chosen = sum(
            decision.arm == curve.arm and not decision.vetoed
            for candidate in record.candidates.values()
            for decision in candidate.decisions
        )
        last = curve.best[-1] if curve.best else None
        if last is None:
            best = "–"
        elif objectives == 1:
            best = wording.figure_text(last, None, unit)
        else:
            best = f"{last:.1%}"
        rows.append(
            ArmRow(
                charts.arm_text(curve.arm),
                selectors.get(curve.arm, "–"),
                charts.arm_style(record.arms, curve.arm)[0],
                len(found),
                sum(outcome.made for outcome in found),
                sum(outcome.counts for outcome in found),
                chosen - len(found),
                best,
            )
        )
    return rows


def _states(record: CampaignRecord) -> dict[str, int]:
    totals = dict.fromkeys(("generated", "refused", "accepted", "unrelaxable", "relaxed"), 0)
    for cycle in record.cycles:
        for state, count in cycle.candidates.items():
            totals[state] += count
    totals["all"] = sum(totals.values())
    return totals

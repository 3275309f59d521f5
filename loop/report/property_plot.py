"""Property against property for two or more objectives, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matterloop.loop.report.charts import GREY, arm_style, arm_text, layout
from matterloop.loop.report.curves import pareto_ids
from matterloop.loop.report.outcomes import Outcome, distinct
from matterloop.loop.report.wording import figure_text, property_text
from matterloop.loop.spec import Goal, Objective

if TYPE_CHECKING:
    import plotly.graph_objects as go


def property_figure(
    outcomes: Mapping[str, Sequence[Outcome]],
    objectives: Sequence[Objective],
    units: Mapping[str, str],
) -> go.Figure | None:
    """Draw the first two objectives against each other; None for one objective or no results.

    A result that several arms chose is drawn once, as the first arm's. Hollow: a constraint broken.
    """
    import plotly.graph_objects as go

    found = [pair for pair in distinct(outcomes).values() if pair[0].utilities is not None]
    if len(objectives) < 2 or not found:
        return None
    first, second = objectives[0].property, objectives[1].property
    front = pareto_ids([outcome for outcome, _ in found])
    figure = go.Figure()
    if len(objectives) == 2 and front and Goal.TARGET not in {o.goal for o in objectives}:
        line = sorted(
            (o.figures[first].value, o.figures[second].value)
            for o, _ in found
            if o.candidate.id in front
        )
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in line],
                y=[y for _, y in line],
                mode="lines",
                name="Pareto front",
                # the border of what is dominated is a staircase, whose side depends on the goal
                line={
                    "color": GREY,
                    "width": 2,
                    "dash": "dot",
                    "shape": "hv" if objectives[0].goal is Goal.MINIMISE else "vh",
                },
                hoverinfo="skip",
            )
        )
    arms = list(outcomes)
    for arm in arms:
        mine = [(o, named) for o, named in found if named[0] == arm]
        if not mine:
            continue
        colour, _, symbol = arm_style(arms, arm)
        figure.add_trace(
            go.Scatter(
                x=[o.figures[first].value for o, _ in mine],
                y=[o.figures[second].value for o, _ in mine],
                error_x={"array": [o.figures[first].uncertainty or 0 for o, _ in mine]}
                | _bar(colour),
                error_y={"array": [o.figures[second].uncertainty or 0 for o, _ in mine]}
                | _bar(colour),
                mode="markers",
                name=arm_text(arm),
                marker={
                    "color": colour,
                    "size": [13 if o.candidate.id in front else 9 for o, _ in mine],
                    "symbol": [symbol if o.counts else f"{symbol}-open" for o, _ in mine],
                    "line": {"width": 1.5},
                    "opacity": 1,
                },
                text=[_hover(o, named, (first, second), front) for o, named in mine],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_layout(
        layout(
            xaxis={"title": {"text": _axis(objectives[0], units)}},
            yaxis={"title": {"text": _axis(objectives[1], units)}},
        )
    )
    return figure


def _bar(colour: str) -> dict[str, object]:
    return {"type": "data", "color": colour, "thickness": 1, "width": 3}


def _axis(objective: Objective, units: Mapping[str, str]) -> str:
    name = property_text(objective.property, units[objective.property])
    return f"{name}, {objective.goal.value}"


def _hover(
    outcome: Outcome, named: Sequence[str], properties: tuple[str, str], front: set[str]
) -> str:
    lines = [f"<b>{outcome.candidate.crystal.reduced_formula}</b>, cycle {outcome.cycle}"]
    for name in properties:
        figure = outcome.figures[name]
        value = figure_text(figure.value, figure.uncertainty, figure.unit)
        lines.append(f"{property_text(name)}: {value}")
    lines.append(", ".join(arm_text(arm) for arm in named))
    if outcome.candidate.id in front:
        lines.append("on the Pareto front")
    if outcome.broken:
        lines.append("breaks a constraint")
    return "<br>".join(lines)

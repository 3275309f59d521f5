"""What all charts share: colours that colour-blind readers tell apart, and a bare layout.

Text and grid colours are set in the page by its style sheet, so that charts follow the reader's
light or dark scheme and print dark on white.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matterloop.loop.report.curves import Box, Curve
from matterloop.loop.report.wording import bare_text, property_text, unit_text
from matterloop.loop.spec import Goal, Objective

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's palette; the main arm takes the first."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
GREY = "#8a8f98"


def arm_style(arms: Sequence[str], arm: str) -> tuple[str, str, str]:
    """Return colour, line dash and marker symbol of an arm; the same in every chart."""
    place = list(arms).index(arm)
    return (
        COLOURS[place % len(COLOURS)],
        DASHES[place % len(DASHES)],
        SYMBOLS[place % len(SYMBOLS)],
    )


def arm_text(arm: str) -> str:
    """Name an arm for a legend."""
    return "main arm" if arm == "main" else f"control: {arm}"


def layout(**more: Any) -> dict[str, Any]:
    """Return the layout that every chart starts from."""
    return {
        "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 40, "b": 64},
        "height": 400,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **more,
    }


def figure_json(figure: go.Figure) -> str:
    """Write a figure so that it may stand inside a ``<script>`` element.

    ``<``, ``>`` and ``&`` become JSON escapes: no text in the data can close the element.
    """
    text = json.dumps(json.loads(figure.to_json()), separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def progress_figure(
    curves: Sequence[Curve], objectives: Sequence[Objective], units: dict[str, str]
) -> go.Figure | None:
    """Draw best-so-far against experiments, one step line per arm; None before any success."""
    import plotly.graph_objects as go

    if not any(height is not None for curve in curves for height in curve.best):
        return None
    arms = [curve.arm for curve in curves]
    single = objectives[0] if len(objectives) == 1 else None
    figure = go.Figure()
    for curve in reversed(curves):  # the main arm last, on top
        colour, dash, symbol = arm_style(arms, curve.arm)
        main = curve.arm == "main"
        numbers = list(range(1, len(curve.best) + 1))
        figure.add_trace(
            go.Scatter(
                x=numbers,
                y=list(curve.best),
                name=arm_text(curve.arm),
                mode="lines+markers",
                line={"shape": "hv", "color": colour, "dash": dash, "width": 3 if main else 2},
                marker={
                    "symbol": symbol,
                    "size": [9 if better else 4 for better in curve.improved],
                    "color": colour,
                },
                text=[
                    f"experiment {n}: {label}{' (improved)' if better else ''}"
                    for n, label, better in zip(numbers, curve.labels, curve.improved, strict=True)
                ],
                hovertemplate="%{text}<br>%{y:.4g}<extra>%{fullData.name}</extra>",
                legendrank=1 if main else 2,
            )
        )
    figure.update_layout(
        layout(
            xaxis={
                "title": {"text": "experiments of the arm"},
                "rangemode": "tozero",
                "tickformat": "d",
                "dtick": 1 if max(len(c.best) for c in curves) <= 12 else None,
            },
            yaxis={"title": {"text": _progress_title(single, units)}},
            hovermode="x unified" if len(curves) > 1 else "closest",
        )
    )
    return figure


def progress_caption(
    objectives: Sequence[Objective], box: Box | None, units: dict[str, str]
) -> str:
    """Say what the curve shows, the reference point included."""
    base = (
        "An experiment is a synthesis that came to an end, successful or not; each arm sees only"
        " the experiments that it chose, and only results that keep all constraints count."
    )
    if len(objectives) == 1 or box is None:
        return base

    def corner(utilities: Sequence[float]) -> str:
        return ", ".join(
            f"{property_text(o.property)} {_undone(o, u, units)}"
            for o, u in zip(objectives, utilities, strict=True)
        )

    return (
        f"{base} Hypervolume is given as a share of the box between the reference point"
        f" ({corner(box.reference)}) and the ideal point ({corner(box.ideal)});"
        " the reference point lies a tenth of the observed range below the worst result of all"
        " arms."
    )


def _undone(objective: Objective, utility: float, units: dict[str, str]) -> str:
    unit = unit_text(units[objective.property])
    tail = f" {unit}" if unit else ""
    if objective.goal is Goal.TARGET:
        return f"{bare_text(-utility)}{tail} from its target"
    value = utility if objective.goal is Goal.MAXIMISE else -utility
    return f"{bare_text(value)}{tail}"


def _progress_title(single: Objective | None, units: dict[str, str]) -> str:
    if single is None:
        return "dominated hypervolume (share of the box)"
    name = property_text(single.property, units[single.property])
    if single.goal is Goal.TARGET:
        return f"smallest distance from target, {name}"
    return f"{'highest' if single.goal is Goal.MAXIMISE else 'lowest'} {name}"

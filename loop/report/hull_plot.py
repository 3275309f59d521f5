"""Where the candidates lie relative to the reference hull.

Two elements: formation energy against composition with the hull as a line. Three: the Gibbs
triangle; four: the composition tetrahedron, both with the stable reference phases, the tie lines
between them and the candidates coloured by their energy above hull. For any system: the energy
above hull by composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from matterloop.loop.elements import parse_formula
from matterloop.loop.report.charts import COLOURS, GREY, layout
from matterloop.loop.report.outcomes import Outcome, distinct
from matterloop.loop.report.record import CampaignRecord
from matterloop.loop.report.wording import figure_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from matterloop.loop.hull import ReferenceHull

SHOWN_COMPOSITIONS = 40
COLOUR_TOP_EV_PER_ATOM = 0.2
"""Energies above hull beyond this share the last colour: nobody expects such a crystal to last."""
_CORNERS = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, 0.8660254, 0.0), (0.5, 0.2886751, 0.8164966))
"""Of a regular tetrahedron with edges of length one."""


@dataclass(frozen=True)
class StabilityPoint:
    """A candidate on the plot; energies in eV/atom, `experiment`: measured on a sample."""

    formula: str
    cycle: int
    energy_above_hull: float
    uncertainty: float | None
    formation_energy: float | None
    experiment: bool
    flags: tuple[str, ...]

    @property
    def hover(self) -> str:
        """What the reader sees under the pointer."""
        energy = figure_text(self.energy_above_hull, self.uncertainty, "eV/atom")
        how = "measured" if self.experiment else "screening"
        flags = f"<br>{', '.join(self.flags)}" if self.flags else ""
        return (
            f"<b>{self.formula}</b>, cycle {self.cycle}<br>energy above hull {energy}"
            f"<br>{how}{flags}"
        )


@dataclass(frozen=True)
class HullPhases:
    """Stable reference phases: (formula, formation energy in eV/atom), and the tie lines."""

    phases: tuple[tuple[str, float], ...]
    ties: tuple[tuple[int, int], ...]


def stability_points(
    record: CampaignRecord, outcomes: Mapping[str, Sequence[Outcome]]
) -> list[StabilityPoint]:
    """Return every candidate whose energy above hull is known; an experiment replaces screening."""
    measured = {}
    for identifier, (outcome, _) in distinct(outcomes).items():
        figure = outcome.figures.get("energy_above_hull")
        if figure is not None and figure.fidelity == "experiment":
            measured[identifier] = (figure, outcome.figures.get("formation_energy"))
    points = []
    for screened in record.screened:
        if found := measured.get(screened.candidate_id):
            above, formation = found
            points.append(
                StabilityPoint(
                    screened.reduced_formula,
                    screened.cycle,
                    above.value,
                    above.uncertainty,
                    screened.formation_energy if formation is None else formation.value,
                    True,
                    above.flags or screened.flags,
                )
            )
        elif screened.energy_above_hull is not None:
            points.append(
                StabilityPoint(
                    screened.reduced_formula,
                    screened.cycle,
                    screened.energy_above_hull,
                    None,
                    screened.formation_energy,
                    False,
                    screened.flags,
                )
            )
    return points


def hull_phases(hull: ReferenceHull, elements: Sequence[str]) -> HullPhases:
    """Return the stable phases of a chemical system (pymatgen's ``PhaseDiagram``)."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = [
        PDEntry(Composition(entry.counts), entry.energy_eV_per_atom * sum(entry.counts.values()))
        for entry in hull.for_elements(elements).entries
    ]
    diagram = PhaseDiagram(entries)
    stable = sorted(diagram.stable_entries, key=lambda entry: entry.composition.reduced_formula)
    place = {entry.composition.reduced_formula: i for i, entry in enumerate(stable)}
    ties: set[tuple[int, int]] = set()
    for facet in diagram.facets:
        corners = sorted(place[diagram.qhull_entries[i].composition.reduced_formula] for i in facet)
        ties.update(combinations(corners, 2))
    return HullPhases(
        tuple(
            (e.composition.reduced_formula, float(diagram.get_form_energy_per_atom(e)))
            for e in stable
        ),
        tuple(sorted(ties)),
    )


def hull_figure(
    points: Sequence[StabilityPoint], elements: Sequence[str], phases: HullPhases | None
) -> go.Figure | None:
    """Draw the hull diagram of a system of two to four elements; None otherwise."""
    if not 2 <= len(elements) <= 4 or not (points or phases):
        return None
    if len(elements) == 2:
        return _binary(points, elements, phases)
    return _simplex(points, elements, phases)


def composition_figure(
    points: Sequence[StabilityPoint], limit: float | None
) -> tuple[go.Figure, int, int] | None:
    """Draw energy above hull by composition, most stable first.

    Returns
    -------
    tuple or None
        Figure, compositions shown, compositions in all.
    """
    import plotly.graph_objects as go

    if not points:
        return None
    lowest: dict[str, float] = {}
    for point in points:
        here = lowest.get(point.formula, float("inf"))
        lowest[point.formula] = min(here, point.energy_above_hull)
    shown = sorted(lowest, key=lambda formula: (lowest[formula], formula))[:SHOWN_COMPOSITIONS]
    figure = go.Figure()
    for experiment in (False, True):
        mine = [p for p in points if p.formula in shown and p.experiment is experiment]
        if mine:
            figure.add_trace(
                go.Scatter(
                    x=[p.formula for p in mine],
                    y=[p.energy_above_hull for p in mine],
                    error_y={
                        "type": "data",
                        "array": [p.uncertainty or 0 for p in mine],
                        "thickness": 1,
                        "width": 3,
                        "visible": experiment,
                    },
                    mode="markers",
                    name="measured in an experiment" if experiment else "screening relaxation",
                    marker={
                        "color": COLOURS[0] if experiment else GREY,
                        "size": 10 if experiment else 7,
                        "symbol": "circle" if experiment else "circle-open",
                    },
                    text=[p.hover for p in mine],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    if limit is not None:
        figure.add_hline(
            y=limit,
            line={"color": COLOURS[5], "width": 1, "dash": "dash"},
            annotation={"text": f"constraint {limit:g} eV/atom", "font": {"color": COLOURS[5]}},
        )
    figure.update_layout(
        layout(
            xaxis={"categoryorder": "array", "categoryarray": shown, "tickangle": -60},
            yaxis={"title": {"text": "energy above hull (eV/atom)"}},
            margin={"l": 64, "r": 16, "t": 40, "b": 88},
        )
    )
    return figure, len(shown), len(lowest)


def _binary(
    points: Sequence[StabilityPoint], elements: Sequence[str], phases: HullPhases | None
) -> go.Figure | None:
    import plotly.graph_objects as go

    drawn = [p for p in points if p.formation_energy is not None]
    if not drawn and phases is None:
        return None
    figure = go.Figure()
    if phases is not None:
        line = sorted((_fractions(f, elements)[1], energy, f) for f, energy in phases.phases)
        figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in line],
                y=[y for _, y, _ in line],
                text=[f for _, _, f in line],
                mode="lines+markers+text",
                textposition="bottom center",
                name="reference hull",
                line={"color": GREY, "width": 2},
                marker={"color": GREY, "symbol": "square", "size": 8},
                hovertemplate="%{text}: %{y:.3f} eV/atom<extra>reference</extra>",
            )
        )
    if drawn:
        figure.add_trace(
            go.Scatter(
                x=[_fractions(p.formula, elements)[1] for p in drawn],
                y=[p.formation_energy for p in drawn],
                mode="markers",
                name="candidates",
                marker=_marker(drawn),
                text=[p.hover for p in drawn],
                hovertemplate="%{text}<br>formation energy %{y:.3f} eV/atom<extra></extra>",
            )
        )
    figure.update_layout(
        layout(
            xaxis={"title": {"text": f"atomic fraction of {elements[1]}"}, "range": [-0.04, 1.04]},
            yaxis={"title": {"text": "formation energy (eV/atom)"}},
        )
    )
    return figure


def _simplex(
    points: Sequence[StabilityPoint], elements: Sequence[str], phases: HullPhases | None
) -> go.Figure:
    """Gibbs triangle or tetrahedron."""
    import plotly.graph_objects as go

    three = len(elements) == 3
    trace: Any = go.Scatterternary if three else go.Scatter3d
    figure = go.Figure()

    def place(formulas: Sequence[str | None]) -> dict[str, list[float | None]]:
        names = ("a", "b", "c") if three else ("x", "y", "z")
        rows = [
            (None,) * 3 if formula is None else _position(formula, elements) for formula in formulas
        ]
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    if not three:
        edges = [part for pair in combinations(elements, 2) for part in (*pair, None)]
        figure.add_trace(
            trace(
                **place(edges),
                mode="lines",
                line={"color": GREY, "width": 3},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    if phases is not None:
        names = [formula for formula, _ in phases.phases]
        ties = [part for i, j in phases.ties for part in (names[i], names[j], None)]
        figure.add_trace(
            trace(
                **place(ties),
                mode="lines",
                line={"color": "rgba(138,143,152,0.6)", "width": 1 if three else 2},
                hoverinfo="skip",
                name="tie lines",
            )
        )
    corners = list(elements) if phases is None else [formula for formula, _ in phases.phases]
    label = "elements" if phases is None else "stable reference phases"
    figure.add_trace(
        trace(
            **place(corners),
            mode="markers+text",
            text=[_subscripts(formula) for formula in corners],
            textposition="top center",
            textfont={"size": 11},
            marker={"color": GREY, "symbol": "square", "size": 7 if three else 4},
            name=label,
            hovertemplate="%{text}<extra>stable reference phase</extra>",
        )
    )
    ordered = sorted(points, key=lambda p: -p.energy_above_hull)  # the most stable on top
    if ordered:
        figure.add_trace(
            trace(
                **place([p.formula for p in ordered]),
                mode="markers",
                name="candidates",
                marker=_marker(ordered, scale=0.7 if not three else 1.0),
                text=[p.hover for p in ordered],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_layout(layout(height=480, margin={"l": 8, "r": 8, "t": 40, "b": 16}))
    if three:
        axes = dict(zip(("aaxis", "baxis", "caxis"), elements, strict=True))
        figure.update_layout(
            ternary={
                "bgcolor": "rgba(0,0,0,0)",
                **{axis: {"title": {"text": element}} for axis, element in axes.items()},
            }
        )
    else:
        hidden = {"visible": False}
        figure.update_layout(
            scene={
                "xaxis": hidden,
                "yaxis": hidden,
                "zaxis": hidden,
                "aspectmode": "data",
                "camera": {
                    "eye": {"x": 1.0, "y": -1.6, "z": 0.5},
                    "center": {"x": 0, "y": 0, "z": -0.05},
                },
            }
        )
    return figure


def _marker(points: Sequence[StabilityPoint], scale: float = 1.0) -> dict[str, Any]:
    energies = [p.energy_above_hull for p in points]
    return {
        "color": energies,
        "colorscale": "Viridis",
        "cmin": min(0.0, *energies) if len(energies) > 1 else min(0.0, energies[0]),
        "cmax": COLOUR_TOP_EV_PER_ATOM,
        "colorbar": {"title": {"text": "above hull<br>(eV/atom)"}, "thickness": 12, "len": 0.7},
        "size": [(12 if p.experiment else 8) * scale for p in points],
        "symbol": "circle",
        "opacity": 1,
        "line": {"color": GREY, "width": 1},
    }


def _fractions(formula: str, elements: Sequence[str]) -> list[float]:
    counts = parse_formula(formula)
    total = sum(counts.values())
    return [counts.get(element, 0) / total for element in elements]


def _position(formula: str, elements: Sequence[str]) -> tuple[float, ...]:
    fractions = _fractions(formula, elements)
    if len(elements) == 3:
        return tuple(fractions)
    return tuple(
        sum(share * corner[axis] for share, corner in zip(fractions, _CORNERS, strict=True))
        for axis in range(3)
    )


def _subscripts(formula: str) -> str:
    return "".join(f"<sub>{c}</sub>" if c.isdigit() else c for c in formula)

"""Hull diagrams: the right phases in the right places, and only the campaign's own hull."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import report_ledger as ledger
from sqlalchemy.orm import Session

from matterloop.loop.calculation import PotentialIdentity
from matterloop.loop.hull import ReferenceEntry, ReferenceHull
from matterloop.loop.report import write_report
from matterloop.loop.report.hull_plot import (
    composition_figure,
    hull_figure,
    hull_phases,
    stability_points,
)
from matterloop.loop.report.outcomes import outcomes_by_arm
from matterloop.loop.report.query import read_campaign

ENERGIES_EV_PER_ATOM = {
    "Li": -1.0,
    "S": -4.0,
    "Cl": -2.0,
    "P": -5.0,
    "Li2S": -3.0,  # 1.0 eV/atom below the elements
    "LiS": -2.6,  # only 0.1 below: above the tie line of Li2S and S
    "LiCl": -2.5,
}


@pytest.fixture
def session() -> Iterator[Session]:
    engine = ledger.memory_engine()
    with Session(engine) as open_session:
        yield open_session
    engine.dispose()


@pytest.fixture
def hull() -> ReferenceHull:
    entries = [ReferenceEntry(f, e, f"test:{f}") for f, e in ENERGIES_EV_PER_ATOM.items()]
    return ReferenceHull(PotentialIdentity("test", "0" * 64, "none"), entries)


def test_only_stable_phases_and_their_tie_lines_are_drawn(hull: ReferenceHull) -> None:
    found = hull_phases(hull, ("Li", "S"))
    energies = dict(found.phases)
    assert set(energies) == {"Li", "Li2S", "S"}
    assert energies["Li2S"] == pytest.approx(-1.0)
    names = [formula for formula, _ in found.phases]
    assert {frozenset((names[i], names[j])) for i, j in found.ties} == {
        frozenset(("Li", "Li2S")),
        frozenset(("Li2S", "S")),
    }


def candidates(session: Session) -> ledger.LedgerBuilder:
    built = ledger.LedgerBuilder(session, ledger.spec(), hull_sha256="f" * 64)
    built.candidate(
        1,
        ledger.rock_salt("Li", "S", 5.3),
        screening={"energy_above_hull": 0.12, "formation_energy": -0.5},
    )
    built.made(
        ledger.antifluorite("Li", "S", 5.7),
        1,
        1,
        {"energy_above_hull": (-0.01, 0.004), "bulk_modulus": (40.0, 1.0)},
    )
    return built


def test_an_experiment_replaces_the_screening_figure(session: Session) -> None:
    record = read_campaign(session, candidates(session).id)
    points = stability_points(record, outcomes_by_arm(record))
    assert [(p.formula, p.energy_above_hull, p.uncertainty, p.experiment) for p in points] == [
        ("LiS", 0.12, None, False),
        ("Li2S", -0.01, 0.004, True),
    ]
    drawn = composition_figure(points, 0.1)
    assert drawn is not None
    figure, shown, total = drawn
    assert (shown, total) == (2, 2)
    assert list(figure.layout.xaxis.categoryarray) == ["Li2S", "LiS"]


def test_a_binary_system_shows_formation_energy_against_composition(
    session: Session, hull: ReferenceHull
) -> None:
    record = read_campaign(session, candidates(session).id)
    points = stability_points(record, outcomes_by_arm(record))
    figure = hull_figure(points, ("Li", "S"), hull_phases(hull, ("Li", "S")))
    assert figure is not None
    line, found = figure.data
    assert list(line.x) == pytest.approx([0, 1 / 3, 1])
    assert list(line.y) == pytest.approx([0, -1, 0])
    assert list(found.x) == pytest.approx([1 / 2, 1 / 3])
    assert list(found.y) == pytest.approx([-0.5, -1.1])


def test_a_ternary_system_is_a_triangle(session: Session, hull: ReferenceHull) -> None:
    record = read_campaign(session, candidates(session).id)
    points = stability_points(record, outcomes_by_arm(record))
    system = ("Li", "S", "Cl")
    figure = hull_figure(points, system, hull_phases(hull, system))
    assert figure is not None
    assert {trace.type for trace in figure.data} == {"scatterternary"}
    found = figure.data[-1]
    # drawn from the least stable to the most stable
    assert list(zip(found.a, found.b, found.c, strict=True)) == [
        pytest.approx((1 / 2, 1 / 2, 0)),
        pytest.approx((2 / 3, 1 / 3, 0)),
    ]


def test_four_elements_are_a_regular_tetrahedron(session: Session) -> None:
    record = read_campaign(session, candidates(session).id)
    points = stability_points(record, outcomes_by_arm(record))
    figure = hull_figure(points, ("Li", "P", "S", "Cl"), None)
    assert figure is not None
    corners = figure.data[1]
    places = list(zip(corners.x, corners.y, corners.z, strict=True))
    for i, one in enumerate(places):
        for other in places[:i]:
            length = sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
            assert length == pytest.approx(1, abs=1e-6)
    lithium, sulfur = places[0], places[2]
    middle = [(a + b) / 2 for a, b in zip(lithium, sulfur, strict=True)]
    found = figure.data[-1]
    assert [found.x[0], found.y[0], found.z[0]] == pytest.approx(middle)  # LiS


def test_systems_that_cannot_be_drawn_have_no_diagram() -> None:
    assert hull_figure([], ("Li",), None) is None
    assert hull_figure([], ("Li", "S"), None) is None
    assert composition_figure([], None) is None


def test_a_foreign_hull_is_not_drawn(session: Session, hull: ReferenceHull, tmp_path: Path) -> None:
    built = candidates(session)
    foreign = write_report(session, built.id, tmp_path / "a.html", hull=hull).read_text("utf-8")
    built.campaign.hull_sha256 = hull.sha256
    own = write_report(session, built.id, tmp_path / "b.html", hull=hull).read_text("utf-8")
    assert "the hull at hand is not the campaign" in foreign
    assert "stable reference phases" not in foreign
    assert "stable reference phases" in own

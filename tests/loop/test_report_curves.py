"""Best-so-far, hypervolume and ranking against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import report_ledger as ledger
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from matterloop.loop.report.curves import Box, best_so_far, box_of, dominated_share, ranked
from matterloop.loop.report.outcomes import outcomes_by_arm
from matterloop.loop.report.query import read_campaign
from matterloop.loop.spec import CampaignSpec


@pytest.fixture
def session() -> Iterator[Session]:
    engine = ledger.memory_engine()
    with Session(engine) as open_session:
        yield open_session
    engine.dispose()


def soft(a: float) -> ledger.Structure:
    return ledger.rock_salt("Li", "Cl", a)


def one_objective(goal: str = "minimise", **more: float) -> CampaignSpec:
    return ledger.spec(objectives=[{"property": "bulk_modulus", "goal": goal, **more}])


def test_the_best_value_so_far_of_each_arm(session: Session) -> None:
    built = ledger.LedgerBuilder(session, one_objective())

    def made(a: float, cycle: int, rank: int, modulus: float, above: float, arm: str) -> None:
        values = {"bulk_modulus": (modulus, 1.0), "energy_above_hull": (above, 0.01)}
        built.made(soft(a), cycle, rank, values, arms=(arm,))

    made(5.1, 1, 1, 40.0, 0.02, "main")
    made(5.2, 1, 2, 10.0, 0.30, "main")  # best of all, but breaks the constraint
    made(5.3, 1, 1, 35.0, 0.00, "random")
    made(5.4, 2, 1, 30.0, 0.05, "main")
    failed = built.candidate(2, soft(5.5))
    built.choose(failed, 2, 2)
    built.synthesize(failed, 2, success=False)
    made(5.6, 2, 1, 36.0, 0.00, "random")
    record = read_campaign(session, built.id)
    curves, box = best_so_far(outcomes_by_arm(record), record.spec.objectives)
    assert box is None
    assert {c.arm: c.best for c in curves} == {
        "main": (40.0, 40.0, 30.0, 30.0),
        "random": (35.0, 35.0),
    }
    assert curves[0].improved == (True, False, True, False)


def test_a_target_counts_by_its_distance(session: Session) -> None:
    target = one_objective("target", target=50.0, tolerance=5.0)
    built = ledger.LedgerBuilder(session, target)
    for place, modulus in enumerate((70.0, 44.0, 58.0), start=1):
        built.made(soft(5 + place / 10), 1, place, {"bulk_modulus": (modulus, 1.0)})
    record = read_campaign(session, built.id)
    curves, _ = best_so_far(outcomes_by_arm(record), record.spec.objectives)
    assert curves[0].best == (20.0, 6.0, 6.0)


def test_an_experiment_of_two_arms_counts_for_both_and_a_pending_one_for_none(
    session: Session,
) -> None:
    built = ledger.LedgerBuilder(session, one_objective())
    built.made(soft(5.1), 1, 1, {"bulk_modulus": (40.0, 1.0)}, arms=("main",))
    shared = built.made(soft(5.2), 1, 2, {"bulk_modulus": (33.0, 1.0)}, arms=("main",))
    built.choose(shared, 2, 1, arm="random")  # the result is there already
    waiting = built.candidate(2, soft(5.3))
    built.choose(waiting, 2, 1)
    built.job(waiting, 2, state="running")
    broken = built.candidate(2, soft(5.4))
    built.choose(broken, 2, 2)
    built.job(broken, 2, state="failed", failure_kind="instrument_fault", instrument="other")
    record = read_campaign(session, built.id)
    curves, _ = best_so_far(outcomes_by_arm(record), record.spec.objectives)
    assert {c.arm: c.best for c in curves} == {"main": (40.0, 33.0), "random": (33.0,)}


def test_an_arm_does_not_see_what_another_arm_made_later(session: Session) -> None:
    built = ledger.LedgerBuilder(session, one_objective())
    row = built.candidate(1, soft(5.1), screening={"energy_above_hull": 0.0})
    built.choose(row, 1, 1, arm="random", verdict="vetoed")
    built.choose(row, 2, 1)
    built.characterize(row, 2, built.synthesize(row, 2), {"bulk_modulus": (40.0, 1.0)})
    record = read_campaign(session, built.id)
    curves, _ = best_so_far(outcomes_by_arm(record), record.spec.objectives)
    assert {c.arm: c.best for c in curves} == {"main": (40.0,), "random": ()}


def test_the_hypervolume_of_two_objectives(session: Session) -> None:
    """By hand: e from 0 to 0.1, K from 20 to 40; a tenth of each range lies below the worst."""
    built = ledger.LedgerBuilder(session, ledger.spec())
    for place, (above, modulus) in enumerate(((0.0, 40.0), (0.1, 20.0), (0.05, 25.0)), start=1):
        values = {"energy_above_hull": (above, 0.001), "bulk_modulus": (modulus, 1.0)}
        built.made(soft(5 + place / 10), 1, place, values)
    record = read_campaign(session, built.id)
    curves, box = best_so_far(outcomes_by_arm(record), record.spec.objectives)
    assert box is not None
    assert box.reference == pytest.approx((-0.11, -42.0))
    assert box.ideal == pytest.approx((0.0, -20.0))
    whole = 0.11 * 22
    first = 0.11 * 2
    second = first + 0.01 * (22 - 2)
    third = second + (0.06 - 0.01) * (17 - 2)
    assert curves[0].best == pytest.approx((first / whole, second / whole, third / whole))
    assert curves[1].best == ()


def test_the_best_come_first_and_those_that_break_a_constraint_last(session: Session) -> None:
    built = ledger.LedgerBuilder(session, ledger.spec())
    rows = [
        built.made(
            soft(5 + place / 10),
            1,
            place,
            {"energy_above_hull": (above, 0.001), "bulk_modulus": (modulus, 1.0)},
        ).id
        for place, (above, modulus) in enumerate(
            ((0.2, 5.0), (0.06, 41.0), (0.05, 25.0), (0.0, 40.0)), start=1
        )
    ]
    outcomes = outcomes_by_arm(read_campaign(session, built.id))
    assert [o.candidate.id for o, _ in ranked(outcomes)] == [rows[2], rows[3], rows[1], rows[0]]


def test_a_constraint_falls_back_on_screening(session: Session) -> None:
    built = ledger.LedgerBuilder(session, one_objective())
    for place, above in enumerate((0.4, 0.01), start=1):
        row = built.candidate(1, soft(5 + place / 10), screening={"energy_above_hull": above})
        built.choose(row, 1, place)
        built.characterize(row, 1, built.synthesize(row, 1), {"bulk_modulus": (30 + place, 1.0)})
    found = outcomes_by_arm(read_campaign(session, built.id))["main"]
    assert [outcome.counts for outcome in found] == [False, True]


Utilities = st.lists(
    st.tuples(st.floats(-50, 50, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=40)
@given(Utilities)
def test_hypervolume_agrees_with_a_sweep_and_never_falls(points: list[tuple[float, float]]) -> None:
    box = box_of(points)
    assert box is not None
    shares = [dominated_share(points[:n], box) for n in range(1, len(points) + 1)]
    assert all(after >= before - 1e-12 for before, after in pairwise(shares))
    assert shares[-1] == pytest.approx(_swept(points, box), abs=1e-9)
    assert 0 < shares[-1] <= 1 + 1e-9


def _swept(points: list[tuple[float, float]], box: Box) -> float:
    """Area under the staircase, strip by strip from the right."""
    area, height = 0.0, box.reference[1]
    for x, y in sorted(points, reverse=True):
        if y > height:
            area += (x - box.reference[0]) * (y - height)
            height = y
    width, depth = (i - r for i, r in zip(box.ideal, box.reference, strict=True))
    return area / (width * depth)

"""The views, and the queries that ``docs/ledger.md`` shows to analysts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ledger_toy_lab import ToyFurnace, plan_syntheses, store_sample
from sqlalchemy import Engine, select, text

from matterloop.loop.ledger import (
    CandidateRow,
    DecisionRow,
    JobDriver,
    MeasurementRow,
    RecipeRow,
    SampleRow,
    VerdictRow,
    writing,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "ledger.md"
QUERIES = re.findall(
    r"^([^\n]+\?)\n```sql\n(.*?)```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
)

HULL = {0: 0.08, 1: 0.02, 3: 0.05}
"""Candidate to measured energy above hull, eV/atom; candidate 2 could not be made."""


@pytest.fixture
def told(ledger_engine: Engine, tmp_path: Path) -> Engine:
    """A ledger in which four candidates were made; `main` chose 0, 2, 1 and `random` 3, 1."""
    job_ids = plan_syntheses(ledger_engine, 4)
    furnace = ToyFurnace(tmp_path / "furnace.sqlite", transient_every=3)
    JobDriver(ledger_engine, {ToyFurnace.name: furnace}, sleep=lambda _: None).run(
        job_ids, store_sample
    )
    with writing(ledger_engine) as session:
        candidates = session.scalars(select(CandidateRow).order_by(CandidateRow.ordinal)).all()
        samples = {s.candidate_id: s for s in session.scalars(select(SampleRow))}
        for arm, chosen in (("main", (0, 2, 1)), ("random", (3, 1))):
            for rank, index in enumerate(chosen, 1):
                session.add(decision(candidates[index], arm, rank))
        session.add(decision(candidates[3], "main", None))
        for index, candidate in enumerate(candidates):
            sample = samples[candidate.id]
            if index not in HULL:
                sample.success = False
                continue
            session.add(measurement(candidate, sample, "energy_above_hull", HULL[index] + 1))
            session.flush()
            session.add(measurement(candidate, sample, "energy_above_hull", HULL[index], "again"))
            session.add(measurement(candidate, sample, "bulk_modulus", 30.0 + index))
        session.add(
            VerdictRow(candidate_id=candidates[0].id, check_name="valid", passed=False,
                       decisive=True, reason="Li-Li 0.4 A")
        )  # fmt: skip
    return ledger_engine


def decision(candidate: CandidateRow, arm: str, rank: int | None) -> DecisionRow:
    return DecisionRow(
        campaign_id=candidate.campaign_id, cycle_id=candidate.cycle_id, candidate_id=candidate.id,
        arm=arm, selector=arm, rank=rank, acquisition_function="f", posterior={}, seed=1,
        reason="because",
    )  # fmt: skip


def measurement(
    candidate: CandidateRow, sample: SampleRow, name: str, value: float, method: str = "toy"
) -> MeasurementRow:
    return MeasurementRow(
        campaign_id=candidate.campaign_id, candidate_id=candidate.id, sample_id=sample.id,
        property=name, value=value, unit="eV/atom", uncertainty=value / 10, method=method,
        fidelity="experiment", flags=[], provenance={},
    )  # fmt: skip


def rows(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_there_are_five_documented_queries_in_two_pages():
    assert len(QUERIES) == 5
    assert len(DOCUMENT.read_text().splitlines()) < 100


@pytest.mark.parametrize(("question", "query"), QUERIES, ids=[question for question, _ in QUERIES])
def test_documented_queries_answer(told, question, query):
    assert rows(told, query.replace("my-campaign", "toys")), question


def test_an_experiment_shows_its_properties_side_by_side(told):
    found = rows(
        told,
        "SELECT formula, arms, success, energy_above_hull, energy_above_hull_uncertainty,"
        " bulk_modulus, density, temperature_k, cycle FROM experiment ORDER BY candidate_id",
    )
    assert [row[1] for row in found] == ["main", "main,random", "main", "random"]
    assert [bool(row[2]) for row in found] == [True, True, False, True]
    assert found[1][3:] == (0.02, pytest.approx(0.002), 31.0, None, 900.0, 1)
    assert found[2][3] is None


def test_the_best_are_ranked_by_stability(told):
    found = rows(told, "SELECT stability_rank, energy_above_hull FROM best_candidates ORDER BY 1")
    assert found == [(1, 0.02), (2, 0.05), (3, 0.08)]


def test_the_curve_counts_per_arm_and_forgets_failures(told):
    found = rows(
        told,
        "SELECT arm, experiment_number, value, lowest_so_far, highest_so_far, successes_so_far"
        " FROM discovery_curve WHERE property = 'energy_above_hull'"
        " ORDER BY arm, experiment_number",
    )
    assert found == [
        ("main", 1, 0.08, 0.08, 0.08, 1),
        ("main", 2, None, 0.08, 0.08, 1),
        ("main", 3, 0.02, 0.02, 0.08, 2),
        ("random", 1, 0.05, 0.05, 0.05, 1),
        ("random", 2, 0.02, 0.02, 0.05, 2),
    ]


def test_a_later_cycle_that_chooses_again_is_credited_with_the_same_sample(told):
    with writing(told) as session:
        recipe = session.scalars(select(RecipeRow).order_by(RecipeRow.id)).first()
        assert recipe
        candidate = session.get_one(CandidateRow, recipe.candidate_id)
        session.add(decision(candidate, "late", 1))
    found = rows(told, "SELECT value FROM discovery_curve WHERE arm = 'late' ORDER BY 1")
    assert [value for (value,) in found] == [0.08, 30.0]


def test_the_history_of_a_candidate_is_whole(told):
    found = rows(
        told,
        "SELECT what FROM candidate_history WHERE candidate_id ="
        " (SELECT candidate_id FROM experiment ORDER BY candidate_id LIMIT 1)",
    )
    assert {what for (what,) in found} == {
        "generated", "not passed", "chosen", "recipe", "job planned", "job submitting",
        "job running", "job succeeded", "made", "measured",
    }  # fmt: skip


def test_the_timeline_knows_retries_and_ends(told):
    found = rows(
        told,
        "SELECT state, attempts, planned_at < first_submitting_at,"
        " first_submitting_at < last_running_at, last_running_at < ended_at"
        " FROM job_timeline ORDER BY attempts",
    )
    assert [row[0] for row in found] == ["succeeded"] * 4
    assert [row[1] for row in found] == [0, 0, 0, 1]
    assert all(all(row[2:]) for row in found)

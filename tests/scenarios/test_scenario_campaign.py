"""A scientist runs a campaign from its file to its end, and finds every fact in the ledger."""

import sqlite3

import pytest
from small_campaign import facts, run, small_spec
from sqlalchemy import func, select

from matterloop.loop.budget import spending
from matterloop.loop.cli.status import print_campaign, print_campaigns
from matterloop.loop.experiment import UNITS
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import (
    Campaign,
    CandidateRow,
    DecisionRow,
    EventRow,
    JobRow,
    MeasurementRow,
    ModelVersion,
    RecipeRow,
    ReviewRow,
    SampleRow,
    VerdictRow,
)
from matterloop.loop.ranking import best_candidates
from matterloop.loop.report import write_report
from matterloop.loop.workplace import open_ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}") as engine:
        yield engine, run(engine, small_spec(), folder), folder


def test_the_campaign_finished_all_its_cycles(finished):
    engine, campaign_id, _ = finished
    with reading(engine) as session:
        campaign = session.get_one(Campaign, campaign_id)
        assert campaign.state == "finished"
        assert [(cycle.number, cycle.stage) for cycle in campaign.cycles] == [
            (1, "learn"),
            (2, "learn"),
        ]
        assert all(cycle.finished_at is not None for cycle in campaign.cycles)


def test_every_candidate_has_verdicts_with_reasons(finished):
    engine, _, _ = finished
    with reading(engine) as session:
        candidates = session.scalars(select(CandidateRow)).all()
        assert len(candidates) == 16
        for candidate in candidates:
            verdicts = session.scalars(
                select(VerdictRow).where(VerdictRow.candidate_id == candidate.id)
            ).all()
            assert verdicts
            assert all(verdict.reason for verdict in verdicts)
            refused = any(v.decisive and not v.passed for v in verdicts)
            assert refused == (candidate.state in ("refused", "unrelaxable"))


def test_experiments_were_chosen_approved_planned_and_made_once(finished):
    engine, _, _ = finished
    with reading(engine) as session:
        chosen = session.scalars(select(DecisionRow).where(DecisionRow.rank.is_not(None))).all()
        assert {decision.arm for decision in chosen} == {"main", "random"}
        assert len(session.scalars(select(ReviewRow)).all()) == len(chosen)
        made = {decision.candidate_id for decision in chosen}
        recipes = session.scalars(select(RecipeRow)).all()
        assert sorted(recipe.candidate_id for recipe in recipes) == sorted(made)
        jobs = session.scalars(select(JobRow).where(JobRow.purpose == "synthesize")).all()
        assert sorted(job.candidate_id for job in jobs) == sorted(made)
        assert {job.state for job in jobs} <= {"succeeded", "failed"}
        samples = session.scalars(select(SampleRow)).all()
        assert len(samples) == sum(job.state == "succeeded" for job in jobs)
        assert any(sample.success for sample in samples)


def test_measurements_are_traceable_and_in_the_ledgers_units(finished):
    engine, _, _ = finished
    with reading(engine) as session:
        rows = session.scalars(select(MeasurementRow)).all()
        assert all(row.unit == UNITS[row.property] for row in rows)
        measured = [row for row in rows if row.fidelity == "experiment"]
        assert {row.property for row in measured} >= {"energy_above_hull", "density"}
        for row in measured:
            job = session.get_one(JobRow, row.job_id)
            assert job.state == "succeeded"
            assert job.sample_id == row.sample_id
            assert row.uncertainty is not None
        kinds = session.scalars(select(ModelVersion.kind)).all()
        assert sorted(kinds) == ["generator", "potential"]


def test_job_history_is_complete(finished):
    engine, _, _ = finished
    with reading(engine) as session:
        for job in session.scalars(select(JobRow)):
            moves = session.execute(
                select(EventRow.before, EventRow.after)
                .where(EventRow.subject_id == job.id)
                .order_by(EventRow.at, EventRow.id)
            ).all()
            assert [after for _, after in moves] == [
                "planned", "submitting", "running", job.state,
            ]  # fmt: skip


def test_a_plain_sqlite_client_reads_the_results(finished):
    _, _, folder = finished
    with sqlite3.connect(folder / "ledger.sqlite") as client:
        rows = client.execute(
            "SELECT s.reduced_formula, m.value, m.unit FROM measurement m"
            " JOIN candidate c ON c.id = m.candidate_id"
            " JOIN structure s ON s.sha256 = c.relaxed_sha256"
            " WHERE m.property = 'density' AND m.fidelity = 'experiment' ORDER BY m.value"
        ).fetchall()
    client.close()
    assert rows
    assert all(unit == "g/cm^3" and 0.3 < value < 10 for _, value, unit in rows)


def test_running_a_finished_campaign_again_changes_nothing(finished):
    engine, campaign_id, folder = finished
    before = facts(engine, campaign_id)

    def record():
        with reading(engine) as session:
            rows = [session.scalar(select(func.count()).select_from(t)) for t in (JobRow, EventRow)]
            return [*rows, session.get_one(Campaign, campaign_id).finished_at]

    recorded = record()
    assert run(engine, small_spec(), folder) == campaign_id
    assert facts(engine, campaign_id) == before
    assert record() == recorded


@pytest.mark.postgres
def test_postgresql_holds_the_same_facts(finished, postgres_server, tmp_path):
    engine, campaign_id, _ = finished
    with open_ledger(postgres_server.create_database()) as grown:
        grown_id = run(grown, small_spec(), tmp_path)
        assert facts(grown, grown_id) == facts(engine, campaign_id)
        with reading(grown) as session:
            page = write_report(session, grown_id, tmp_path / "report.html")
    assert "chlorides" in page.read_text(encoding="utf-8")


def test_status_shows_progress_spending_and_the_best(finished, capsys):
    engine, campaign_id, _ = finished
    print_campaigns(engine)
    print_campaign(engine, campaign_id)
    shown = capsys.readouterr().out
    assert "chlorides: finished" in shown
    assert "2/2" in shown
    with reading(engine) as session:
        (best, *_) = best_candidates(session, campaign_id, small_spec(), most=1)
        spent = spending(session, campaign_id)
    assert best.formula in shown
    assert f"{spent.experiments} of 20 experiments" in shown
    assert f"{best.values['density']:.4g}" in shown


def test_the_report_is_written(finished):
    engine, campaign_id, folder = finished
    with reading(engine) as session:
        page = write_report(session, campaign_id, folder / "report.html")
    assert "chlorides" in page.read_text(encoding="utf-8")

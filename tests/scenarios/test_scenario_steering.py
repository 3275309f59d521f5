"""Scientists steer: budgets end, batches wait for approval, vetoes are kept."""

import pytest
from small_campaign import run, small_spec
from sqlalchemy import func, select

from matterloop.loop.cli.reviewing import review_batch
from matterloop.loop.errors import BudgetExhaustedError, ConflictError, UsageError
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign, DecisionRow, JobRow, ReviewRow
from matterloop.loop.open_campaign import enter
from matterloop.loop.stages.approve import WaitingForApprovalError, unreviewed
from matterloop.loop.workplace import open_ledger

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as engine:
        yield engine


def count(engine, *conditions):
    with reading(engine) as session:
        return session.scalar(select(func.count()).select_from(JobRow).where(*conditions))


def state(engine, campaign_id):
    with reading(engine) as session:
        return session.get_one(Campaign, campaign_id).state


def test_a_spent_budget_stops_the_campaign_and_a_raised_one_lets_it_go_on(ledger, tmp_path):
    poor = small_spec(budget={"cycles": 2, "experiments": 2})
    with pytest.raises(BudgetExhaustedError, match=r"budget of experiments is spent: 2 used") as e:
        run(ledger, poor, tmp_path)
    assert "raise budget.experiments" in str(e.value)
    campaign_id = enter(ledger, poor)
    assert state(ledger, campaign_id) == "stopped"
    assert count(ledger, JobRow.purpose == "synthesize") == 2

    run(ledger, small_spec(budget={"cycles": 2, "experiments": 20}), tmp_path)
    assert state(ledger, campaign_id) == "finished"
    assert count(ledger, JobRow.purpose == "synthesize") > 2


def test_a_batch_waits_for_a_person_and_a_veto_is_kept(ledger, tmp_path):
    spec = small_spec(approval="hold", budget={"cycles": 1}, control_arms=[])
    with pytest.raises(WaitingForApprovalError, match=r"2 chosen candidates need"):
        run(ledger, spec, tmp_path)
    campaign_id = enter(ledger, spec)
    assert state(ledger, campaign_id) == "waiting"
    assert count(ledger) == 0
    with reading(ledger) as session:
        first, second = unreviewed(session, campaign_id)

    with pytest.raises(UsageError, match="A veto needs a reason"):
        review_batch(ledger, spec.name, [], [first.candidate_id], "ada", "")
    with pytest.raises(UsageError, match="No candidate waits under nobody"):
        review_batch(ledger, spec.name, ["nobody"], [], "ada", "")
    review_batch(ledger, spec.name, [], [first.candidate_id], "ada", "too hygroscopic")
    with pytest.raises(WaitingForApprovalError, match=r"1 chosen candidates need"):
        run(ledger, spec, tmp_path)
    review_batch(ledger, spec.name, ["all"], [], "ada", "")

    run(ledger, spec, tmp_path)
    with reading(ledger) as session:
        reviews = session.execute(
            select(DecisionRow.candidate_id, ReviewRow.verdict, ReviewRow.reviewer)
            .join(ReviewRow)
            .order_by(DecisionRow.rank)
        ).all()
        made = session.scalars(
            select(JobRow.candidate_id).where(JobRow.purpose == "synthesize")
        ).all()
    assert [tuple(row) for row in reviews] == [
        (first.candidate_id, "vetoed", "ada"),
        (second.candidate_id, "approved", "ada"),
    ]
    assert made == [second.candidate_id]


def test_another_specification_under_the_same_name_is_refused(ledger):
    enter(ledger, small_spec())
    with pytest.raises(ConflictError, match=r"'chlorides' with another batch_size, seed"):
        enter(ledger, small_spec(seed=8, batch_size=3))

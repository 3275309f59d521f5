"""What a campaign may still spend."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from matterloop.loop.errors import BudgetExhaustedError
from matterloop.loop.ledger.models import JobRow
from matterloop.loop.spec import Budget


@dataclass(frozen=True)
class Spending:
    """What a campaign has spent or bound by planned jobs.

    Attributes
    ----------
    experiments
        Syntheses, of all arms.
    cost
        Sum of the declared costs of all jobs, in the campaign's currency.
    """

    experiments: int
    cost: float

    def check(self, budget: Budget, experiment_cost: float) -> None:
        """Ask for one more experiment that costs `experiment_cost` in all.

        Raises
        ------
        BudgetExhaustedError
            If it would exceed a limit.
        """
        if budget.experiments is not None and self.experiments + 1 > budget.experiments:
            raise BudgetExhaustedError("experiments", self.experiments, 1, budget.experiments)
        if budget.cost is not None and self.cost + experiment_cost > budget.cost + 1e-9:
            raise BudgetExhaustedError("cost", self.cost, experiment_cost, budget.cost)

    def plus(self, experiment_cost: float) -> Spending:
        """Return what is spent after one more experiment."""
        return Spending(self.experiments + 1, self.cost + experiment_cost)


def spending(session: Session, campaign_id: str) -> Spending:
    """Sum up a campaign's jobs; those refused before submission cost nothing.

    Characterizations count from when they are planned, which is after their synthesis. Whoever
    plans a synthesis asks for the cost of both (`matterloop.loop.stages.experiment`).
    """
    charged = JobRow.failure_kind.is_distinct_from("policy_violation")
    mine = JobRow.campaign_id == campaign_id
    experiments = session.scalar(
        select(func.count()).where(mine, charged, JobRow.purpose == "synthesize")
    )
    cost = session.scalar(select(func.coalesce(func.sum(JobRow.cost), 0.0)).where(mine, charged))
    return Spending(int(experiments or 0), float(cost or 0.0))

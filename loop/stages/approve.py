"""Stage approve: a policy or a person lets each chosen candidate pass, or vetoes it."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.errors import UsageError, WaitingForPersonError
from matterloop.loop.ledger.models import Cycle, DecisionRow, ReviewRow
from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.plugins import calling

VERDICTS = ("approved", "vetoed")


class WaitingForApprovalError(WaitingForPersonError):
    """The batch waits for approval."""

    def __init__(self, campaign: str, waiting: int) -> None:
        super().__init__(
            f"Campaign {campaign!r} waits: {waiting} chosen candidates need a person's approval.",
            remedy=f"see them with `matterloop review {campaign}`, approve with `--approve all`"
            " or veto with `--veto CANDIDATE --reason TEXT`, then run the campaign again",
        )


def approve(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Ask the policy about every decision without a review.

    Raises
    ------
    WaitingForApprovalError
        If the policy leaves some of them to a person.
    """
    campaign.once(lambda session: _ask_policy(campaign, session, cycle))
    with campaign.transaction() as session:
        waiting = unreviewed(session, campaign.id, cycle)
        if waiting:
            raise WaitingForApprovalError(campaign.name, len(waiting))
        cycle_id = campaign.cycle(session, cycle).id
        verdicts = Counter(
            session.scalars(
                select(ReviewRow.verdict).join(DecisionRow).where(DecisionRow.cycle_id == cycle_id)
            )
        )
        campaign.stage_done(session, cycle, "approve")
    return StageReport(
        "approve",
        f"{verdicts['approved']} approved, {verdicts['vetoed']} vetoed",
        {"approved": verdicts["approved"], "vetoed": verdicts["vetoed"]},
    )


def unreviewed(session: Session, campaign_id: str, cycle: int | None = None) -> list[DecisionRow]:
    """Return chosen candidates that nobody reviewed, of one cycle or of all."""
    query = (
        select(DecisionRow)
        .join(Cycle, DecisionRow.cycle_id == Cycle.id)
        .outerjoin(ReviewRow)
        .where(
            DecisionRow.campaign_id == campaign_id,
            DecisionRow.rank.is_not(None),
            ReviewRow.id.is_(None),
        )
        .order_by(Cycle.number, DecisionRow.arm, DecisionRow.rank)
    )
    if cycle is not None:
        query = query.where(Cycle.number == cycle)
    return list(session.scalars(query))


def review(
    session: Session, decision: DecisionRow, verdict: str, *, reviewer: str, reason: str
) -> None:
    """Enter a person's review.

    Raises
    ------
    UsageError
        If a veto comes without a reason: whoever reads the report wants to know it.
    """
    if verdict == "vetoed" and not reason.strip():
        raise UsageError("A veto needs a reason.", "a sentence", "add `--reason TEXT`")
    session.add(
        ReviewRow(decision_id=decision.id, verdict=verdict, reviewer=reviewer, reason=reason)
    )


def _ask_policy(campaign: OpenCampaign, session: Session, cycle: int) -> None:
    for decision in unreviewed(session, campaign.id, cycle):
        with calling("policies", campaign.spec.approval.name):
            opinion = campaign.crew.policy.review(
                {
                    "campaign": campaign.name,
                    "cycle": cycle,
                    "arm": decision.arm,
                    "rank": decision.rank,
                    "candidate_id": decision.candidate_id,
                    "formula": decision.candidate.structure.reduced_formula,
                    "posterior": decision.posterior,
                    "reason": decision.reason,
                }
            )
        if opinion is not None:
            verdict, reason = opinion
            if verdict not in VERDICTS:
                raise UsageError(
                    f"The policy {campaign.spec.approval.name!r} answered {verdict!r}.",
                    f"{' or '.join(map(repr, VERDICTS))}, or None to wait for a person",
                    "repair the policy",
                )
            session.add(
                ReviewRow(
                    decision_id=decision.id,
                    verdict=verdict,
                    reviewer=f"policy {campaign.spec.approval.name}",
                    reason=reason,
                )
            )

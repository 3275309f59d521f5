"""Stage screen: the critic gives a verdict on every candidate, the refused too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from matterloop.loop.candidate import Verdict
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import PluginFailedError, UsageError
from matterloop.loop.ledger.models import CandidateRow, Cycle, VerdictRow
from matterloop.loop.ledger.structures import get_structure
from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.plugins import calling

if TYPE_CHECKING:
    from pymatgen.core import Structure


def screen(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Judge the candidates of a cycle that nobody judged; entered in one transaction."""
    with campaign.view() as session:
        cycle_id = campaign.cycle(session, cycle).id
        waiting = _candidates(session, cycle_id, "generated")
        known = [get_structure(row.structure) for row in _earlier(session, campaign.id, cycle)]
        crystals = [get_structure(row.structure) for row in waiting]
    places = [_inside(campaign, crystal) for crystal in crystals]
    verdicts = opinions_of_critic(campaign, crystals, known)

    def enter(session: Session) -> None:
        for row, inside, judged in zip(waiting, places, verdicts, strict=True):
            opinions = [inside, *judged]
            enter_verdicts(session, row.id, opinions)
            session.get_one(CandidateRow, row.id).state = (
                "accepted" if accepted(opinions) else "refused"
            )
        campaign.stage_done(session, cycle, "screen")

    campaign.once(enter)
    with campaign.view() as session:
        states = session.scalars(
            select(CandidateRow.state).where(CandidateRow.cycle_id == cycle_id)
        ).all()
    refused = sum(state == "refused" for state in states)
    campaign.progress("candidates screened", len(states), len(states))
    return StageReport(
        "screen",
        f"{len(states) - refused} of {len(states)} candidates pass",
        {"passed": len(states) - refused, "refused": refused},
    )


def opinions_of_critic(
    campaign: OpenCampaign, crystals: Sequence[Structure], known: Sequence[Structure]
) -> list[list[Verdict]]:
    """Ask the campaign's critic; one list of verdicts per crystal.

    Raises
    ------
    PluginFailedError
        If it raises, or answers for more or fewer crystals.
    """
    name = campaign.spec.critic.name
    with calling("critics", name):
        verdicts = campaign.crew.critic.judge(crystals, known) if crystals else []
        count = len(verdicts)
    if count != len(crystals):
        reason = f"it judged {count} crystals where {len(crystals)} were asked for"
        raise PluginFailedError("matterloop.critics", name, reason)
    return verdicts


def accepted(verdicts: Sequence[Verdict]) -> bool:
    """Whether no decisive check failed."""
    return all(verdict.passed or not verdict.decisive for verdict in verdicts)


def enter_verdicts(
    session: Session, candidate_id: str, verdicts: Sequence[Verdict], prefix: str = ""
) -> None:
    """Write verdicts on one candidate; `prefix` tells a second look from the first.

    Raises
    ------
    UsageError
        If a critic answered one check twice: nobody could tell which answer holds.
    """
    checks = [verdict.check for verdict in verdicts]
    twice = sorted({check for check in checks if checks.count(check) > 1})
    if twice:
        raise UsageError(
            f"The critic gave several verdicts under {', '.join(twice)} on one candidate.",
            "one verdict per check",
            "repair the critic",
        )
    for verdict in verdicts:
        session.add(
            VerdictRow(
                candidate_id=candidate_id,
                check_name=prefix + verdict.check,
                passed=verdict.passed,
                decisive=verdict.decisive,
                reason=verdict.reason,
            )
        )


def _inside(campaign: OpenCampaign, crystal: Structure) -> Verdict:
    """Hold a crystal against the search space: it binds every generator."""
    space = campaign.spec.search_space
    why = space.why_outside(element_counts(crystal))
    if why is not None:  # perhaps only because the cell is not primitive
        why = space.why_outside(element_counts(crystal.get_primitive_structure()))
    return Verdict("inside", why is None, why or "inside the search space")


def _candidates(session: Session, cycle_id: str, state: str) -> list[CandidateRow]:
    return list(
        session.scalars(
            select(CandidateRow)
            .where(CandidateRow.cycle_id == cycle_id, CandidateRow.state == state)
            .order_by(CandidateRow.ordinal)
            .options(joinedload(CandidateRow.structure))
        )
    )


def _earlier(session: Session, campaign_id: str, cycle: int) -> list[CandidateRow]:
    return list(
        session.scalars(
            select(CandidateRow)
            .join(Cycle)
            .where(
                CandidateRow.campaign_id == campaign_id,
                Cycle.number < cycle,
                CandidateRow.state != "refused",
            )
            .order_by(Cycle.number, CandidateRow.ordinal)
            .options(joinedload(CandidateRow.structure))
        )
    )

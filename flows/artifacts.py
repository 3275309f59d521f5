"""What a campaign shows in the Prefect UI after each cycle."""

from __future__ import annotations

import re

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from sqlalchemy import select

from matterloop.loop.experiment import UNITS
from matterloop.loop.ledger.models import CandidateRow, Cycle, DecisionRow, JobRow
from matterloop.loop.open_campaign import OpenCampaign
from matterloop.loop.stages.evidence import observations


def artifact_key(*words: str | int) -> str:
    """Make a key of the form that Prefect accepts (lower-case letters, digits, dashes)."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, words)).lower()).strip("-")


def publish_cycle(campaign: OpenCampaign, cycle: int, report_link: str) -> None:
    """Publish the cycle's batch and results as a markdown artifact, and a link to the report."""
    create_markdown_artifact(
        key=artifact_key(campaign.name, "cycle"),
        markdown=cycle_summary(campaign, cycle),
        description=f"Campaign {campaign.name}, cycle {cycle}",
    )
    create_link_artifact(
        key=artifact_key(campaign.name, "report"), link=report_link, link_text="Report"
    )


def cycle_summary(campaign: OpenCampaign, cycle: int) -> str:
    """Write a cycle's batch and what came of it as a markdown table."""
    wanted = campaign.spec.wanted_properties
    with campaign.view() as session:
        cycle_id = campaign.cycle(session, cycle).id
        seen = {
            observation.item.candidate_id: observation
            for arm in campaign.crew.selectors
            for observation in observations(session, campaign.id, arm)
        }
        chosen = session.execute(
            select(DecisionRow, CandidateRow)
            .join(CandidateRow, DecisionRow.candidate_id == CandidateRow.id)
            .join(Cycle, DecisionRow.cycle_id == Cycle.id)
            .where(DecisionRow.cycle_id == cycle_id, DecisionRow.rank.is_not(None))
            .order_by(DecisionRow.arm != "main", DecisionRow.arm, DecisionRow.rank)
        ).all()
        jobs = session.scalars(select(JobRow.state).where(JobRow.cycle_id == cycle_id)).all()
        units = [f"{name} ({UNITS[name]})" for name in wanted]
        head = ["arm", "rank", "formula", "made", *units, "why chosen"]
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for decision, candidate in chosen:
            observation = seen.get(candidate.id)
            made = "no result" if observation is None else "yes" if observation.feasible else "no"
            values = observation.values if observation else {}
            figures = [f"{values[name]:.4g}" if name in values else "" for name in wanted]
            cells = [
                decision.arm,
                str(decision.rank),
                candidate.structure.reduced_formula,
                made,
                *figures,
                decision.reason.replace("|", "/"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    done = sum(state == "succeeded" for state in jobs)
    return (
        f"## Cycle {cycle} of {campaign.spec.budget.cycles}\n\n"
        f"{done} of {len(jobs)} jobs succeeded.\n\n" + "\n".join(lines) + "\n"
    )

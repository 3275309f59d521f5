"""Where campaigns stand, as tables on the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, select

from matterloop.loop.budget import spending
from matterloop.loop.experiment import UNITS
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.instruments import out_of_service
from matterloop.loop.ledger.models import Campaign, CandidateRow, JobRow
from matterloop.loop.ranking import best_candidates
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.stages.evidence import measured_figures

BEST = 5
"""Candidates shown."""


def print_campaigns(engine: Engine) -> None:
    """Print one line per campaign."""
    table = Table("campaign", "state", "cycle", "stage", "experiments", box=None, pad_edge=False)
    with reading(engine) as session:
        campaigns = session.scalars(select(Campaign).order_by(Campaign.created_at)).all()
        for row in campaigns:
            spec = CampaignSpec.model_validate(row.spec)
            last = row.cycles[-1] if row.cycles else None
            table.add_row(
                row.name,
                row.state,
                f"{last.number if last else 0}/{spec.budget.cycles}",
                last.stage if last else "",
                str(spending(session, row.id).experiments),
            )
    if campaigns:
        Console().print(table)
    else:
        print("The ledger holds no campaign yet. Start one with `matterloop run FILE.yaml`.")


def print_campaign(engine: Engine, campaign_id: str) -> None:
    """Print a campaign's progress, what it spent and its best candidates."""
    console = Console(highlight=False)
    with reading(engine) as session:
        row = session.get_one(Campaign, campaign_id)
        spec = CampaignSpec.model_validate(row.spec)
        spent = spending(session, row.id)
        mine = CandidateRow.campaign_id == row.id
        candidates = Counter(session.scalars(select(CandidateRow.state).where(mine)))
        jobs = Counter(session.scalars(select(JobRow.state).where(JobRow.campaign_id == row.id)))
        last = row.cycles[-1] if row.cycles else None
        console.print(f"\n{row.name}: {row.state}")
        console.print(
            f"cycle {last.number if last else 0} of {spec.budget.cycles}"
            f" ({last.stage if last else 'not begun'})"
        )
        console.print(f"candidates: {_counted(candidates)}")
        console.print(f"jobs: {_counted(jobs)}")
        for instrument, reason in out_of_service(session, row.id).items():
            console.print(f"{instrument} is set aside: {reason}")
        limit = spec.budget.experiments
        console.print(
            f"spent: {spent.experiments}{f' of {limit}' if limit else ''} experiments,"
            f" cost {spent.cost:g}{f' of {spec.budget.cost:g}' if spec.budget.cost else ''}"
        )
        best = best_candidates(session, row.id, spec, BEST)
        measured = len(measured_figures(session, row.id))
    if not best:
        console.print(
            f"none of the {measured} measured candidates has all wanted properties in bounds"
            if measured
            else "no candidate was made and measured yet"
        )
        return
    names = list(spec.wanted_properties)
    table = Table(box=None, pad_edge=False)
    for column in ("formula", "cycle", "arm", *(f"{n} ({UNITS[n]})" for n in names), "notes"):
        table.add_column(column)
    for candidate in best:
        table.add_row(
            candidate.formula,
            str(candidate.cycle),
            ", ".join(candidate.arms),
            *(f"{candidate.values[name]:.4g}" for name in names),
            ", ".join(candidate.notes),
        )
    console.print("\nbest, constraints kept, Pareto front first:")
    console.print(table)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none"

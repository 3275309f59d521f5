"""A person's look at the candidates that wait for approval."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from matterloop.loop.errors import UsageError
from matterloop.loop.ledger.engine import reading, writing
from matterloop.loop.ledger.models import DecisionRow
from matterloop.loop.open_campaign import find
from matterloop.loop.stages.approve import review, unreviewed


def review_batch(
    engine: Engine,
    campaign: str,
    approve: list[str],
    veto: list[str],
    reviewer: str,
    reason: str,
) -> None:
    """Enter reviews; without any, print what waits.

    Raises
    ------
    UsageError
        If a named candidate does not wait, or is both approved and vetoed.
    """
    campaign_id = find(engine, campaign)
    if not approve and not veto:
        _print_waiting(engine, campaign, campaign_id)
        return
    with writing(engine) as session:
        waiting = unreviewed(session, campaign_id)
        known = {decision.candidate_id for decision in waiting}
        unknown = (set(approve) | set(veto)) - known - {"all"}
        if unknown or "all" in veto:
            raise UsageError(
                f"No candidate waits under {', '.join(sorted(unknown) or ['all'])}.",
                f"one of {', '.join(sorted(known)) or 'none; nothing waits'}",
            )
        both = set(approve) & set(veto)
        if both:
            raise UsageError(f"{', '.join(sorted(both))} is both approved and vetoed.")
        done = [_enter(session, d, approve, veto, reviewer, reason) for d in waiting]
    print(f"{sum(done)} reviews entered, {len(done) - sum(done)} candidates still wait.")


def _enter(
    session: object,
    decision: DecisionRow,
    approve: list[str],
    veto: list[str],
    reviewer: str,
    reason: str,
) -> bool:
    if decision.candidate_id in veto:
        verdict = "vetoed"
    elif decision.candidate_id in approve or "all" in approve:
        verdict = "approved"
    else:
        return False
    review(session, decision, verdict, reviewer=reviewer, reason=reason)  # type: ignore[arg-type]
    return True


def _print_waiting(engine: Engine, campaign: str, campaign_id: str) -> None:
    table = Table("candidate", "formula", "arm", "rank", "prediction", box=None, pad_edge=False)
    with reading(engine) as session:
        waiting = unreviewed(session, campaign_id)
        for decision in waiting:
            predicted = ", ".join(
                f"{name} {value['mean']:.3g} +- {value['std']:.2g}"
                for name, value in decision.posterior.items()
            )
            table.add_row(
                decision.candidate_id,
                decision.candidate.structure.reduced_formula,
                decision.arm,
                str(decision.rank),
                predicted,
            )
    if waiting:
        Console(width=160).print(table)
    else:
        print(f"No candidate of campaign {campaign} waits for approval.")

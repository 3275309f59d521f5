"""Stage select: every arm chooses its batch from the same pool, on its own evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import select as sql_select
from sqlalchemy.orm import Session

from matterloop.loop.crew import MAIN_ARM
from matterloop.loop.errors import PluginFailedError
from matterloop.loop.ledger.models import DecisionRow
from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.plugins import calling
from matterloop.loop.selection import PoolItem, Selection
from matterloop.loop.stages.evidence import observations, pool


def select(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Let each arm without decisions in this cycle decide; one transaction per arm."""
    arms = campaign.crew.selectors
    counts = {}
    for done, arm in enumerate(arms, start=1):
        with campaign.view() as session:
            cycle_id = campaign.cycle(session, cycle).id
            counts[arm] = _chosen(session, cycle_id, arm)
            decided = counts[arm] is not None
            candidates = [] if decided else pool(session, campaign.id, arm)
            evidence = [] if decided else observations(session, campaign.id, arm)
        if candidates:
            seed = campaign.seed("select", cycle, arm)
            with calling("selectors", _selector_name(campaign, arm)):
                selection = arms[arm].select(
                    candidates,
                    evidence,
                    objectives=campaign.spec.objectives,
                    constraints=campaign.spec.constraints,
                    batch_size=_batch_size(campaign, arm),
                    seed=seed,
                )
                broken = _broken_promise(selection, candidates, _batch_size(campaign, arm))
            if broken:
                name = _selector_name(campaign, arm)
                raise PluginFailedError("matterloop.selectors", name, broken)
            campaign.once(_entry(campaign, cycle_id, arm, selection, seed))
            counts[arm] = sum(choice.rank is not None for choice in selection.choices)
        campaign.progress("batches selected", done, len(arms))
    with campaign.transaction() as session:
        campaign.stage_done(session, cycle, "select")
    chosen = counts[MAIN_ARM] or 0
    return StageReport(
        "select",
        f"{chosen} chosen by {campaign.spec.selector.name}"
        + (f", {len(arms) - 1} control arms beside it" if len(arms) > 1 else ""),
        {arm: n or 0 for arm, n in counts.items()},
    )


def _broken_promise(
    selection: Selection, candidates: Sequence[PoolItem], batch_size: int
) -> str | None:
    """Say in what a selection is not what `Selector` promises, or None."""
    named = [choice.candidate_id for choice in selection.choices]
    ranks = sorted(choice.rank for choice in selection.choices if choice.rank is not None)
    if strange := sorted(set(named) - {item.candidate_id for item in candidates}):
        return f"it names {', '.join(strange)}, not in the pool"
    if len(set(named)) < len(named):
        return "it names a candidate twice"
    if ranks != list(range(1, len(ranks) + 1)) or len(ranks) > batch_size:
        return f"it gave the ranks {ranks} where at most {batch_size} were asked for, from 1 on"
    return None


def _chosen(session: Session, cycle_id: str, arm: str) -> int | None:
    """Size of the batch that this arm chose in this cycle, None if it has not decided."""
    ranks = session.scalars(
        sql_select(DecisionRow.rank).where(DecisionRow.cycle_id == cycle_id, DecisionRow.arm == arm)
    ).all()
    return sum(rank is not None for rank in ranks) if ranks else None


def _batch_size(campaign: OpenCampaign, arm: str) -> int:
    for control in campaign.spec.control_arms:
        if control.name == arm and control.batch_size is not None:
            return control.batch_size
    return campaign.spec.batch_size


def _selector_name(campaign: OpenCampaign, arm: str) -> str:
    names = {control.name: control.selector.name for control in campaign.spec.control_arms}
    return names.get(arm, campaign.spec.selector.name)


def _entry(
    campaign: OpenCampaign, cycle_id: str, arm: str, selection: Selection, seed: int
) -> Callable[[Session], None]:
    def enter(session: Session) -> None:
        for choice in selection.choices:
            session.add(
                DecisionRow(
                    campaign_id=campaign.id,
                    cycle_id=cycle_id,
                    candidate_id=choice.candidate_id,
                    arm=arm,
                    selector=_selector_name(campaign, arm),
                    rank=choice.rank,
                    acquisition_function=selection.acquisition_function,
                    acquisition_value=choice.acquisition_value,
                    posterior={
                        name: {"mean": prediction.mean, "std": prediction.std}
                        for name, prediction in choice.predictions.items()
                    },
                    surrogate_sha256=selection.surrogate_sha256,
                    seed=seed,
                    reason=choice.reason,
                )
            )
        campaign.event(
            session, "select", cycle_id, after=arm, detail={"details": dict(selection.details)}
        )

    return enter

"""Stages synthesize and characterize: jobs are planned in the ledger, then driven to their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.budget import spending
from matterloop.loop.errors import (
    BudgetExhaustedError,
    InstrumentFaultError,
    JobFailureError,
    WaitingForPersonError,
)
from matterloop.loop.experiment import (
    UNITS,
    CharacterizationRequest,
    CharacterizationResult,
    JobState,
    Phase,
    Recipe,
    SynthesisRequest,
    SynthesisResult,
)
from matterloop.loop.ledger.drive import DriveReport
from matterloop.loop.ledger.driver import JobDriver
from matterloop.loop.ledger.jobs import SETTLED, Result, plan_job
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    EventRow,
    JobRow,
    MeasurementRow,
    RecipeRow,
    SampleRow,
)
from matterloop.loop.ledger.structures import put_structure
from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.stages.evidence import relaxed_crystal
from matterloop.loop.stages.plan import approved


def experiment_cost(campaign: OpenCampaign) -> float:
    """Return the declared cost of a synthesis with its characterizations, in currency."""
    crew = campaign.crew
    cards = [crew.synthesizer.describe(), *(c.describe() for c in crew.characterizers.values())]
    return sum(card.cost for card in cards)


def synthesize(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Make a sample by every recipe of the cycle that the budget pays for."""
    campaign.once(lambda session: _plan_syntheses(campaign, session, cycle))
    instruments = {campaign.spec.synthesizer.name: campaign.crew.synthesizer}
    _drive(campaign, cycle, "synthesize", instruments)
    with campaign.transaction() as session:
        jobs = _jobs(campaign, session, cycle, "synthesize")
        made = session.scalars(
            select(SampleRow.success).where(SampleRow.id.in_([job.sample_id for job in jobs]))
        ).all()
        campaign.stage_done(session, cycle, "synthesize")
    return StageReport(
        "synthesize",
        f"{sum(made)} of {len(jobs)} syntheses gave the intended crystal",
        {"jobs": len(jobs), "made": sum(made)},
    )


def characterize(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Measure every successful sample of the cycle with every characterizer."""
    campaign.once(lambda session: _plan_characterizations(campaign, session, cycle))
    _drive(campaign, cycle, "characterize", campaign.crew.characterizers)
    with campaign.transaction() as session:
        jobs = _jobs(campaign, session, cycle, "characterize")
        count = len(
            session.scalars(
                select(MeasurementRow.id).where(MeasurementRow.job_id.in_([j.id for j in jobs]))
            ).all()
        )
        campaign.stage_done(session, cycle, "characterize")
    failed = sum(job.state != "succeeded" for job in jobs)
    return StageReport(
        "characterize",
        f"{count} measurements" + (f", {failed} of {len(jobs)} jobs gave none" if failed else ""),
        {"jobs": len(jobs), "measurements": count, "failed": failed},
    )


def _plan_syntheses(campaign: OpenCampaign, session: Session, cycle: int) -> None:
    row_of_cycle = campaign.cycle(session, cycle)
    if _jobs(campaign, session, cycle, "synthesize"):
        return
    name = campaign.spec.synthesizer.name
    card = campaign.crew.synthesizer.describe()
    each = experiment_cost(campaign)
    spent = spending(session, campaign.id)
    recipes = {
        recipe.candidate_id: recipe
        for recipe in session.scalars(
            select(RecipeRow).where(RecipeRow.cycle_id == row_of_cycle.id)
        )
    }
    left_out = []
    for candidate in approved(session, row_of_cycle.id):
        recipe = recipes.get(candidate.id)
        if recipe is None:
            continue
        try:
            spent.check(campaign.spec.budget, each)
        except BudgetExhaustedError as error:
            left_out.append({"candidate": candidate.id, "reason": str(error)})
            continue
        spent = spent.plus(each)
        seed = campaign.seed("synthesize", *_place(session, candidate))
        plan_job(
            session,
            campaign_id=campaign.id,
            cycle_id=row_of_cycle.id,
            candidate_id=candidate.id,
            instrument=name,
            purpose="synthesize",
            request=SynthesisRequest(
                recipe=Recipe.model_validate(recipe.content),
                structure=relaxed_crystal(candidate).as_dict(),
                seed=seed,
            ),
            seed=seed,
            cost=card.cost,
            duration_h=card.duration_h,
            recipe_id=recipe.id,
            actor=campaign.actor,
        )
    if left_out and not _reported(session, row_of_cycle.id):
        campaign.event(session, "budget.left_out", row_of_cycle.id, detail={"candidates": left_out})


def _reported(session: Session, cycle_id: str) -> bool:
    """Whether the ledger knows already what the budget left out of this cycle."""
    kinds = session.scalars(select(EventRow.kind).where(EventRow.subject_id == cycle_id))
    return "budget.left_out" in set(kinds)


def _plan_characterizations(campaign: OpenCampaign, session: Session, cycle: int) -> None:
    row_of_cycle = campaign.cycle(session, cycle)
    for job in _jobs(campaign, session, cycle, "synthesize"):
        sample = session.get(SampleRow, job.sample_id) if job.sample_id else None
        if sample is None or not sample.success:
            continue
        candidate = session.get_one(CandidateRow, job.candidate_id)
        for name, instrument in campaign.crew.characterizers.items():
            card = instrument.describe()
            seed = campaign.seed("characterize", name, *_place(session, candidate))
            plan_job(
                session,
                campaign_id=campaign.id,
                cycle_id=row_of_cycle.id,
                candidate_id=candidate.id,
                instrument=name,
                purpose="characterize",
                request=CharacterizationRequest(
                    phases=tuple(Phase.model_validate(phase) for phase in sample.phases),
                    properties=tuple(card.provides),
                    intended=relaxed_crystal(candidate).as_dict(),
                    seed=seed,
                ),
                seed=seed,
                cost=card.cost,
                duration_h=card.duration_h,
                sample_id=sample.id,
                actor=campaign.actor,
            )


def _place(session: Session, candidate: CandidateRow) -> tuple[int, int]:
    """Return what names a candidate in every rerun of the campaign: its cycle and ordinal."""
    return session.get_one(Cycle, candidate.cycle_id).number, candidate.ordinal


def _jobs(campaign: OpenCampaign, session: Session, cycle: int, purpose: str) -> list[JobRow]:
    cycle_id = campaign.cycle(session, cycle).id
    return list(
        session.scalars(
            select(JobRow)
            .where(JobRow.cycle_id == cycle_id, JobRow.purpose == purpose)
            .order_by(JobRow.created_at, JobRow.id)
        )
    )


def _drive(
    campaign: OpenCampaign, cycle: int, purpose: str, instruments: Mapping[str, Any]
) -> None:
    with campaign.view() as session:
        jobs = _jobs(campaign, session, cycle, purpose)
    if not jobs:
        return
    done = sum(job.state in SETTLED for job in jobs)
    what = {"synthesize": "syntheses", "characterize": "characterizations"}[purpose]
    campaign.progress(what, done, len(jobs))

    def settle(session: Session, job: JobRow, outcome: Result | JobFailureError) -> None:
        nonlocal done
        store(session, job, outcome)
        done += 1
        campaign.progress(what, done, len(jobs))

    report = JobDriver(campaign.engine, instruments).run([job.id for job in jobs], settle)
    if report.unfinished:
        raise _waiting(campaign.name, report)


def _waiting(campaign: str, report: DriveReport) -> WaitingForPersonError:
    reasons = [
        *(f"{name} is set aside ({reason})" for name, reason in report.set_aside.items()),
        *(f"{name} is out of reach ({reason})" for name, reason in report.out_of_reach.items()),
    ]
    unknown = [job for job, state in report.states.items() if state == JobState.UNKNOWN]
    if unknown:
        reasons.append(f"nobody can tell whether {', '.join(unknown)} was submitted")
    return WaitingForPersonError(
        f"Campaign {campaign!r} waits: {len(report.unfinished)} jobs are open;"
        f" {'; '.join(reasons)}.",
        remedy="repair the instrument and enter it with `matterloop repaired`, or look there and"
        " enter what became of a job with `matterloop resolve`; then run the campaign again",
    )


def store(session: Session, job: JobRow, result: Result | JobFailureError) -> None:
    """Enter what a job gave, in the transaction that settles it; a failure leaves no row.

    Raises
    ------
    InstrumentFaultError
        If a measurement comes in another unit than the ledger's, of an unknown property, or twice.
    """
    if isinstance(result, SynthesisResult):
        _store_sample(session, job, result)
    elif isinstance(result, CharacterizationResult):
        _store_measurements(session, job, result)


def _store_sample(session: Session, job: JobRow, result: SynthesisResult) -> None:
    from pymatgen.core import Structure

    main = result.phases[0].structure if result.success and result.phases else None
    sample = SampleRow(
        candidate_id=job.candidate_id,
        recipe_id=job.recipe_id,
        success=result.success,
        product_sha256=put_structure(session, Structure.from_dict(main)) if main else None,
        phases=[phase.model_dump(mode="json") for phase in result.phases],
        yield_fraction=result.yield_fraction,
        explanation=result.explanation,
        details=result.details,
    )
    session.add(sample)
    session.flush()
    job.sample_id = sample.id


def _store_measurements(session: Session, job: JobRow, result: CharacterizationResult) -> None:
    seen = set()
    for figure in result.measurements:
        kind = (figure.property, figure.method, figure.fidelity)
        if kind in seen:
            raise InstrumentFaultError(
                f"{job.instrument} gave {figure.property} by {figure.method} twice.",
                "one figure per property and method",
                "repair the adapter",
            )
        seen.add(kind)
        if UNITS.get(figure.property) != figure.unit:
            raise InstrumentFaultError(
                f"{job.instrument} gave {figure.property} in {figure.unit!r}.",
                f"{UNITS[figure.property]!r}"
                if figure.property in UNITS
                else f"a property of the ledger: {', '.join(UNITS)}",
                "repair the adapter",
            )
        session.add(
            MeasurementRow(
                campaign_id=job.campaign_id,
                candidate_id=job.candidate_id,
                sample_id=job.sample_id,
                job_id=job.id,
                property=figure.property,
                value=figure.value,
                unit=figure.unit,
                uncertainty=figure.uncertainty,
                method=figure.method,
                fidelity=figure.fidelity,
                flags=list(figure.flags),
                provenance=figure.provenance,
            )
        )

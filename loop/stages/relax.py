"""Stage relax: a cheap look at every accepted candidate with the potential."""

from __future__ import annotations

from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions
from matterloop.loop.candidate import ModelRef, Verdict
from matterloop.loop.elements import element_counts
from matterloop.loop.experiment import UNITS
from matterloop.loop.ledger.models import CandidateRow, Cycle, MeasurementRow
from matterloop.loop.ledger.structures import get_structure, put_structure
from matterloop.loop.open_campaign import OpenCampaign, StageReport, enter_model
from matterloop.loop.stages.evidence import relaxed_crystal
from matterloop.loop.stages.screen import accepted, enter_verdicts, opinions_of_critic


def relax(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Relax what is not relaxed yet, one transaction per crystal, then judge the relaxed ones."""
    campaign.once(lambda session: enter_model(campaign, session, potential_ref(campaign)))
    with campaign.view() as session:
        cycle_id = campaign.cycle(session, cycle).id
        waiting = list(
            session.scalars(
                select(CandidateRow)
                .where(CandidateRow.cycle_id == cycle_id, CandidateRow.state == "accepted")
                .order_by(CandidateRow.ordinal)
                .options(joinedload(CandidateRow.structure))
            )
        )
        crystals = [get_structure(row.structure) for row in waiting]
    screening = campaign.spec.screening
    options = RelaxOptions(fmax_eV_per_A=screening.fmax_eV_per_A, max_steps=screening.max_steps)
    results = campaign.crew.potential.relax(crystals, options) if crystals else ()
    for done, (index, result) in enumerate(results, start=1):
        campaign.once(partial(_enter, campaign, waiting[index].id, result))
        campaign.progress("candidates relaxed", done, len(crystals))
    _judge_relaxed(campaign, cycle)
    with campaign.view() as session:
        states = session.scalars(
            select(CandidateRow.state).where(CandidateRow.cycle_id == cycle_id)
        ).all()
    relaxed = sum(state == "relaxed" for state in states)
    failed = sum(state == "unrelaxable" for state in states)
    return StageReport(
        "relax",
        f"{relaxed} relaxed candidates join the pool, {failed} could not be relaxed",
        {"relaxed": relaxed, "unrelaxable": failed},
    )


def potential_ref(campaign: OpenCampaign) -> ModelRef:
    """Describe the campaign's potential as a model version."""
    identity = campaign.crew.potential.identity
    name, _, version = identity.name.rpartition("-")
    return ModelRef(
        "potential",
        name or identity.name,
        version,
        identity.sha256,
        {"correction_scheme": identity.correction_scheme},
    )


def _enter(
    campaign: OpenCampaign,
    candidate_id: str,
    result: Relaxation | CalculationFailure,
    session: Session,
) -> None:
    row = session.get_one(CandidateRow, candidate_id)
    if row.state != "accepted":
        return  # another runner was faster
    if isinstance(result, CalculationFailure):
        row.state = "unrelaxable"
        enter_verdicts(session, row.id, [Verdict("relaxable", False, result.reason)])
        return
    reason = (
        f"{result.optimizer} took {result.steps} steps to"
        f" {result.max_force_eV_per_A:.3f} eV/A; volume changed by {result.volume_change:+.1%},"
        f" atoms by {result.rms_displacement_A:.2f} A (rms)"
    )
    enter_verdicts(session, row.id, [Verdict("relaxable", True, reason)])
    row.relaxed_sha256 = put_structure(session, result.structure)
    if result.embedding is not None:
        row.embedding = [float(x) for x in result.embedding]
    row.state = "relaxed"
    identity = campaign.crew.potential.identity
    hull = campaign.crew.workshop.hull
    distance = hull.distance(
        element_counts(result.structure),
        result.energy_eV_per_atom,
        identity=identity,
    )
    flags = ["thin-hull"] if distance.thin else []
    against_hull = {
        "hull_sha256": hull.sha256,
        "decomposition": [
            {"formula": entry.formula, "provenance": entry.provenance, "fraction": fraction}
            for entry, fraction in distance.decomposition
        ],
        "thin_reason": distance.thin_reason,
    }
    relaxation = {
        "potential": str(identity),
        "potential_sha256": identity.sha256,
        "converged": result.converged,
        "steps": result.steps,
        "fmax_eV_per_A": result.max_force_eV_per_A,
        "cpu_s": result.cpu_s,
    }
    figures = {
        "energy": (result.energy_eV_per_atom, [], relaxation),
        "formation_energy": (distance.formation_energy_eV_per_atom, [], against_hull),
        "energy_above_hull": (distance.energy_above_hull_eV_per_atom, flags, against_hull),
        "density": (float(result.structure.density), [], relaxation),
        "volume_per_atom": (
            float(result.structure.volume / len(result.structure)),
            [],
            relaxation,
        ),
    }
    for name, (value, marks, provenance) in figures.items():
        session.add(
            MeasurementRow(
                campaign_id=campaign.id,
                candidate_id=row.id,
                property=name,
                value=value,
                unit=UNITS[name],
                method=f"relaxation/{identity.name}",
                fidelity="screening",
                flags=marks,
                provenance=provenance,
            )
        )


def _judge_relaxed(campaign: OpenCampaign, cycle: int) -> None:
    """Look again at relaxed crystals: different inputs often relax to the same crystal."""
    everything = (
        select(CandidateRow, Cycle.number)
        .join(Cycle)
        .where(CandidateRow.campaign_id == campaign.id, CandidateRow.state == "relaxed")
        .order_by(Cycle.number, CandidateRow.ordinal)
        .options(joinedload(CandidateRow.relaxed))
    )
    with campaign.view() as session:
        if campaign.cycle(session, cycle).stage != "screen":
            return  # judged before
        rows = session.execute(everything).all()
        known = [relaxed_crystal(row) for row, number in rows if number < cycle]
        fresh = [row for row, number in rows if number == cycle]
        crystals = [relaxed_crystal(row) for row in fresh]
        stability = [_stability(campaign, session, row) for row in fresh]
    verdicts = opinions_of_critic(campaign, crystals, known)

    def enter(session: Session) -> None:
        for row, opinions, stable in zip(fresh, verdicts, stability, strict=True):
            enter_verdicts(session, row.id, opinions, prefix="relaxed-")
            enter_verdicts(session, row.id, [stable])
            if not accepted([*opinions, stable]):
                session.get_one(CandidateRow, row.id).state = "refused"
        campaign.stage_done(session, cycle, "relax")

    campaign.once(enter)


def _stability(campaign: OpenCampaign, session: Session, row: CandidateRow) -> Verdict:
    above = session.scalars(
        select(MeasurementRow).where(
            MeasurementRow.candidate_id == row.id,
            MeasurementRow.property == "energy_above_hull",
            MeasurementRow.fidelity == "screening",
        )
    ).one()
    limit = campaign.spec.screening.max_energy_above_hull
    thin = ", but the hull is thin there" if "thin-hull" in above.flags else ""
    return Verdict(
        "stable",
        limit is None or above.value <= limit,
        f"{above.value:+.3f} eV/atom above the hull{thin}; "
        + ("no limit set" if limit is None else f"limit {limit:g}"),
    )

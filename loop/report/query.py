"""Reading a campaign out of the ledger into the values of `record`; nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from matterloop.loop.chemistry.metrics import SampleFlags, SunMetrics, sun_metrics
from matterloop.loop.errors import CampaignNotFoundError
from matterloop.loop.ledger import models
from matterloop.loop.ledger.structures import get_structure
from matterloop.loop.report.record import (
    CampaignRecord,
    CandidateRecord,
    CrystalRecord,
    CycleRecord,
    DecisionRecord,
    FaultRecord,
    ModelRecord,
    Refusal,
    ReviewRecord,
    ScreenedPoint,
)
from matterloop.loop.report.rows import (
    figure_record,
    job_record,
    model_record,
    recipe_record,
    sample_record,
    verdict_record,
)
from matterloop.loop.spec import CampaignSpec

if TYPE_CHECKING:
    from pymatgen.core import Structure

TROUBLE = ("instrument.fault", "plan.failed")
"""Events that a reader should hear of, beside failed jobs."""
_SUN = {prefix + word: word for prefix in ("", "relaxed-") for word in ("valid", "unique", "novel")}
"""Verdicts that the S.U.N. count rests on, given before and after relaxation."""
_CHUNK = 500  # SQLite takes at most 999 (older builds) or 32,766 bound parameters


def read_campaign(session: Session, campaign_id: str) -> CampaignRecord:
    """Read everything that the report needs.

    Raises
    ------
    CampaignNotFoundError
        If the ledger holds no campaign of that id.
    """
    row = session.get(models.Campaign, campaign_id)
    if row is None:
        names = session.scalars(select(models.Campaign.name).order_by(models.Campaign.name))
        raise CampaignNotFoundError(campaign_id, list(names))
    model_rows = session.scalars(
        select(models.ModelVersion)
        .where(models.ModelVersion.campaign_id == campaign_id)
        .order_by(models.ModelVersion.id)
    )
    known_models = {model.id: model_record(model) for model in model_rows}
    cycles = _cycles(session, campaign_id)
    numbers = {cycle.id: cycle.number for cycle in cycles}
    refusals, passed = _screening(session, campaign_id)
    screened = _screened(session, campaign_id, numbers)
    return CampaignRecord(
        id=row.id,
        name=row.name,
        spec=CampaignSpec.model_validate(row.spec),
        spec_sha256=row.spec_sha256,
        seed=row.seed,
        state=row.state,
        matterloop_version=row.matterloop_version,
        hull_sha256=row.hull_sha256,
        created_at=row.created_at,
        finished_at=row.finished_at,
        as_of=_latest(session, row),
        cycles=cycles,
        models=tuple(known_models.values()),
        candidates=_chosen(session, campaign_id, numbers, known_models),
        refusals=refusals,
        passed=passed,
        sun=_sun(session, campaign_id, screened),
        screened=screened,
        faults=_faults(session, campaign_id),
    )


def read_structures(session: Session, hashes: Iterable[str]) -> dict[str, Structure]:
    """Return crystals by the hash under which the ledger stores them."""
    table = models.StructureRow
    rows = _in_chunks(session, select(table), table.sha256, sorted(set(hashes)))
    return {row.sha256: get_structure(row) for row in rows}


def _latest(session: Session, campaign: models.Campaign) -> datetime:
    times = [campaign.created_at]
    for column, owner in (
        (models.EventRow.at, models.EventRow.campaign_id),
        (models.JobRow.updated_at, models.JobRow.campaign_id),
        (models.MeasurementRow.created_at, models.MeasurementRow.campaign_id),
        (models.DecisionRow.created_at, models.DecisionRow.campaign_id),
        (models.CandidateRow.created_at, models.CandidateRow.campaign_id),
    ):
        latest = session.scalar(select(func.max(column)).where(owner == campaign.id))
        if latest is not None:
            times.append(latest)
    return max(times)


def _cycles(session: Session, campaign_id: str) -> tuple[CycleRecord, ...]:
    states: dict[str, Counter[str]] = defaultdict(Counter)
    candidate = models.CandidateRow
    for cycle_id, state, count in session.execute(
        select(candidate.cycle_id, candidate.state, func.count())
        .where(candidate.campaign_id == campaign_id)
        .group_by(candidate.cycle_id, candidate.state)
    ):
        states[cycle_id][state] = count
    rows = session.scalars(
        select(models.Cycle)
        .where(models.Cycle.campaign_id == campaign_id)
        .order_by(models.Cycle.number)
    )
    return tuple(
        CycleRecord(
            row.id, row.number, row.stage, row.started_at, row.finished_at, dict(states[row.id])
        )
        for row in rows
    )


def _screening(
    session: Session, campaign_id: str
) -> tuple[tuple[Refusal, ...], dict[str, tuple[int, int]]]:
    candidate, verdict = models.CandidateRow, models.VerdictRow
    rows = session.execute(
        select(
            candidate.id,
            candidate.state,
            verdict.check_name,
            verdict.passed,
            verdict.decisive,
            verdict.reason,
        )
        .join(verdict, verdict.candidate_id == candidate.id)
        .where(candidate.campaign_id == campaign_id)
        .order_by(candidate.id, verdict.id)
    )
    judged: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    refused: dict[str, tuple[str, str]] = {}
    for candidate_id, state, check, good, decisive, reason in rows:
        judged[check] += 1
        passed[check] += good
        if state == "refused" and decisive and not good:
            refused.setdefault(candidate_id, (check, reason))
    counts = {check: (passed[check], judged[check]) for check in judged}
    examples: dict[str, str] = {}
    for check, reason in refused.values():
        examples.setdefault(check, reason)
    by_check = Counter(check for check, _ in refused.values())
    return (
        tuple(Refusal(check, count, examples[check]) for check, count in by_check.most_common()),
        counts,
    )


def _sun(
    session: Session, campaign_id: str, screened: Iterable[ScreenedPoint]
) -> SunMetrics | None:
    """Count S.U.N. among all candidates that were judged; None if nothing tells what is novel."""
    candidate, verdict = models.CandidateRow, models.VerdictRow
    answers: dict[str, dict[str, bool]] = defaultdict(dict)
    for candidate_id, check, passed in session.execute(
        select(candidate.id, verdict.check_name, verdict.passed)
        .join(verdict, verdict.candidate_id == candidate.id)
        .where(candidate.campaign_id == campaign_id, verdict.check_name.in_(_SUN))
    ):
        word = _SUN[check]  # where it was asked twice it has to pass both times
        answers[candidate_id][word] = passed and answers[candidate_id].get(word, True)
    if not any("novel" in found for found in answers.values()):
        return None
    energies = {point.candidate_id: point.energy_above_hull for point in screened}
    return sun_metrics(
        SampleFlags(
            valid=found.get("valid", False),
            unique=found.get("unique", False),
            novel=found.get("novel", False),
            energy_above_hull_eV_per_atom=energies.get(candidate_id),
        )
        for candidate_id, found in answers.items()
    )


def _chosen(
    session: Session,
    campaign_id: str,
    cycles: Mapping[str, int],
    known_models: Mapping[str, ModelRecord],
) -> dict[str, CandidateRecord]:
    decisions = _decisions(session, campaign_id, cycles)
    wanted = sorted(decisions)
    rows = _in_chunks(session, select(models.CandidateRow), models.CandidateRow.id, wanted)
    rows.sort(key=lambda row: row.id)
    hashes = {row.structure_sha256 for row in rows} | {row.relaxed_sha256 for row in rows}
    crystals = _crystals(session, [sha256 for sha256 in hashes if sha256])
    verdicts = _grouped(session, models.VerdictRow, wanted)
    recipes = _grouped(session, models.RecipeRow, wanted)
    jobs = _grouped(session, models.JobRow, wanted)
    samples = _grouped(session, models.SampleRow, wanted)
    figures = _grouped(session, models.MeasurementRow, wanted)
    return {
        row.id: CandidateRecord(
            id=row.id,
            cycle=cycles[row.cycle_id],
            ordinal=row.ordinal,
            seed=row.seed,
            origin=row.origin,
            state=row.state,
            model=known_models[row.model_version_id],
            crystal=crystals[row.structure_sha256],
            relaxed=crystals[row.relaxed_sha256] if row.relaxed_sha256 else None,
            verdicts=tuple(map(verdict_record, verdicts[row.id])),
            decisions=tuple(decisions[row.id]),
            recipes=tuple(recipe_record(recipe, cycles) for recipe in recipes[row.id]),
            jobs=tuple(job_record(job, cycles) for job in jobs[row.id]),
            samples=tuple(map(sample_record, samples[row.id])),
            figures=tuple(map(figure_record, figures[row.id])),
        )
        for row in rows
    }


def _decisions(
    session: Session, campaign_id: str, cycles: Mapping[str, int]
) -> dict[str, list[DecisionRecord]]:
    decision, review = models.DecisionRow, models.ReviewRow
    rows = session.execute(
        select(decision, review)
        .outerjoin(review, review.decision_id == decision.id)
        .where(decision.campaign_id == campaign_id, decision.rank.is_not(None))
    ).all()
    found: dict[str, list[DecisionRecord]] = defaultdict(list)
    for row, verdict in rows:
        if row.rank is None:
            continue
        found[row.candidate_id].append(
            DecisionRecord(
                id=row.id,
                candidate_id=row.candidate_id,
                cycle=cycles[row.cycle_id],
                arm=row.arm,
                selector=row.selector,
                rank=row.rank,
                acquisition_function=row.acquisition_function,
                acquisition_value=row.acquisition_value,
                posterior={
                    name: (float(figure["mean"]), float(figure["std"]))
                    for name, figure in row.posterior.items()
                },
                surrogate_sha256=row.surrogate_sha256,
                seed=row.seed,
                reason=row.reason,
                review=None
                if verdict is None
                else ReviewRecord(
                    verdict.id,
                    verdict.verdict,
                    verdict.reviewer,
                    verdict.reason,
                    verdict.created_at,
                ),
            )
        )
    for chosen in found.values():
        chosen.sort(key=lambda record: (record.cycle, record.arm != "main", record.arm))
    return found


def _screened(
    session: Session, campaign_id: str, cycles: Mapping[str, int]
) -> tuple[ScreenedPoint, ...]:
    candidate, figure, crystal = models.CandidateRow, models.MeasurementRow, models.StructureRow
    rows = session.execute(
        select(
            candidate.id,
            crystal.reduced_formula,
            candidate.cycle_id,
            figure.property,
            figure.value,
            figure.flags,
        )
        .join(figure, figure.candidate_id == candidate.id)
        .join(crystal, crystal.sha256 == candidate.structure_sha256)
        .where(
            candidate.campaign_id == campaign_id,
            figure.fidelity == "screening",
            figure.property.in_(("energy_above_hull", "formation_energy")),
        )
        .order_by(candidate.id, figure.id)
    )
    about: dict[str, tuple[str, int]] = {}
    energies: dict[str, dict[str, float]] = defaultdict(dict)
    flags: dict[str, dict[str, None]] = defaultdict(dict)
    for candidate_id, formula, cycle_id, name, value, its_flags in rows:
        about[candidate_id] = (formula, cycles[cycle_id])
        energies[candidate_id][name] = value
        flags[candidate_id].update(dict.fromkeys(its_flags))
    return tuple(
        ScreenedPoint(
            candidate_id,
            *about[candidate_id],
            values.get("energy_above_hull"),
            values.get("formation_energy"),
            tuple(flags[candidate_id]),
        )
        for candidate_id, values in energies.items()
    )


def _faults(session: Session, campaign_id: str) -> tuple[FaultRecord, ...]:
    event = models.EventRow
    rows = session.scalars(
        select(event)
        .where(event.campaign_id == campaign_id, event.kind.in_(TROUBLE))
        .order_by(event.id)
    )
    return tuple(FaultRecord(row.id, row.at, row.kind, row.subject_id, row.detail) for row in rows)


def _crystals(session: Session, hashes: list[str]) -> dict[str, CrystalRecord]:
    table = models.StructureRow
    columns = select(
        table.sha256,
        table.formula,
        table.reduced_formula,
        table.chemical_system,
        table.n_atoms,
        table.volume_A3,
        table.density_g_cm3,
        table.space_group,
    )
    found: dict[str, CrystalRecord] = {}
    for chunk in _chunks(sorted(hashes)):
        for row in session.execute(columns.where(table.sha256.in_(chunk))):
            found[row.sha256] = CrystalRecord(*row)
    return found


def _grouped(session: Session, table: Any, candidate_ids: list[str]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = defaultdict(list)
    rows = _in_chunks(session, select(table), table.candidate_id, candidate_ids)
    for row in sorted(rows, key=lambda row: row.id):
        grouped[row.candidate_id].append(row)
    return grouped


def _in_chunks(session: Session, query: Select[Any], column: Any, values: list[str]) -> list[Any]:
    return [
        row for chunk in _chunks(values) for row in session.scalars(query.where(column.in_(chunk)))
    ]


def _chunks(values: list[str]) -> Iterable[list[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))

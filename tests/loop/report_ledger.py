"""Builders that fill a real ledger row by row, as the stages do, for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymatgen.core import Lattice, Structure
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from matterloop.loop.experiment import UNITS
from matterloop.loop.identifiers import content_hash, derive_seed, job_key
from matterloop.loop.ledger.models import (
    Base,
    Campaign,
    CandidateRow,
    Cycle,
    DecisionRow,
    EventRow,
    JobRow,
    MeasurementRow,
    ModelVersion,
    RecipeRow,
    ReviewRow,
    SampleRow,
    StructureRow,
    VerdictRow,
)
from matterloop.loop.ledger.structures import put_structure
from matterloop.loop.spec import CampaignSpec

Value = tuple[float, float | None]
"""A figure and its uncertainty, in the property's unit."""


def memory_engine() -> Engine:
    """Return an empty SQLite ledger in memory, with foreign keys held."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    Base.metadata.create_all(engine)
    return engine


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    """Fm-3m, two atoms in the primitive cell."""
    return Structure(_fcc(a), [cation, anion], [[0, 0, 0], [0.5] * 3])


def antifluorite(cation: str, anion: str, a: float) -> Structure:
    """Fm-3m, three atoms in the primitive cell."""
    return Structure(_fcc(a), [cation, cation, anion], [[0.25] * 3, [0.75] * 3, [0, 0, 0]])


def _fcc(a: float) -> Lattice:
    return Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def argyrodite(a: float = 9.85) -> Structure:
    """Li6PS5Cl with its lithium ordered on 24g."""
    cell = Structure.from_spacegroup(
        "F-43m",
        Lattice.cubic(a),
        ["Li", "P", "S", "S", "Cl"],
        [[0.02, 0.25, 0.25], [0.5, 0.5, 0.5], [0.6185] * 3, [0.25] * 3, [0, 0, 0]],
    )
    return cell.get_primitive_structure()


def sodium_arsenide(cation: str, anion: str, a: float, c: float) -> Structure:
    return Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(a, c),
        [cation, cation, anion],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.583], [1 / 3, 2 / 3, 0.25]],
    )


def spec(**changes: Any) -> CampaignSpec:
    """A campaign in Li-P-S-Cl with two objectives, one constraint and a random control arm."""
    fields: dict[str, Any] = {
        "name": "li-p-s-cl",
        "search_space": {"chemical_system": "Li-P-S-Cl", "max_atoms": 16},
        "objectives": [
            {"property": "energy_above_hull", "goal": "minimise"},
            {"property": "bulk_modulus", "goal": "minimise"},
        ],
        "constraints": [{"property": "energy_above_hull", "at_most": 0.1}],
        "budget": {"cycles": 3, "experiments": 40},
        "control_arms": [{"name": "random", "selector": "random"}],
        "characterizers": ["virtual-calorimeter", "virtual-press"],
        "seed": 7,
    }
    return CampaignSpec.model_validate(fields | changes)


class LedgerBuilder:
    """Writes one campaign; every method adds what its stage would add."""

    def __init__(self, session: Session, campaign_spec: CampaignSpec, **columns: Any) -> None:
        self.session, self.spec = session, campaign_spec
        self.campaign = self._add(
            Campaign(
                name=campaign_spec.name,
                spec=campaign_spec.model_dump(mode="json"),
                spec_sha256=campaign_spec.sha256,
                seed=campaign_spec.seed,
                matterloop_version="0.1.0",
                **{"state": "running", **columns},
            )
        )
        self.cycles: dict[int, Cycle] = {}
        self.model: ModelVersion | None = None

    @property
    def id(self) -> str:
        return self.campaign.id

    def cycle(self, number: int) -> Cycle:
        if number not in self.cycles:
            self.cycles[number] = self._add(Cycle(campaign_id=self.id, number=number))
        return self.cycles[number]

    def candidate(
        self,
        cycle: int,
        structure: Structure,
        *,
        state: str = "relaxed",
        verdicts: Mapping[str, tuple[bool, str]] | None = None,
        screening: Mapping[str, float] | None = None,
        flags: Sequence[str] = (),
    ) -> CandidateRow:
        if self.model is None:
            self.model = self._add(
                ModelVersion(
                    campaign_id=self.id,
                    kind="generator",
                    name="substitution",
                    version="1",
                    sha256=content_hash("substitution"),
                )
            )
        sha256 = put_structure(self.session, structure)
        ordinal = self.session.query(CandidateRow).filter_by(cycle_id=self.cycle(cycle).id).count()
        row = self._add(
            CandidateRow(
                campaign_id=self.id,
                cycle_id=self.cycle(cycle).id,
                ordinal=ordinal,
                model_version_id=self.model.id,
                seed=derive_seed(self.spec.seed, "generate", cycle),
                structure_sha256=sha256,
                relaxed_sha256=sha256 if state == "relaxed" else None,
                origin={"method": "substitution", "template": "AB_cF8_225_a_b"},
                state=state,
            )
        )
        for check, (passed, reason) in (verdicts or {}).items():
            self._add(
                VerdictRow(
                    candidate_id=row.id,
                    check_name=check,
                    passed=passed,
                    decisive=True,
                    reason=reason,
                )
            )
        for name, value in (screening or {}).items():
            self.measure(
                row,
                name,
                (value, None),
                fidelity="screening",
                flags=flags if name == "energy_above_hull" else (),
            )
        return row

    def choose(
        self,
        candidate: CandidateRow,
        cycle: int,
        rank: int,
        *,
        arm: str = "main",
        verdict: str | None = "approved",
        reason: str = "within the limits",
    ) -> DecisionRow:
        main = arm == "main"
        decision = self._add(
            DecisionRow(
                campaign_id=self.id,
                cycle_id=self.cycle(cycle).id,
                candidate_id=candidate.id,
                arm=arm,
                selector="bayesian" if main else arm,
                rank=rank,
                acquisition_function="qLogNEHVI" if main else "none",
                acquisition_value=-1.25 if main else None,
                posterior={"bulk_modulus": {"mean": 40.2, "std": 5.5}} if main else {},
                surrogate_sha256=content_hash("surrogate") if main else None,
                seed=derive_seed(self.spec.seed, "select", cycle, arm),
                reason="largest expected improvement" if main else "drawn at random",
            )
        )
        if verdict:
            self._add(
                ReviewRow(
                    decision_id=decision.id, verdict=verdict, reviewer="auto-approve", reason=reason
                )
            )
        return decision

    def synthesize(
        self,
        candidate: CandidateRow,
        cycle: int,
        *,
        success: bool = True,
        explanation: str = "stable at 800 K",
        phases: Sequence[tuple[str, float]] | None = None,
    ) -> SampleRow:
        recipe = self.recipe(candidate, cycle)
        formula = self.session.get_one(StructureRow, candidate.structure_sha256).reduced_formula
        sample = self._add(
            SampleRow(
                candidate_id=candidate.id,
                recipe_id=recipe.id,
                success=success,
                phases=[
                    {"formula": name, "fraction": share}
                    for name, share in phases or [(formula, 1.0)]
                ],
                yield_fraction=0.93 if success else 0.4,
                explanation=explanation,
                details={},
            )
        )
        self.job(candidate, cycle, recipe=recipe, sample=sample)
        return sample

    def recipe(self, candidate: CandidateRow, cycle: int) -> RecipeRow:
        return self._add(
            RecipeRow(
                candidate_id=candidate.id,
                cycle_id=self.cycle(cycle).id,
                planner="solid-state",
                method="solid-state",
                temperature_K=800.0,
                pressure_GPa=1e-4,
                time_h=12.0,
                atmosphere="argon",
                content={"precursors": [{"formula": "Li2S", "amount_mol": 2.5}]},
            )
        )

    def job(
        self,
        candidate: CandidateRow,
        cycle: int,
        *,
        purpose: str = "synthesize",
        instrument: str = "virtual-furnace",
        recipe: RecipeRow | None = None,
        sample: SampleRow | None = None,
        state: str = "succeeded",
        failure_kind: str | None = None,
        failure_message: str | None = None,
    ) -> JobRow:
        return self._add(
            JobRow(
                key=job_key(self.id, cycle, candidate.id, instrument, purpose),
                campaign_id=self.id,
                cycle_id=self.cycle(cycle).id,
                candidate_id=candidate.id,
                recipe_id=recipe.id if recipe else None,
                sample_id=sample.id if sample else None,
                instrument=instrument,
                purpose=purpose,
                request={},
                state=state,
                failure_kind=failure_kind,
                failure_message=failure_message,
                seed=derive_seed(self.spec.seed, "job", cycle, candidate.id),
                cost=10.0 if purpose == "synthesize" else 2.5,
                duration_h=12.0,
            )
        )

    def characterize(
        self,
        candidate: CandidateRow,
        cycle: int,
        sample: SampleRow,
        values: Mapping[str, Value],
        *,
        instrument: str = "virtual-press",
        flags: Sequence[str] = (),
    ) -> None:
        job = self.job(
            candidate, cycle, purpose="characterize", instrument=instrument, sample=sample
        )
        for name, value in values.items():
            self.measure(candidate, name, value, sample=sample, job=job, flags=flags)

    def measure(
        self,
        candidate: CandidateRow,
        name: str,
        value: Value,
        *,
        fidelity: str = "experiment",
        sample: SampleRow | None = None,
        job: JobRow | None = None,
        flags: Sequence[str] = (),
    ) -> MeasurementRow:
        return self._add(
            MeasurementRow(
                campaign_id=self.id,
                candidate_id=candidate.id,
                sample_id=sample.id if sample else None,
                job_id=job.id if job else None,
                property=name,
                value=value[0],
                unit=UNITS[name],
                uncertainty=value[1],
                method="relaxation/test" if fidelity == "screening" else "eos/test",
                fidelity=fidelity,
                flags=list(flags),
                provenance={},
            )
        )

    def made(
        self,
        structure: Structure,
        cycle: int,
        rank: int,
        values: Mapping[str, Value],
        *,
        arms: Sequence[str] = ("main",),
        flags: Sequence[str] = (),
    ) -> CandidateRow:
        """A candidate that was chosen, made and measured in the same cycle."""
        row = self.candidate(
            cycle,
            structure,
            verdicts={
                "valid": (True, "shortest distance 2.1 A"),
                "unique": (True, "like no other"),
                "novel": (True, "not among the known"),
                "stable": (True, "+0.010 eV/atom above the hull"),
            },
            screening={"energy_above_hull": 0.03, "formation_energy": -1.1},
            flags=flags,
        )
        for arm in arms:
            self.choose(row, cycle, rank, arm=arm)
        sample = self.synthesize(row, cycle)
        self.characterize(row, cycle, sample, values)
        return row

    def fault(self, instrument: str, message: str) -> None:
        self._add(
            EventRow(
                campaign_id=self.id,
                kind="instrument.fault",
                subject_id=instrument,
                actor="runner",
                detail={"reason": message},
            )
        )

    def _add(self, row: Any) -> Any:
        self.session.add(row)
        self.session.flush()
        return row

"""What a report knows about a campaign: frozen values, free of the database session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from matterloop.loop.chemistry.metrics import SunMetrics
from matterloop.loop.spec import CampaignSpec


@dataclass(frozen=True)
class CrystalRecord:
    """A row of ``structure``; its sites are read on demand (`query.read_structures`)."""

    sha256: str
    formula: str
    reduced_formula: str
    chemical_system: str
    n_atoms: int
    volume_A3: float
    density_g_cm3: float
    space_group: int | None


@dataclass(frozen=True)
class ModelRecord:
    """A row of ``model_version``."""

    id: str
    kind: str
    name: str
    version: str
    sha256: str
    state: str
    parent_id: str | None
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class VerdictRecord:
    """A row of ``verdict``."""

    id: str
    check: str
    passed: bool
    decisive: bool
    reason: str


@dataclass(frozen=True)
class FigureRecord:
    """A row of ``measurement``: `value` and `uncertainty` (one standard deviation) in `unit`."""

    id: str
    property: str
    value: float
    unit: str
    uncertainty: float | None
    method: str
    fidelity: str
    flags: tuple[str, ...]
    provenance: Mapping[str, Any]
    sample_id: str | None
    job_id: str | None


@dataclass(frozen=True)
class ReviewRecord:
    """A row of ``review``."""

    id: str
    verdict: str
    reviewer: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class DecisionRecord:
    """A row of ``decision`` whose candidate was chosen, with its review, if there is one yet.

    `posterior` maps a property to (mean, standard deviation) in its unit.
    """

    id: str
    candidate_id: str
    cycle: int
    arm: str
    selector: str
    rank: int
    acquisition_function: str
    acquisition_value: float | None
    posterior: Mapping[str, tuple[float, float]]
    surrogate_sha256: str | None
    seed: int
    reason: str
    review: ReviewRecord | None

    @property
    def vetoed(self) -> bool:
        """Whether a reviewer refused it."""
        return self.review is not None and self.review.verdict == "vetoed"


@dataclass(frozen=True)
class RecipeRecord:
    """A row of ``recipe``."""

    id: str
    cycle: int
    planner: str
    method: str
    temperature_K: float
    pressure_GPa: float
    time_h: float
    atmosphere: str
    precursors: tuple[tuple[str, float], ...]
    """(formula, moles per mole of product formula unit)"""


@dataclass(frozen=True)
class JobRecord:
    """A row of ``job``."""

    id: str
    key: str
    candidate_id: str
    cycle: int
    recipe_id: str | None
    sample_id: str | None
    instrument: str
    purpose: str
    state: str
    failure_kind: str | None
    failure_message: str | None
    attempts: int
    seed: int
    cost: float
    duration_h: float


@dataclass(frozen=True)
class SampleRecord:
    """A row of ``sample``; `phases` are (formula, fraction of atoms)."""

    id: str
    recipe_id: str
    success: bool
    phases: tuple[tuple[str, float], ...]
    yield_fraction: float
    explanation: str


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate that some arm chose, with everything that happened to it."""

    id: str
    cycle: int
    ordinal: int
    seed: int
    origin: Mapping[str, Any]
    state: str
    model: ModelRecord
    crystal: CrystalRecord
    relaxed: CrystalRecord | None
    verdicts: tuple[VerdictRecord, ...] = ()
    decisions: tuple[DecisionRecord, ...] = ()
    recipes: tuple[RecipeRecord, ...] = ()
    jobs: tuple[JobRecord, ...] = ()
    samples: tuple[SampleRecord, ...] = ()
    figures: tuple[FigureRecord, ...] = ()

    @property
    def best_crystal(self) -> CrystalRecord:
        """The relaxed crystal where there is one, else the crystal as generated."""
        return self.relaxed or self.crystal

    def screening(self, name: str) -> FigureRecord | None:
        """Return the last cheap-fidelity figure of a property, or None."""
        found = [f for f in self.figures if f.property == name and f.fidelity == "screening"]
        return found[-1] if found else None


@dataclass(frozen=True)
class CycleRecord:
    """A row of ``cycle`` and what became of the candidates that it generated, by state."""

    id: str
    number: int
    stage: str
    started_at: datetime
    finished_at: datetime | None
    candidates: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """How many candidates one check refused, and what it said of the first of them."""

    check: str
    count: int
    example: str


@dataclass(frozen=True)
class ScreenedPoint:
    """A relaxed candidate on the way to the stability plot; energies in eV/atom."""

    candidate_id: str
    reduced_formula: str
    cycle: int
    energy_above_hull: float | None
    formation_energy: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class FaultRecord:
    """An event that tells of trouble: ``instrument.fault``, ``plan.failed``."""

    id: str
    at: datetime
    kind: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class CampaignRecord:
    """A campaign as the ledger holds it at one moment.

    Attributes
    ----------
    candidates
        Only those that some arm chose, by id.
    passed
        Check name to (passed, judged) over all candidates.
    sun
        Stable, unique and novel ones among all candidates that the critic judged, the refused too;
        None where there were no known crystals to tell what is novel.
    as_of
        Time of the latest fact read.
    """

    id: str
    name: str
    spec: CampaignSpec
    spec_sha256: str
    seed: int
    state: str
    matterloop_version: str
    hull_sha256: str | None
    created_at: datetime
    finished_at: datetime | None
    as_of: datetime
    cycles: tuple[CycleRecord, ...]
    models: tuple[ModelRecord, ...]
    candidates: Mapping[str, CandidateRecord]
    refusals: tuple[Refusal, ...]
    passed: Mapping[str, tuple[int, int]]
    sun: SunMetrics | None
    screened: tuple[ScreenedPoint, ...]
    faults: tuple[FaultRecord, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """``main``, the control arms in the order of the specification, then any others."""
        named = ["main", *(arm.name for arm in self.spec.control_arms)]
        seen = sorted({d.arm for c in self.candidates.values() for d in c.decisions})
        return tuple(dict.fromkeys([*named, *seen]))

    @property
    def jobs(self) -> tuple[JobRecord, ...]:
        """All jobs, in the order of their creation."""
        found = (job for candidate in self.candidates.values() for job in candidate.jobs)
        return tuple(sorted(found, key=lambda job: job.id))

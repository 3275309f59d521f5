"""Tables of the ledger, as SQLAlchemy 2 typed classes; ``docs/ledger.md`` explains them.

Rules: primary keys are UUIDv7 text; every time is UTC; a property has one unit (`UNITS`); JSON
columns hold provenance and settings, never a figure that an analyst would filter by.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from matterloop.loop.ledger.columns import Base, one_of, primary_key, reference, utc_now


class Campaign(Base):
    """A discovery campaign and the specification that it was started with."""

    __tablename__ = "campaign"
    __table_args__ = (
        one_of("state", "created", "running", "waiting", "finished", "stopped", "failed"),
    )

    id: Mapped[str] = primary_key()
    name: Mapped[str] = mapped_column(String(80), unique=True)
    spec: Mapped[dict[str, Any]]
    spec_sha256: Mapped[str] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="created")
    matterloop_version: Mapped[str] = mapped_column(String(32))
    hull_sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]

    cycles: Mapped[list[Cycle]] = relationship(
        back_populates="campaign", order_by="Cycle.number", viewonly=True
    )


class Cycle(Base):
    """One turn of the loop. `stage` is the last stage that was completed."""

    __tablename__ = "cycle"
    __table_args__ = (
        UniqueConstraint("campaign_id", "number"),
        CheckConstraint("number >= 1", name="number_positive"),
    )

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    number: Mapped[int]
    stage: Mapped[str] = mapped_column(String(16), default="started")
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]

    campaign: Mapped[Campaign] = relationship(back_populates="cycles")


class StructureRow(Base):
    """A crystal, stored once under the hash of its content."""

    __tablename__ = "structure"
    __table_args__ = (
        Index(None, "reduced_formula"),
        Index(None, "chemical_system"),
    )

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    formula: Mapped[str] = mapped_column(String(200))
    reduced_formula: Mapped[str] = mapped_column(String(200))
    chemical_system: Mapped[str] = mapped_column(String(200))
    n_atoms: Mapped[int]
    volume_A3: Mapped[float]
    density_g_cm3: Mapped[float]
    space_group: Mapped[int | None]
    content: Mapped[dict[str, Any]]
    """lattice (3 x 3, Angstrom), species, fractional coordinates"""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    """A model that took part: generator, potential; its parent, and what it was trained on."""

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("campaign_id", "kind", "sha256"),
        one_of("state", "champion", "challenger", "retired", "refused"),
        one_of("kind", "generator", "potential"),
    )

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(80))
    version: Mapped[str] = mapped_column(String(80))
    sha256: Mapped[str] = mapped_column(String(64))
    parent_id: Mapped[str | None] = reference("model_version.id")
    state: Mapped[str] = mapped_column(String(16), default="champion")
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    data_snapshot: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CandidateRow(Base):
    """A crystal proposed in a cycle, and what became of it before any experiment."""

    __tablename__ = "candidate"
    __table_args__ = (
        UniqueConstraint("cycle_id", "ordinal"),
        Index(None, "campaign_id", "state"),
        one_of("state", "generated", "refused", "accepted", "unrelaxable", "relaxed"),
    )

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    cycle_id: Mapped[str] = reference("cycle.id")
    ordinal: Mapped[int]
    """Position in the cycle, from 0: the order that makes a rerun comparable."""
    model_version_id: Mapped[str] = reference("model_version.id")
    seed: Mapped[int] = mapped_column(BigInteger)
    structure_sha256: Mapped[str] = reference("structure.sha256")
    relaxed_sha256: Mapped[str | None] = reference("structure.sha256")
    origin: Mapped[dict[str, Any]]
    embedding: Mapped[list[Any] | None]
    state: Mapped[str] = mapped_column(String(16), default="generated")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    cycle: Mapped[Cycle] = relationship()
    model_version: Mapped[ModelVersion] = relationship()
    structure: Mapped[StructureRow] = relationship(foreign_keys=[structure_sha256])
    relaxed: Mapped[StructureRow | None] = relationship(foreign_keys=[relaxed_sha256])


class VerdictRow(Base):
    """Outcome of one check on one candidate; every candidate has some, the refused too."""

    __tablename__ = "verdict"
    __table_args__ = (UniqueConstraint("candidate_id", "check_name"),)

    id: Mapped[str] = primary_key()
    candidate_id: Mapped[str] = reference("candidate.id")
    check_name: Mapped[str] = mapped_column(String(32))
    passed: Mapped[bool]
    decisive: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class DecisionRow(Base):
    """A selector's opinion on one candidate in one cycle, for one arm; `rank` is set if chosen."""

    __tablename__ = "decision"
    __table_args__ = (
        UniqueConstraint("cycle_id", "arm", "candidate_id"),
        UniqueConstraint("cycle_id", "arm", "rank"),
    )

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    cycle_id: Mapped[str] = reference("cycle.id")
    candidate_id: Mapped[str] = reference("candidate.id")
    arm: Mapped[str] = mapped_column(String(32))
    """``main``, or the name of a control arm."""
    selector: Mapped[str] = mapped_column(String(80))
    rank: Mapped[int | None]
    acquisition_function: Mapped[str] = mapped_column(String(80))
    acquisition_value: Mapped[float | None]
    posterior: Mapped[dict[str, Any]]
    """property -> {"mean": ..., "std": ...}, in the property's unit"""
    surrogate_sha256: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    candidate: Mapped[CandidateRow] = relationship()


class ReviewRow(Base):
    """Who let a chosen candidate pass or vetoed it, when and why."""

    __tablename__ = "review"
    __table_args__ = (
        UniqueConstraint("decision_id"),
        one_of("verdict", "approved", "vetoed"),
    )

    id: Mapped[str] = primary_key()
    decision_id: Mapped[str] = reference("decision.id")
    verdict: Mapped[str] = mapped_column(String(16))
    reviewer: Mapped[str] = mapped_column(String(120))
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    decision: Mapped[DecisionRow] = relationship()


class RecipeRow(Base):
    """How a candidate is to be made."""

    __tablename__ = "recipe"
    __table_args__ = (UniqueConstraint("candidate_id", "cycle_id"),)

    id: Mapped[str] = primary_key()
    candidate_id: Mapped[str] = reference("candidate.id")
    cycle_id: Mapped[str] = reference("cycle.id")
    planner: Mapped[str] = mapped_column(String(80))
    method: Mapped[str] = mapped_column(String(40))
    temperature_K: Mapped[float]
    pressure_GPa: Mapped[float]
    time_h: Mapped[float]
    atmosphere: Mapped[str] = mapped_column(String(40))
    content: Mapped[dict[str, Any]]
    """the whole recipe, precursors included"""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class JobRow(Base):
    """One use of one instrument; see `matterloop.loop.ledger.jobs` for the rule of its states."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("key"),
        Index(None, "campaign_id", "state"),
        one_of(
            "state",
            "planned",
            "submitting",
            "running",
            "succeeded",
            "failed",
            "aborted",
            "unknown",
        ),
        one_of("purpose", "synthesize", "characterize"),
    )

    id: Mapped[str] = primary_key()
    key: Mapped[str] = mapped_column(String(64))
    campaign_id: Mapped[str] = reference("campaign.id")
    cycle_id: Mapped[str] = reference("cycle.id")
    candidate_id: Mapped[str] = reference("candidate.id")
    recipe_id: Mapped[str | None] = reference("recipe.id")
    sample_id: Mapped[str | None] = reference("sample.id")
    """The sample that a synthesis made, or that a characterization measures."""
    instrument: Mapped[str] = mapped_column(String(80))
    purpose: Mapped[str] = mapped_column(String(16))
    request: Mapped[dict[str, Any]]
    handle: Mapped[dict[str, Any] | None]
    state: Mapped[str] = mapped_column(String(16), default="planned")
    owner: Mapped[str | None] = mapped_column(String(120))
    """Who may call ``submit``: the runner that wrote ``submitting``."""
    owned_at: Mapped[datetime | None]
    failure_kind: Mapped[str | None] = mapped_column(String(24))
    failure_message: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts that failed transiently; the limit and the backoff count these."""
    submission: Mapped[int] = mapped_column(default=0)
    """Attempts that are over beyond doubt; the key given to the instrument depends on it."""
    not_before: Mapped[datetime | None]
    """Earliest time of the next attempt after a transient failure."""
    seed: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[float]
    duration_h: Mapped[float]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class SampleRow(Base):
    """What a synthesis gave, the failures too."""

    __tablename__ = "sample"
    __table_args__ = (UniqueConstraint("recipe_id"),)

    id: Mapped[str] = primary_key()
    candidate_id: Mapped[str] = reference("candidate.id")
    recipe_id: Mapped[str] = reference("recipe.id")
    success: Mapped[bool]
    product_sha256: Mapped[str | None] = reference("structure.sha256")
    phases: Mapped[list[Any]]
    yield_fraction: Mapped[float]
    explanation: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class MeasurementRow(Base):
    """One figure: property, value, unit, uncertainty, method, fidelity."""

    __tablename__ = "measurement"
    __table_args__ = (
        UniqueConstraint("candidate_id", "property", "method", "fidelity", "job_id"),
        Index(None, "campaign_id", "property", "fidelity"),
        Index(
            "uq_measurement_screening",
            "candidate_id",
            "property",
            "method",
            unique=True,
            sqlite_where=text("job_id IS NULL"),
            postgresql_where=text("job_id IS NULL"),
        ),
        one_of("fidelity", "screening", "experiment"),
    )

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    candidate_id: Mapped[str] = reference("candidate.id")
    sample_id: Mapped[str | None] = reference("sample.id")
    job_id: Mapped[str | None] = reference("job.id")
    property: Mapped[str] = mapped_column(String(40))
    value: Mapped[float]
    unit: Mapped[str] = mapped_column(String(16))
    uncertainty: Mapped[float | None]
    method: Mapped[str] = mapped_column(String(120))
    fidelity: Mapped[str] = mapped_column(String(16))
    flags: Mapped[list[Any]]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class EventRow(Base):
    """Append-only history: rows are never changed or deleted (triggers forbid it)."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "campaign_id", "at"), Index(None, "subject_id"))

    id: Mapped[str] = primary_key()
    campaign_id: Mapped[str] = reference("campaign.id")
    at: Mapped[datetime] = mapped_column(default=utc_now)
    kind: Mapped[str] = mapped_column(String(40))
    """``campaign.state``, ``cycle.stage``, ``job.state``, ``instrument.fault``, ..."""
    subject_id: Mapped[str] = mapped_column(String(80))
    before: Mapped[str | None] = mapped_column(String(24))
    after: Mapped[str | None] = mapped_column(String(24))
    actor: Mapped[str] = mapped_column(String(120))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)

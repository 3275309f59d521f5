"""Recipes, samples, measurements, and the requests and results that cross to an instrument.

Everything here is a frozen pydantic model: it is what is written into the ledger and what a plugin
in another process or language sees, so it is JSON-serialisable by construction.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from matterloop.loop.errors import FailureKind


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


UNITS: dict[str, str] = {
    "formation_energy": "eV/atom",
    "energy_above_hull": "eV/atom",
    "energy": "eV/atom",
    "density": "g/cm^3",
    "volume_per_atom": "A^3/atom",
    "bulk_modulus": "GPa",
    "phase_match": "1",
}
"""Properties that the ledger knows, each with the only unit in which it enters."""


class Precursor(_Value):
    """A starting material: formula, and moles per mole of product formula unit."""

    formula: str
    amount_mol: float = Field(gt=0)


class Recipe(_Value):
    """How a candidate is to be made.

    Attributes
    ----------
    method
        ``solid-state``, ...
    target_formula
        Reduced formula of the intended product.
    temperature_K, pressure_GPa, time_h
        Conditions of the main step.
    atmosphere
        ``argon``, ``air``, ``vacuum``, ...
    notes
        Where the conditions come from, in one sentence.
    """

    method: str
    target_formula: str
    precursors: tuple[Precursor, ...] = ()
    temperature_K: float = Field(gt=0)
    pressure_GPa: float = Field(default=1e-4, ge=0)
    time_h: float = Field(gt=0)
    atmosphere: str = "argon"
    notes: str = ""


class Phase(_Value):
    """A crystalline phase in a sample; fractions are by moles of atoms and sum to one."""

    formula: str
    fraction: float = Field(ge=0, le=1)
    structure: dict[str, Any] | None = None
    """pymatgen ``Structure.as_dict()``, where the crystal structure is known."""
    provenance: str = ""
    """Reference id or relaxation that the phase comes from."""


class SynthesisRequest(_Value):
    """What a synthesizer is asked to make."""

    recipe: Recipe
    structure: dict[str, Any]
    """The intended crystal, pymatgen ``Structure.as_dict()``."""
    seed: int = Field(ge=0)


class SynthesisResult(_Value):
    """What came out of a synthesizer.

    Attributes
    ----------
    success
        Whether the intended crystal is the majority phase. A failure is a result like another.
    phases
        What the sample consists of.
    yield_fraction
        Mass of product over theoretical mass, 0 to 1.
    explanation
        One sentence: why this outcome, with figures.
    """

    success: bool
    phases: tuple[Phase, ...]
    yield_fraction: float = Field(ge=0, le=1)
    explanation: str
    details: dict[str, Any] = Field(default_factory=dict)


class CharacterizationRequest(_Value):
    """What a characterizer is asked to measure, on what sample."""

    phases: tuple[Phase, ...]
    properties: tuple[str, ...]
    seed: int = Field(ge=0)
    intended: dict[str, Any] | None = None
    """The crystal that the sample should be, pymatgen ``Structure.as_dict()``; a phase match needs
    it. Without it the sample's main phase stands in."""


class Measurement(_Value):
    """One figure with its unit, uncertainty and origin.

    Attributes
    ----------
    uncertainty
        One standard deviation, in `unit`; None where the method cannot tell.
    method
        How it was obtained, e.g. ``eos-birch-murnaghan/chgnet-0.3.0``.
    fidelity
        ``screening`` (cheap, on the candidate), ``experiment`` (on a sample).
    flags
        Short warnings that belong to the number, e.g. ``thin-hull``.
    provenance
        JSON-serialisable: hull id, potential identity, fit residuals, ...
    """

    property: str
    value: float
    unit: str
    uncertainty: float | None = Field(default=None, ge=0)
    method: str
    fidelity: Literal["screening", "experiment"]
    flags: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)


class CharacterizationResult(_Value):
    """What a characterizer measured; `artifacts` holds raw data such as a diffraction pattern."""

    measurements: tuple[Measurement, ...]
    artifacts: dict[str, Any] = Field(default_factory=dict)


class JobState(StrEnum):
    """Life of a job in the ledger."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Handle(_Value):
    """An instrument's own name for a job; survives a restart of everything."""

    instrument: str
    data: dict[str, Any]


class Progress(_Value):
    """Answer to ``poll``.

    Attributes
    ----------
    finished
        ``collect`` will return a result or raise a typed failure.
    failure
        Which failure that will be. A `TransientError` from ``collect`` that was not announced
        here means that the line is down, and the instrument is asked again later.
    """

    finished: bool
    message: str = ""
    failure: FailureKind | None = None


class InstrumentCard(_Value):
    """What an instrument declares about itself.

    Attributes
    ----------
    provides
        Synthesis methods, or properties with the unit in which they are given.
    temperature_range_K
        Smallest and largest temperature that the instrument accepts; None where it has none.
    cost
        Of one job, in the campaign's currency.
    duration_h
        Typical length of one job in laboratory time, hours.
    knows_absence
        Whether ``find`` returning None proves that a key was never submitted.
    noise
        Property to one declared standard deviation, in the property's unit.
    """

    name: str
    version: str
    kind: Literal["synthesizer", "characterizer"]
    description: str
    provides: dict[str, str]
    temperature_range_K: tuple[float, float] | None = None
    elements: tuple[str, ...] | None = None
    max_atoms: int | None = None
    cost: float = Field(ge=0)
    duration_h: float = Field(ge=0)
    knows_absence: bool
    noise: dict[str, float] = Field(default_factory=dict)

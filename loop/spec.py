"""The campaign specification: what a scientist asks for, validated and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from matterloop.loop.elements import SYMBOLS, parse_formula, reduced_counts, same_composition
from matterloop.loop.experiment import UNITS
from matterloop.loop.identifiers import content_hash


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _elements(symbols: Iterable[str]) -> tuple[str, ...]:
    symbols = tuple(symbols)
    unknown = [symbol for symbol in symbols if symbol not in SYMBOLS]
    if unknown:
        raise ValueError(f"not chemical elements: {', '.join(map(repr, unknown))}")
    if len(set(symbols)) != len(symbols):
        raise ValueError("an element is named twice")
    return symbols


def _formula(text: str) -> str:
    parse_formula(text)
    return text


def _property(name: str) -> str:
    if name not in UNITS:
        raise ValueError(f"no such property; known are {', '.join(UNITS)}")
    return name


ElementSymbols = Annotated[tuple[str, ...], AfterValidator(_elements)]
Formula = Annotated[str, AfterValidator(_formula)]
PropertyName = Annotated[str, AfterValidator(_property)]


class SearchSpace(_Frozen):
    """Which crystals are allowed at all. Exactly one of the three ways to name elements is given.

    Attributes
    ----------
    chemical_system
        All subsystems are allowed: ``Li-P-S-Cl`` admits Li2S as well as Li6PS5Cl.
    elements
        Any of these elements, no more than `max_elements` at once.
    formulas
        Exactly these reduced formulas.
    required_elements
        Elements that every candidate holds.
    forbidden_elements
        Elements that no candidate holds.
    min_atoms, max_atoms
        Bounds on the number of atoms in the primitive cell.
    """

    chemical_system: str | None = None
    elements: ElementSymbols | None = None
    formulas: tuple[Formula, ...] | None = None
    required_elements: ElementSymbols = ()
    forbidden_elements: ElementSymbols = ()
    min_elements: int = Field(default=1, ge=1, le=10)
    max_elements: int = Field(default=5, ge=1, le=10)
    min_atoms: int = Field(default=1, ge=1)
    max_atoms: int = Field(default=20, ge=1, le=200)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [
            name for name in ("chemical_system", "elements", "formulas") if getattr(self, name)
        ]
        if len(named) != 1:
            raise ValueError(
                "give exactly one of chemical_system, elements, formulas"
                f" (given: {', '.join(named) or 'none'})"
            )
        if self.chemical_system:
            _elements(self.chemical_system.split("-"))
        if self.min_atoms > self.max_atoms:
            raise ValueError(f"min_atoms {self.min_atoms} exceeds max_atoms {self.max_atoms}")
        if self.min_elements > self.max_elements:
            raise ValueError(
                f"min_elements {self.min_elements} exceeds max_elements {self.max_elements}"
            )
        missing = set(self.required_elements) - set(self.allowed_elements)
        if missing:
            raise ValueError(f"required elements are not allowed: {', '.join(sorted(missing))}")
        if not self.allowed_elements:
            raise ValueError("every allowed element is also forbidden")
        self._check_not_empty()
        return self

    def _check_not_empty(self) -> None:
        """Refuse bounds that no crystal can keep."""
        if self.min_elements > len(self.allowed_elements):
            raise ValueError(
                f"min_elements {self.min_elements} exceeds the {len(self.allowed_elements)} allowed"
                " elements"
            )
        if len(self.required_elements) > self.max_elements:
            raise ValueError(
                f"{len(self.required_elements)} required_elements exceed max_elements"
                f" {self.max_elements}"
            )
        fewest = max(self.min_elements, len(self.required_elements))
        if fewest > self.max_atoms:
            raise ValueError(f"{fewest} elements do not fit into max_atoms {self.max_atoms}")
        for formula in self.formulas or ():
            unit = reduced_counts(parse_formula(formula))
            most = max(1, self.max_atoms // sum(unit.values()))
            if why := self.why_outside({element: most * n for element, n in unit.items()}):
                raise ValueError(f"formulas: {formula!r} {why}")

    @cached_property
    def allowed_elements(self) -> tuple[str, ...]:
        """Elements that a candidate may hold, in the order in which they were named."""
        if self.chemical_system:
            named: list[str] = self.chemical_system.split("-")
        elif self.elements:
            named = list(self.elements)
        else:
            named = sorted({e for f in self.formulas or () for e in parse_formula(f)})
        return tuple(e for e in named if e not in self.forbidden_elements)

    def why_outside(self, counts: dict[str, int]) -> str | None:
        """Say why a crystal with these atoms in its primitive cell is outside, or None if inside.

        Parameters
        ----------
        counts
            Element symbol to number of atoms in the primitive cell.
        """
        elements = set(counts)
        if extra := elements - set(self.allowed_elements):
            return f"holds {', '.join(sorted(extra))}, not allowed by the search space"
        if missing := set(self.required_elements) - elements:
            return f"lacks the required {', '.join(sorted(missing))}"
        if not self.min_elements <= len(elements) <= self.max_elements:
            return (
                f"has {len(elements)} elements, allowed {self.min_elements} to {self.max_elements}"
            )
        n_atoms = sum(counts.values())
        if not self.min_atoms <= n_atoms <= self.max_atoms:
            return f"has {n_atoms} atoms, allowed {self.min_atoms} to {self.max_atoms}"
        if self.formulas and not any(
            same_composition(counts, parse_formula(formula)) for formula in self.formulas
        ):
            return f"is none of the formulas {', '.join(self.formulas)}"
        return None


class Goal(StrEnum):
    """What is wanted of a property."""

    MAXIMISE = "maximise"
    MINIMISE = "minimise"
    TARGET = "target"


class Objective(_Frozen):
    """A property to be maximised, minimised or brought to a value.

    Attributes
    ----------
    property
        Name from `matterloop.loop.experiment.UNITS`.
    target, tolerance
        For ``goal: target`` only: the wished value and the half-width within which it counts as
        reached, in the property's unit.
    """

    property: PropertyName
    goal: Goal
    target: float | None = None
    tolerance: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if self.goal is Goal.TARGET and (self.target is None or self.tolerance is None):
            raise ValueError("goal 'target' needs both target and tolerance")
        if self.goal is not Goal.TARGET and (self.target is not None or self.tolerance is not None):
            raise ValueError(
                f"target and tolerance belong to goal 'target', not {self.goal.value!r}"
            )
        return self

    def reached(self, value: float) -> bool:
        """Whether a target lies within its tolerance of `value`; never for the other goals."""
        if self.target is None or self.tolerance is None:
            return False
        return abs(value - self.target) <= self.tolerance

    def utility(self, value: float) -> float:
        """Map a value to a figure that is always better when larger, in the property's unit."""
        if self.goal is Goal.MAXIMISE:
            return value
        if self.goal is Goal.MINIMISE:
            return -value
        assert self.target is not None
        return -abs(value - self.target)


class Constraint(_Frozen):
    """A bound on a property that a good candidate keeps."""

    property: PropertyName
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_most is None and self.at_least is None:
            raise ValueError("give at_most, at_least or both")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} exceeds at_most {self.at_most}")
        return self

    def holds(self, value: float) -> bool:
        """Whether `value`, in the property's unit, keeps the bound."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


class SynthesisConditions(_Frozen):
    """What the laboratory allows.

    Attributes
    ----------
    temperature_K, pressure_GPa
        Range that recipes may use.
    methods
        Synthesis methods allowed.
    """

    temperature_K: tuple[float, float] = (300.0, 1300.0)
    pressure_GPa: tuple[float, float] = (0.0, 0.001)
    methods: tuple[str, ...] = ("solid-state",)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("temperature_K", "pressure_GPa"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}: [{low:g}, {high:g}] is not an ascending range from 0")
        if not self.methods:
            raise ValueError("methods: name at least one synthesis method")
        return self


class Budget(_Frozen):
    """Limits of a campaign; control arms count as well, for their experiments are real.

    Attributes
    ----------
    cycles
        Cycles to run.
    experiments
        Syntheses at the most; None for no limit.
    cost
        Sum of the instruments' declared costs at the most; None for no limit.
    """

    cycles: int = Field(ge=1, le=1000)
    experiments: int | None = Field(default=None, ge=1)
    cost: float | None = Field(default=None, gt=0)


class PluginChoice(_Frozen):
    """A plugin by name, with its settings. In YAML a bare name is enough."""

    name: str = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class GeneratorChoice(PluginChoice):
    """A generator, how many candidates it proposes per cycle, and how hard it is guided."""

    candidates_per_cycle: int = Field(default=64, ge=1, le=100_000)
    guidance_scale: float = Field(default=1.0, ge=0)


class ControlArm(_Frozen):
    """A strategy that runs beside the campaign on the same pool, to know what selection buys.

    It sees only its own results. An experiment that two arms choose is done once.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    selector: PluginChoice
    batch_size: int | None = Field(default=None, ge=1)


class Screening(_Frozen):
    """The cheap look at every candidate before any is chosen.

    Attributes
    ----------
    fmax_eV_per_A, max_steps
        How far candidates are relaxed with the potential; loose, for the instruments look closer.
    max_energy_above_hull
        Candidates above it after this relaxation are refused, eV/atom; None keeps all. The default
        leaves room for the error of a potential (tens of meV/atom) above any usual constraint.
    """

    fmax_eV_per_A: float = Field(default=0.1, gt=0, le=1)
    max_steps: int = Field(default=100, ge=1, le=2000)
    max_energy_above_hull: float | None = Field(default=0.3, ge=0)


class FineTuning(_Frozen):
    """When the generator learns: after every n-th cycle, or after so many new measurements.

    Attributes
    ----------
    promote
        What becomes of the challenger: ``never`` keeps it in the ledger beside the champion,
        ``always`` lets it generate from the next cycle on.
    """

    every_cycles: int | None = Field(default=None, ge=1)
    after_measurements: int | None = Field(default=None, ge=1)
    promote: Literal["never", "always"] = "never"

    @property
    def enabled(self) -> bool:
        """Whether the generator learns at all."""
        return self.every_cycles is not None or self.after_measurements is not None


class CampaignSpec(_Frozen):
    """A discovery campaign. See ``examples/`` for files; every field has a docstring above."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    description: str = ""
    search_space: SearchSpace
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4)
    constraints: tuple[Constraint, ...] = ()
    conditions: SynthesisConditions = SynthesisConditions()
    budget: Budget
    batch_size: int = Field(default=4, ge=1, le=1000)
    generator: GeneratorChoice = GeneratorChoice(name="diffusion")
    critic: PluginChoice = PluginChoice(name="physical")
    potential: PluginChoice = PluginChoice(name="chgnet")
    screening: Screening = Screening()
    selector: PluginChoice = PluginChoice(name="bayesian")
    control_arms: tuple[ControlArm, ...] = ()
    planner: PluginChoice = PluginChoice(name="solid-state")
    synthesizer: PluginChoice = PluginChoice(name="virtual-furnace")
    characterizers: tuple[PluginChoice, ...] = Field(min_length=1)
    fine_tuning: FineTuning = FineTuning()
    trainer: PluginChoice = PluginChoice(name="scheduled")
    approval: PluginChoice = PluginChoice(name="auto-approve")
    reference_structures: tuple[str, ...] = ()
    """Files of known crystals (CIF folder or CSV with a `cif` column) that novelty is judged by."""
    reference_hull: str | None = None
    """A hull built by the user (``NAME.csv.gz`` beside its card); None for the shipped one."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        properties = [objective.property for objective in self.objectives]
        if len(set(properties)) != len(properties):
            raise ValueError("objectives: a property is named twice")
        arms = ["main", *(arm.name for arm in self.control_arms)]
        if len(set(arms)) != len(arms):
            raise ValueError("control_arms: names must differ, and 'main' is the campaign itself")
        instruments = [choice.name for choice in self.characterizers]
        if len(set(instruments)) != len(instruments):
            raise ValueError("characterizers: an instrument is named twice")
        return self

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole specification."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def wanted_properties(self) -> tuple[str, ...]:
        """Properties that objectives and constraints speak of, in their order, each once."""
        named = [o.property for o in self.objectives] + [c.property for c in self.constraints]
        return tuple(dict.fromkeys(named))

    def changed_fields(self, other: CampaignSpec) -> dict[str, Literal["budget", "fixed"]]:
        """Name the fields in which `other` differs; only ``budget`` may change once begun."""
        return {
            name: "budget" if name == "budget" else "fixed"
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        }

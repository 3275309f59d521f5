"""A furnace whose outcome follows from physics: what forms is what energy and temperature allow.

1. The intended crystal is relaxed with the campaign's potential. If the potential's guards refuse
   it, or it does not come to rest, nothing of that kind exists and the sample decomposes.
2. The relaxed energy is compared with the reference hull; with the temperature and the time of the
   recipe this gives a success probability (`stability_window`). One uniform number, drawn from the
   request's seed, decides.
3. Success: the sample consists of the relaxed crystal, with impurities (the hull's decomposition
   products) in a share of ``impurity_share * (1 - p / ceiling)``, left out below 1 %. The yield is
   the conversion, less a handling loss drawn from N(5 %, 2 %), kept within 0 and 30 %. If the
   crystal relaxed to another one than was intended, the sample is that other crystal, and the
   synthesis counts as failed.
4. Failure: the sample is what the hull says is stable at that composition, or the unreacted
   precursors of the recipe where it was too cold for a reaction.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from matterloop.adapters.virtual_lab.instrument import InstrumentSettings, VirtualInstrument
from matterloop.adapters.virtual_lab.phases import (
    crystal,
    described,
    known_phase,
    reference_phases,
    unreacted,
)
from matterloop.adapters.virtual_lab.stability_window import (
    Odds,
    StabilityWindow,
    elements_without_cohesive_energy,
    first_to_melt,
    melting_point,
)
from matterloop.loop.calculation import Relaxation
from matterloop.loop.elements import element_counts, parse_formula, same_composition
from matterloop.loop.errors import InfeasibleError, UsageError
from matterloop.loop.experiment import (
    InstrumentCard,
    Phase,
    Recipe,
    SynthesisRequest,
    SynthesisResult,
)
from matterloop.loop.hull import HullDistance
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop


class FurnaceSettings(InstrumentSettings):
    """Settings of the virtual furnace.

    Attributes
    ----------
    temperature_range_K, max_pressure_GPa
        What the furnace can do.
    methods
        Synthesis methods that it offers.
    window
        The model of success, see `StabilityWindow`.
    impurity_share
        Share of foreign phases in a sample that barely succeeded.
    """

    cost: float = Field(default=100.0, ge=0)
    duration_h: float = Field(default=24.0, ge=0)
    temperature_range_K: tuple[float, float] = (300.0, 1800.0)
    max_pressure_GPa: float = Field(default=0.01, ge=0)
    methods: tuple[str, ...] = ("solid-state",)
    window: StabilityWindow = StabilityWindow()
    impurity_share: float = Field(default=0.2, ge=0, lt=0.5)


class VirtualFurnace(VirtualInstrument[SynthesisRequest, SynthesisResult]):
    """Makes samples of intended crystals, or of what forms in their place."""

    Settings = FurnaceSettings
    name: ClassVar[str] = "virtual-furnace"
    request_model = SynthesisRequest
    result_model = SynthesisResult

    def __init__(self, settings: FurnaceSettings, workshop: Workshop) -> None:
        super().__init__(settings, workshop)
        self._settings = settings

    def describe(self) -> InstrumentCard:
        """Capabilities, limits, cost, units."""
        return InstrumentCard(
            name=self.name,
            version="1",
            kind="synthesizer",
            description="Tube furnace, simulated: relaxation with the campaign's potential, energy"
            " above the reference hull, temperature against a stability window.",
            provides=dict.fromkeys(self._settings.methods, "sample"),
            temperature_range_K=self._settings.temperature_range_K,
            elements=self._settings.elements,
            max_atoms=self._settings.max_atoms,
            cost=self._settings.cost,
            duration_h=self._settings.duration_h,
            knows_absence=True,
        )

    def validate(self, request: SynthesisRequest) -> list[str]:
        """Return what speaks against the request, with figures; empty if nothing does."""
        try:
            structure = crystal(request.structure)
        except UsageError as error:
            return [error.came]
        problems = self._limits(structure, needs_hull=True)
        recipe, settings = request.recipe, self._settings
        low, high = settings.temperature_range_K
        if not low <= recipe.temperature_K <= high:
            problems.append(
                f"the recipe asks for {recipe.temperature_K:g} K; the furnace does {low:g} K to"
                f" {high:g} K"
            )
        if recipe.pressure_GPa > settings.max_pressure_GPa:
            problems.append(
                f"the recipe asks for {recipe.pressure_GPa:g} GPa; the furnace does up to"
                f" {settings.max_pressure_GPa:g} GPa"
            )
        if recipe.method not in settings.methods:
            problems.append(
                f"the method {recipe.method!r} is not offered; offered are"
                f" {', '.join(settings.methods)}"
            )
        if problems:
            return problems
        formula = structure.composition.reduced_formula
        if not _same_formula(recipe.target_formula, structure):
            problems.append(f"the recipe is for {recipe.target_formula}, the crystal is {formula}")
        unknown = elements_without_cohesive_energy(element_counts(structure))
        if unknown:
            problems.append(f"no cohesive energy is tabulated for {', '.join(unknown)}")
        return problems

    def _perform(self, request: SynthesisRequest) -> SynthesisResult:
        intended = crystal(request.structure)
        try:
            relaxation = self._relax(intended)
        except InfeasibleError as error:
            return self._nothing_there(intended, str(error))
        counts = element_counts(intended)
        distance = self._distance(relaxation.structure, relaxation.energy_eV_per_atom)
        melting = melting_point(counts, distance.formation_energy_eV_per_atom)
        recipe, window = request.recipe, self._settings.window
        reacting = first_to_melt((p.formula for p in recipe.precursors), melting)
        odds = window.odds(
            distance.energy_above_hull_eV_per_atom,
            recipe.temperature_K,
            recipe.time_h,
            melting,
            reacting,
        )
        draw = float(np.random.default_rng(derive_seed(request.seed, "outcome")).random())
        kept = bool(StructureMatcher().fit(intended, relaxation.structure))
        details: dict[str, Any] = {
            "energy_eV_per_atom": relaxation.energy_eV_per_atom,
            "energy_above_hull_eV_per_atom": distance.energy_above_hull_eV_per_atom,
            "formation_energy_eV_per_atom": distance.formation_energy_eV_per_atom,
            "thin_hull": distance.thin,
            "thin_reason": distance.thin_reason,
            "temperature_K": recipe.temperature_K,
            "time_h": recipe.time_h,
            "melting_point_estimate_K": melting,
            "first_partner_melts_at_K": reacting,
            "success_probability": odds.probability,
            "odds": asdict(odds),
            "draw": draw,
            "kept_intended_crystal": kept,
            "relaxation": _figures(relaxation),
            **self._origin(),
        }
        why = _why(distance, odds, draw, recipe, melting)
        if draw >= odds.probability:
            phases = self._failed_sample(recipe, odds, distance)
            explanation = f"{recipe.target_formula} did not form: {why} Found {described(phases)}."
            return SynthesisResult(
                success=False,
                phases=phases,
                yield_fraction=0.0,
                explanation=explanation,
                details=details,
            )
        formed = "formed" if kept else "did not form, but another crystal, to which it relaxes"
        return SynthesisResult(
            success=kept,
            phases=self._product(relaxation.structure, odds, distance),
            yield_fraction=_yield(odds, request.seed),
            explanation=f"{recipe.target_formula} {formed}: {why}",
            details=details,
        )

    def _nothing_there(self, intended: Structure, reason: str) -> SynthesisResult:
        """Return the sample of a crystal that has no equilibrium."""
        # The decomposition does not depend on the energy, of which there is none.
        phases = reference_phases(self._distance(intended, 0.0).decomposition)
        return SynthesisResult(
            success=False,
            phases=phases,
            yield_fraction=0.0,
            explanation=f"{reason} Found {described(phases)}.",
            details={"relaxation_failure": reason, "success_probability": 0.0, **self._origin()},
        )

    def _failed_sample(
        self, recipe: Recipe, odds: Odds, distance: HullDistance
    ) -> tuple[Phase, ...]:
        if odds.weakest == "conversion" and recipe.precursors:
            return unreacted(recipe.precursors)
        return reference_phases(distance.decomposition)

    def _product(
        self, structure: Structure, odds: Odds, distance: HullDistance
    ) -> tuple[Phase, ...]:
        foreign = [
            (entry, fraction)
            for entry, fraction in distance.decomposition
            if not _same_formula(entry.formula, structure)
        ]
        share = self._settings.impurity_share * (1 - odds.probability / odds.ceiling)
        if not foreign or share < 0.01:
            share, foreign = 0.0, []
        provenance = f"relaxed with {self._workshop.potential.identity}"
        product = known_phase(structure, 1 - share, provenance)
        return (product, *(reference_phases(foreign, share) if foreign else ()))


def _same_formula(formula: str, structure: Structure) -> bool:
    try:
        return same_composition(parse_formula(formula), element_counts(structure))
    except ValueError:
        return False


def _yield(odds: Odds, seed: int) -> float:
    rng = np.random.default_rng(derive_seed(seed, "yield"))
    loss = float(np.clip(rng.normal(0.05, 0.02), 0.0, 0.3))
    return odds.conversion * (1 - loss)


def _figures(relaxation: Relaxation) -> dict[str, Any]:
    """Return what is worth keeping of a relaxation, without the time it took."""
    return {
        "converged": relaxation.converged,
        "steps": relaxation.steps,
        "optimizer": relaxation.optimizer,
        "max_force_eV_per_A": relaxation.max_force_eV_per_A,
        "rms_displacement_A": relaxation.rms_displacement_A,
        "volume_change": relaxation.volume_change,
    }


def _why(distance: HullDistance, odds: Odds, draw: float, recipe: Recipe, melting_K: float) -> str:
    above = 1000 * distance.energy_above_hull_eV_per_atom
    thin = f" (thin: {distance.thin_reason})" if distance.thin else ""
    return (
        f"{round(above):+d} meV/atom above the hull{thin}, {recipe.temperature_K:g} K for"
        f" {recipe.time_h:g} h (melting estimated at {melting_K:.0f} K) give a success"
        f" probability of {odds.probability:.2f} (survival {odds.survival:.2f},"
        f" conversion {odds.conversion:.2f}, integrity {odds.integrity:.2f});"
        f" the draw was {draw:.2f}."
    )

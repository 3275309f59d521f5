"""Planner of solid-state reactions: mix powders, press, heat."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Composition, Element, Structure

from matterloop.agents.planner.precursors import Mixture, balance
from matterloop.loop.chemistry.melting import MELTING_POINT_K, melting_point_K
from matterloop.loop.elements import parse_formula
from matterloop.loop.errors import PolicyViolationError, SpecError
from matterloop.loop.experiment import Recipe
from matterloop.loop.protocols import Workshop
from matterloop.loop.spec import CampaignSpec

METHOD = "solid-state"

AIR_STABLE = ("O",)
"""Anions whose compounds are fired in air; all others would oxidise or hydrolyse."""


class SolidStateSettings(BaseModel):
    """Settings of `SolidStatePlanner`.

    Attributes
    ----------
    stock
        Starting materials at hand, the preferred ones first; elements are always at hand.
    tammann_fraction
        Temperature of the reaction over the mean melting point of the precursors.
    time_h
        Time at temperature, hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stock: tuple[str, ...] = tuple(MELTING_POINT_K)
    tammann_fraction: float = Field(default=2 / 3, gt=0, le=1)
    time_h: float = Field(default=12.0, gt=0)


class SolidStatePlanner:
    """Recipes for solid-state reactions; behind `matterloop.loop.protocols.Planner`.

    Temperature follows the extension of Tammann's rule to mixtures: two thirds of the mean melting
    point (K) of the precursors, which is what published solid-state syntheses use on average (Huo
    et al., Chemistry of Materials 34, 7323 (2022)); held within the campaign's range. Where no
    melting point is at hand for any precursor, the middle of the range is taken; the recipe's
    notes say so. Atmosphere: air for oxides (all anions oxygen), argon for everything else.
    """

    Settings = SolidStateSettings

    def __init__(self, settings: SolidStateSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings
        problems = []
        for formula in settings.stock:
            try:
                parse_formula(formula)
            except ValueError as error:
                problems.append(f"planner.settings.stock: {error}")
        if problems:
            raise SpecError("The campaign", problems)

    def plan(self, structure: Structure, spec: CampaignSpec) -> Recipe:
        """Return a recipe within the campaign's conditions.

        Raises
        ------
        PolicyViolationError
            If the campaign does not allow solid-state synthesis.
        """
        conditions = spec.conditions
        if METHOD not in conditions.methods:
            raise PolicyViolationError(
                f"The campaign allows {', '.join(conditions.methods)}, the planner makes {METHOD}.",
                remedy=f"allow {METHOD} under conditions.methods, or name another planner",
            )
        formula, _ = structure.composition.get_reduced_formula_and_factor()
        target = Composition(formula)
        mixture = balance(target, self._settings.stock)
        temperature, notes = self.temperature(mixture, conditions.temperature_K)
        low, high = conditions.pressure_GPa
        return Recipe(
            method=METHOD,
            target_formula=formula,
            precursors=mixture.precursors,
            temperature_K=temperature,
            pressure_GPa=min(max(1e-4, low), high),
            time_h=self._settings.time_h,
            atmosphere=_atmosphere(target),
            notes=notes,
        )

    def temperature(self, mixture: Mixture, allowed_K: tuple[float, float]) -> tuple[float, str]:
        """Return the temperature of the main step (K, rounded to 5 K) and where it comes from."""
        low, high = allowed_K
        known = {p.formula: melting_point_K(Composition(p.formula)) for p in mixture.precursors}
        points = {formula: point for formula, point in known.items() if point is not None}
        if not points:
            return (low + high) / 2, "middle of the allowed range: no melting point is at hand"
        mean = sum(points.values()) / len(points)
        wished = 5 * round(self._settings.tammann_fraction * mean / 5)
        reason = f"Tammann's rule, {', '.join(points)} melt at {mean:.0f} K on average"
        if not low <= wished <= high:
            reason += f"; {wished:.0f} K lies outside the allowed {low:g} to {high:g} K"
        return float(min(max(wished, low), high)), reason


def _atmosphere(target: Composition) -> str:
    nonmetals = [e.symbol for e in target.elements if Element(e.symbol).X > 2.5]
    oxide = bool(nonmetals) and all(symbol in AIR_STABLE for symbol in nonmetals)
    return "air" if oxide else "argon"

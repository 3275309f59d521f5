"""When does a synthesis give the intended crystal? The model behind the virtual furnace.

The success probability is a product of four factors, each between 0 and 1:

    p = ceiling * survival * conversion * integrity

*Survival* of a metastable crystal, dE above the hull: exp(-max(dE, 0) / s), with
s(T) = kinetic_scale + entropy_share * k_B T. An exponential law with a scale of 29 meV/atom puts
nine tenths of the crystals that exist below 66 meV/atom; Sun et al. (Science Advances 2, e1600225
(2016)) find 67 meV/atom for the observed metastable crystals of all chemistries. The defaults give
that scale at 1000 K: 20 meV/atom that slow kinetics forgives at any temperature, and 0.1 k_B T for
the entropy (per atom, of the order of 0.1 k_B) that a metastable crystal may have in advantage.

*Conversion* of the starting materials is first order in time with an Arrhenius rate:
1 - exp(-(t / t_0) exp(-(Q / k_B) (1/T - 1/T_T))), Q = activation * k_B T_r. Solids react
noticeably from the Tammann temperature T_T = tammann * T_r on, two thirds of the melting point T_r
of the partner that melts first (Merkle and Maier, Z. Anorg. Allg. Chem. 631, 1163 (2005));
Q = 18 k_B T_m is the van Liempt relation for self-diffusion (Brown and Ashby, Acta Metallurgica 28,
1085 (1980)). Too cold: conversion is near 0.

*Integrity* of the crystal on heating: 1 / (1 + exp((T - T_d) / w)), with T_d = decomposition *
T_m and w = width * T_m: most compounds melt incongruently or lose a volatile element below the
temperature at which they would melt as they are. Too hot: integrity is near 0.

The melting point T_m is estimated from the cohesive energy, T_m = 0.032 E_coh / k_B (Guinea, Rose,
Smith and Ferrante, Applied Physics Letters 44, 53 (1984), found for metals), where
E_coh of a compound is the mean of its elements' (Kittel, "Introduction to Solid State Physics", 8th
edition, table 1 of chapter 3) minus its formation energy. Against experiment: NaCl 1247 K (1074),
Al2O3 2357 K (2345), Si 1719 K (1687), MgO 1903 K (3125): right to about 40 %, as a window needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp

from ase.data import atomic_numbers
from ase.data.cohesive_energies import cohesive_energy_kittel2005
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Composition

from matterloop.loop.chemistry.melting import melting_point_K

BOLTZMANN_EV_PER_K = 8.617333262e-5
GUINEA = 0.032
"""Melting temperature times k_B over cohesive energy."""
HYDROGEN_EV_PER_ATOM = 2.24
"""Half the bond energy of H2 at 0 K (4.48 eV); Kittel's table leaves hydrogen out."""


class StabilityWindow(BaseModel):
    """Parameters of the model in this module.

    Attributes
    ----------
    ceiling
        Success probability of a stable crystal under ideal conditions.
    kinetic_scale_eV_per_atom, entropy_share
        Of the survival of metastable crystals.
    tammann
        Tammann temperature over the melting point of the partner that melts first.
    activation
        Activation energy of the reaction over k_B and that melting point.
    reference_time_h
        Time t_0 after which 1 - 1/e is converted at the Tammann temperature.
    decomposition, width
        Decomposition limit over melting point, and the width of its onset over melting point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ceiling: float = Field(default=0.95, gt=0, le=1)
    kinetic_scale_eV_per_atom: float = Field(default=0.020, gt=0)
    entropy_share: float = Field(default=0.1, ge=0)
    tammann: float = Field(default=2 / 3, gt=0, lt=1)
    activation: float = Field(default=18.0, gt=0)
    reference_time_h: float = Field(default=4.0, gt=0)
    decomposition: float = Field(default=0.9, gt=0)
    width: float = Field(default=0.04, gt=0)

    def odds(
        self,
        dE_eV_per_atom: float,
        T_K: float,
        time_h: float,
        melting_K: float,
        reacting_K: float | None = None,
    ) -> Odds:
        """Return the success probability and its factors.

        Parameters
        ----------
        dE_eV_per_atom
            Energy above the hull; negative counts as zero.
        T_K, time_h
            Of the main step.
        melting_K
            Estimated melting point of the product, see `melting_point`.
        reacting_K
            Melting point of the partner that melts first, see `first_to_melt`; the product's if
            left out.
        """
        partner = melting_K if reacting_K is None else reacting_K
        scale = self.kinetic_scale_eV_per_atom + self.entropy_share * BOLTZMANN_EV_PER_K * T_K
        rate = _exp(-self.activation * (partner / T_K - 1 / self.tammann))
        excess = (T_K - self.decomposition * melting_K) / (self.width * melting_K)
        return Odds(
            ceiling=self.ceiling,
            survival=exp(-max(dE_eV_per_atom, 0.0) / scale),
            conversion=1 - exp(-time_h / self.reference_time_h * rate),
            integrity=1 / (1 + _exp(excess)),
        )


@dataclass(frozen=True)
class Odds:
    """Factors of a success probability; see the module's docstring."""

    ceiling: float
    survival: float
    conversion: float
    integrity: float

    @property
    def probability(self) -> float:
        """The product of the factors."""
        return self.ceiling * self.survival * self.conversion * self.integrity

    @property
    def weakest(self) -> str:
        """Name of the smallest factor: the likeliest reason of a failure."""
        factors = {name: getattr(self, name) for name in ("survival", "conversion", "integrity")}
        return min(factors, key=lambda name: factors[name])


def elements_without_cohesive_energy(symbols: Mapping[str, float]) -> list[str]:
    """Return those of `symbols` for which `melting_point` has no data, sorted."""
    return sorted(symbol for symbol in symbols if _cohesive_energy(symbol) is None)


def melting_point(counts: Mapping[str, float], formation_energy_eV_per_atom: float) -> float:
    """Estimate a melting point in K.

    Parameters
    ----------
    counts
        Element symbol to number of atoms.
    formation_energy_eV_per_atom
        Relative to the elements.

    Raises
    ------
    KeyError
        If an element has no tabulated cohesive energy.
    """
    total = 0.0
    for symbol, count in counts.items():
        cohesive = _cohesive_energy(symbol)
        if cohesive is None:
            raise KeyError(symbol)
        total += count * cohesive
    # A floor of 50 K for crystals that are not bound at all, so that ratios of temperatures exist.
    cohesive_mean = total / sum(counts.values()) - formation_energy_eV_per_atom
    return max(GUINEA * cohesive_mean / BOLTZMANN_EV_PER_K, 50.0)


def first_to_melt(precursors: Iterable[str], product_K: float) -> float:
    """Return the lowest melting point (K) among precursors, where known, and the product."""
    points = [melting_point_K(Composition(formula)) for formula in precursors]
    return min([product_K, *(point for point in points if point is not None)])


def _cohesive_energy(symbol: str) -> float | None:
    """Return the energy that takes a solid element apart into atoms, eV/atom."""
    if symbol == "H":
        return HYDROGEN_EV_PER_ATOM
    value = cohesive_energy_kittel2005[atomic_numbers[symbol]]
    return None if value is None else float(value)


def _exp(x: float) -> float:
    """Exponential that saturates where a float would overflow."""
    return exp(min(x, 700.0))

"""Starting materials, and amounts that balance.

Melting points: CRC Handbook of Chemistry and Physics (section "Physical Constants of Inorganic
Compounds"); of elements, pymatgen. Where a compound sublimes or decomposes first, that temperature
stands in, since the solid is not there above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pymatgen.analysis.reaction_calculator import Reaction, ReactionError
from pymatgen.core import Composition, Element

from matterloop.loop.errors import MatterloopError
from matterloop.loop.experiment import Precursor

MELTING_POINT_K: dict[str, float] = {
    "Li2S": 1645.0, "Na2S": 1445.0, "K2S": 1221.0, "MgS": 2499.0, "CaS": 2797.0, "Al2S3": 1373.0,
    "SiS2": 1363.0, "GeS2": 1113.0, "P2S5": 558.0, "ZnS": 2100.0, "SnS2": 873.0, "Sb2S3": 823.0,
    "LiF": 1121.0, "LiCl": 883.0, "LiBr": 823.0, "LiI": 742.0, "NaF": 1269.0, "NaCl": 1074.0,
    "NaBr": 1020.0, "NaI": 934.0, "KF": 1131.0, "KCl": 1044.0, "MgCl2": 987.0, "MgF2": 1536.0,
    "CaCl2": 1048.0, "CaF2": 1691.0, "AlCl3": 466.0, "AlF3": 1549.0, "ZnCl2": 563.0,
    "YCl3": 994.0, "InCl3": 856.0, "ZrCl4": 604.0, "Li2O": 1711.0, "Na2O": 1407.0, "MgO": 3098.0,
    "CaO": 3172.0, "SrO": 2804.0, "BaO": 2246.0, "Al2O3": 2327.0, "SiO2": 1983.0, "GeO2": 1389.0,
    "P2O5": 835.0, "TiO2": 2116.0, "ZrO2": 2983.0, "V2O5": 954.0, "Nb2O5": 1785.0, "MoO3": 1075.0,
    "WO3": 1745.0, "Cr2O3": 2705.0, "MnO": 2115.0, "Fe2O3": 1812.0, "CoO": 2103.0, "NiO": 2230.0,
    "CuO": 1500.0, "ZnO": 2247.0, "Ga2O3": 2080.0, "In2O3": 2185.0, "SnO2": 1903.0, "Y2O3": 2712.0,
    "La2O3": 2577.0, "B2O3": 723.0, "Bi2O3": 1098.0, "Li3N": 1086.0, "AlN": 3273.0, "BN": 3239.0,
}  # fmt: skip
"""Melting point of the compounds that a laboratory keeps on the shelf, K."""

MAX_PRECURSORS = 5


@dataclass(frozen=True)
class Mixture:
    """Starting materials in amounts that give one mole of product formula units.

    Attributes
    ----------
    elemental
        Whether it fell back on the elements.
    """

    precursors: tuple[Precursor, ...]
    elemental: bool


def balance(target: Composition, stock: Sequence[str]) -> Mixture:
    """Find the fewest materials of the stock that react to the target and nothing else.

    Among equally many, those that come earlier in `stock` are preferred. Elements are always
    available, and come after the stock; from elements alone every target can be made.

    Parameters
    ----------
    target
        Product, one formula unit.
    """
    wanted = {e.symbol for e in target.elements}
    compounds = [f for f in dict.fromkeys(stock) if _within(f, wanted)]
    compounds = [f for f in compounds if Composition(f).reduced_formula != target.reduced_formula]
    for chosen in _selections([*compounds, *target.get_el_amt_dict()], wanted, len(compounds)):
        amounts = _amounts(chosen, target)
        if amounts:
            elemental = all(Composition(f).is_element for f in amounts)
            precursors = tuple(Precursor(formula=f, amount_mol=a) for f, a in amounts.items())
            return Mixture(precursors, elemental)
    # Unreachable by chemistry: the elements are among the selections and always balance.
    raise MatterloopError(f"No starting materials give {target.reduced_formula}.")


def melting_point_K(formula: str) -> float | None:  # noqa: N802  # K: kelvin
    """Return the melting point of a precursor in kelvin, or None where no source is at hand."""
    composition = Composition(formula)
    if composition.is_element:
        point = Element(composition.elements[0].symbol).melting_point
        return None if point is None else float(point)
    for name, value in MELTING_POINT_K.items():
        if Composition(name).reduced_formula == composition.reduced_formula:
            return value
    return None


def _within(formula: str, wanted: set[str]) -> bool:
    return {e.symbol for e in Composition(formula).elements} <= wanted


def _selections(
    available: Sequence[str], wanted: set[str], n_compounds: int
) -> Iterator[tuple[str, ...]]:
    """Yield sets of materials that hold every element: with compounds first, then fewer first."""
    elements = tuple(available[n_compounds:])
    for size in range(1, min(MAX_PRECURSORS, len(wanted)) + 1):
        for chosen in combinations(available, size):
            held = {e.symbol for f in chosen for e in Composition(f).elements}
            if held == wanted and not set(chosen) <= set(elements):
                yield chosen
    yield elements


def _amounts(chosen: tuple[str, ...], target: Composition) -> dict[str, float] | None:
    """Return moles per mole of target, or None if they do not balance or one is not needed."""
    if len(chosen) == 1 and len(target.elements) == 1:
        return {chosen[0]: float(target.num_atoms)}
    try:
        reaction = Reaction([Composition(f) for f in chosen], [target])
    except ReactionError:
        return None
    amounts = {f: -float(reaction.get_coeff(Composition(f))) for f in chosen}
    product = float(reaction.get_coeff(target))
    if product <= 1e-6 or min(amounts.values()) <= 1e-6:
        return None
    return {f: amount / product for f, amount in amounts.items()}

"""Starting materials, and amounts that balance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pymatgen.analysis.reaction_calculator import Reaction, ReactionError
from pymatgen.core import Composition

from matterloop.loop.errors import MatterloopError
from matterloop.loop.experiment import Precursor

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

"""Charge neutrality and the order of electronegativities, with SMACT's tables.

A composition is *neutral* under a rule if every element can be given one oxidation state from the
rule's set so that the charges sum to zero and, with ``pauling``, every cation is less
electronegative than every anion (Davies et al., Chem 1, 617 (2016); SMACT: JOSS 4, 1361 (2019)).
All atoms of an element carry the same state: mixed valence such as Fe3O4's is not neutral.

Pure elements count as neutral, and compositions of metals alone as alloys, to which the rule does
not apply. The answers are the same as those of SMACT's ``smact_validity``, computed for many
compositions at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

StateSet = Literal["smact14", "icsd16", "icsd24", "pymatgen_sp"]
"""SMACT's names for its tables of oxidation states. Its ``wiki`` set, which holds the state 0 and
against which SMACT warns, is not offered."""

_ATTRIBUTES = {
    "smact14": "oxidation_states_smact14",
    "icsd16": "oxidation_states_icsd16",
    "icsd24": "oxidation_states_icsd24",
    "pymatgen_sp": "oxidation_states_sp",
}
_MAX_COMBINATIONS = 5_000_000


@dataclass(frozen=True)
class OxidationRule:
    """When a composition counts as charge-neutral.

    Attributes
    ----------
    states
        Table of oxidation states.
    pauling
        Whether cations must be less electronegative than anions.
    alloys
        Whether compositions of metals alone pass without a charge.
    unknown_electronegativity
        What becomes of elements to which Pauling gave none (Pm, He, Ar): ``fail``, as SMACT
        does today, or ``pass``, as CDVAE's evaluation does.
    """

    states: StateSet = "icsd24"
    pauling: bool = True
    alloys: bool = True
    unknown_electronegativity: Literal["fail", "pass"] = "fail"

    def __post_init__(self) -> None:
        if self.states not in get_args(StateSet):
            raise UsageError(
                f"There is no set of oxidation states named {self.states!r}.",
                f"one of {', '.join(get_args(StateSet))}",
            )


def oxidation_states(symbol: str, rule: OxidationRule | None = None) -> tuple[int, ...]:
    """Return the oxidation states of an element under a rule, rising; empty if it has none."""
    states = getattr(_element(symbol), _ATTRIBUTES[(rule or OxidationRule()).states])
    return tuple(sorted(set(states or ())))


def is_neutral(counts: Mapping[str, int], rule: OxidationRule | None = None) -> bool:
    """Tell whether a composition is neutral (element symbol to number of atoms, all positive)."""
    elements = tuple(counts)
    amounts = np.array([[counts[element] for element in elements]])
    return bool(are_neutral(elements, amounts, rule)[0])


def are_neutral(
    elements: Sequence[str], amounts: NDArray[np.integer], rule: OxidationRule | None = None
) -> NDArray[np.bool_]:
    """Tell for many compositions of the same elements whether each is neutral.

    Parameters
    ----------
    elements
        Distinct symbols.
    amounts
        Numbers of atoms, all positive, shape (n_compositions, n_elements).

    Returns
    -------
    NDArray
        Shape (n_compositions,).
    """
    rule = rule or OxidationRule()
    if _needs_no_charge(tuple(elements), rule):
        return np.ones(len(amounts), dtype=bool)
    combinations = _combinations(tuple(elements), rule)
    chunk = max(1, _MAX_COMBINATIONS // max(1, len(combinations)))
    neutral = [
        ((amounts[start : start + chunk] @ combinations.T) == 0).any(axis=1)
        for start in range(0, len(amounts), chunk)
    ]
    return np.concatenate(neutral) if neutral else np.zeros(0, dtype=bool)


def assignments(
    counts: Mapping[str, int], rule: OxidationRule | None = None
) -> tuple[dict[str, int], ...]:
    """Return every choice of one oxidation state per element that makes a composition neutral.

    Pure elements and alloys get the state 0 throughout. Empty if the composition is not neutral.
    """
    rule = rule or OxidationRule()
    elements = tuple(counts)
    if _needs_no_charge(elements, rule):
        return (dict.fromkeys(elements, 0),)
    combinations = _combinations(elements, rule)
    charges = combinations @ np.array([counts[element] for element in elements])
    return tuple(
        dict(zip(elements, (int(state) for state in row), strict=True))
        for row in combinations[charges == 0]
    )


@lru_cache(maxsize=256)
def _combinations(elements: tuple[str, ...], rule: OxidationRule) -> NDArray[np.int64]:
    """All choices of one state per element in the right order, shape (n_choices, n_elements)."""
    sets = [np.array(oxidation_states(element, rule), dtype=np.int64) for element in elements]
    size = int(np.prod([len(states) for states in sets], dtype=np.int64))
    if size > _MAX_COMBINATIONS:
        raise UsageError(
            f"{'-'.join(elements)} has {size:,} combinations of oxidation states.",
            f"at most {_MAX_COMBINATIONS:,}",
            "use fewer elements at once, or a shorter set of oxidation states",
        )
    if size == 0:
        return np.zeros((0, len(elements)), dtype=np.int64)
    combinations: NDArray[np.int64] = np.stack(np.meshgrid(*sets, indexing="ij"), axis=-1).reshape(
        -1, len(elements)
    )
    if not rule.pauling:
        return combinations
    # SMACT leaves None where Pauling gave no electronegativity.
    order = np.array([_element(e).pauling_eneg or np.nan for e in elements], dtype=float)
    unknown = np.isnan(order)
    if unknown.any() and rule.unknown_electronegativity == "fail":
        return combinations[:0]
    highest_cation = np.where((combinations > 0) & ~unknown, order, -np.inf).max(axis=1)
    lowest_anion = np.where((combinations < 0) & ~unknown, order, np.inf).min(axis=1)
    ordered: NDArray[np.int64] = combinations[highest_cation < lowest_anion]
    return ordered


def _needs_no_charge(elements: tuple[str, ...], rule: OxidationRule) -> bool:
    return len(elements) == 1 or (rule.alloys and all(e in _metals() for e in elements))


@lru_cache(maxsize=1)
def _metals() -> frozenset[str]:
    import smact

    return frozenset(smact.metals)


@lru_cache(maxsize=128)
def _element(symbol: str) -> Any:
    import smact

    try:
        return smact.Element(symbol)
    except (KeyError, NameError):
        raise UsageError(
            f"SMACT knows no element {symbol!r}.", "an element up to lawrencium (Z = 103)"
        ) from None

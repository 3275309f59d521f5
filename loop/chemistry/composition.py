"""Enumerate the compositions of a chemical system or of a search space.

A case with a known answer. Li-P-S-Cl with coefficients 0 to 6 has 7^4 - 1 = 2400 element-count
combinations (`combinations`), which are 2065 distinct compositions once multiples such as Li2Cl2
are taken together with LiCl (`compositions`). Of these **781** are charge-neutral
(`neutral_compositions`) under the default rule: the oxidation states of SMACT's ``icsd24`` set,

    Li +1;  P -3 -2 -1 +1 +2 +3 +4 +5;  S -2 -1 +1 +2 +3 +4 +5 +6;  Cl -1 +1 +3 +5 +7,

one state per element, charges that sum to zero, cations less electronegative than anions; 777
compounds and the 4 elements, which pass by definition. The older set ``smact14`` gives the same
781. Other rules give other counts: 811 with ``icsd16``, 301 with ``pymatgen_sp``, 785 with the
states that ``smact_validity`` filters out of its ICSD counts if it is given no set, 1426 with
``icsd24`` and no test of electronegativity. Counting the 2400 combinations rather than distinct
compositions, 986 pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations as subsets
from itertools import islice, product
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from matterloop.loop.chemistry.oxidation import OxidationRule, are_neutral
from matterloop.loop.elements import SYMBOLS, parse_formula, reduced_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from matterloop.loop.spec import SearchSpace

_CHUNK = 4096


def combinations(elements: Sequence[str], max_coefficient: int) -> Iterator[dict[str, int]]:
    """Yield every choice of coefficients 0 to `max_coefficient`, not all zero.

    (max_coefficient + 1)^n - 1 of them for n elements; multiples are not removed. Elements with
    coefficient zero are left out of the mapping.

    Raises
    ------
    UsageError
        If an element is unknown or named twice, or the coefficient is not positive.
    """
    _check(elements, max_coefficient)
    for amounts in product(range(max_coefficient + 1), repeat=len(elements)):
        if any(amounts):
            yield {e: n for e, n in zip(elements, amounts, strict=True) if n}


def compositions(
    elements: Sequence[str],
    max_coefficient: int,
    *,
    min_elements: int = 1,
    max_elements: int | None = None,
) -> Iterator[dict[str, int]]:
    """Yield every distinct composition once, as reduced counts, systems of few elements first."""
    for system, amounts in _by_system(elements, max_coefficient, min_elements, max_elements):
        for row in amounts:
            yield _counts(system, row)


def neutral_compositions(
    elements: Sequence[str],
    max_coefficient: int,
    rule: OxidationRule | None = None,
    *,
    min_elements: int = 1,
    max_elements: int | None = None,
) -> Iterator[dict[str, int]]:
    """Yield the compositions (see `compositions`) that are neutral under `rule`."""
    for system, amounts in _by_system(elements, max_coefficient, min_elements, max_elements):
        for row in amounts[are_neutral(system, amounts, rule)]:
            yield _counts(system, row)


def search_space_compositions(
    space: SearchSpace, max_coefficient: int, rule: OxidationRule | None = None
) -> Iterator[dict[str, int]]:
    """Yield the neutral compositions of a campaign's search space, as reduced counts.

    Only compositions of which some whole multiple has an allowed number of atoms. Formulas that a
    campaign names one by one are yielded without a test of neutrality: somebody wants them.
    """
    if space.formulas:
        named: Iterator[dict[str, int]] = (
            reduced_counts(parse_formula(formula)) for formula in space.formulas
        )
    else:
        named = neutral_compositions(
            space.allowed_elements,
            max_coefficient,
            rule,
            min_elements=space.min_elements,
            max_elements=space.max_elements,
        )
    for counts in named:
        n_atoms = sum(counts.values())
        multiple = -(-space.min_atoms // n_atoms)
        cell = {element: n * multiple for element, n in counts.items()}
        if space.why_outside(cell) is None:
            yield counts


def _by_system(
    elements: Sequence[str], max_coefficient: int, min_elements: int, max_elements: int | None
) -> Iterator[tuple[tuple[str, ...], np.ndarray[tuple[int, int], np.dtype[np.int64]]]]:
    """Yield chunks of irreducible coefficients, shape (n_compositions, n_elements of system)."""
    _check(elements, max_coefficient)
    most = min(len(elements), max_elements or len(elements))
    for size in range(min_elements, most + 1):
        for system in subsets(elements, size):
            rows = (
                row for row in product(range(1, max_coefficient + 1), repeat=size) if gcd(*row) == 1
            )
            while chunk := list(islice(rows, _CHUNK)):
                yield system, np.array(chunk, dtype=np.int64)


def _counts(
    system: tuple[str, ...], row: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> dict[str, int]:
    return {element: int(n) for element, n in zip(system, row, strict=True)}


def _check(elements: Sequence[str], max_coefficient: int) -> None:
    unknown = [element for element in elements if element not in SYMBOLS]
    if unknown or len(set(elements)) != len(elements) or not elements:
        raise UsageError(f"{'-'.join(elements)!r} is no chemical system.", "distinct elements")
    if max_coefficient < 1:
        raise UsageError(f"The largest coefficient is {max_coefficient}.", "at least 1")

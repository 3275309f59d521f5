"""How many atoms the cells of MP-20 hold, for generators that must be told how many to place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matterloop.loop.elements import parse_formula, reduced_counts
from matterloop.loop.spec import SearchSpace

MP20_TRAIN_COUNTS: tuple[int, ...] = (
    59, 572, 538, 4144, 1279, 2297, 572, 2119, 932, 2640,
    361, 2624, 585, 1770, 390, 1819, 264, 1443, 287, 2441,
)  # fmt: skip
"""Structures with 1, 2, ... 20 atoms among the 27,136 of the training split of MP-20 (Xie et al.,
CDVAE, ICLR 2022). They are the fractions that DiffCSP (Jiao et al., NeurIPS 2023,
``scripts/generation.py``) and Chemeleon-DNG draw from, times 27,136."""


def cell_size_weights(sizes: Sequence[int]) -> list[float]:
    """Return a probability for each number of atoms, as in MP-20.

    Where MP-20 holds cells of none of these sizes, all are equally likely.
    """
    counts = [MP20_TRAIN_COUNTS[size - 1] if 0 < size <= 20 else 0 for size in sizes]
    total = sum(counts)
    return [count / total if total else 1 / len(counts) for count in counts]


def cell_of_formula(
    formula: str, space: SearchSpace, generator: np.random.Generator
) -> dict[str, int]:
    """Choose how many formula units a cell holds; return element to number of atoms.

    The sizes are those of MP-20, within the search space's bounds.
    """
    unit = reduced_counts(parse_formula(formula))
    atoms = sum(unit.values())
    multiples = range(-(-space.min_atoms // atoms), space.max_atoms // atoms + 1)
    chosen = int(generator.choice(multiples, p=cell_size_weights([m * atoms for m in multiples])))
    return {element: chosen * amount for element, amount in unit.items()}

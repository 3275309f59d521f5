"""Supercells: the same crystal, written down in a larger cell of random shape.

Every sublattice of index n has exactly one basis in Hermite normal form, an integer matrix

    a 0 0
    b c 0      a c f = n,  0 <= b < c,  0 <= d, e < f
    d e f

(Hart and Forcade, Phys. Rev. B 77, 224115 (2008)), up to the order of the axes; they are drawn
uniformly. Some differ only by a symmetry of the crystal.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

IntMatrix = NDArray[np.int64]


@cache
def diagonals(index: int) -> tuple[tuple[int, int, int], ...]:
    """Return the diagonals (a, c, f) of the Hermite normal forms of one determinant."""
    return tuple(
        (a, c, index // (a * c))
        for a in range(1, index + 1)
        if index % a == 0
        for c in range(1, index // a + 1)
        if (index // a) % c == 0
    )


def random_hermite_normal_form(index: int, rng: np.random.Generator) -> IntMatrix:
    """Draw one of the Hermite normal forms of a determinant, all alike in probability."""
    weights = np.array([c * f * f for _, c, f in diagonals(index)], dtype=float)
    a, c, f = diagonals(index)[rng.choice(len(weights), p=weights / weights.sum())]
    return np.array(
        [[a, 0, 0], [rng.integers(c), c, 0], [rng.integers(f), rng.integers(f), f]], dtype=np.int64
    )


def random_supercell(
    structure: Structure,
    min_atoms: int,
    max_atoms: int,
    rng: np.random.Generator,
    *,
    shapes: int = 1,
) -> Structure | None:
    """Return a supercell, at least twofold, whose number of atoms lies within the bounds.

    Its basis is reduced (Lenstra, Lenstra, Lovasz), so that the cell is as little skewed as it can
    be.

    Parameters
    ----------
    shapes
        How many shapes to draw; the one whose shortest translation is longest is taken.

    Returns
    -------
    Structure or None
        None where no multiple of the cell fits.
    """
    multiples = [
        n for n in range(2, max_atoms // len(structure) + 1) if n * len(structure) >= min_atoms
    ]
    if not multiples:
        return None
    index = int(rng.choice(multiples))
    matrices = [random_hermite_normal_form(index, rng) for _ in range(shapes)]
    cells = [m @ structure.lattice.matrix for m in matrices]
    best = int(np.argmax([round(_shortest_translation(cell), 6) for cell in cells]))
    bare = Structure(structure.lattice, structure.species, structure.frac_coords)
    return bare.make_supercell(matrices[best].tolist()).get_reduced_structure("LLL")


def _shortest_translation(cell: NDArray[np.float64]) -> float:
    from pymatgen.core import Lattice

    return float(min(Lattice(cell).get_lll_reduced_lattice().abc))

"""Is a generated crystal a crystal at all? The field's lax criterion and this project's own.

*Structurally valid* (CDVAE: Xie et al., ICLR 2022, arXiv:2110.06197): no two atoms closer than 0.5
Angstrom and a cell of at least 0.1 A^3. CDVAE's code looks at pairs of different atoms only; here
an atom's own images count too, which can only lower the rate. *Compositionally valid* (CDVAE):
charge-neutral under SMACT's older set of oxidation states with cations less electronegative than
anions; elements and alloys of metals pass, and so does whatever has no electronegativity.
*Physically valid*: `matterloop.loop.chemistry.validity` without its question of charge.
*Neutral*: the same question with SMACT's newer set (``icsd24``), as campaigns ask it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matterloop.loop.chemistry.oxidation import OxidationRule, is_neutral
from matterloop.loop.chemistry.validity import PhysicalLimits, check_structure, overall
from matterloop.loop.elements import element_counts, reduced_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

SHORTEST_DISTANCE_A = 0.5
SMALLEST_CELL_A3 = 0.1
CDVAE_RULE = OxidationRule(states="smact14", unknown_electronegativity="pass")
_GEOMETRY_ONLY = PhysicalLimits(charge="ignore")


@dataclass(frozen=True)
class Validity:
    """Four answers about one crystal; see the module."""

    structural: bool
    compositional: bool
    physical: bool
    neutral: bool


INVALID = Validity(structural=False, compositional=False, physical=False, neutral=False)


def validity(structure: Structure) -> Validity:
    """Judge an ordered crystal."""
    counts = reduced_counts(element_counts(structure))
    structural = is_structurally_valid(structure)
    return Validity(
        structural=structural,
        compositional=_neutral(counts, CDVAE_RULE),
        physical=structural and overall(check_structure(structure, _GEOMETRY_ONLY)).passed,
        neutral=_neutral(counts, OxidationRule()),
    )


def is_structurally_valid(structure: Structure) -> bool:
    """Tell whether no two atoms, images included, are too close, and the cell has a volume."""
    if not (np.isfinite(structure.frac_coords).all() and structure.volume >= SMALLEST_CELL_A3):
        return False
    reduced = structure.lattice.get_lll_reduced_lattice()
    if min(reduced.abc) < SHORTEST_DISTANCE_A:
        return False
    distances = np.array(structure.distance_matrix)
    np.fill_diagonal(distances, np.inf)
    return bool((distances >= SHORTEST_DISTANCE_A).all())


def _neutral(counts: dict[str, int], rule: OxidationRule) -> bool:
    try:
        return is_neutral(counts, rule)
    except UsageError:  # an element beyond SMACT's table, or more states than can be combined
        return False

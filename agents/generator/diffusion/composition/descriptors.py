"""What the periodic table says about the elements: input of the network, and their order.

With 16,000 compositions to learn from, a network that is told groups and oxidation states knows
more chemistry than one that has to find them.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MAX_ATOMIC_NUMBER = 100
ELEMENTS = MAX_ATOMIC_NUMBER + 1
"""Rows of every table by atomic number; row 0 is no element."""

_STATES = range(-4, 9)
_GROUPS, _ROWS = 18, 9
_NEUTRAL_X, _NEUTRAL_RADIUS_A = 1.8, 1.5
DESCRIPTORS = 3 + _GROUPS + _ROWS + len(_STATES) + 1


@lru_cache(maxsize=1)
def element_descriptors() -> Tensor:
    """Return (101, DESCRIPTORS) numbers of order one; row 0 is zero.

    Pauling electronegativity, atomic radius in Angstrom, whether a metal; group; row (lanthanides
    and actinides are rows of their own); common oxidation states, and their mean. From pymatgen.
    """
    from pymatgen.core import Element

    table = np.zeros((ELEMENTS, DESCRIPTORS), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each element without electronegativity
        for number in range(1, ELEMENTS):
            element = Element.from_Z(number)
            x = float(element.X)
            states = element.common_oxidation_states
            row = 8 if element.is_lanthanoid else 9 if element.is_actinoid else element.row
            groups = np.arange(1, _GROUPS + 1) == element.group
            rows = np.arange(1, _ROWS + 1) == row
            table[number] = np.concatenate(
                [
                    [
                        0.0 if np.isnan(x) else x - _NEUTRAL_X,
                        float(element.atomic_radius or _NEUTRAL_RADIUS_A) - _NEUTRAL_RADIUS_A,
                        float(element.is_metal),
                    ],
                    groups,
                    rows,
                    [state in states for state in _STATES],
                    [float(np.mean(states)) if states else 0.0],
                ]
            )
    return torch.from_numpy(table)


@lru_cache(maxsize=1)
def element_ranks() -> Tensor:
    """Return (101,) the place 1 to 100 of each element in a composition's canonical order.

    Descending Mendeleev number (Pettifor, J. Phys. C 19, 285 (1986)): hydrogen and the anions come
    first, then metalloids and metals, noble gases last. 0 stands at index 0.
    """
    from pymatgen.core import Element

    mendeleev = [Element.from_Z(number).mendeleev_no for number in range(1, ELEMENTS)]
    order = 1 + np.argsort([-float(place) for place in mendeleev], kind="stable")
    ranks = np.zeros(ELEMENTS, dtype=np.int64)
    ranks[order] = np.arange(1, ELEMENTS)
    return torch.from_numpy(ranks)

r"""How likely it is that one ion, or one metal, takes another's place in a crystal structure.

Ionic crystals: Hautier et al., Inorg. Chem. 50, 656 (2011), doi:10.1021/ic102031h, in the table
that pymatgen ships. The joint probability of two ions in corresponding sites is
:math:`p(s, t) = \exp(\lambda_{st}) / Z` (their eq. 4 for binary feature functions); ranked is the
probability of the new ions given the template's,

.. math:: P = \prod_i p(s_i | t_i), \quad
          p(s | t) = \exp(\lambda_{st}) \Big/ \sum_{s'} \exp(\lambda_{s't}) ,

with one factor per site class and :math:`\lambda = -5` for a pair that was never observed, as in
the paper.

Metals: where no charge-neutral assignment exists, the same product is formed with a kernel on
Mendeleev numbers, which order the elements by chemical similarity (Pettifor, Solid State Commun.
51, 31 (1984); numbers as in pymatgen):
:math:`p(s | t) \propto \exp(-|M_s - M_t| / \tau)`, normalised over all elements. The exponential
form and :math:`\tau` are a choice of this project, not of the paper.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability
from pymatgen.core import Element, Species

Ion = tuple[str, int]
"""Element symbol and oxidation state."""

FloatArray = NDArray[np.float64]

NEVER_OBSERVED = -5.0
"""Weight lambda of a pair of ions that was never observed to replace each other (Hautier 2011)."""


class SubstitutionTable:
    """Conditional substitution probabilities of ions, from pymatgen's table of weights."""

    def __init__(self) -> None:
        self._table = SubstitutionProbability(alpha=NEVER_OBSERVED)
        self._known = {(s.symbol, round(s.oxi_state)): s for s in self._table.species}
        marginal = [self._table.get_px(s) for s in self._known.values()]
        self._floor = NEVER_OBSERVED - log(float(np.mean(marginal)))

    @property
    def sha256(self) -> str:
        """Hash of the weights, in sorted order."""
        weights = sorted(
            (*sorted(map(str, pair)), repr(value)) for pair, value in self._table._l.items()
        )
        return hashlib.sha256(repr((NEVER_OBSERVED, weights)).encode()).hexdigest()

    def ions(self, element: str) -> tuple[Ion, ...]:
        """Return the ions of an element: those of the table and the common oxidation states.

        Common ones as in pymatgen (Greenwood and Earnshaw); the neutral atom is not an ion.
        """
        states = {charge for symbol, charge in self._known if symbol == element}
        states.update(Element(element).common_oxidation_states)
        return tuple((element, charge) for charge in sorted(states) if charge)

    def log_marginal(self, ion: Ion) -> float:
        """Natural logarithm of how frequent an ion is in known compounds, with a floor."""
        if ion not in self._known:
            return self._floor
        return log(self._table.get_px(self._known[ion]) / self._table.Z)

    def log_conditional(self, new: Ion, template: Ion | None) -> float:
        r"""Natural logarithm of :math:`p(new | template)`.

        Where the template's ion is unknown (None, or not in the table), the value for a pair never
        observed, against an ion of average frequency, stands in.
        """
        if template is None or template not in self._known:
            return self._floor
        fixed = self._known[template]
        variable = self._known.get(new) or Species(*new)
        return float(log(self._table.cond_prob(variable, fixed)))


def log_similarity(new: str, template: str, tau: float) -> float:
    """Natural logarithm of the probability that one metal replaces another (module docstring).

    Parameters
    ----------
    tau
        Decay length in Mendeleev numbers.
    """
    centre = mendeleev_numbers()[template]
    weights = {e: exp(-abs(m - centre) / tau) for e, m in mendeleev_numbers().items()}
    return log(weights[new] / sum(weights.values()))


@cache
def mendeleev_numbers() -> dict[str, float]:
    """Return Pettifor's Mendeleev number of the elements that have one, hydrogen to lawrencium."""
    return {e.symbol: float(e.mendeleev_no) for e in Element if e.Z <= 103 and e.symbol == e.name}


def electronegativity(element: str) -> float:
    """Pauling electronegativity; NaN where there is none (helium, neon, argon)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return float(Element(element).X)


def is_metallic(element: str, *, metalloids: bool) -> bool:
    """Whether an element forms alloys: metals, and on demand B, Si, Ge, As, Sb, Te, Po."""
    kind = Element(element)
    return bool(kind.is_metal or (metalloids and kind.is_metalloid))

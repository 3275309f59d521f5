"""Whether a composition makes chemical sense: charge-neutral, or a metal.

The rule is that of `matterloop.loop.chemistry.validity`: one oxidation state per element (SMACT's
``icsd24`` set) makes the charges sum to zero, cations less electronegative than anions; elements
and alloys pass. About one in ten crystals of the Materials Project fails it (mixed valence,
intermetallics with metalloids), so it is a wish of the user and no rule of the sampler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from matterloop.agents.generator.diffusion.composition.element_supply import element_supply
from matterloop.loop.chemistry.oxidation import OxidationRule, is_neutral
from matterloop.loop.errors import UsageError


def is_plausible(numbers: Sequence[int], rule: OxidationRule | None = None) -> bool:
    """Tell whether a composition (atomic numbers of all atoms) is neutral or an alloy.

    A composition of so many elements that its oxidation states cannot be enumerated is not.
    """
    return _is_plausible(tuple(sorted(Counter(numbers).items())), rule)


@lru_cache(maxsize=65536)
def _is_plausible(counts: tuple[tuple[int, int], ...], rule: OxidationRule | None) -> bool:
    symbols = tuple(element_supply())
    try:
        return is_neutral({symbols[number - 1]: count for number, count in counts}, rule)
    except UsageError:
        return False

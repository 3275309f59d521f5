"""Other elements on the sites of known crystals, drawn by how likely they replace each other.

The rules and probabilities are those of the substitution generator (`..decorations`,
`..ranking`: Hautier et al., Inorg. Chem. 50, 656 (2011)), with one more: a crystal that is
charge-neutral with one oxidation state per element stays so, and metals replace metals only in
crystals of metals (and metalloids). What the table does not know is left alone: crystals without an
assignment (mixed valence, covalent bonds), and ions that it does not hold (Te2-, As3-, Sb3-).
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import log

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from matterloop.agents.generator.cell_volume import (
    ELEMENT_VOLUME_A3,
    VolumeError,
    scale_to_predicted_volume,
)
from matterloop.agents.generator.decorations import (
    Decoration,
    enumerate_decorations,
    template_ions,
)
from matterloop.agents.generator.ranking import (
    Ion,
    SubstitutionTable,
    is_metallic,
    log_similarity,
)
from matterloop.agents.generator.templates import Template
from matterloop.loop.spec import SearchSpace

_MOST_ELEMENTS = 6


class ElementSwapSettings(BaseModel):
    """How other elements are put on the sites of a crystal.

    Attributes
    ----------
    copies
        Substituted crystals per crystal, on average.
    min_relative_probability
        How probable a substitution has to be, compared with leaving the crystal as it is.
    elements
        Elements that may come in; empty for all whose volume in compounds is known.
    similarity_decay
        How many Mendeleev numbers apart two metals may be to replace each other (decay length).
    max_combinations
        Combinations tried per crystal; beyond it only the most probable ions of each site are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    copies: float = Field(default=0.0, ge=0, le=100)
    min_relative_probability: float = Field(default=0.02, gt=0, lt=1)
    elements: tuple[str, ...] = ()
    similarity_decay: float = Field(default=5.0, gt=0, le=100)
    max_combinations: int = Field(default=5_000, ge=100, le=1_000_000)


def swap_elements(
    structure: Structure, n: int, settings: ElementSwapSettings, rng: np.random.Generator
) -> list[tuple[Structure, str]]:
    """Draw up to `n` different substitutions, with their probability as weight.

    Every element is replaced on all its sites or on none, different elements by different ones, so
    the symmetry stays the same; the cell gets the volume that the new elements ask for.

    Returns
    -------
    list
        Crystal and what was replaced, ``Ga>In,Te>Se``; empty where nothing is probable enough.
    """
    found = _probable(structure, settings) if n else []
    if not found:
        return []
    weights = np.array([decoration.probability for decoration in found])
    order = rng.choice(
        len(found), size=min(n, len(found)), replace=False, p=weights / weights.sum()
    )
    swapped = []
    for index in order:
        decoration = found[int(index)]
        try:
            crystal = scale_to_predicted_volume(decoration.template.decorate(decoration.elements))
        except VolumeError:
            continue
        pairs = zip(decoration.template.elements, decoration.elements, strict=True)
        swapped.append((crystal, ",".join(f"{old}>{new}" for old, new in pairs if old != new)))
    return swapped


def _probable(structure: Structure, settings: ElementSwapSettings) -> list[Decoration]:
    counts = Counter(site.specie.symbol for site in structure)
    template = Template("", structure, tuple(counts), tuple(counts.values()))
    allowed = settings.elements or tuple(ELEMENT_VOLUME_A3)
    size = len(counts)
    if size > min(_MOST_ELEMENTS, len(allowed)) or len(structure) > 200:
        return []
    ions = template_ions(template, substitution_table())
    if ions is None and not all(is_metallic(element, metalloids=True) for element in counts):
        return []
    decay = settings.similarity_decay
    unchanged = (
        sum(substitution_table().log_conditional(ion, ion) for ion in ions)
        if ions
        else sum(log_similarity(element, element, decay) for element in counts)
    )
    found = enumerate_decorations(
        [template],
        SearchSpace(elements=allowed, min_elements=size, max_elements=size, max_atoms=200),
        substitution_table(),
        tau=decay,
        max_combinations=settings.max_combinations,
        metalloid_alloys=True,
    )
    enough = found.log_probabilities >= unchanged + log(settings.min_relative_probability)
    kind = "ionic" if ions else "similarity"
    fixed = [i for i, ion in enumerate(ions or ()) if not is_known(ion)]
    return [
        decoration
        for decoration in found[: int(enough.sum())]
        if decoration.ranking == kind
        and decoration.elements != template.elements
        and all(decoration.elements[i] == template.elements[i] for i in fixed)
    ]


def is_known(ion: Ion) -> bool:
    """Whether the table of substitutions holds an ion, so that it can be replaced."""
    return substitution_table().log_conditional(ion, ion) > substitution_table().log_conditional(
        ion, None
    )


@cache
def substitution_table() -> SubstitutionTable:
    """Return the table, which takes half a second to read."""
    return SubstitutionTable()

"""More crystals from known ones, with the labels that still hold.

============  ========================================  ===========================================
change        what is done                              labels that stay
============  ========================================  ===========================================
supercell     the same crystal in a larger cell         all of `LABEL_UNITS`: they are intensive
strain        a small random deformation of the cell    none
substitution  other elements on the same sites          space group, crystal system
defect        a point defect, in a supercell            none
============  ========================================  ===========================================

The density is computed anew for each. A changed crystal is named after its parent
(``mp-10009/strain-0``), its source too (``mp_20/strain``).

A substituted crystal may have a composition that is held out for validation or test; it would be a
leak, so whatever falls into another part of the split than its parent is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.augmentation.defects import DefectSettings, add_defect
from matterloop.agents.generator.diffusion.augmentation.element_swaps import (
    ElementSwapSettings,
    swap_elements,
)
from matterloop.agents.generator.diffusion.augmentation.supercells import random_supercell
from matterloop.loop.dataset import LABEL_UNITS, LabelledStructure, SplitFractions, part_of
from matterloop.loop.identifiers import derive_seed

Change = Literal["supercell", "strain", "substitution", "defect"]

CHANGES: tuple[Change, ...] = ("supercell", "strain", "substitution", "defect")

_LABELS_KEPT: dict[Change, frozenset[str]] = {
    "supercell": frozenset(LABEL_UNITS),
    "strain": frozenset(),
    "substitution": frozenset({"space_group", "crystal_system"}),
    "defect": frozenset(),
}


class StrainSettings(BaseModel):
    """How cells are deformed.

    Attributes
    ----------
    copies
        Strained crystals per crystal, on average.
    amplitude
        Largest magnitude of a component of the strain tensor; 0.03 is 3 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    copies: float = Field(default=0.0, ge=0, le=100)
    amplitude: float = Field(default=0.03, gt=0, le=0.2)


class SupercellSettings(BaseModel):
    """How cells are repeated.

    Attributes
    ----------
    copies
        Supercells per crystal, on average.
    max_atoms
        Largest number of atoms in a supercell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    copies: float = Field(default=0.0, ge=0, le=100)
    max_atoms: int = Field(default=20, ge=2)


class AugmentationSettings(BaseModel):
    """What is made of every crystal. With the defaults nothing is.

    Attributes
    ----------
    keep_originals
        Whether the crystals themselves come too, each before what is made of it.
    supercell, strain, substitution, defect
        See their classes.
    test, validation, split_seed
        The split by composition that must not leak (`matterloop.loop.dataset.part_of`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_originals: bool = True
    supercell: SupercellSettings = SupercellSettings()
    strain: StrainSettings = StrainSettings()
    substitution: ElementSwapSettings = ElementSwapSettings()
    defect: DefectSettings = DefectSettings()
    test: float = Field(default=0.05, ge=0, lt=1)
    validation: float = Field(default=0.05, ge=0, lt=1)
    split_seed: int | None = None


def augment(
    items: Iterable[LabelledStructure], settings: AugmentationSettings, seed: int
) -> Iterator[LabelledStructure]:
    """Yield crystals and what is made of them, as a stream.

    What is made of a crystal follows from the seed, its source, its identifier and its formula; not
    from the crystals around it.
    """
    fractions = SplitFractions(settings.test, settings.validation)
    for item in items:
        if settings.keep_originals:
            yield item
        home = part_of(item.reduced_formula, fractions, settings.split_seed)
        for change in CHANGES:
            path = ("augment", change, item.source, item.identifier, item.reduced_formula)
            rng = np.random.default_rng(derive_seed(seed, *path))
            for made in alter(item, change, settings, rng):
                if part_of(made.reduced_formula, fractions, settings.split_seed) == home:
                    yield made


def alter(
    item: LabelledStructure,
    change: Change,
    settings: AugmentationSettings,
    rng: np.random.Generator,
) -> list[LabelledStructure]:
    """Change a crystal in one way as often as the settings say, where it can be done."""
    copies = getattr(settings, change).copies
    n = int(copies) + int(rng.random() < copies % 1)
    made: list[tuple[Structure, str] | None]
    if change == "substitution":
        made = [*swap_elements(item.structure, n, settings.substitution, rng)]
    elif change == "defect":
        made = [add_defect(item.structure, settings.defect, rng) for _ in range(n)]
    elif change == "strain":
        made = [(strain(item.structure, settings.strain.amplitude, rng), "") for _ in range(n)]
    else:
        most = settings.supercell.max_atoms
        cells = (random_supercell(item.structure, 1, most, rng) for _ in range(n))
        made = [None if cell is None else (cell, "") for cell in cells]
    return [
        _labelled(item, change, number, *result)
        for number, result in enumerate(made)
        if result is not None
    ]


def strain(structure: Structure, amplitude: float, rng: np.random.Generator) -> Structure:
    """Deform a crystal by a random symmetric strain; fractional coordinates stay.

    Every lattice vector v becomes (1 + e) v, where the six components of the symmetric tensor e are
    uniform in [-amplitude, amplitude].
    """
    upper = np.triu(rng.uniform(-amplitude, amplitude, (3, 3)))
    tensor = upper + np.triu(upper, 1).T
    matrix = structure.lattice.matrix @ (np.eye(3) + tensor)
    return Structure(Lattice(matrix), structure.species, structure.frac_coords)


def _labelled(
    parent: LabelledStructure, change: Change, number: int, structure: Structure, note: str
) -> LabelledStructure:
    kept = {name: value for name, value in parent.labels.items() if name in _LABELS_KEPT[change]}
    return LabelledStructure(
        structure,
        {**kept, "density": float(structure.density)},
        f"{parent.source}/{change}",
        f"{parent.identifier}/{change}-{number}" + (f":{note}" if note else ""),
    )

"""Point defects in supercells: vacancies, antisites, foreign atoms, interstitials.

In cells of twenty atoms the defects are dense, and nothing is relaxed: such crystals show a model
that sites can be empty or wrongly filled. They have no energies.
"""

from __future__ import annotations

from collections import Counter
from math import exp
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pymatgen.core import Structure
from scipy.spatial import Voronoi

from matterloop.agents.generator.cell_volume import ELEMENT_VOLUME_A3
from matterloop.agents.generator.decorations import template_ions
from matterloop.agents.generator.diffusion.augmentation.element_swaps import (
    is_known,
    substitution_table,
)
from matterloop.agents.generator.diffusion.augmentation.supercells import random_supercell
from matterloop.agents.generator.ranking import (
    is_metallic,
    log_similarity,
    mendeleev_numbers,
)
from matterloop.agents.generator.templates import Template

DefectKind = Literal["vacancy", "antisite", "foreign", "interstitial"]

_SHAPES = 8
_SAME_VOID_A = 0.3


class DefectSettings(BaseModel):
    """How point defects are made.

    Attributes
    ----------
    copies
        Crystals with one defect each per crystal, on average.
    kinds
        ``vacancy``: an atom is missing; ``antisite``: an atom sits where another element of the
        crystal belongs; ``foreign``: an atom of another element, drawn by how likely it takes the
        place; ``interstitial``: an additional atom of the crystal's elements in a void.
    min_atoms, max_atoms
        Smaller cells are repeated until they hold at least `min_atoms`; with the defect no cell
        holds more than `max_atoms`.
    min_distance_A
        Smallest distance of an interstitial to any atom, Angstrom.
    similarity_decay
        As in `ElementSwapSettings`, for foreign atoms in crystals without oxidation states.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    copies: float = Field(default=0.0, ge=0, le=100)
    kinds: tuple[DefectKind, ...] = ("vacancy", "antisite", "foreign", "interstitial")
    min_atoms: int = Field(default=8, ge=2)
    max_atoms: int = Field(default=20, ge=2)
    min_distance_A: float = Field(default=1.6, gt=0)
    similarity_decay: float = Field(default=5.0, gt=0, le=100)

    @model_validator(mode="after")
    def _room(self) -> DefectSettings:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds: give at least one, and none twice")
        if self.min_atoms > self.max_atoms:
            raise ValueError(f"min_atoms {self.min_atoms} exceeds max_atoms {self.max_atoms}")
        return self


def add_defect(
    structure: Structure, settings: DefectSettings, rng: np.random.Generator
) -> tuple[Structure, str] | None:
    """Return the crystal, repeated where it is small, with one defect, and what it is.

    Returns
    -------
    tuple or None
        Crystal and ``vacancy-O``, ``antisite-Ti>Ba`` (Ba on a site of Ti), ``foreign-Ti>Zr``,
        ``interstitial-Li``; None where the kind that was drawn has no place, or no cell fits.
    """
    kind = settings.kinds[rng.integers(len(settings.kinds))]
    most = settings.max_atoms - (kind == "interstitial")
    host: Structure | None = structure
    if len(structure) < settings.min_atoms:
        host = random_supercell(structure, settings.min_atoms, most, rng, shapes=_SHAPES)
    if host is None or len(host) > most:
        return None
    bare = Structure(host.lattice, [site.specie.symbol for site in host], host.frac_coords)
    if kind == "vacancy":
        return _vacancy(bare, rng)
    if kind == "interstitial":
        return _interstitial(bare, settings.min_distance_A, rng)
    return _replacement(bare, kind == "foreign", settings.similarity_decay, rng)


def voids(structure: Structure, min_distance_A: float) -> NDArray[np.float64]:
    """Return the places farthest from all atoms, fractional coordinates (n, 3), the widest first.

    They are the corners of the Voronoi cells (equally far from four atoms or more); of corners
    closer than 0.3 A to each other the widest counts.
    """
    lattice = structure.lattice
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = (structure.frac_coords[None] % 1 + shifts[:, None]).reshape(-1, 3)
    corners = lattice.get_fractional_coords(Voronoi(lattice.get_cartesian_coords(images)).vertices)
    inside = np.unique(np.round(corners, 6)[((corners > -1e-6) & (corners < 1)).all(1)] % 1, axis=0)
    if not len(inside):
        return np.empty((0, 3))
    radius = lattice.get_all_distances(inside, structure.frac_coords).min(axis=1)
    order = np.lexsort((*inside.T, -np.round(radius, 4)))
    kept: list[int] = []
    for index in order[radius[order] >= min_distance_A]:
        if not kept or lattice.get_all_distances(inside[index], inside[kept]).min() > _SAME_VOID_A:
            kept.append(int(index))
    return inside[kept]


def _vacancy(host: Structure, rng: np.random.Generator) -> tuple[Structure, str] | None:
    symbols = [site.specie.symbol for site in host]
    counts = Counter(symbols)
    # An element that is there but once would vanish from the crystal.
    choices = [i for i, symbol in enumerate(symbols) if counts[symbol] > 1]
    if not choices:
        return None
    site = int(rng.choice(choices))
    host.remove_sites([site])
    return host, f"vacancy-{symbols[site]}"


def _replacement(
    host: Structure, foreign: bool, decay: float, rng: np.random.Generator
) -> tuple[Structure, str] | None:
    symbols = [site.specie.symbol for site in host]
    site = int(rng.integers(len(symbols)))
    old = symbols[site]
    present = sorted(set(symbols))
    weights = _foreign(host, old, decay) if foreign else dict.fromkeys(present, 1.0)
    weights = {e: w for e, w in weights.items() if (e not in present if foreign else e != old)}
    if not weights or Counter(symbols)[old] == 1:
        return None
    share = np.array(list(weights.values()))
    new = list(weights)[int(rng.choice(len(share), p=share / share.sum()))]
    host.replace(site, new)
    return host, f"{'foreign' if foreign else 'antisite'}-{old}>{new}"


def _foreign(host: Structure, old: str, decay: float) -> dict[str, float]:
    """Return element to weight: ions of the same charge, or similar metals in a metal."""
    counts = Counter(site.specie.symbol for site in host)
    template = Template("", host, tuple(counts), tuple(counts.values()))
    ions = template_ions(template, substitution_table())
    known = sorted(ELEMENT_VOLUME_A3)
    if ions is None:
        if not all(is_metallic(element, metalloids=True) for element in counts):
            return {}
        numbered = mendeleev_numbers()
        return {
            new: exp(log_similarity(new, old, decay))
            for new in known
            if new in numbered and is_metallic(new, metalloids=True)
        }
    ion = next(ion for ion in ions if ion[0] == old)
    return {
        new: exp(substitution_table().log_conditional((new, ion[1]), ion))
        for new in known
        if is_known(ion) and is_known((new, ion[1]))
    }


def _interstitial(
    host: Structure, min_distance_A: float, rng: np.random.Generator
) -> tuple[Structure, str] | None:
    places = voids(host, min_distance_A)
    if not len(places):
        return None
    present = sorted({site.specie.symbol for site in host})
    new = present[rng.integers(len(present))]
    host.append(new, places[rng.integers(len(places))])
    return host, f"interstitial-{new}"

"""From crystals to what is drawn of them: spheres, bonds and the edges of the cell, in Angstrom.

Every frame is drawn alike: the cell turned so that a lies along x and b in the plane of x and y,
its centre at the origin, and the same atom of the last frame at the cell's corner.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]

AZIMUTH_DEG, ELEVATION_DEG = -63.0, 17.0
"""From where all pictures are taken: no edge of a cubic cell hides another."""
MAX_FRAMES = 60
MAX_ATOMS_DRAWN = 64
"""In the conventional cell; above it the cell is drawn as it is."""
BOND_REACH = 1.12
"""The longest bond over the shortest, both over the sum of covalent radii: in a perovskite it
keeps the octahedra and leaves out the twelve neighbours of the large cation."""
_BOND_FADE = 0.10
_FACE, _FACE_FADE = 0.035, 0.03
"""Fractional distances from a face up to which an atom's image is drawn in full, and then fades:
an atom that wanders through a face neither appears nor vanishes at once."""
_SYMPREC_A = 0.1
_CORNERS = np.array(list(product((0.0, 1.0), repeat=3)))
_EDGES = [
    (i, j) for i in range(8) for j in range(i) if np.abs(_CORNERS[i] - _CORNERS[j]).sum() == 1
]


@dataclass(frozen=True)
class Scene:
    """What is drawn of one frame; lengths in Angstrom.

    Attributes
    ----------
    time
        0 is noise, 1 the crystal.
    elements
        Symbol of each sphere; as many as rows in `centres`.
    centres
        (spheres, 3), the cell's centre at the origin.
    radii
        (spheres,)
    bonds
        (bonds, 2, 3), both ends.
    bond_weights
        (bonds,) in (0, 1]: bonds thicken as atoms come into reach.
    edges
        (12, 2, 3) of the cell.
    """

    time: float
    elements: tuple[str, ...]
    centres: Array
    radii: Array
    bonds: Array
    bond_weights: Array
    edges: Array

    @property
    def reach(self) -> float:
        """Radius around the origin that holds everything."""
        spheres = np.linalg.norm(self.centres, axis=1) + self.radii
        return float(max(spheres.max(), np.linalg.norm(self.edges, axis=-1).max()))


T = TypeVar("T")


def thinned(frames: Sequence[T], most: int = MAX_FRAMES) -> list[T]:
    """Leave some out, evenly, where there are too many; the first and the last are kept."""
    if len(frames) <= most:
        return list(frames)
    return [frames[round(float(place))] for place in np.linspace(0, len(frames) - 1, most)]


def scenes(frames: Sequence[tuple[float, Structure]]) -> list[Scene]:
    """Lay out the frames of a trajectory.

    Raises
    ------
    UsageError
        If there is none, or the frames do not hold the same elements in the same order.
    """
    if not frames:
        raise UsageError("The trajectory has no frames.", "at least one")
    final = frames[-1][1]
    species = [site.specie.symbol for site in final]
    for _, structure in frames:
        if [site.specie.symbol for site in structure] != species:
            raise UsageError(
                "The frames of the trajectory do not hold the same atoms.",
                "the same elements in the same order",
            )
    supercell = _conventional(final)
    anchor = _anchor(final)
    reaches = _bond_reaches(final)
    return [_scene(time, structure, supercell, anchor, reaches) for time, structure in frames]


def radius(symbol: str) -> float:
    """Return the drawn radius of an element in Angstrom: a ball-and-stick picture."""
    from pymatgen.core import Element

    return 0.24 + 0.27 * float(Element(symbol).atomic_radius or 1.5)


def colour(symbol: str) -> Array:
    """Return red, green and blue, 0 to 1: VESTA's colour of an element, a little less glaring."""
    from pymatviz.colors import ELEM_COLORS_VESTA

    rgb = np.array(ELEM_COLORS_VESTA.get(symbol, (0.6, 0.6, 0.6)), dtype=np.float64)
    grey = float(rgb @ [0.30, 0.59, 0.11])
    return 0.86 * rgb + 0.14 * (0.5 * grey + 0.35)


def _scene(
    time: float,
    structure: Structure,
    supercell: NDArray[np.int64],
    anchor: Array,
    reaches: dict[frozenset[str], float],
) -> Scene:
    fractional = (structure.frac_coords - anchor) % 1.0
    whole, fractional, species = _repeated(
        structure.lattice.matrix, fractional, [s.specie.symbol for s in structure], supercell
    )
    # The Cholesky factor of the metric is the cell, turned: a along x, b in the plane of x and y.
    cell: Array = np.linalg.cholesky(whole @ whole.T).astype(np.float64)
    elements, places, weights = _with_images(species, fractional)
    centres = (places - 0.5) @ cell
    radii = weights * np.array([radius(symbol) for symbol in elements])
    bonds, bond_weights = _bonds(elements, centres, weights, reaches)
    corners = (_CORNERS - 0.5) @ cell
    edges = np.array([(corners[i], corners[j]) for i, j in _EDGES])
    return Scene(float(time), elements, centres, radii, bonds, bond_weights, edges)


def _conventional(final: Structure) -> NDArray[np.int64]:
    """Return (3, 3) whole numbers that turn the rows of the cell into the conventional cell's."""
    import spglib

    identity = np.eye(3, dtype=np.int64)
    cell = (final.lattice.matrix, final.frac_coords, final.atomic_numbers)
    with warnings.catch_warnings():
        # spglib announces future error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(cell, symprec=_SYMPREC_A)
    if dataset is None:
        return identity
    # spglib: (a_s b_s c_s) = (a b c) P^-1, vectors as columns; here they are rows.
    rows = np.linalg.inv(dataset.transformation_matrix).T
    whole = np.rint(rows).astype(np.int64)
    times = round(float(np.linalg.det(whole)))
    fits = np.abs(rows - whole).max() < 1e-3 and times >= 1
    return whole if fits and times * len(final) <= MAX_ATOMS_DRAWN else identity


def _repeated(
    cell: Array, fractional: Array, species: list[str], supercell: NDArray[np.int64]
) -> tuple[Array, Array, list[str]]:
    """Fill the cell with rows ``supercell @ cell`` with all its atoms."""
    times = round(float(np.linalg.det(supercell)))
    new = supercell @ cell
    if times == 1:
        return new, fractional @ np.linalg.inv(supercell) % 1.0, species
    span = int(np.abs(supercell).sum())
    shifts = np.array(list(product(range(-span, span + 1), repeat=3)), dtype=np.float64)
    inside = shifts @ np.linalg.inv(supercell)
    shifts = shifts[((inside > -1e-6) & (inside < 1 - 1e-6)).all(axis=1)]
    places = (fractional[:, None, :] + shifts[None, :, :]) @ np.linalg.inv(supercell) % 1.0
    return new, places.reshape(-1, 3), [symbol for symbol in species for _ in shifts]


def _anchor(final: Structure) -> Array:
    """Return the place of the atom that is drawn at the corners: the largest."""
    sizes = [float(site.specie.atomic_radius or 0) for site in final]
    return np.array(final.frac_coords[int(np.argmax(sizes))])


def _with_images(species: list[str], fractional: Array) -> tuple[tuple[str, ...], Array, Array]:
    """Add periodic images on the faces; the last is how much of each is drawn, in (0, 1]."""
    shifts = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))
    places = fractional[:, None, :] + shifts[None, :, :]
    beyond = np.maximum(np.maximum(-places, places - 1), 0)
    weights = (1 - _smooth((beyond - _FACE) / _FACE_FADE)).prod(axis=-1)
    site, image = np.nonzero(weights > 0.02)
    return tuple(species[i] for i in site), places[site, image], weights[site, image]


def _bond_reaches(final: Structure) -> dict[frozenset[str], float]:
    """Return the longest bond, Angstrom, of the pairs of elements that bond in the crystal."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius

    radii = CovalentRadius.radius
    elements = sorted({site.specie for site in final})
    salt = any(not element.is_metal for element in elements)
    metal = {element.symbol: bool(element.is_metal) for element in elements}
    shortest: dict[frozenset[str], float] = {}
    lengths = {
        frozenset((one.symbol, other.symbol)): radii[one.symbol] + radii[other.symbol]
        for one, other in combinations_with_replacement(elements, 2)
        if not (salt and metal[one.symbol] == metal[other.symbol] is True)
    }
    for i, j, distance in _neighbours(final, 1.4 * max(lengths.values(), default=0.0)):
        pair = frozenset((final[i].specie.symbol, final[j].specie.symbol))
        if pair in lengths:
            ratio = distance / lengths[pair]
            shortest[pair] = min(ratio, shortest.get(pair, ratio))
    if not shortest:
        return {}
    longest = BOND_REACH * min(shortest.values())
    return {pair: longest * lengths[pair] for pair, least in shortest.items() if least <= longest}


def _neighbours(structure: Structure, reach: float) -> list[tuple[int, int, float]]:
    if reach <= 0:
        return []
    left, right, _, distances = structure.get_neighbor_list(reach)
    return [
        (int(i), int(j), float(d))
        for i, j, d in zip(left, right, distances, strict=True)
        if d > 1e-3
    ]


def _bonds(
    elements: tuple[str, ...], centres: Array, weights: Array, reaches: dict[frozenset[str], float]
) -> tuple[Array, Array]:
    ends, strengths = [], []
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    for i, one in enumerate(elements):
        for j in range(i):
            reach = reaches.get(frozenset((one, elements[j])))
            if reach is None or distances[i, j] > reach * (1 + _BOND_FADE):
                continue
            near = 1 - _smooth((distances[i, j] / reach - 1) / _BOND_FADE)
            strength = float(near * weights[i] * weights[j])
            if strength > 0.05:
                ends.append((centres[i], centres[j]))
                strengths.append(strength)
    return np.array(ends).reshape(-1, 2, 3), np.array(strengths)


def _smooth(x: Array) -> Array:
    """Rise from 0 at 0 to 1 at 1 without a kink."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)

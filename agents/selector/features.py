"""Numbers that describe a crystal to a surrogate.

Four blocks per crystal: statistics of elemental properties over the composition (the idea of Ward
et al., npj Comput. Mater. 2, 16028 (2016)), figures of the structure, the potential's embedding,
and the screening values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from matterloop.loop.errors import UsageError
from matterloop.loop.selection import PoolItem

FloatArray = NDArray[np.float64]

ELEMENTAL_PROPERTIES: Final = (
    "Z",
    "X",
    "row",
    "group",
    "mendeleev_no",
    "atomic_mass",
    "atomic_radius",
    "ionization_energy",
    "electron_affinity",
    "melting_point",
    "molar_volume",
)
"""As pymatgen names them: atomic number, Pauling electronegativity, row and group of the periodic
table, Mendeleev number, mass (u), radius (A), first ionisation energy (eV), electron affinity (eV),
melting point (K), molar volume of the element (cm^3)."""

STATISTICS: Final = ("mean", "std", "min", "max")
STRUCTURE_FEATURES: Final = (
    "density_g_cm3",
    "volume_per_atom_A3",
    "mean_nearest_distance_A",
    "std_nearest_distance_A",
    "mean_coordination",
)

COORDINATION_TOLERANCE = 1.2
"""Neighbours within this multiple of a site's shortest distance count as coordinated."""


def composition_features(structure: Structure) -> FloatArray:
    """Describe the composition.

    Returns
    -------
    ndarray
        Shape (11 * 4 + 2,): for each of `ELEMENTAL_PROPERTIES` the mean and standard deviation
        weighted by atomic fraction, the minimum and the maximum; then the number of elements and
        the entropy of mixing per atom in units of k_B.
    """
    amounts = structure.composition.get_el_amt_dict()
    table = np.array([_elemental(element) for element in amounts])
    fraction = np.array(list(amounts.values()), dtype=float)
    fraction /= fraction.sum()
    mean = fraction @ table
    std = np.sqrt(np.maximum(fraction @ (table - mean) ** 2, 0.0))
    statistics = np.stack([mean, std, table.min(axis=0), table.max(axis=0)], axis=1)
    entropy = -float(np.sum(fraction * np.log(fraction)))
    return np.concatenate([statistics.ravel(), [len(amounts), entropy]])


def composition_feature_names() -> tuple[str, ...]:
    """Return the names of `composition_features`, aligned."""
    named = [f"{statistic}_{p}" for p in ELEMENTAL_PROPERTIES for statistic in STATISTICS]
    return (*named, "n_elements", "mixing_entropy")


def structure_features(structure: Structure) -> FloatArray:
    """Describe the arrangement of the atoms: `STRUCTURE_FEATURES`, shape (5,)."""
    per_atom = structure.volume / len(structure)
    radius = 2.0 * per_atom ** (1 / 3)
    while True:
        centre, _, _, distance = structure.get_neighbor_list(radius)
        if np.bincount(centre, minlength=len(structure)).min() > 0:
            break
        radius *= 1.5
    nearest = np.full(len(structure), np.inf)
    np.minimum.at(nearest, centre, distance)
    bonded = distance <= COORDINATION_TOLERANCE * nearest[centre]
    return np.array(
        [
            float(structure.density),
            per_atom,
            nearest.mean(),
            nearest.std(),
            bonded.sum() / len(structure),
        ]
    )


def describe(items: Sequence[PoolItem]) -> dict[str, FloatArray]:
    """Stack the feature blocks of several crystals.

    Returns
    -------
    dict
        ``composition``, ``structure``, ``embedding``, ``screening``: each of shape
        (n_items, width), width 0 where no crystal has the block. What is missing or not finite for
        some crystals is NaN.

    Raises
    ------
    UsageError
        If embeddings differ in length: they come from different potentials and cannot be compared.
    """
    widths = {np.size(item.embedding) for item in items if item.embedding is not None}
    if len(widths) > 1:
        raise UsageError(
            f"The crystals carry embeddings of different lengths ({sorted(widths)}).",
            "embeddings of one potential",
            "screen all candidates of a campaign with the same potential",
        )
    width = widths.pop() if widths else 0
    names = sorted({name for item in items for name in item.screening})
    embedding = np.full((len(items), width), np.nan)
    screening = np.full((len(items), len(names)), np.nan)
    for row, item in enumerate(items):
        if item.embedding is not None:
            embedding[row] = np.asarray(item.embedding, dtype=float).ravel()
        screening[row] = [item.screening.get(name, np.nan) for name in names]
    blocks = {
        "composition": np.array([composition_features(item.structure) for item in items]),
        "structure": np.array([structure_features(item.structure) for item in items]),
        "embedding": embedding,
        "screening": screening,
    }
    return {name: np.where(np.isfinite(block), block, np.nan) for name, block in blocks.items()}


@cache
def _elemental(symbol: str) -> FloatArray:
    row = _raw(symbol)
    return np.where(np.isfinite(row), row, _medians())


@cache
def _medians() -> FloatArray:
    # Stands in where pymatgen has no value, e.g. the electronegativity of argon.
    return np.nanmedian([_raw(e.symbol) for e in Element if e.Z <= 103], axis=0)


@cache
def _raw(symbol: str) -> FloatArray:
    element = Element(symbol)
    values = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (data available|Pauling electronegativity)")
        warnings.filterwarnings("ignore", message="No data available")
        for name in ELEMENTAL_PROPERTIES:
            value = getattr(element, name)
            values.append(np.nan if value is None else float(value))
    return np.array(values)

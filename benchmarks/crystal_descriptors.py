"""What a crystal looks like to a regressor that shares nothing with the generator.

Composition: statistics of elemental properties over the atoms, after Ward et al., npj Computational
Materials 2, 16028 (2016) ("Magpie"), with the properties that pymatgen's periodic table holds.
Structure: volume per atom, density, packing of covalent spheres, coordination by touching spheres,
the elements of touching pairs, and the radial distribution in units of the cube root of the volume
per atom, divided by that of an ideal gas. No network, no learned number, no label.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Element, Structure

VERSION = 1
"""Raised whenever a column changes: descriptors on disk are then computed again."""

_TABLE = (
    "Z", "row", "group", "mendeleev_no", "atomic_mass", "X", "atomic_radius",
    "s", "p", "d", "f", "empty_s", "empty_p", "empty_d", "empty_f",
)  # fmt: skip
_STATISTICS = ("mean", "deviation", "min", "max", "range")
_TOUCHING = 1.2
"""Atoms touch whose distance is below this multiple of the sum of their covalent radii."""
_REACH = 3.0
_BINS = 30
_HEAVIEST = 100
_CAPACITY = {"s": 2, "p": 6, "d": 10, "f": 14}

NAMES = (
    *(f"{statistic} {name}" for name in _TABLE for statistic in _STATISTICS),
    *("elements", "largest share", "norm of shares"),
    *("volume per atom", "density", "packing"),
    *("mean coordination", "deviation of coordination", "least coordination", "most coordination"),
    *("nearest mean", "nearest min", "nearest max", "nearest deviation"),
    *("unlike contacts", "mean X of contacts", "most X of contacts"),
    *(f"g({(i + 0.5) * _REACH / _BINS:.2f})" for i in range(_BINS)),
)


def descriptors(structure: Structure) -> np.ndarray:
    """Return (len(NAMES),) float32; NaN where a figure has no meaning."""
    numbers = np.array(structure.atomic_numbers)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN, as they should
        return np.concatenate([_composition(numbers), _geometry(structure, numbers)]).astype(
            np.float32
        )


def _composition(numbers: np.ndarray) -> np.ndarray:
    values = _properties()[numbers]
    mean = np.nanmean(values, axis=0)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    deviation = np.nanmean(np.abs(values - mean), axis=0)
    shares = np.unique(numbers, return_counts=True)[1] / len(numbers)
    statistics = np.stack([mean, deviation, low, high, high - low], axis=1).ravel()
    return np.concatenate([statistics, [len(shares), shares.max(), np.sqrt((shares**2).sum())]])


def _geometry(structure: Structure, numbers: np.ndarray) -> np.ndarray:
    radii = covalent_radii[numbers]
    per_atom = structure.volume / len(structure)
    unit = per_atom ** (1 / 3)
    reach = max(_REACH * unit, 2 * _TOUCHING * float(radii.max()))
    first, second, _, distance = structure.get_neighbor_list(reach, exclude_self=True)
    relative = distance / (radii[first] + radii[second])
    touch = relative < _TOUCHING
    coordination = np.bincount(first[touch], minlength=len(numbers)).astype(float)
    nearest = np.full(len(numbers), np.nan)
    np.fmin.at(nearest, first, relative)
    electronegativity = _properties()[numbers][:, _TABLE.index("X")]
    contrast = np.abs(electronegativity[first] - electronegativity[second])[touch]
    unlike = (numbers[first] != numbers[second])[touch]
    counts, edges = np.histogram(distance / unit, bins=_BINS, range=(0, _REACH))
    shells = 4 / 3 * np.pi * np.diff(edges**3) * len(numbers)
    return np.concatenate(
        [
            [per_atom, structure.density, 4 / 3 * np.pi * (radii**3).mean() / per_atom],
            [coordination.mean(), coordination.std(), coordination.min(), coordination.max()],
            [nearest.mean(), nearest.min(), nearest.max(), nearest.std()],
            _of(unlike, np.mean),
            _of(contrast, np.nanmean) if np.isfinite(contrast).any() else [np.nan],
            _of(contrast, np.nanmax) if np.isfinite(contrast).any() else [np.nan],
            counts / shells,
        ]
    )


def _of(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> list[float]:
    return [float(statistic(values)) if len(values) else float("nan")]


@lru_cache(maxsize=1)
def _properties() -> np.ndarray:
    """Return (101, len(_TABLE)) by atomic number; NaN where the table has nothing."""
    table = np.full((_HEAVIEST + 1, len(_TABLE)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of every gap in its table
        for element in Element:
            if element.Z <= _HEAVIEST and element.symbol not in ("D", "T"):
                electrons = _valence(element)
                table[element.Z] = [_property(element, name, electrons) for name in _TABLE]
    return table


def _property(element: Element, name: str, electrons: dict[str, int]) -> float:
    if name in _CAPACITY:
        return float(electrons.get(name, 0))
    if name.startswith("empty_"):
        shell = name.removeprefix("empty_")
        return float(_CAPACITY[shell] - electrons[shell]) if shell in electrons else 0.0
    try:
        value = getattr(element, name)
    except (AttributeError, ValueError):
        return float("nan")
    return float("nan") if value is None else float(value)


def _valence(element: Element) -> dict[str, int]:
    """Return the electrons beyond the noble gas below, by the letter of their shell."""
    left = element.Z - max((e.Z for e in Element if e.is_noble_gas and e.Z < element.Z), default=0)
    held: dict[str, int] = {}
    for _, letter, electrons in reversed(element.full_electronic_structure):
        if left <= 0:
            break
        held[letter] = held.get(letter, 0) + min(electrons, left)
        left -= electrons
    return held

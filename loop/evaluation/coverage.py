"""Coverage, and distances between distributions: how like held-out crystals the samples are.

Coverage after CDVAE (Xie et al., ICLR 2022, appendix; the code of its authors): a held-out crystal
is *recalled* if some sample's structure fingerprint lies within 0.4 of its own and some sample's
composition fingerprint within 10, not necessarily the same sample; *precision* is the same question
asked of the samples. Both thresholds are CDVAE's for MP-20. The composition fingerprint is
standardised figure by figure with the mean and standard deviation over 12,114 crystals of MP-20's
published validation and test splits; CDVAE's own constants lie near.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from matterloop.loop.chemistry.metrics import Rate
from matterloop.loop.elements import element_counts
from matterloop.loop.evaluation.fingerprints import Fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

STRUCTURE_CUTOFF = 0.4
COMPOSITION_CUTOFF = 10.0


@dataclass(frozen=True)
class Coverage:
    """How samples and held-out crystals cover each other.

    Attributes
    ----------
    recall
        Held-out crystals that are recalled, among all of them.
    precision
        Samples near a held-out crystal, among all samples, those without a fingerprint included.
    structure_distance, composition_distance
        Mean distance of the held-out crystals to the nearest sample and of the samples to the
        nearest held-out crystal (CDVAE's AMSD and AMCD).
    """

    recall: Rate
    precision: Rate
    structure_distance: tuple[float, float]
    composition_distance: tuple[float, float]


def coverage(
    samples: Sequence[Fingerprint | None], held_out: Sequence[Fingerprint | None]
) -> Coverage | None:
    """Compare samples with held-out crystals; None stands for a crystal without a fingerprint.

    Returns
    -------
    Coverage or None
        None if either side has no fingerprint at all.
    """
    made = [f for f in samples if f is not None]
    real = [f for f in held_out if f is not None]
    if not made or not real:
        return None
    structure = _distances([f.structure for f in made], [f.structure for f in real])
    composition = _distances(
        [_standardised(f.composition) for f in made], [_standardised(f.composition) for f in real]
    )

    def covered(axis: int) -> int:
        near = (structure.min(axis=axis) <= STRUCTURE_CUTOFF) & (
            composition.min(axis=axis) <= COMPOSITION_CUTOFF
        )
        return int(near.sum())

    def means(distances: NDArray[np.float64]) -> tuple[float, float]:
        return float(distances.min(axis=0).mean()), float(distances.min(axis=1).mean())

    return Coverage(
        recall=Rate(covered(0), len(held_out)),
        precision=Rate(covered(1), len(samples)),
        structure_distance=means(structure),
        composition_distance=means(composition),
    )


@dataclass(frozen=True)
class DistributionDistances:
    """Wasserstein distances (first order) between samples and held-out crystals.

    Attributes
    ----------
    density_g_cm3, n_elements, n_atoms
        In the quantity's own unit.
    samples
        How many samples entered; a sample that is no crystal has no density.
    """

    density_g_cm3: float
    n_elements: float
    n_atoms: float
    samples: int


def distribution_distances(
    samples: Sequence[Structure], held_out: Sequence[Structure]
) -> DistributionDistances | None:
    """Compare distributions of density, elements per crystal and atoms per cell as given."""
    from scipy.stats import wasserstein_distance

    if not samples or not held_out:
        return None
    made, real = _quantities(samples), _quantities(held_out)
    density, elements, atoms = (
        float(wasserstein_distance(made[:, k], real[:, k])) for k in range(3)
    )
    return DistributionDistances(density, elements, atoms, len(samples))


def _quantities(structures: Sequence[Structure]) -> NDArray[np.float64]:
    """Density, number of elements and of atoms in the cell, shape (n_structures, 3)."""
    return np.array([[float(s.density), len(element_counts(s)), len(s)] for s in structures])


def _distances(
    left: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    distances: NDArray[np.float64] = cdist(np.array(left), np.array(right))
    return distances


def _standardised(composition: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, std = _scale()
    return (composition - mean) / std


@lru_cache(maxsize=1)
def _scale() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    text = (files(__package__) / "data" / "composition_scale.json").read_text(encoding="utf-8")
    card = json.loads(text)
    return np.array(card["mean"]), np.array(card["std"])

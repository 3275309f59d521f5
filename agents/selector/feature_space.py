"""The space in which a surrogate sees crystals: standardised, reduced, scaled to unit size.

The transformation is fitted on the descriptors of the pool and of the observed crystals together.
That is no leakage: descriptors are known before any experiment, and no measured value enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from matterloop.agents.selector.features import FloatArray


@dataclass(frozen=True)
class FeatureSpace:
    """Coordinates of the crystals.

    Attributes
    ----------
    points
        Shape (n_crystals, n_dimensions), every coordinate in [0, 1].
    n_components
        Leading dimensions that are principal components; the others are screening values.
    explained_variance
        Share of the variance that the components keep, 0 to 1.
    """

    points: FloatArray
    n_components: int
    explained_variance: float


def feature_space(blocks: Mapping[str, FloatArray], *, max_components: int) -> FeatureSpace:
    """Build the space from feature blocks (`matterloop.agents.selector.features.describe`).

    Each column is standardised, each block divided by the root of its width (64 numbers of an
    embedding shall not outvote five of the structure), and the first `max_components` principal
    components are kept. They share one scale, so that a component with little variance stays
    short. Screening values stay dimensions of their own: they are estimates of what is sought.
    """
    described = [
        scaled / np.sqrt(scaled.shape[1])
        for name, block in blocks.items()
        if name != "screening" and (scaled := _standardised(block)).shape[1]
    ]
    # Crystals that cannot be told apart leave no column.
    joined = np.concatenate([np.empty((len(blocks["screening"]), 0)), *described], axis=1)
    left, singular, _ = np.linalg.svd(joined, full_matrices=False)
    variance = singular**2
    total = float(variance.sum())
    kept = min(max_components, int(np.sum(variance > 1e-10 * max(total, 1e-300))))
    scores = left[:, :kept] * singular[:kept]
    # The sign of a singular vector is arbitrary; the largest entry is made positive.
    largest = np.abs(scores).argmax(axis=0) if kept else np.empty(0, int)
    scores = scores * np.sign(scores[largest, np.arange(kept)])
    components = scores - scores.min(axis=0) if kept else scores
    if kept:
        components = components / components.max()
    screening = _standardised(blocks["screening"])
    if screening.shape[1]:
        screening = screening - screening.min(axis=0)
        screening = screening / screening.max(axis=0)
    points = np.concatenate([components, screening], axis=1)
    if not points.shape[1]:
        points = np.zeros((len(joined), 1))
    explained = float(variance[:kept].sum()) / total if total > 0 else 1.0
    return FeatureSpace(points, kept, explained)


def _standardised(block: FloatArray) -> FloatArray:
    """Return columns of zero mean and unit deviation; constant and empty ones are dropped."""
    known = np.isfinite(block)
    count = known.sum(axis=0)
    filled = np.where(known, block, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    centred = np.where(known, block - mean, 0.0)  # what is missing takes the column's mean
    std = np.sqrt((centred**2).mean(axis=0))
    useful = std > 1e-9 * np.maximum(np.abs(mean), 1e-9)
    return np.asarray(centred[:, useful] / std[useful])

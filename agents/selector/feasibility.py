"""Chance that a crystal can be made at all, learned from failed syntheses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matterloop.agents.selector.features import FloatArray

MIN_OF_EACH = 2
"""Failures and successes needed before their places in feature space say anything."""


@dataclass(frozen=True)
class Feasibility:
    """A logistic model of success.

    Attributes
    ----------
    weights
        Shape (d + 1,): one per dimension of the feature space, then the intercept.
    informed
        Whether it was fitted; otherwise it is the rate of success everywhere.
    successes, failures
        Numbers that it rests on.
    """

    weights: FloatArray
    informed: bool
    successes: int
    failures: int

    def log_probability(self, points: FloatArray) -> FloatArray:
        """Natural logarithm of the probability of success, shape (n,)."""
        logits = points @ self.weights[:-1] + self.weights[-1]
        return np.asarray(-np.logaddexp(0.0, -logits))


def fit_feasibility(
    points: FloatArray, made: NDArray[np.bool_], *, prior_std: float = 2.0
) -> Feasibility:
    r"""Fit a Bayesian logistic regression (maximum a posteriori, Newton's method).

    Weights have a normal prior of mean zero and `prior_std`, the intercept one of 5 around zero: in
    a space of unit size, the prior admits probabilities between 2 % and 98 % along one axis, and
    keeps few data from claiming more. With fewer than `MIN_OF_EACH` failures or successes the
    answer is Laplace's rule :math:`(s + 1) / (n + 2)` everywhere, which ranks nothing.

    Parameters
    ----------
    points
        Shape (n, d), in [0, 1].
    made
        Shape (n,), whether the synthesis succeeded.
    """
    successes, failures = int(made.sum()), int((~made).sum())
    dimensions = points.shape[1]
    rate = (successes + 1) / (successes + failures + 2)
    weights = np.zeros(dimensions + 1)
    weights[-1] = np.log(rate / (1 - rate))
    if min(successes, failures) < MIN_OF_EACH:
        return Feasibility(weights, False, successes, failures)
    centre = points.mean(axis=0)
    design = np.column_stack([points - centre, np.ones(len(points))])
    precision = np.diag([*[prior_std**-2] * dimensions, 5.0**-2])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (made - p) - precision @ weights
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + precision
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    weights[-1] -= centre @ weights[:-1]
    return Feasibility(weights, True, successes, failures)

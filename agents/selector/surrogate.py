"""Gaussian processes that predict what an experiment would measure.

One `SingleTaskGP` per property, with BoTorch's defaults: RBF kernel with dimension-scaled
log-normal priors on the length scales (Hvarfner et al., ICML 2024), standardised outcome.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.exceptions import InputDataWarning, ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood

from matterloop.agents.selector.features import FloatArray
from matterloop.loop.selection import Prediction

MIN_RELATIVE_NOISE = 1e-3
"""A measurement is not trusted better than this share of the spread of all values: an uncertainty
of zero makes the covariance of two like crystals singular."""


@dataclass(frozen=True)
class TrainingSet:
    """What is known of one property.

    Attributes
    ----------
    points
        Shape (n, d), in [0, 1].
    values
        Shape (n,), in the property's unit.
    uncertainties
        Shape (n,), one standard deviation; NaN where the measurement gave none.
    """

    points: FloatArray
    values: FloatArray
    uncertainties: FloatArray


@dataclass(frozen=True)
class Surrogate:
    """Fitted processes, one per property, in one BoTorch model.

    Attributes
    ----------
    properties
        Order of the model's outputs.
    model
        A BoTorch `ModelListGP` of the standardised values, (value - centre) / scale. Standardised
        outside the model: posteriors keep the order of one, for which jitter and smoothing
        constants are made, whatever the unit.
    centres, scales
        Property to mean and standard deviation of its observed values (1 where all are equal).
    sha256
        Hash of hyperparameters and training data.
    details
        JSON-serialisable: per property number of observations, length scales, noise, whether the
        fit converged.
    """

    properties: tuple[str, ...]
    model: Any
    centres: Mapping[str, float]
    scales: Mapping[str, float]
    sha256: str
    details: Mapping[str, Any]

    def predict(self, points: FloatArray) -> list[dict[str, Prediction]]:
        """Return the posterior of every property at every point (n, d), without noise."""
        with torch.no_grad(), numerics():
            posterior = [m.posterior(torch.as_tensor(points)) for m in self.model.models]
            means = np.stack([p.mean.squeeze(-1).numpy() for p in posterior], axis=1)
            stds = np.stack([p.variance.sqrt().squeeze(-1).numpy() for p in posterior], axis=1)
        return [
            {
                name: Prediction(
                    float(means[row, i]) * self.scales[name] + self.centres[name],
                    float(stds[row, i]) * self.scales[name],
                )
                for i, name in enumerate(self.properties)
            }
            for row in range(len(points))
        ]


def fit_surrogate(data: Mapping[str, TrainingSet]) -> Surrogate:
    """Fit one Gaussian process per property (maximum a posteriori, L-BFGS-B).

    Where the fit of the hyperparameters fails, the process keeps the modes of its priors, and
    `details` says so.
    """
    models, details, digest = [], {}, hashlib.sha256()
    for name, training in data.items():
        model, converged = _fit_one(training)
        models.append(model)
        scale = model.covar_module.lengthscale.detach().numpy().ravel()
        noise = float(model.likelihood.noise.detach().mean().sqrt())
        details[name] = {
            "observations": len(training.values),
            "converged": converged,
            "kernel": "RBF, dimension-scaled log-normal prior",
            "length_scales": [round(float(s), 4) for s in scale],
            "noise_std": noise * _spread(training.values),
        }
        digest.update(name.encode())
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
        for array in (training.points, training.values, training.uncertainties):
            digest.update(np.ascontiguousarray(array).tobytes())
    scales = {name: _spread(training.values) for name, training in data.items()}
    centres = {name: float(training.values.mean()) for name, training in data.items()}
    return Surrogate(
        tuple(data), ModelListGP(*models), centres, scales, digest.hexdigest(), details
    )


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Run torch on one thread from a seed; the caller's generator and thread count come back."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def numerics() -> Iterator[None]:
    """Silence what BoTorch says of legitimate input: equal observations, like crystals."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=InputDataWarning)
        warnings.filterwarnings("ignore", message="A not p.d., added jitter")
        warnings.filterwarnings("ignore", message="Very small noise values detected")
        warnings.filterwarnings("ignore", message="An input array is constant")
        yield


def _fit_one(training: TrainingSet) -> tuple[Any, bool]:
    x = torch.as_tensor(training.points, dtype=torch.float64)
    scale = _spread(training.values)
    standard = (training.values - training.values.mean()) / scale
    y = torch.as_tensor(standard, dtype=torch.float64).unsqueeze(-1)
    noise = _variances(training, scale)
    with numerics():
        model = SingleTaskGP(x, y, noise, outcome_transform=None)
        if _spread(training.values, default=0.0) == 0.0:
            return model.eval(), False  # equal values tell nothing about length scales
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        except ModelFittingError:
            model = SingleTaskGP(x, y, noise, outcome_transform=None)
            return model.eval(), False
    return model, True


def _variances(training: TrainingSet, scale: float) -> torch.Tensor | None:
    """Return the standardised noise variances, or None to have one fitted where none is known."""
    given = np.isfinite(training.uncertainties)
    if not given.any():
        return None
    typical = float(np.median(training.uncertainties[given]))
    std = np.where(given, training.uncertainties, typical)
    std = np.maximum(std / scale, MIN_RELATIVE_NOISE)
    return torch.as_tensor(std**2, dtype=torch.float64).unsqueeze(-1)


def _spread(values: Sequence[float] | FloatArray, default: float = 1.0) -> float:
    array = np.asarray(values, dtype=float)
    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return spread if spread > 1e-9 * max(1.0, float(np.abs(array).max())) else default

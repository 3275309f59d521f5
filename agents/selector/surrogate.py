"""Gaussian processes that predict what an experiment would measure.

One `SingleTaskGP` per property, with BoTorch's defaults: RBF kernel with dimension-scaled
log-normal priors on the length scales (Hvarfner et al., ICML 2024), standardised outcome.

Where screening has estimated the same property of every crystal, that estimate is the mean of the
process, which then models what the experiment adds to it: the autoregressive form of Kennedy and
O'Hagan (Biometrika 87, 1 (2000)) with the factor fixed at one, known as delta learning. Without
it, a surrogate that saw stable crystals only, since the others failed, would take all for stable.
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
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.means import ConstantMean, Mean
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
    inputs
        Shape (n, d + k): d coordinates in [0, 1], then k screening estimates in their units.
    values
        Shape (n,), in the property's unit.
    uncertainties
        Shape (n,), one standard deviation; NaN where the measurement gave none.
    n_coordinates
        d.
    estimate
        Column of `inputs` that holds the screening estimate of this property; None without one.
    """

    inputs: FloatArray
    values: FloatArray
    uncertainties: FloatArray
    n_coordinates: int
    estimate: int | None = None

    @property
    def residuals(self) -> FloatArray:
        """What is left to the process, shape (n,): values, or values minus estimates."""
        if self.estimate is None:
            return self.values
        return self.values - self.inputs[:, self.estimate]

    @property
    def centre(self) -> float:
        """Mean of the residuals."""
        return float(self.residuals.mean())

    @property
    def scale(self) -> float:
        """Spread of the residuals, not below the noise, which needs no process to explain it."""
        if self.estimate is None:
            return self.spread
        return max(_spread(self.residuals, default=0.0), self.noise) or self.spread

    @property
    def spread(self) -> float:
        """Spread of the values; 1 where all are equal."""
        return _spread(self.values)

    @property
    def noise(self) -> float:
        """Typical standard deviation of a measurement; 0 where none is known."""
        given = self.uncertainties[np.isfinite(self.uncertainties)]
        return float(np.median(given)) if len(given) else 0.0


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
        Property to mean and standard deviation of what the process models: the observed values, or
        what they add to the screening estimates.
    spreads
        Property to standard deviation of its observed values (1 where all are equal).
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
    spreads: Mapping[str, float]
    sha256: str
    details: Mapping[str, Any]

    def predict(self, points: FloatArray) -> list[dict[str, Prediction]]:
        """Return the posterior of every property at every input (n, d + k), without noise."""
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
            "mean": "constant" if training.estimate is None else "constant + screening estimate",
            "length_scales": [round(float(s), 4) for s in scale],
            "noise_std": noise * training.scale,
        }
        digest.update(name.encode())
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
        for array in (training.inputs, training.values, training.uncertainties):
            digest.update(np.ascontiguousarray(array).tobytes())
    return Surrogate(
        tuple(data),
        ModelListGP(*models),
        {name: training.centre for name, training in data.items()},
        {name: training.scale for name, training in data.items()},
        {name: training.spread for name, training in data.items()},
        digest.hexdigest(),
        details,
    )


class EstimateMean(Mean):  # type: ignore[misc]  # gpytorch has no types
    """Mean of a process that refines a screening estimate: constant + estimate / scale."""

    def __init__(self, column: int, scale: float) -> None:
        super().__init__()
        self.constant = ConstantMean()
        self._column, self._scale = column, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean at inputs (..., n, d + k), shape (..., n)."""
        mean: torch.Tensor = self.constant(x) + x[..., self._column] / self._scale
        return mean


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
    with numerics():
        model = _process(training)
        if _spread(training.residuals, default=0.0) == 0.0:
            return model.eval(), False  # equal values tell nothing about length scales
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        except ModelFittingError:
            return _process(training).eval(), False
    return model, True


def _process(training: TrainingSet) -> Any:
    standard = (training.values - training.centre) / training.scale
    kernel = get_covar_module_with_dim_scaled_prior(
        ard_num_dims=training.n_coordinates, active_dims=list(range(training.n_coordinates))
    )
    column = training.estimate
    return SingleTaskGP(
        torch.as_tensor(training.inputs, dtype=torch.float64),
        torch.as_tensor(standard, dtype=torch.float64).unsqueeze(-1),
        _variances(training, training.scale),
        mean_module=None if column is None else EstimateMean(column, training.scale),
        covar_module=kernel,
        outcome_transform=None,
    )


def _variances(training: TrainingSet, scale: float) -> torch.Tensor | None:
    """Return the standardised noise variances, or None to have one fitted where none is known."""
    given = np.isfinite(training.uncertainties)
    if not given.any():
        return None
    std = np.where(given, training.uncertainties, training.noise)
    std = np.maximum(std / scale, MIN_RELATIVE_NOISE)
    return torch.as_tensor(std**2, dtype=torch.float64).unsqueeze(-1)


def _spread(values: Sequence[float] | FloatArray, default: float = 1.0) -> float:
    array = np.asarray(values, dtype=float)
    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return spread if spread > 1e-9 * max(1.0, float(np.abs(array).max())) else default

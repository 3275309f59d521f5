r"""The stochastic interpolant between noise (t = 0) and crystals (t = 1).

Coordinates live on the torus: :math:`x_t = x_0 + t\,w(x_1 - x_0)` with uniform :math:`x_0` and
:math:`w` the shortest way round; the network learns the velocity, less its mean over the atoms,
since a shift of the whole crystal means nothing (FlowMM, Miller et al. 2024, arXiv:2406.04713).
The lattice goes straight, :math:`k_t = (1 - t)\,\epsilon + t\,k_1`, and the network predicts
:math:`k_1`, from which the velocity follows.

Atoms of one element are interchangeable: before interpolating, the noise of each element's atoms
is assigned to them so that the squared paths are shortest (Hungarian method; mini-batch optimal
transport inside one crystal, cf. Klein et al. 2023, arXiv:2306.15030). Uniform noise stays uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class PathPoint:
    """Where a batch stands on its path, and what the network should say there.

    Attributes
    ----------
    fractional
        (batch, atoms, 3) coordinates at time t.
    lattice
        (batch, 6) standardised lattice parameters at time t.
    time
        (batch,) in [0, 1].
    velocity
        (batch, atoms, 3) target: fractional units per unit time, mean over the atoms zero.
    """

    fractional: Tensor
    lattice: Tensor
    time: Tensor
    velocity: Tensor


def shortest_way(difference: Tensor) -> Tensor:
    """Wrap differences of fractional coordinates into [-1/2, 1/2)."""
    return difference - torch.floor(difference + 0.5)


def without_drift(velocity: Tensor) -> Tensor:
    """Remove the mean over the atoms from (batch, atoms, 3)."""
    return velocity - velocity.mean(dim=1, keepdim=True)


def noise(batch: int, atoms: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the base distribution: (batch, atoms, 3) uniform, (batch, 6) standard normal.

    Drawn on the CPU, for the same numbers on every machine.
    """
    fractional = torch.rand((batch, atoms, 3), generator=generator)
    lattice = torch.randn((batch, 6), generator=generator)
    return fractional, lattice


def interpolate(
    fractional: Tensor,
    lattice: Tensor,
    base: tuple[Tensor, Tensor],
    time: Tensor,
) -> PathPoint:
    """Return the point at `time` between `base` noise and crystals, all standardised."""
    start, lattice_noise = base
    way = shortest_way(fractional - start)
    moment = time[:, None, None]
    return PathPoint(
        fractional=(start + moment * way) % 1.0,
        lattice=(1 - moment[:, 0]) * lattice_noise + moment[:, 0] * lattice,
        time=time,
        velocity=without_drift(way),
    )


def assign_noise(numbers: np.ndarray, fractional: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Reorder noise within each element so that the squared paths to the crystal are shortest.

    Parameters
    ----------
    numbers
        (batch, atoms) atomic numbers.
    fractional, start
        (batch, atoms, 3) crystal and noise.

    Returns
    -------
    numpy.ndarray
        (batch, atoms, 3): `start` with atoms of the same element exchanged.
    """
    way = fractional[:, :, None, :] - start[:, None, :, :]
    way -= np.round(way)
    cost = np.einsum("bijc,bijc->bij", way, way)
    cost[numbers[:, :, None] != numbers[:, None, :]] = 1e3
    result = np.empty_like(start)
    for index, matrix in enumerate(cost):
        result[index] = start[index, linear_sum_assignment(matrix)[1]]
    return result

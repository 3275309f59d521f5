r"""Penalties on the crystal that the network expects, differentiable.

At time t the network implies a finished crystal: coordinates :math:`x_t + (1 - t)\,v` and its
lattice. What physics says about that crystal is added to the loss. Early in the path the expected
crystal is an average over possibilities, whose distances mean nothing: penalties are weighted with
:math:`t^4`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.network import (
    GeometryNetwork,
    Prediction,
    shortest_distances,
)
from matterloop.agents.generator.diffusion.path import shortest_way
from matterloop.agents.generator.diffusion.representation import MAX_ATOMIC_NUMBER
from matterloop.loop.chemistry.validity import element_radii_A

CLOSEST = 0.76
"""Pairs nearer than this multiple of the sum of their covalent radii are penalised. In 1 % of
17,689 crystals of the Materials Project with at most 20 atoms the closest pair is nearer (smallest
0.652, median 0.922); of the 28 below 0.70 all but one hold cerium or an actinide."""


class PenaltyWeights(BaseModel):
    """What each penalty counts in the loss; 0 switches it off.

    Attributes
    ----------
    distance
        Of the squared relative shortfall of pair distances below `CLOSEST`, summed over pairs and
        divided by the number of atoms.
    density
        Of the squared logarithm of predicted over true volume.
    stability
        Of the energy above the hull that a frozen critic sees in the expected crystal, as far as
        it exceeds what the critic sees in the true one.
    properties
        Of the squared difference between formation energy and band gap that the frozen critic sees
        in the expected and the true crystal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    distance: float = Field(default=0.0, ge=0)
    density: float = Field(default=0.0, ge=0)
    stability: float = Field(default=0.0, ge=0)
    properties: float = Field(default=0.0, ge=0)

    @property
    def any(self) -> bool:
        """Whether anything is to be computed."""
        return bool(self.distance or self.density or self.critical)

    @property
    def critical(self) -> bool:
        """Whether the frozen critic is needed."""
        return bool(self.stability or self.properties)


class Geometry(NamedTuple):
    """(batch, atoms, 3) fractional coordinates and (batch, 3, 3) cells in Angstrom."""

    fractional: Tensor
    cell: Tensor


def expected_crystal(
    network: GeometryNetwork,
    numbers: Tensor,
    fractional: Tensor,
    time: Tensor,
    prediction: Prediction,
) -> Geometry:
    """Return the finished crystal that a prediction implies."""
    finished = fractional + (1 - time)[:, None, None] * prediction.velocity
    return Geometry(finished, network.to_cell(prediction.lattice, numbers))


def distance_penalty(numbers: Tensor, fractional: Tensor, cell: Tensor) -> Tensor:
    """Return (batch,) penalties of pairs that are too near, see `PenaltyWeights.distance`."""
    shortfall = torch.relu(1 - relative_distances(numbers, fractional, cell) / CLOSEST)
    return (shortfall**2).sum((1, 2)) / numbers.shape[1]


def closest_approach(numbers: Tensor, fractional: Tensor, cell: Tensor) -> Tensor:
    """Return (batch,) smallest distances in units of the sum of the covalent radii."""
    return relative_distances(numbers, fractional, cell).amin((1, 2))


def relative_distances(numbers: Tensor, fractional: Tensor, cell: Tensor) -> Tensor:
    """Return (batch, atoms, atoms) shortest distances over sums of covalent radii."""
    radii = torch.as_tensor(
        element_radii_A(np.arange(MAX_ATOMIC_NUMBER + 1)),
        dtype=fractional.dtype,
        device=numbers.device,
    )[numbers]
    way = shortest_way(fractional[:, None, :, :] - fractional[:, :, None, :])
    return shortest_distances(way, cell)[0] / (radii[:, :, None] + radii[:, None, :])


def density_penalty(cell: Tensor, true_cell: Tensor) -> Tensor:
    """Return (batch,) squared logarithms of the ratio of the volumes."""
    ratio = (
        torch.diagonal(cell, dim1=1, dim2=2).log() - torch.diagonal(true_cell, dim1=1, dim2=2).log()
    )
    return ratio.sum(-1) ** 2


def critic_penalties(
    critic: GeometryNetwork,
    numbers: Tensor,
    expected: Geometry,
    true: Geometry,
) -> tuple[Tensor, Tensor]:
    """Return (batch,) penalties of stability and of properties, seen by a frozen network.

    Parameters
    ----------
    critic
        A trained network whose parameters take no gradients; gradients reach `expected`. It
        standardises cells as it learned to, whatever the network in training does.
    true
        The crystals themselves.
    """
    now = torch.ones(len(numbers), device=numbers.device)
    null = LabelTensors.null(len(numbers)).to(numbers.device)

    def properties_of(crystal: Geometry) -> Tensor:
        lattice = critic.to_lattice(crystal.cell, numbers)
        seen: Tensor = critic(numbers, crystal.fractional, lattice, now, null).properties
        return seen

    seen = properties_of(expected)
    with torch.no_grad():
        target = properties_of(true)
    stability = torch.relu(seen[:, 1] - target[:, 1]) ** 2
    properties = ((seen - target)[:, [0, 2]] ** 2).mean(-1)
    return stability, properties


def penalties(
    network: GeometryNetwork,
    critic: GeometryNetwork | None,
    weights: PenaltyWeights,
    *,
    numbers: Tensor,
    noisy: Tensor,
    time: Tensor,
    prediction: Prediction,
    true: Geometry,
) -> Tensor:
    """Return (batch,) weighted sums of all penalties, scaled with time ** 4."""
    expected = expected_crystal(network, numbers, noisy, time, prediction)
    total = torch.zeros(len(numbers), device=numbers.device)
    if weights.distance:
        total = total + weights.distance * distance_penalty(
            numbers, expected.fractional, expected.cell
        )
    if weights.density:
        total = total + weights.density * density_penalty(expected.cell, true.cell)
    if weights.critical and critic is not None:
        stability, properties = critic_penalties(critic, numbers, expected, true)
        total = total + weights.stability * stability + weights.properties * properties
    return total * time**4

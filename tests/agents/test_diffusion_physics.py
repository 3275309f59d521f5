"""Penalties: nothing against real crystals, finite slopes everywhere."""

from __future__ import annotations

import pytest
import torch
from few_crystals import geometry_network, real_crystals

from matterloop.agents.generator.diffusion.network import Prediction
from matterloop.agents.generator.diffusion.physics import (
    Geometry,
    PenaltyWeights,
    closest_approach,
    critic_penalties,
    density_penalty,
    distance_penalty,
    penalties,
)
from matterloop.agents.generator.diffusion.representation import (
    decode_cell,
    length_scale,
    to_arrays,
)

ALL_ON = PenaltyWeights(distance=1.0, density=1.0, stability=1.0, properties=1.0)


def tensors(crystal):
    arrays = to_arrays(crystal)
    numbers = torch.as_tensor(arrays.numbers)[None]
    places = torch.as_tensor(arrays.fractional).float()[None]
    lattice = torch.as_tensor(arrays.lattice).float()[None]
    return numbers, places, decode_cell(lattice, length_scale(numbers))


@pytest.mark.parametrize("crystal", real_crystals(), ids=lambda c: c.composition.reduced_formula)
def test_real_crystals_are_not_penalised(crystal):
    numbers, places, cell = tensors(crystal)
    assert float(distance_penalty(numbers, places, cell)) == 0.0
    assert 0.75 < float(closest_approach(numbers, places, cell)) < 1.3
    squeezed = distance_penalty(numbers, places, 0.6 * cell)
    assert float(squeezed) > 0
    assert float(distance_penalty(numbers, places, 0.5 * cell)) > float(squeezed)


def test_atoms_on_top_of_each_other_still_give_a_slope():
    numbers = torch.tensor([[8, 8, 12]])
    places = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.12, 0.1, 0.1]]])
    places.requires_grad_(True)
    cell = (4.0 * torch.eye(3))[None].requires_grad_(True)
    distance_penalty(numbers, places, cell).sum().backward()
    assert torch.isfinite(places.grad).all()
    assert torch.isfinite(cell.grad).all()
    # down the slope the pair that is too near moves apart
    assert float(-places.grad[0, 2, 0]) > 0


def test_the_density_penalty_knows_no_sign_and_no_shape():
    cell = torch.tensor([[[4.0, 0, 0], [1.0, 5.0, 0], [-1.0, 2.0, 6.0]]])
    assert float(density_penalty(cell, cell)) == 0.0
    up, down = density_penalty(1.1 * cell, cell), density_penalty(cell / 1.1, cell)
    assert float(up) == pytest.approx(float(down), rel=1e-4)
    other = cell.clone()
    other[0, 1, 0] = -1.5
    assert float(density_penalty(other, cell)) == 0.0


def test_the_critic_finds_nothing_wrong_with_the_crystal_itself():
    critic = geometry_network(3)
    numbers = torch.tensor([[8, 12, 26]])
    places, lattice = torch.rand(1, 3, 3), torch.randn(1, 6)
    crystal = Geometry(places, critic.to_cell(lattice, numbers))
    stability, properties = critic_penalties(critic, numbers, crystal, crystal)
    assert (float(stability), float(properties)) == (0.0, 0.0)


def test_a_critic_judges_the_crystal_and_not_how_another_network_writes_it_down():
    critic, student, other = (geometry_network(seed) for seed in (3, 1, 1))
    other.lattice_mean.fill_(0.2)
    other.lattice_deviation.fill_(0.4)
    numbers, places = torch.tensor([[8, 12, 26]]), torch.rand((1, 3, 3))
    cell = student.to_cell(torch.full((1, 6), 0.5), numbers)
    true = Geometry(places, 1.2 * cell)
    found = [
        penalties(
            network,
            critic,
            PenaltyWeights(properties=1.0),
            numbers=numbers,
            noisy=places,
            time=torch.ones(1),
            prediction=Prediction(
                torch.zeros((1, 3, 3)), network.to_lattice(cell, numbers), torch.zeros(1, 3)
            ),
            true=true,
        )
        for network in (student, other)
    ]
    assert float(found[0]) > 0
    assert torch.allclose(*found, rtol=1e-3)


def test_penalties_grow_along_the_path_and_reach_the_prediction_not_the_critic():
    network, critic = geometry_network(1), geometry_network(2)
    numbers = torch.tensor([[8, 12, 26], [8, 12, 26]])
    noisy = torch.rand((1, 3, 3), generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    velocity = torch.zeros((2, 3, 3), requires_grad=True)
    lattice = torch.full((2, 6), -2.0, requires_grad=True)  # far too dense
    found = penalties(
        network,
        critic,
        ALL_ON,
        numbers=numbers,
        noisy=noisy,
        time=torch.tensor([0.5, 1.0]),
        prediction=Prediction(velocity, lattice, torch.zeros(2, 3)),
        true=Geometry(noisy, network.to_cell(torch.zeros(2, 6), numbers)),
    )
    half, full = found.tolist()
    assert 16 * half == pytest.approx(full, rel=1e-4)
    assert full > 0
    found.sum().backward()
    assert float(velocity.grad.abs().sum()) > 0
    assert float(lattice.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_weights_say_what_they_need():
    assert not PenaltyWeights().any
    assert PenaltyWeights(distance=1).any
    assert not PenaltyWeights(distance=1).critical
    assert PenaltyWeights(properties=0.1).critical

"""Sampling: the same seed gives the same crystal, whatever else is in the batch."""

from __future__ import annotations

import torch
from few_crystals import geometry_network

from matterloop.agents.generator.diffusion.path import shortest_way
from matterloop.agents.generator.diffusion.sampler import SamplerSettings, sample_geometry

NETWORK = geometry_network()
NUMBERS = torch.tensor([[8, 12, 8], [26, 8, 8], [12, 8, 20]])
SETTINGS = SamplerSettings(steps=6, annealing=2.0)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(shortest_way(a - b).abs().max())


def test_a_crystal_follows_from_its_seed_not_from_its_batch():
    noisy = SETTINGS.model_copy(update={"churn": 0.2})
    for settings in (SETTINGS, noisy):
        places, cells = sample_geometry(NETWORK, NUMBERS, settings, seeds=[5, 6, 7])
        alone = sample_geometry(NETWORK, NUMBERS[1:2], settings, seeds=[6])
        assert apart(places[1:2], alone[0]) < 1e-4
        assert torch.allclose(cells[1:2], alone[1], rtol=1e-4)
        assert float(places.min()) >= 0
        assert float(places.max()) < 1


def test_churn_explores():
    still = sample_geometry(NETWORK, NUMBERS, SETTINGS, seeds=[1, 2, 3])[0]
    churned = SETTINGS.model_copy(update={"churn": 0.3})
    assert apart(still, sample_geometry(NETWORK, NUMBERS, churned, seeds=[1, 2, 3])[0]) > 1e-3


def test_whoever_watches_sees_every_step_and_the_end():
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    places, cells = sample_geometry(
        NETWORK, NUMBERS, SETTINGS, seeds=[1, 2, 3], watch=lambda *frame: seen.append(frame)
    )
    times = [time for time, _, _ in seen]
    assert len(seen) == SETTINGS.steps + 1
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, 1.0)
    assert torch.equal(seen[-1][1], places)
    assert torch.equal(seen[-1][2], cells)


def test_a_network_that_knows_the_crystal_gets_there():
    """With the true velocity and lattice, the last step ends at the crystal."""
    goal = torch.tensor([[[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]]])
    known = geometry_network()

    def forward(numbers, fractional, lattice, time, labels):
        del numbers, lattice, labels
        from matterloop.agents.generator.diffusion.network import Prediction

        way = shortest_way(goal - fractional) / (1 - time)[:, None, None]
        return Prediction(way, torch.full((1, 6), 0.3), torch.zeros(1, 3))

    known.forward = forward
    numbers = torch.tensor([[11, 17]])
    places, cell = sample_geometry(known, numbers, SamplerSettings(steps=7, annealing=0), seeds=[3])
    assert apart(places, goal) < 1e-5
    assert torch.allclose(cell, known.to_cell(torch.full((1, 6), 0.3), numbers), atol=1e-4)

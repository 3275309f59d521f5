"""The way from noise to a crystal begins at the noise and ends at the crystal."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matterloop.agents.generator.diffusion.path import (
    assign_noise,
    interpolate,
    noise,
    shortest_way,
    without_drift,
)


def drawn(seed: int, batch: int = 3, atoms: int = 5):
    generator = torch.Generator().manual_seed(seed)
    crystal = torch.rand((batch, atoms, 3), generator=generator)
    lattice = torch.randn((batch, 6), generator=generator)
    return crystal, lattice, noise(batch, atoms, generator)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(shortest_way(a - b).abs().max())


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50))
def test_the_shortest_way_is_shortest_and_leads_there(difference):
    way = shortest_way(torch.tensor(difference, dtype=torch.float64))
    assert -0.5 <= float(way) < 0.5
    turns = float(way) - difference
    assert abs(turns - round(turns)) < 1e-9


def test_both_ends():
    crystal, lattice, base = drawn(0)
    begin = interpolate(crystal, lattice, base, torch.zeros(3))
    end = interpolate(crystal, lattice, base, torch.ones(3))
    assert apart(begin.fractional, base[0]) < 1e-6
    assert torch.equal(begin.lattice, base[1])
    assert apart(end.fractional, crystal) < 1e-6
    assert torch.allclose(end.lattice, lattice)


def test_the_velocity_leads_to_the_crystal_up_to_a_shift_of_all_atoms():
    crystal, lattice, base = drawn(1)
    time = torch.tensor([0.2, 0.5, 0.9])
    point = interpolate(crystal, lattice, base, time)
    assert float(point.velocity.mean(1).abs().max()) < 1e-6
    reached = point.fractional + (1 - time)[:, None, None] * point.velocity
    rest = shortest_way(crystal - reached)
    # what is left is one shift for each crystal
    assert apart(rest, rest[:, :1].expand_as(rest)) < 1e-5
    assert torch.allclose(without_drift(point.velocity), point.velocity, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_assigned_noise_is_the_same_noise_on_shorter_ways(seed, atoms):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 4, (2, atoms))
    crystal, start = rng.random((2, atoms, 3)), rng.random((2, atoms, 3))

    def length(base: np.ndarray) -> np.ndarray:
        way = crystal - base
        way = way - np.round(way)
        return (way**2).sum((1, 2))

    found = assign_noise(numbers, crystal, start)
    assert (length(found) <= length(start) + 1e-12).all()
    for row in range(2):
        for element in set(numbers[row]):
            mask = numbers[row] == element
            before = sorted(map(tuple, start[row, mask]))
            assert sorted(map(tuple, found[row, mask])) == before


def test_the_base_does_not_depend_on_anything_but_its_generator():
    one, two = (noise(2, 3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert float(one[0].min()) >= 0
    assert float(one[0].max()) < 1

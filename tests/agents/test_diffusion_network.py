"""What the network must not see: shifts, the order of atoms, the choice of images, its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_crystals import geometry_network, real_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.network import (
    pair_features,
    property_scale,
    property_values,
    shortest_distances,
)
from matterloop.agents.generator.diffusion.path import shortest_way
from matterloop.agents.generator.diffusion.representation import (
    decode_cell,
    length_scale,
    to_arrays,
)

NETWORK = geometry_network()
NUMBERS = torch.tensor([[8, 8, 22, 38, 8], [12, 12, 8, 8, 26]])
WISH = LabelTensors.encode([{"band_gap": 1.4, "crystal_system": "cubic"}, {}])


def state(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand((2, 5, 3), generator=generator),
        torch.randn((2, 6), generator=generator),
        torch.rand(2, generator=generator),
    )


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.allclose(a, b, atol=2e-4) for a, b in zip(one, other, strict=True))


def test_its_answers_are_not_trivial():
    seen = NETWORK(NUMBERS, *state(), WISH)
    assert float(seen.velocity.abs().mean()) > 1e-3
    assert float(seen.velocity.mean(1).abs().max()) < 1e-6


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.floats(-2, 2)] * 3))
def test_a_shift_of_all_atoms_changes_nothing(shift):
    places, lattice, time = state()
    moved = places + torch.tensor(shift)
    assert same(
        NETWORK(NUMBERS, places, lattice, time, WISH), NETWORK(NUMBERS, moved, lattice, time, WISH)
    )


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)))
def test_reordered_atoms_get_reordered_velocities(order):
    places, lattice, time = state(1)
    before = NETWORK(NUMBERS, places, lattice, time, WISH)
    after = NETWORK(NUMBERS[:, order], places[:, order], lattice, time, WISH)
    assert same((before.velocity[:, order], *before[1:]), after)


def test_images_of_atoms_are_the_same_atoms():
    places, lattice, time = state(2)
    images = torch.randint(-2, 3, places.shape, generator=torch.Generator().manual_seed(0))
    assert same(
        NETWORK(NUMBERS, places, lattice, time, WISH),
        NETWORK(NUMBERS, places + images, lattice, time, WISH),
    )


def test_a_crystal_does_not_depend_on_its_batch():
    places, lattice, time = state(3)
    both = NETWORK(NUMBERS, places, lattice, time, WISH)
    alone = NETWORK(NUMBERS[1:], places[1:], lattice[1:], time[1:], WISH[slice(1, 2)])
    assert same(tuple(part[1:] for part in both), alone)


def test_labels_time_elements_and_cell_all_matter():
    places, lattice, time = state(4)
    plain = NETWORK(NUMBERS, places, lattice, time, WISH).velocity[0]
    others = [
        NETWORK(NUMBERS, places, lattice, time, LabelTensors.null(2)),
        NETWORK(NUMBERS, places, lattice, (time + 0.3) % 1, WISH),
        NETWORK(NUMBERS + 1, places, lattice, time, WISH),
        NETWORK(NUMBERS, places, lattice + 0.5, time, WISH),
    ]
    for other in others:
        assert not torch.allclose(plain, other.velocity[0], atol=1e-4)


def test_cells_and_lattices_are_each_others_inverse():
    lattice = 0.5 * state()[1]
    cell = NETWORK.to_cell(lattice, NUMBERS)
    assert torch.allclose(NETWORK.to_lattice(cell, NUMBERS), lattice, atol=1e-4)


@pytest.mark.parametrize("crystal", real_crystals(), ids=lambda c: c.composition.reduced_formula)
def test_distances_are_those_of_pymatgen(crystal):
    arrays = to_arrays(crystal)
    numbers = torch.as_tensor(arrays.numbers)[None]
    places = torch.as_tensor(arrays.fractional).float()[None]
    cell = decode_cell(torch.as_tensor(arrays.lattice).float()[None], length_scale(numbers))
    way = shortest_way(places[:, None] - places[:, :, None])
    found = shortest_distances(way, cell)[0][0].numpy()
    wanted = np.array(crystal.get_reduced_structure("niggli").distance_matrix)
    nearest_copy = min(crystal.lattice.get_niggli_reduced_lattice().abc)
    np.fill_diagonal(wanted, nearest_copy)
    assert found == pytest.approx(wanted, abs=2e-3)


def test_harmonics_are_those_of_the_differences():
    places, lattice, _ = state(5)
    cell = NETWORK.to_cell(lattice, NUMBERS)
    pairs = pair_features(places, cell, harmonics=3, radial=4, cutoff=6.0)
    way = places[:, None] - places[:, :, None]
    wanted = torch.cat([torch.sin(2 * torch.pi * k * way) for k in (1, 2, 3)], -1)
    assert torch.allclose(pairs.sines, wanted, atol=1e-4)


def test_properties_keep_their_values_on_the_networks_scale():
    values = torch.tensor([[-2.0, 0.05, 1.4], [0.3, 0.0, 0.0]])
    assert torch.allclose(property_values(property_scale(values)), values, atol=1e-5)
    assert torch.isnan(property_scale(torch.tensor([[torch.nan, 0.1, 1.0]]))).tolist() == [
        [True, False, False]
    ]

"""Crystals become numbers and crystals again; the same crystal gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_crystals import perovskite, real_crystals, rock_salt
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.representation import (
    RepresentationError,
    decode_cell,
    encode_cell,
    group_by_size,
    length_scale,
    to_arrays,
    to_structures,
)

LENGTHS = st.tuples(*[st.floats(2.5, 12.0)] * 3)
ANGLES = st.tuples(*[st.floats(50.0, 130.0)] * 3)
PLACES = st.lists(st.tuples(*[st.floats(0.0, 0.999)] * 3), min_size=1, max_size=4)


def rebuilt(structure: Structure) -> Structure:
    arrays = to_arrays(structure)
    numbers = torch.as_tensor(arrays.numbers)[None]
    cell = decode_cell(torch.as_tensor(arrays.lattice)[None], length_scale(numbers).double())
    return to_structures(numbers, torch.as_tensor(arrays.fractional)[None], cell)[0]


def distances(structure: Structure) -> np.ndarray:
    return np.sort(np.array(structure.distance_matrix).ravel())


@settings(max_examples=25, deadline=None)
@given(LENGTHS, ANGLES, PLACES)
def test_a_crystal_survives_the_round_trip(lengths, angles, places):
    radians = np.cos(np.deg2rad(angles))
    room = 1 - (radians**2).sum() + 2 * radians.prod()
    assume(room > 0.05)  # three angles that close a cell, and not a flat one
    before = Structure(Lattice.from_parameters(*lengths, *angles), ["Fe"] * len(places), places)
    after = rebuilt(before)
    assert after.volume == pytest.approx(before.volume, rel=1e-4)
    assert distances(after) == pytest.approx(distances(before), abs=2e-3)
    assert ((after.frac_coords >= 0) & (after.frac_coords < 1)).all()


@pytest.mark.parametrize("crystal", real_crystals(), ids=lambda c: c.composition.reduced_formula)
def test_real_crystals_survive_the_round_trip(crystal):
    from matterloop.loop.chemistry.matching import StructureIndex

    index = StructureIndex()
    index.add(crystal, "it")
    assert index.find(rebuilt(crystal)) is not None


def test_the_choice_of_the_cell_does_not_matter():
    cell = Lattice.from_parameters(4.0, 5.0, 6.1, 83.0, 97.0, 105.0)
    crystal = Structure(cell, ["Na", "Cl"], [[0, 0, 0], [0.4, 0.45, 0.55]])
    skewed = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]]) @ cell.matrix  # determinant 1
    other = Structure(
        Lattice(skewed), crystal.species, crystal.cart_coords, coords_are_cartesian=True
    )
    assert to_arrays(other).lattice == pytest.approx(to_arrays(crystal).lattice, abs=1e-4)


def test_a_supercell_stays_one():
    crystal = perovskite()
    crystal.make_supercell([2, 1, 1])
    arrays = to_arrays(crystal)
    assert sorted(arrays.numbers) == sorted(crystal.atomic_numbers)
    assert rebuilt(crystal).volume == pytest.approx(2 * 3.905**3, rel=1e-5)


def test_cells_are_encoded_relative_to_what_their_elements_need():
    cell = torch.tensor([[[4.0, 0, 0], [1.0, 5.0, 0], [-1.0, 2.0, 6.0]]])
    scale = torch.tensor([3.0])
    code = encode_cell(cell, scale)
    assert torch.allclose(decode_cell(code, scale), cell)
    assert torch.allclose(encode_cell(2 * cell, 2 * scale), code)
    one, eight = torch.tensor([[8, 12]]), torch.tensor([[8, 12] * 8])
    assert float(length_scale(eight) / length_scale(one)) == pytest.approx(2.0)


def test_noise_cannot_make_a_cell_that_is_no_cell():
    cell = decode_cell(torch.full((1, 6), 100.0), torch.ones(1))
    assert torch.isfinite(cell).all()
    assert float(torch.linalg.det(cell)) > 0


def test_what_cannot_be_represented_is_refused_with_its_name():
    disordered = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]])
    with pytest.raises(RepresentationError, match="partially occupied"):
        to_arrays(disordered)
    with pytest.raises(RepresentationError, match="empty"):
        to_arrays(Structure(Lattice.cubic(3), [], []))
    flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), ["Fe"], [[0, 0, 0]])
    with pytest.raises(RepresentationError, match="volume"):
        to_arrays(flat)
    lost = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, float("nan")]])
    with pytest.raises(RepresentationError, match="not finite"):
        to_arrays(lost)


def test_grouping_keeps_every_crystal():
    assert group_by_size([3, 1, 3, 2]) == {1: [1], 2: [3], 3: [0, 2]}
    assert len(to_arrays(rock_salt()).numbers) == 2

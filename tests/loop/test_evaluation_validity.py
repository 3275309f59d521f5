"""Validity of generated crystals on cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from matterloop.loop.evaluation.validity import is_structurally_valid, validity


def salt(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def test_rock_salt_passes_everything():
    answer = validity(salt())
    assert answer.structural
    assert answer.compositional
    assert answer.physical
    assert answer.neutral


def test_overlapping_atoms_fail_the_lax_criterion_just_below_half_an_angstrom():
    for distance, valid in ((0.499, False), (0.501, True)):
        helium = Structure(Lattice.cubic(8), ["He", "He"], [[0, 0, 0], [0, 0, distance / 8]])
        assert is_structurally_valid(helium) is valid
        assert not validity(helium).physical


def test_atoms_that_meet_across_the_border_or_their_own_image():
    across = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0.01], [0, 0, 0.99]])
    assert not is_structurally_valid(across)
    own_image = Structure(Lattice.orthorhombic(0.3, 8, 8), ["Na"], [[0, 0, 0]])
    assert not is_structurally_valid(own_image)


def test_what_passes_cdvae_but_not_the_stricter_test():
    squeezed = salt(2.4)
    assert validity(squeezed).structural
    assert not validity(squeezed).physical


@pytest.mark.parametrize(
    ("cation", "anion", "compositional", "neutral"),
    [
        ("Na", "Cl", True, True),
        ("Ni", "Al", True, True),  # metals alone: an alloy
        ("Ba", "F", False, False),  # Ba is +2 only, F -1 only
        ("Ca", "Cl", True, False),  # the older set of states holds Ca +1
        ("Pm", "N", True, False),  # Pm has no electronegativity: only CDVAE lets it pass
    ],
)
def test_composition(cation, anion, compositional, neutral):
    answer = validity(salt(5.0, cation, anion))
    assert answer.compositional is compositional
    assert answer.neutral is neutral


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_structural_validity_does_not_depend_on_the_cell_that_is_drawn(seed, shift):
    rng = np.random.default_rng(seed)
    crystal = Structure(Lattice.cubic(3), ["Na"] * 3, rng.random((3, 3)))
    moved = crystal.copy()
    moved.translate_sites([0, 1, 2], [shift, 0.3, 0.1])
    moved = Structure(
        Lattice(np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]]) @ moved.lattice.matrix),
        moved.species,
        moved.cart_coords,
        coords_are_cartesian=True,
    )
    distances = crystal.distance_matrix[np.triu_indices(3, 1)]
    if abs(distances.min() - 0.5) > 1e-6:
        assert is_structurally_valid(moved) == is_structurally_valid(crystal)
        assert is_structurally_valid(crystal) == (distances.min() >= 0.5)

"""Predicted cell volumes against experiment."""

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.cell_volume import (
    VolumeError,
    fit_element_volumes,
    predicted_volume,
    scale_to_predicted_volume,
)


def cubic(group, a, species, sites):
    return Structure.from_spacegroup(group, Lattice.cubic(a), species, sites)


# Experimental lattice constants, angstrom, room temperature.
KNOWN = {
    "LiCl": cubic("Fm-3m", 5.130, ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "Li2S": cubic("Fm-3m", 5.708, ["S", "Li"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "MgO": cubic("Fm-3m", 4.212, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "ZnS": cubic("F-43m", 5.409, ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "Ni3Al": cubic("Pm-3m", 3.572, ["Al", "Ni"], [[0, 0, 0], [0.5, 0.5, 0]]),
    "NiAl": cubic("Pm-3m", 2.887, ["Al", "Ni"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
}


def test_volumes_of_known_crystals_from_a_wrong_cell():
    ratios = {}
    for formula, true in KNOWN.items():
        inflated = true.copy()
        inflated.scale_lattice(true.volume * 1.6)
        ratios[formula] = predicted_volume(inflated) / true.volume
    assert all(0.8 < ratio < 1.25 for ratio in ratios.values()), ratios
    assert sum(abs(ratio - 1) for ratio in ratios.values()) / len(ratios) < 0.12, ratios


def test_scaling_keeps_the_shape_and_leaves_the_input_alone():
    before = KNOWN["ZnS"].copy()
    after = scale_to_predicted_volume(before)
    assert before == KNOWN["ZnS"]
    assert after.volume == pytest.approx(predicted_volume(before))
    assert after.lattice.angles == pytest.approx((90, 90, 90))
    assert after.frac_coords == pytest.approx(before.frac_coords)


def test_a_geometry_that_does_not_suit_the_elements_is_held_in_bounds():
    # SCl4 on Ni4Mo sites: lattice scaling alone gives 5 A^3 per atom, denser than diamond.
    cell = Lattice.tetragonal(5.72, 3.56)
    sites = [[0, 0, 0], [0.2, 0.4, 0], [-0.4, 0.2, 0], [0.4, -0.2, 0], [-0.2, -0.4, 0]]
    packed = Structure(cell, ["S", "Cl", "Cl", "Cl", "Cl"], sites)
    assert 15 < predicted_volume(packed) / 5 < 40


def test_volumes_add_up_exactly_where_they_do():
    fitted = fit_element_volumes(
        [
            Structure(Lattice.cubic(2), ["Mg"], [[0, 0, 0]]),
            Structure(Lattice.cubic(18 ** (1 / 3)), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        ]
    )
    assert fitted == pytest.approx({"Mg": 8, "O": 10})


def test_an_element_without_any_radius_is_refused():
    with pytest.raises(VolumeError, match="He"):
        predicted_volume(Structure(Lattice.cubic(4), ["He"], [[0, 0, 0]]))

"""Absurd crystals and answers are refused with the figure that broke the limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import ChgnetPotential
from matterloop.adapters.potentials.guards import Guards, shortest_distance
from matterloop.loop.calculation import CalculationFailure, RelaxOptions, SinglePoint

NACL = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ABSURD = {
    "on top of each other": (
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0]] * 2),
        "0 A apart",
    ),
    "across the border": (
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.99, 0, 0]]),
        "0.04 A apart",
    ),
    "own image": (Structure(Lattice.orthorhombic(0.3, 20, 20), ["Na"], [[0, 0, 0]]), "0.3 A"),
    "nan": (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [float("nan"), 0, 0]]), "finite"),
    "huge cell": (Structure(Lattice.cubic(100), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]), "5e+05 A^3"),
    "flat cell": (Structure(Lattice.cubic(1), ["Na"], [[0, 0, 0]]), "1 A^3/atom"),
    "too many atoms": (Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]]) * (9, 9, 9), "729 atoms"),
    "disordered": (Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]), "disordered"),
    "lonely atom": (Structure(Lattice.cubic(6.5), ["Ar"], [[0, 0, 0]]), "isolated"),
}


def test_a_crystal_too_large_for_the_memory_is_refused():
    small = ChgnetPotential.Settings(max_memory_GB=0.2)
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
    with ChgnetPotential(small) as potential:
        fits, refused = potential.single_points([diamond.get_primitive_structure(), diamond])
    assert isinstance(fits, SinglePoint)
    assert isinstance(refused, CalculationFailure)
    assert "0.6 GB" in refused.reason


@pytest.fixture(scope="module")
def potential():
    with ChgnetPotential() as one:
        yield one


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_crystals_are_refused_by_single_points_and_relaxation(potential, name):
    crystal, figure = ABSURD[name]
    (single,) = potential.single_points([crystal])
    ((_, relaxed),) = potential.relax([crystal], RelaxOptions())
    for answer in (single, relaxed):
        assert isinstance(answer, CalculationFailure), answer
        assert figure in answer.reason


def answer(energy=-3.0, force=0.1, stress=1.0):
    return SinglePoint(energy, np.full((2, 3), force), np.full((3, 3), stress))


@pytest.mark.parametrize(
    ("bad", "figure"),
    [
        (answer(energy=1e12), "1e+12 eV/atom"),
        (answer(energy=-25.0), "-25 eV/atom"),
        (answer(energy=float("nan")), "finite"),
        (answer(force=float("inf")), "finite"),
        (answer(stress=float("nan")), "finite"),
        (answer(force=200.0), "346.4 eV/A"),
    ],
)
def test_absurd_answers_are_refused(bad, figure):
    assert figure in Guards().refuse_answer(bad)
    assert Guards().refuse_answer(answer()) == ""


@given(st.floats(0.05, 20))
def test_the_volume_may_change_by_the_factor_and_no_more(ratio):
    refused = bool(Guards(max_volume_factor=2).refuse_volume_change(ratio - 1))
    assert refused == (not 0.5 <= 1 + (ratio - 1) <= 2)


@given(st.floats(0.1, 0.9), st.floats(0.7, 3.0))
def test_the_shortest_distance_is_found_or_is_longer(x, limit):
    crystal = Structure(Lattice.cubic(3), ["Na", "Cl"], [[0, 0, 0], [x, 0, 0]])
    exact = 3 * min(x, 1 - x)
    found = shortest_distance(crystal, limit)
    if found is None:
        assert exact >= limit - 1e-6
    else:
        assert found == pytest.approx(exact)


def test_a_user_may_move_a_limit(potential):
    strict = ChgnetPotential.Settings.model_validate({"guards": {"max_energy_eV_per_atom": -5}})
    with ChgnetPotential(strict) as picky:
        (refused,) = picky.single_points([NACL])
    (accepted,) = potential.single_points([NACL])
    assert isinstance(refused, CalculationFailure)
    assert "-5 eV/atom" in refused.reason
    assert isinstance(accepted, SinglePoint)
    with pytest.raises(ValidationError):
        ChgnetPotential.Settings.model_validate({"guards": {"max_energie": -5}})

"""Relaxation finds the nearest minimum, and admits when it does not."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import load_engine
from matterloop.adapters.potentials.engine import single_point
from matterloop.adapters.potentials.guards import Guards
from matterloop.adapters.potentials.relaxation import relax
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions, SinglePoint

GUARDS = Guards()
NACL = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()


@pytest.fixture(scope="module")
def engine():
    return load_engine("0.3.0")


def test_a_strained_and_shaken_cell_comes_back(engine):
    right = relax(engine, NACL, RelaxOptions(fmax_eV_per_A=0.01), GUARDS)
    spoiled = NACL.copy()
    spoiled.apply_strain([0.06, -0.05, 0.04])
    spoiled.perturb(0.1, seed=1)
    start = single_point(engine, spoiled, GUARDS)
    end = relax(engine, spoiled, RelaxOptions(fmax_eV_per_A=0.01), GUARDS)
    assert isinstance(end, Relaxation)
    assert end.converged
    assert end.optimizer == "BFGS"
    assert 0 < end.steps <= 300
    assert end.energy_eV_per_atom < start.energy_eV_per_atom - 0.005
    assert end.energy_eV_per_atom == pytest.approx(right.energy_eV_per_atom, abs=5e-4)
    assert end.max_force_eV_per_A <= 0.01
    assert end.structure.volume == pytest.approx(right.structure.volume, rel=0.01)
    np.testing.assert_allclose(end.structure.lattice.abc, right.structure.lattice.abc, rtol=0.01)
    assert end.rms_displacement_A > 0.02


def test_a_fixed_cell_stays_fixed(engine):
    spoiled = NACL.copy()
    spoiled.translate_sites([1], [0.06, 0.0, 0.0])
    end = relax(engine, spoiled, RelaxOptions(relax_cell=False), GUARDS)
    np.testing.assert_array_equal(end.structure.lattice.matrix, spoiled.lattice.matrix)
    assert end.volume_change == 0
    assert end.rms_displacement_A > 0.1


def test_pressure_compresses_and_the_energy_is_without_p_v(engine):
    free = relax(engine, NACL, RelaxOptions(fmax_eV_per_A=0.01), GUARDS)
    pressed = relax(engine, NACL, RelaxOptions(fmax_eV_per_A=0.01, pressure_GPa=10), GUARDS)
    assert pressed.structure.volume < 0.85 * free.structure.volume
    assert pressed.energy_eV_per_atom > free.energy_eV_per_atom
    stress = single_point(engine, pressed.structure, GUARDS).stress_GPa
    assert np.trace(stress) / 3 == pytest.approx(-10, abs=0.3)


def test_the_step_limit_is_kept_and_admitted(engine):
    spoiled = NACL.copy()
    spoiled.apply_strain(0.15)
    spoiled.perturb(0.3, seed=5)
    for limit in (1, 2, 3):
        end = relax(engine, spoiled, RelaxOptions(fmax_eV_per_A=1e-6, max_steps=limit), GUARDS)
        assert isinstance(end, Relaxation)
        assert not end.converged
        assert end.steps <= limit


def test_fire_takes_over_where_bfgs_is_out_of_steps(engine):
    spoiled = NACL.copy()
    spoiled.perturb(0.3, seed=5)
    end = relax(engine, spoiled, RelaxOptions(fmax_eV_per_A=1e-7, max_steps=12), GUARDS)
    assert end.optimizer == "FIRE"
    start = single_point(engine, spoiled, GUARDS)
    assert end.energy_eV_per_atom < start.energy_eV_per_atom


def test_the_time_limit_is_a_failure_with_its_figure(engine):
    failure = relax(engine, NACL, RelaxOptions(fmax_eV_per_A=1e-9), GUARDS, time_limit_s=1e-6)
    assert isinstance(failure, CalculationFailure)
    assert "1e-06 s" in failure.reason


def test_site_properties_and_order_survive(engine):
    crystal = NACL.copy()
    crystal.add_site_property("tag", ["first", "second"])
    symbols = [site.specie.symbol for site in crystal]
    end = relax(engine, crystal, RelaxOptions(max_steps=3), GUARDS)
    assert end.structure.site_properties["tag"] == ["first", "second"]
    assert [site.specie.symbol for site in end.structure] == symbols


class Cliff:
    """A potential whose energy falls for ever as the crystal swells."""

    def evaluate(self, structure):
        n = len(structure)
        return SinglePoint(
            energy_eV_per_atom=-0.05 * structure.volume / n,
            forces_eV_per_A=np.zeros((n, 3)),
            stress_GPa=-np.eye(3) * 0.05 * 160.21766,
        )


def test_a_crystal_that_flies_apart_is_refused():
    failure = relax(Cliff(), NACL, RelaxOptions(), GUARDS)
    assert isinstance(failure, CalculationFailure)
    assert "+150%" in failure.reason


class Broken:
    """A potential that answers nonsense once the crystal was moved."""

    def __init__(self, engine):
        self.engine, self.calls = engine, 0

    def evaluate(self, structure):
        self.calls += 1
        answer = self.engine.evaluate(structure)
        if self.calls == 2:
            return SinglePoint(1e12, answer.forces_eV_per_A, answer.stress_GPa)
        return answer


def test_one_absurd_answer_sends_the_crystal_to_fire_from_its_start(engine):
    spoiled = NACL.copy()
    spoiled.apply_strain(0.03)
    end = relax(Broken(engine), spoiled, RelaxOptions(), GUARDS)
    assert isinstance(end, Relaxation)
    assert end.converged
    assert end.optimizer == "FIRE"

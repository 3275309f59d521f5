"""CHGNet behind the Potential protocol: right numbers, in the right order, whichever way."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import ChgnetPotential, identify
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions, SinglePoint
from matterloop.loop.errors import PotentialError


def rock_salt(a: float, cation: str, anion: str) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


NACL = rock_salt(5.60, "Na", "Cl")
MGO = rock_salt(4.20, "Mg", "O")
SI = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def alone():
    """A potential that never starts a process: every call here brings one or two crystals."""
    with ChgnetPotential() as potential:
        yield potential
        assert potential.worker_pids == []


@pytest.fixture(scope="module")
def pooled():
    with ChgnetPotential(ChgnetPotential.Settings(workers=2)) as potential:
        yield potential


@pytest.fixture(scope="module")
def reference():
    """CHGNet as its authors offer it."""
    from chgnet.model.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("crystal", [SI, NACL, MGO], ids=["Si", "NaCl", "MgO"])
def test_numbers_are_those_of_chgnet_itself(alone, reference, crystal):
    theirs = reference.predict_structure(crystal, return_crystal_feas=True)
    (ours,) = alone.single_points([crystal])
    assert isinstance(ours, SinglePoint)
    assert ours.energy_eV_per_atom == pytest.approx(float(theirs["e"]), abs=2e-6)
    np.testing.assert_allclose(ours.forces_eV_per_A, theirs["f"], atol=1e-5)
    np.testing.assert_allclose(ours.stress_GPa, theirs["s"], atol=1e-4)
    assert ours.embedding.shape == (64,)
    np.testing.assert_allclose(ours.embedding, theirs["crystal_fea"], atol=1e-5)


def test_forces_are_minus_the_gradient(alone):
    crystal = NACL.copy()
    crystal.perturb(0.15, seed=3)
    step = 0.01
    (here,) = alone.single_points([crystal])
    for atom, axis in [(0, 0), (1, 2)]:
        ends = []
        for sign in (1, -1):
            moved = crystal.copy()
            shift = np.zeros(3)
            shift[axis] = sign * step
            moved.translate_sites([atom], shift, frac_coords=False)
            ends.append(moved)
        up, down = (x.energy_eV_per_atom * len(crystal) for x in alone.single_points(ends))
        assert here.forces_eV_per_A[atom, axis] == pytest.approx(
            -(up - down) / (2 * step), abs=5e-3
        )


def test_stress_is_positive_under_tension(alone):
    """Trace of the stress against the derivative of the energy by volume."""
    tight, wide = rock_salt(5.4, "Na", "Cl"), rock_salt(6.0, "Na", "Cl")
    pressed, stretched = alone.single_points([tight, wide])
    assert np.trace(pressed.stress_GPa) < 0 < np.trace(stretched.stress_GPa)
    around = [rock_salt(a, "Na", "Cl") for a in (5.99, 6.01)]
    low, high = (x.energy_eV_per_atom * 2 for x in alone.single_points(around))
    slope_GPa = (high - low) / (around[1].volume - around[0].volume) * 160.21766
    assert np.trace(stretched.stress_GPa) / 3 == pytest.approx(slope_GPa, rel=0.02)


def test_the_identity_names_version_weights_and_corrections():
    identity = ChgnetPotential().identity
    assert identity.name == "chgnet-0.3.0"
    assert identity.correction_scheme == "MP2020"
    assert len(identity.sha256) == 64
    others = [identify("0.2.0"), identify("r2scan")]
    assert len({identity.sha256, *(other.sha256 for other in others)}) == 3
    assert others[1].correction_scheme == "none"
    with pytest.raises(PotentialError, match=r"9\.9\.9"):
        identify("9.9.9")


def test_energies_of_another_version_differ():
    with ChgnetPotential(ChgnetPotential.Settings(version="r2scan")) as other:
        (r2scan,) = other.single_points([SI])
    with ChgnetPotential() as default:
        (pbe,) = default.single_points([SI])
    assert abs(r2scan.energy_eV_per_atom - pbe.energy_eV_per_atom) > 0.5


def test_the_pool_and_this_process_agree_bit_for_bit(alone, pooled):
    crystals = [SI, NACL, MGO, rock_salt(5.3, "Na", "Cl"), rock_salt(4.5, "Mg", "O")]
    shaken = []
    for number, crystal in enumerate(crystals):
        shaken.append(crystal.copy())
        shaken[-1].perturb(0.05, seed=number)
    together = pooled.single_points(shaken)
    assert len(pooled.worker_pids) == 2
    relaxed = dict(pooled.relax(shaken, RelaxOptions(max_steps=40)))
    assert sorted(relaxed) == list(range(len(shaken)))
    for index, crystal in enumerate(shaken):
        (single,) = alone.single_points([crystal])
        assert single.energy_eV_per_atom == together[index].energy_eV_per_atom
        np.testing.assert_array_equal(single.forces_eV_per_A, together[index].forces_eV_per_A)
        np.testing.assert_array_equal(single.stress_GPa, together[index].stress_GPa)
        np.testing.assert_array_equal(single.embedding, together[index].embedding)
        ((_, again),) = alone.relax([crystal], RelaxOptions(max_steps=40))
        assert again.energy_eV_per_atom == relaxed[index].energy_eV_per_atom
        assert again.steps == relaxed[index].steps
        assert again.structure == relaxed[index].structure
        np.testing.assert_array_equal(
            again.structure.frac_coords, relaxed[index].structure.frac_coords
        )
        np.testing.assert_array_equal(
            again.structure.lattice.matrix, relaxed[index].structure.lattice.matrix
        )


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=st.permutations(range(6)))
def test_results_come_in_the_order_of_the_input(pooled, order):
    crystals = [rock_salt(5.2 + 0.1 * index, "Na", "Cl") for index in order]
    energies = [x.energy_eV_per_atom for x in pooled.single_points(crystals)]
    by_lattice = dict(zip(order, energies, strict=True))
    expected = [x.energy_eV_per_atom for x in pooled.single_points(crystals[::-1])][::-1]
    assert energies == expected
    assert len(set(by_lattice.values())) == 6


def test_an_empty_list_costs_nothing(alone):
    assert alone.single_points([]) == []
    assert list(alone.relax([], RelaxOptions())) == []


def test_the_workshop_says_how_many_processes():
    workshop = SimpleNamespace(workers=7)
    assert ChgnetPotential(ChgnetPotential.Settings(), workshop).workers == 7
    assert ChgnetPotential(ChgnetPotential.Settings(workers=3), workshop).workers == 3


def test_building_a_potential_imports_no_torch():
    code = (
        "import sys; from matterloop.adapters.potentials.chgnet import ChgnetPotential;"
        "ChgnetPotential().identity; print('torch' in sys.modules, 'chgnet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_elements_that_chgnet_never_saw_are_refused(alone):
    polonium = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
    (answer,) = alone.single_points([polonium])
    assert isinstance(answer, CalculationFailure)
    assert "Po" in answer.reason


def test_the_threads_of_the_caller_are_left_alone(alone):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone.single_points([SI])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_relaxation_reports_what_it_did(alone):
    strained = rock_salt(5.3, "Na", "Cl")
    ((index, result),) = alone.relax([strained], RelaxOptions())
    assert index == 0
    assert isinstance(result, Relaxation)
    (end,) = alone.single_points([result.structure])
    assert end.energy_eV_per_atom == result.energy_eV_per_atom
    np.testing.assert_array_equal(end.embedding, result.embedding)
    assert result.volume_change == pytest.approx(result.structure.volume / strained.volume - 1)

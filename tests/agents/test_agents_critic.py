"""The physical critic: valid, unique, novel, each with its figures."""

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.agents.critic.physical import PhysicalCritic
from matterloop.agents.generator.substitution import SubstitutionGenerator
from matterloop.loop.candidate import Conditions
from matterloop.loop.errors import UsageError
from matterloop.loop.spec import SearchSpace

CELL = Lattice([[0, 2.57, 2.57], [2.57, 0, 2.57], [2.57, 2.57, 0]])
LICL = Structure(CELL, ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ZINCBLENDE = Structure(CELL, ["Li", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])
CRUSHED = Structure(Lattice.cubic(3.4), ["Li", "Cl"], [[0, 0, 0], [0.3, 0, 0]])


def critic(**settings):
    return PhysicalCritic(PhysicalCritic.Settings(**settings))


def by_check(verdicts):
    return {v.check: v for v in verdicts}


def refused(verdicts):
    return [v.check for v in verdicts if v.decisive and not v.passed]


def test_a_sound_crystal_passes_with_figures():
    (verdicts,) = critic().judge([LICL], [])
    assert refused(verdicts) == []
    named = by_check(verdicts)
    assert named["valid"].passed
    assert named["valid"].decisive
    assert named["unique"].passed
    assert "novel" not in named  # nothing to judge it by
    for check in ("volume", "density", "unique"):
        assert any(c.isdigit() for c in named[check].reason)


def test_atoms_inside_each_other_are_refused_and_not_compared():
    (verdicts,) = critic().judge([CRUSHED], [])
    assert refused(verdicts) == ["valid"]
    assert not by_check(verdicts)["distances"].passed
    assert "unique" not in by_check(verdicts)
    loose = critic(distance_factor=0.3).judge([CRUSHED], [])[0]
    assert by_check(loose)["distances"].passed


def test_of_like_crystals_the_first_wins():
    shifted = LICL.copy()
    shifted.translate_sites([0, 1], [0.1, 0.2, 0.3])
    supercell = LICL.copy()
    supercell.make_supercell([2, 1, 1])
    judged = critic().judge([LICL, ZINCBLENDE, shifted, supercell], [])
    assert [by_check(v)["unique"].passed for v in judged] == [True, True, False, False]
    assert "candidate 1 of this batch" in by_check(judged[2])["unique"].reason


def test_earlier_candidates_count_and_invalid_ones_do_not():
    judged = critic().judge([LICL, ZINCBLENDE], [CRUSHED, ZINCBLENDE])
    assert [by_check(v)["unique"].passed for v in judged] == [True, False]
    assert "earlier candidate 2" in by_check(judged[1])["unique"].reason


def test_a_charge_that_cannot_balance():
    odd = Structure(Lattice.cubic(4.2), ["Li", "Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])  # fmt: skip  # noqa: E501
    assert refused(critic().judge([odd], [])[0]) == ["valid"]
    assert refused(critic(charge="flag").judge([odd], [])[0]) == []


def test_a_known_crystal_is_flagged_and_refused_only_on_demand(tmp_path):
    (tmp_path / "rock-salt.cif").write_text(LICL.to(fmt="cif"))
    gentle = critic(reference_structures=(str(tmp_path),))
    known, new = gentle.judge([LICL, ZINCBLENDE], [])
    assert not by_check(known)["novel"].passed
    assert "rock-salt" in by_check(known)["novel"].reason
    assert refused(known) == []
    assert by_check(new)["novel"].passed
    strict = critic(reference_structures=(str(tmp_path),), refuse_known=True)
    assert refused(strict.judge([LICL], [])[0]) == ["novel"]


def test_a_missing_reference_file_is_named():
    with pytest.raises(UsageError, match="nowhere"):
        critic(reference_structures=("nowhere.csv",))


def test_most_proposals_of_the_generator_are_valid():
    generator = SubstitutionGenerator(SubstitutionGenerator.Settings())
    space = SearchSpace(chemical_system="Li-P-S-Cl", max_atoms=16)
    proposals = generator.sample(40, Conditions(space), guidance_scale=0.3, seed=1)
    judged = critic().judge([c.structure for c in proposals], [])
    assert sum(by_check(v)["valid"].passed for v in judged) >= 36
    assert sum(by_check(v).get("unique", v[0]).passed for v in judged) >= 30

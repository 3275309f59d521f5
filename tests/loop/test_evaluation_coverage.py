"""Fingerprints, coverage and Wasserstein distances."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.coverage import coverage, distribution_distances
from matterloop.loop.evaluation.fingerprints import (
    Fingerprint,
    composition_fingerprint,
    fingerprints,
    structure_fingerprint,
)
from matterloop.loop.evaluation.records import Records


def salt(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def diamond() -> Structure:
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]]
    ).get_primitive_structure()


def test_sites_of_known_coordination():
    # Order of the figures: the weight of each coordination number, then its motifs.
    octahedral, tetrahedral = structure_fingerprint(salt()), structure_fingerprint(diamond())
    assert octahedral.shape == (61,)
    six, four = 22, 12
    assert octahedral[six] == pytest.approx(1, abs=0.01)
    assert octahedral[six + 2] == pytest.approx(1, abs=0.01)
    assert tetrahedral[four] == pytest.approx(1, abs=0.01)
    assert tetrahedral[four + 2] == pytest.approx(1, abs=0.01)


def test_matminers_own_figures():
    # ElementProperty.from_preset("magpie") of matminer 0.10.1: number, electronegativity
    figures = composition_fingerprint({"Fe": 2, "O": 3})
    assert figures.shape == (132,)
    assert figures[:6] == pytest.approx([8, 26, 18, 15.2, 8.64, 8])
    assert figures[42:48] == pytest.approx([1.83, 3.44, 1.61, 2.796, 0.7728, 3.44])


def test_composition_beyond_the_table():
    with pytest.raises(UsageError, match="Og"):
        composition_fingerprint({"Og": 1})


def test_fingerprints_are_kept_and_failures_are_none(tmp_path):
    records = Records(tmp_path / "f.jsonl")
    beyond_the_table = salt(5.0, "Es", "O")
    crystals = [salt(), None, beyond_the_table, salt()]
    first = fingerprints(crystals, records)
    assert first[1] is None
    assert first[2] is None
    assert first[0] is not None
    lines = (tmp_path / "f.jsonl").read_text()
    again = fingerprints(crystals, Records(tmp_path / "f.jsonl"))
    assert (tmp_path / "f.jsonl").read_text() == lines
    assert again[0] is not None
    assert (again[0].structure == first[0].structure).all()


def fingerprint(crystal: Structure, tmp_path) -> Fingerprint:
    found = fingerprints([crystal], Records(tmp_path / "f.jsonl"))[0]
    assert found is not None
    return found


def test_a_set_covers_itself(tmp_path):
    crystals = [fingerprint(c, tmp_path) for c in (salt(), diamond())]
    found = coverage(crystals, crystals)
    assert found is not None
    assert found.recall.fraction == found.precision.fraction == 1
    assert found.structure_distance == (0, 0)


def test_missing_fingerprints_count_against_precision_and_rare_kinds_against_recall(tmp_path):
    made = [fingerprint(salt(), tmp_path), None, None]
    real = [fingerprint(salt(5.1, "K", "F"), tmp_path), fingerprint(diamond(), tmp_path)]
    found = coverage(made, real)
    assert found is not None
    assert (found.precision.count, found.precision.samples) == (1, 3)
    assert (found.recall.count, found.recall.samples) == (1, 2)
    assert coverage([None], real) is None


def test_distances_of_shifted_distributions():
    crystals = [salt(), salt(4.2, "Mg", "O")]
    same = distribution_distances(crystals, crystals)
    assert same is not None
    assert (same.density_g_cm3, same.n_elements, same.n_atoms) == (0, 0, 0)
    apart = distribution_distances([diamond()], [salt()])
    assert apart is not None
    assert apart.n_elements == 1
    assert apart.n_atoms == 0
    expected = abs(float(diamond().density) - float(salt().density))
    assert apart.density_g_cm3 == pytest.approx(expected)
    assert distribution_distances([], crystals) is None
    assert np.isfinite(apart.density_g_cm3)

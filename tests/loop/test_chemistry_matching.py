"""Uniqueness and novelty: the index must find whatever the matcher would find."""

import csv
import gzip
import itertools
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.core.operations import SymmOp

from matterloop.loop.chemistry.matching import MatchTolerances, StructureIndex
from matterloop.loop.errors import UsageError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def cubic(group, a, species, sites):
    return Structure.from_spacegroup(group, Lattice.cubic(a), species, sites)


def face_centred(a, species, basis):
    """Repeat a basis on a face-centred lattice, which takes ``from_spacegroup`` 0.7 s."""
    centres = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = [
        (symbol, centre + offset)
        for symbol, offset in zip(species, basis, strict=True)
        for centre in centres
    ]
    symbols, coordinates = zip(*sites, strict=True)
    return Structure(Lattice.cubic(a), symbols, coordinates)


HALF, QUARTER, MINUS = [0.5] * 3, [0.25] * 3, [0.75] * 3
CRYSTALS = {
    "rock salt": face_centred(5.64, ["Na", "Cl"], [[0] * 3, HALF]),
    "caesium chloride": cubic("Pm-3m", 3.6, ["Na", "Cl"], [[0] * 3, HALF]),
    "zincblende NaCl": face_centred(6.1, ["Na", "Cl"], [[0] * 3, QUARTER]),
    "fluorite": face_centred(5.46, ["Ca", "F", "F"], [[0] * 3, QUARTER, MINUS]),
    "antifluorite": face_centred(5.71, ["S", "Li", "Li"], [[0] * 3, QUARTER, MINUS]),
    "zincblende": face_centred(5.41, ["Zn", "S"], [[0] * 3, QUARTER]),
    "wurtzite": Structure.from_spacegroup(
        "P6_3mc",
        Lattice.hexagonal(3.82, 6.26),
        ["Zn", "S"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]],
    ),
    "rutile": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    ),
    "perovskite": cubic("Pm-3m", 3.9, ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]),
    "diamond": face_centred(3.57, ["C", "C"], [[0] * 3, QUARTER]),
    "fcc": face_centred(3.6, ["Ni"], [[0] * 3]),
    "bcc": Structure(Lattice.cubic(2.8), ["Ni", "Ni"], [[0] * 3, HALF]),
    "spinel": cubic("Fd-3m", 8.2, ["Li", "Mn", "O"], [[0] * 3, [0.625] * 3, [0.3873] * 3]),
}


def disguised(structure, rng, strain=0.0, noise=0.0, supercell=True):
    """Describe the same crystal, or a slightly deformed one, in another way."""
    new = structure.copy()
    if noise:
        new.perturb(noise, seed=int(rng.integers(2**31)))
    if strain:
        new.apply_strain(rng.uniform(-strain, strain, 3))
    if supercell:
        new.make_supercell(rng.permutation([1, 1, 2]))
    shear = np.eye(3, dtype=int)
    shear[0, 1] = rng.integers(-1, 2)
    new.make_supercell(shear)
    axis = rng.normal(size=3)
    new.apply_operation(SymmOp.from_axis_angle_and_translation(axis, rng.uniform(0, 360)))
    new.translate_sites(range(len(new)), rng.uniform(size=3))
    order = rng.permutation(len(new))
    return Structure.from_sites([new[int(i)] for i in order])


@pytest.mark.parametrize("name", CRYSTALS)
def test_another_description_of_a_crystal_is_the_same_crystal(name):
    index = StructureIndex()
    for label, structure in CRYSTALS.items():
        index.add(structure, label)
    rng = np.random.default_rng(len(name))
    for _ in range(3):
        assert index.find(disguised(CRYSTALS[name], rng)).label == name


def test_polymorphs_and_other_elements_are_told_apart():
    index = StructureIndex()
    for label, structure in CRYSTALS.items():
        assert index.find_or_add(structure, label) is None
    assert len(index) == len(CRYSTALS)
    swapped = CRYSTALS["rock salt"].copy()
    swapped.replace_species({"Na": "K"})
    assert index.find(swapped) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(CRYSTALS)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 0.1]),
    st.sampled_from([0.0, 0.01, 0.1, 0.3]),
)
def test_the_index_finds_what_the_bare_matcher_finds(name, seed, strain, noise):
    # also with noise that makes the primitive cell large, when the matcher itself may say no
    rng = np.random.default_rng(seed)
    candidate = disguised(CRYSTALS[name], rng, strain, noise, supercell=bool(seed % 2))
    matcher = StructureMatcher()
    for label, known in CRYSTALS.items():
        if known.composition.reduced_formula == candidate.composition.reduced_formula:
            index = StructureIndex()
            index.add(known, label)
            assert (index.find(candidate) is not None) == matcher.fit(known, candidate)


def test_annotations_do_not_make_a_crystal_new():
    index = StructureIndex()
    index.add(CRYSTALS["rock salt"], "plain")
    annotated = CRYSTALS["rock salt"].copy()
    annotated.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    annotated.add_site_property("magmom", [0.0] * len(annotated))
    assert index.find(annotated).label == "plain"


def test_tolerances_are_obeyed():
    stretched = CRYSTALS["rutile"].copy()
    stretched.apply_strain([0, 0, 0.1])
    loose, tight = StructureIndex(), StructureIndex(MatchTolerances(ltol=0.02))
    for index in (loose, tight):
        index.add(CRYSTALS["rutile"], "rutile")
    assert loose.find(stretched) is not None
    assert tight.find(stretched) is None


def test_the_matcher_is_asked_about_the_same_primitive_counts_only():
    index = StructureIndex()
    symbols = ["Li", "Na", "K", "Rb", "Cs"]
    halogens = ["F", "Cl", "Br", "I"]
    for cation, anion in itertools.product(symbols, halogens):
        salt = CRYSTALS["rock salt"].copy()
        salt.replace_species({"Na": cation, "Cl": anion})
        assert index.find_or_add(salt, f"{cation}{anion}") is None
    assert len(index) == 20
    assert index.comparisons == 0
    assert index.find(CRYSTALS["caesium chloride"]) is None
    assert index.comparisons == 1


def test_the_first_of_several_matches_is_returned():
    index = StructureIndex()
    for label in ("first", "second"):
        index.add(CRYSTALS["diamond"], label)
    assert index.find(CRYSTALS["diamond"]).label == "first"


def test_disorder_and_cells_without_volume_are_refused():
    mixed = Structure(Lattice.cubic(4), [{"Li": 0.5, "Na": 0.5}], [[0, 0, 0]])
    with pytest.raises(UsageError, match="disordered"):
        StructureIndex().find(mixed)
    flat = Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Li"], [[0, 0, 0]])
    with pytest.raises(UsageError, match="cell of 0 A"):
        StructureIndex().find(flat)


@pytest.mark.shared_data
def test_on_real_polymorphs_the_index_agrees_with_the_bare_matcher():
    path = SHARED / "mp_le20.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout")
    groups = defaultdict(list)
    with gzip.open(path, "rt", newline="") as stream:
        for row in csv.DictReader(stream):
            groups[row["pretty_formula"]].append(row["cif"])
    chosen = sorted(f for f, cifs in groups.items() if 4 <= len(cifs) <= 6)[::10][:10]
    assert len(chosen) >= 8
    matcher, rng, agreed = StructureMatcher(), np.random.default_rng(3), 0
    for formula in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on coordinates rounded to ideal values
            crystals = [Structure.from_str(cif, fmt="cif") for cif in groups[formula]]
        for known in crystals:
            index = StructureIndex()
            index.add(known, formula)
            for other in crystals:
                candidate = disguised(other, rng, strain=0.01, noise=0.01, supercell=False)
                expected = matcher.fit(known, candidate)
                assert (index.find(candidate) is not None) == expected
                agreed += expected
    assert agreed >= 40  # every crystal matches itself at least

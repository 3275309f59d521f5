"""The data set: a split without leaks, hashes of content, counts."""

import csv
import gzip
import hashlib
import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from matterloop.loop.dataset import (
    LABEL_UNITS,
    LabelledStructure,
    SplitFractions,
    crystal_system_of,
    dataset_sha256,
    deduplicate,
    part_of,
    split_by_composition,
    summarise,
    with_geometry_labels,
)
from matterloop.loop.errors import UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mp_le20.csv.gz"
ELEMENTS = ["Li", "Na", "Mg", "O", "S", "Cl"]


def rock_salt(cation="Na", anion="Cl", a=5.64, **known):
    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    return LabelledStructure(structure, **known)


def caesium_chloride(cation="Na", anion="Cl", a=3.4, **known):
    structure = Structure(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return LabelledStructure(structure, **known)


formulas = st.dictionaries(st.sampled_from(ELEMENTS), st.integers(1, 12), min_size=1, max_size=4)


@given(formulas, st.integers(1, 4))
def test_polymorphs_and_multiples_of_a_formula_fall_into_the_same_part(counts, multiple):
    one = Composition(counts).reduced_formula
    many = Composition({e: n * multiple for e, n in reversed(counts.items())}).reduced_formula
    assert part_of(one) == part_of(many)


@given(formulas)
def test_the_rule_of_the_split_is_the_documented_hash(counts):
    formula = Composition(counts).reduced_formula
    place = int(hashlib.sha256(formula.encode()).hexdigest()[:8], 16) / 2**32
    wanted = "test" if place < 0.05 else "validation" if place < 0.10 else "train"
    assert part_of(formula) == wanted


def test_known_places_of_the_split_never_move():
    parts = {"MgO": "test", "SnO2": "validation", "NaCl": "train", "BaTiO3": "train"}
    assert {name: part_of(name) for name in parts} == parts


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(["NaCl", "KCl", "LiF", "MgO", "CaS", "BaSe", "RbBr", "CsI"])),
    st.integers(0, 5),
    st.floats(0, 0.5),
    st.floats(0, 0.45),
)
def test_the_split_loses_nothing_and_shares_no_composition(names, seed, test, validation):
    items = [
        caesium_chloride(*split_symbols(name), a=3 + i / 100, identifier=str(i))
        for i, name in enumerate(names)
    ]
    split = split_by_composition(items, SplitFractions(test, validation), seed)
    parts = (split.train, split.validation, split.test)
    found = [item.identifier for part in parts for item in part]
    assert sorted(found, key=int) == [str(i) for i in range(len(items))]
    compositions = [{item.reduced_formula for item in part} for part in parts]
    assert sum(map(len, compositions)) == len(set().union(*compositions))
    for part in parts:
        assert [int(item.identifier) for item in part] == sorted(int(i.identifier) for i in part)


def split_symbols(formula):
    return list(Composition(formula).get_el_amt_dict())


def test_another_seed_divides_otherwise_and_the_shares_hold():
    names = [f"{a}{n}{b}{m}" for a in ELEMENTS for b in ELEMENTS for n in range(1, 8)
             for m in range(1, 8) if a < b]  # fmt: skip
    for seed in (None, 1, 2):
        shares = [part_of(name, seed=seed) for name in names]
        assert shares.count("test") / len(names) == pytest.approx(0.05, abs=0.03)
        assert shares.count("validation") / len(names) == pytest.approx(0.05, abs=0.03)
    assert [part_of(n, seed=1) for n in names] != [part_of(n, seed=2) for n in names]


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(UsageError, match="together below 1"):
        SplitFractions(*shares)


@pytest.mark.parametrize(
    "labels",
    [
        {"band_gap": float("nan")},
        {"band_gap": "wide"},
        {"space_group": 225},
        {"density": True},
        {"bulk_modulus": float("inf")},
    ],
)
def test_a_label_that_is_none_is_refused(labels):
    with pytest.raises(UsageError, match="mp-1"):
        rock_salt(labels=labels, identifier="mp-1")


def test_the_hash_is_of_the_content_only():
    first = rock_salt(labels={"band_gap": 5.0}, source="a", identifier="1")
    moved = first.structure.copy()
    moved.translate_sites([0], [1, 0, 0], to_unit_cell=False)
    same = LabelledStructure(moved, {"band_gap": 5.0 + 1e-12}, "b", "2")
    other = rock_salt(labels={"band_gap": 5.1})
    assert dataset_sha256([first]) == dataset_sha256([same])
    assert dataset_sha256([first, other]) == dataset_sha256([other, same])
    assert len({dataset_sha256(d) for d in ([first], [other], [first, first], [])}) == 4


def test_deduplication_keeps_the_first_of_each_crystal():
    items = [
        rock_salt(identifier="a"),
        caesium_chloride(identifier="b"),
        rock_salt(a=5.7, identifier="c"),
        rock_salt("K", identifier="d"),
    ]
    doubled = LabelledStructure(items[0].structure * (2, 1, 1), identifier="e")
    assert [item.identifier for item in deduplicate([*items, doubled])] == ["a", "b", "d"]


def test_geometry_labels_are_those_of_the_crystal():
    found = with_geometry_labels(rock_salt(labels={"band_gap": 5.0}, identifier="x")).labels
    assert found["space_group"] == "225"
    assert found["crystal_system"] == "cubic"
    assert found["density"] == pytest.approx(2.16, abs=0.02)
    assert found["band_gap"] == 5.0
    told = with_geometry_labels(rock_salt(labels={"space_group": "1"})).labels
    assert (told["space_group"], told["crystal_system"]) == ("1", "triclinic")


def test_crystal_systems_cover_all_space_groups():
    from pymatgen.symmetry.groups import SpaceGroup

    numbers = [1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195, 230]
    for number in numbers:
        assert crystal_system_of(number) == SpaceGroup.from_int_number(number).crystal_system
    with pytest.raises(UsageError, match="1 to 230"):
        crystal_system_of(231)


def test_the_generator_knows_every_label_and_the_systems_in_the_order_of_its_weights():
    conditioning = pytest.importorskip("matterloop.agents.generator.diffusion.conditioning")
    assert set(LABEL_UNITS) == set(conditioning.LABELS)
    for label, condition in conditioning.CONTINUOUS_LABELS.items():
        assert LABEL_UNITS[label] == condition.unit
    assert conditioning.CATEGORICAL_LABELS["crystal_system"] == (
        "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic",
    )  # fmt: skip


def test_the_summary_counts():
    items = [
        rock_salt(labels={"band_gap": 5.0}, source="a"),
        caesium_chloride(source="b"),
        rock_salt("Li", "F", 4.0, labels={"band_gap": 8.0, "density": 2.6}, source="a"),
    ]
    summary = summarise(items)
    assert (summary.n_structures, summary.n_compositions, summary.n_elements) == (3, 2, 4)
    assert summary.n_atoms == (2, 2)
    assert summary.labelled == {"band_gap": 2, "density": 1}
    assert summary.sources == {"a": 2, "b": 1}
    assert list(summary.elements.items())[:2] == [("Cl", 2), ("Na", 2)]
    assert "3 structures of 2 compositions" in str(summary)
    assert summarise([]).n_atoms == (0, 0)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED.name} is not beside the checkout")
def test_shares_of_the_real_data_are_near_those_asked_for():
    with gzip.open(SHARED) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        names = {Composition(row["pretty_formula"]).reduced_formula for row in islice(rows, 4000)}
    shares = np.array([[part_of(n) == part for part in ("test", "validation")] for n in names])
    assert shares.mean(axis=0) == pytest.approx([0.05, 0.05], abs=0.01)

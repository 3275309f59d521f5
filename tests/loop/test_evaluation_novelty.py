"""Uniqueness and novelty, and the formula index that stands in for the training data."""

import gzip

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.novelty import (
    FormulaIndex,
    ReferenceStructures,
    formula_index,
    formula_novelty,
    novelty,
    read_formula_index,
    uniqueness,
)


def salt(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def caesium_chloride_type() -> Structure:
    return Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def nickel_arsenide_type() -> Structure:
    return Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(3.9, 6.3),
        ["Na", "Cl"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.25]],
    )


@pytest.fixture
def known_folder(tmp_path):
    salt().to(filename=str(tmp_path / "salt.cif"))
    salt(4.2, "Mg", "O").to(filename=str(tmp_path / "periclase.cif"))
    return tmp_path


def test_the_first_of_duplicates_counts():
    doubled = salt().copy()
    doubled.make_supercell([2, 1, 1])
    crystals = [salt(), doubled, caesium_chloride_type(), None, salt(5.7), salt(4.2, "Mg", "O")]
    assert uniqueness(crystals) == [True, False, True, False, False, True]


def test_novelty_against_crystals(known_folder):
    known = ReferenceStructures(known_folder)
    crystals = [salt(5.6), caesium_chloride_type(), None, salt(5.1, "K", "F")]
    assert novelty(crystals, known) == [False, True, False, True]
    assert formula_novelty(crystals, known) == [False, False, False, True]
    assert known.basis.kind == "structures"
    assert known.basis.size == 2


def test_any_source_gives_the_same_answer(known_folder, tmp_path):
    from ase import Atoms
    from ase.io import write

    crystals = [salt(), salt(4.2, "Mg", "O")]
    write(
        tmp_path / "known.extxyz",
        [
            Atoms(
                numbers=s.atomic_numbers, cell=s.lattice.matrix, positions=s.cart_coords, pbc=True
            )
            for s in crystals
        ],
    )
    known = ReferenceStructures(tmp_path / "known.extxyz")
    asked = [salt(5.6), caesium_chloride_type(), salt(5.1, "K", "F")]
    assert novelty(asked, known) == novelty(asked, ReferenceStructures(known_folder))
    assert formula_novelty(asked, known) == [False, False, True]


def test_only_the_training_part_counts_as_known(known_folder):
    from matterloop.loop.dataset import part_of

    parts = {formula: part_of(formula) for formula in ("NaCl", "MgO")}
    for part in ("train", "validation", "test"):
        known = ReferenceStructures(known_folder, part=part)
        assert known.basis.size == list(parts.values()).count(part)
        assert novelty([salt()], known) == [parts["NaCl"] != part]


def test_formula_index_answers_a_lower_bound():
    index = read_formula_index(formula_index([salt(), salt(4.2, "Mg", "O")], "two salts"))
    crystals = [salt(5.6), caesium_chloride_type(), nickel_arsenide_type(), salt(5.1, "K", "F")]
    # One formula unit in the cell was known of NaCl: another structure of one cannot be told from
    # it, one of two units surely is another crystal.
    assert novelty(crystals, index) == [False, False, True, True]
    assert formula_novelty(crystals, index) == [False, False, False, True]
    assert index.basis.kind == "formulas"
    assert index.basis.source == "two salts"


def test_formula_index_does_not_depend_on_order():
    crystals = [salt(5.0, m, x) for m in ("Li", "K") for x in ("O", "F")]
    data = formula_index(crystals, "salts")
    assert formula_index(crystals[::-1], "salts") == data
    assert set(read_formula_index(data).units) == {"LiO", "FLi", "KO", "FK"}


@pytest.mark.parametrize("data", [b"", b"text", gzip.compress(b"{}"), gzip.compress(b'["x"]\nA 1')])
def test_something_else_is_no_formula_index(data):
    with pytest.raises(UsageError, match="no formula index"):
        read_formula_index(data)


def test_truncated_index_is_refused():
    data = formula_index([salt(), salt(4.2, "Mg", "O")], "two salts")
    text = gzip.decompress(data).decode().splitlines()
    with pytest.raises(UsageError, match="no formula index"):
        read_formula_index(gzip.compress("\n".join(text[:-1]).encode()))


def test_formula_index_by_hand():
    assert FormulaIndex({"NaCl": [1]}).knows_formula({"Cl": 2, "Na": 2})
    assert not FormulaIndex({"NaCl": [1]}).knows_formula({"Cl": 2, "Na": 1})

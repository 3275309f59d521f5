"""Crystals are stored once, by content."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from sqlalchemy import func, select

from matterloop.loop.errors import LedgerError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.ledger import StructureRow, get_structure, put_structure, reading, writing
from matterloop.loop.ledger.structures import structure_content


def rock_salt(a: float = 5.13) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", "Cl"], [[0] * 3, [0.5] * 3])


def test_a_crystal_comes_back_as_it_was_stored(ledger_engine):
    crystal = rock_salt()
    with writing(ledger_engine) as session:
        sha256 = put_structure(session, crystal)
    with reading(ledger_engine) as session:
        row = session.get_one(StructureRow, sha256)
        back = get_structure(row)
    assert (row.reduced_formula, row.chemical_system, row.n_atoms) == ("LiCl", "Cl-Li", 8)
    assert row.space_group == 225
    assert row.volume_A3 == pytest.approx(5.13**3)
    assert row.density_g_cm3 == pytest.approx(crystal.density)
    assert back == crystal
    assert [s.symbol for s in back.species] == [s.symbol for s in crystal.species]
    assert content_hash(structure_content(back)) == sha256


def test_the_same_content_is_stored_once(ledger_engine):
    crystal = rock_salt()
    shifted = crystal.copy()
    shifted.translate_sites([0, 3], [1, -2, 0], to_unit_cell=False)
    noisy = Structure(crystal.lattice.matrix + 1e-11, crystal.species, crystal.frac_coords - 1e-12)
    decorated = crystal.copy()
    decorated.add_oxidation_state_by_element({"Li": 1, "Cl": -1})
    with writing(ledger_engine) as session:
        found = {put_structure(session, s) for s in (crystal, shifted, noisy, decorated)}
        assert len(found) == 1
        assert session.scalar(select(func.count()).select_from(StructureRow)) == 1


def test_another_content_is_another_row():
    crystal = rock_salt()
    strained = rock_salt(5.130001)
    permuted = Structure.from_sites(list(reversed(crystal)))
    moved = crystal.copy()
    moved.translate_sites([0], [1e-6, 0, 0])
    hashes = {content_hash(structure_content(s)) for s in (crystal, strained, permuted, moved)}
    assert len(hashes) == 4


def test_many_writers_of_one_crystal_do_not_collide(ledger_engine):
    crystal = rock_salt()

    def put(_: int) -> str:
        with writing(ledger_engine) as session:
            return put_structure(session, crystal)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(put, range(8)))) == 1
    with reading(ledger_engine) as session:
        assert session.scalar(select(func.count()).select_from(StructureRow)) == 1


def test_disordered_and_infinite_crystals_are_refused(ledger_engine):
    disordered = Structure(Lattice.cubic(4), [{"Li": 0.5, "Na": 0.5}], [[0, 0, 0]])
    nowhere = Structure(Lattice.cubic(4), ["Li"], [[np.nan, 0, 0]])
    with writing(ledger_engine) as session:
        with pytest.raises(LedgerError, match="several elements"):
            put_structure(session, disordered)
        with pytest.raises(LedgerError, match="not finite"):
            put_structure(session, nowhere)


coordinate = st.floats(-3, 3, allow_nan=False)


@settings(deadline=None)
@given(coords=st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=4))
def test_content_is_wrapped_stable_and_close(coords):
    crystal = Structure(Lattice.from_parameters(3, 4, 5, 80, 95, 105), ["Li"] * len(coords), coords)
    content = structure_content(crystal)
    stored = np.array(content["coords"])
    assert ((stored >= 0) & (stored < 1)).all()
    off = stored - np.array(coords)
    assert np.abs(off - np.round(off)).max() <= 0.51e-8
    again = Structure(Lattice(content["lattice"]), content["species"], content["coords"])
    assert structure_content(again) == content

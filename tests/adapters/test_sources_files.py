"""Crystals from files: what is read, what is passed over and by which name."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.errors import UsageError
from matterloop.loop.sources import ReadingReport, kinds, open_source, read_structures

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mp_le20.csv.gz"

SALT = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ba", "Ti", "O", "O", "O"],
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)
DISORDERED = Structure(Lattice.cubic(3.4), [{"Na": 0.5, "K": 0.5}, "Cl"], SALT.frac_coords)


def same(left, right):
    return (
        np.allclose(left.lattice.parameters, right.lattice.parameters, atol=1e-6)
        and left.species == right.species
        and np.allclose((left.frac_coords - right.frac_coords + 0.5) % 1, 0.5, atol=1e-6)
    )


def read(address, **settings):
    report = ReadingReport()
    items = list(read_structures(address, report=report, settings=settings))
    assert report.n_read == len(items)
    return items, {bad.identifier: bad.reason for bad in report.unreadable}


def write_table(path, rows, columns):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


COLUMNS = ("material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif",
           "spacegroup.number")  # fmt: skip


@pytest.fixture(params=["mp.csv", "mp.csv.gz"])
def table(request, tmp_path):
    rows = [
        {"material_id": "mp-1", "formation_energy_per_atom": "-2.1", "band_gap": "5.0",
         "e_above_hull": "0.01", "spacegroup.number": "221", "cif": SALT.to(fmt="cif")},
        {"material_id": "mp-2", "formation_energy_per_atom": "-3.5", "band_gap": "",
         "e_above_hull": "nan", "spacegroup.number": "", "cif": PEROVSKITE.to(fmt="cif")},
        {"material_id": "mp-3", "cif": "data_broken\n_cell_length_a nonsense\n"},
        {"material_id": "mp-4", "cif": DISORDERED.to(fmt="cif")},
        {"material_id": "mp-5", "cif": ""},
        {"material_id": "mp-6", "band_gap": "wide", "cif": SALT.to(fmt="cif")},
    ]  # fmt: skip
    return write_table(tmp_path / request.param, rows, COLUMNS)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_table_gives_crystals_with_the_labels_that_are_there(table, processes):
    (salt, perovskite), bad = read(table, processes=processes)
    assert same(salt.structure, SALT)
    assert same(perovskite.structure, PEROVSKITE)
    assert dict(salt.labels) == {
        "formation_energy": -2.1,
        "energy_above_hull": 0.01,
        "band_gap": 5.0,
        "space_group": "221",
        "crystal_system": "cubic",
        "density": pytest.approx(SALT.density, rel=1e-6),
    }
    assert set(perovskite.labels) == {"formation_energy", "density"}
    assert (salt.identifier, salt.source) == ("mp-1", table.name)
    assert list(bad) == ["mp-3", "mp-4", "mp-5", "mp-6"]
    assert "partially occupied" in bad["mp-4"]
    assert "'wide'" in bad["mp-6"]


def test_the_report_names_what_was_passed_over(table):
    report = ReadingReport()
    list(read_structures(table, report=report))
    assert str(report).startswith("2 structures read, 4 passed over (mp-3: ")
    assert str(report).endswith("; and 1 more)")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\x1f\x8b\x08broken", b"", b"cif\n\xff\xfe\n"])
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_what_is_no_table_is_one_clear_error(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.csv"):
        list(read_structures(path))


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED.name} is not beside the checkout")
def test_the_real_table_is_read_as_a_stream():
    stream = read_structures(SHARED)
    items = [next(stream) for _ in range(30)]
    stream.close()
    assert items[0].identifier == "mp-10009"
    assert items[0].labels["band_gap"] == pytest.approx(0.898)
    assert all(-5 < item.labels["formation_energy"] < 1 for item in items)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "crystals"
    (folder / "more").mkdir(parents=True)
    SALT.to(str(folder / "salt.cif"))
    PEROVSKITE.to(str(folder / "more" / "perovskite.CIF"), fmt="cif")
    two = SALT.to(fmt="cif") + PEROVSKITE.to(fmt="cif") + "data_third\n_cell_length_a 3\n"
    (folder / "two.cif").write_text(two)
    (folder / "bad.cif").write_text("this is no CIF")
    (folder / "latin.cif").write_bytes(b"# \xe9t\xe9\n" + SALT.to(fmt="cif").encode())
    (folder / "notes.txt").write_text("not a crystal")
    return folder


def test_a_folder_gives_all_its_crystals_and_names_the_bad_ones(folder):
    items, bad = read(folder)
    assert [item.identifier for item in items] == [
        "latin", "more/perovskite", "salt", "two#NaCl", "two#BaTiO3"]  # fmt: skip
    assert [len(item.structure) for item in items] == [2, 5, 2, 2, 5]
    assert list(bad) == ["bad", "two#third"]
    assert items[2].labels == {"density": pytest.approx(SALT.density, rel=1e-6)}


SYMMETRIC = """data_BaTiO3
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ba1 Ba 0 0 0
Ti1 Ti 0.5 0.5 0.5
O1 O 0.5 0.5 0
"""


def test_symmetry_of_a_cif_is_expanded(tmp_path):
    (tmp_path / "sym.cif").write_text(SYMMETRIC)
    (item,), _ = read(tmp_path / "sym.cif")
    assert item.structure.composition == PEROVSKITE.composition
    assert item.structure.density == pytest.approx(PEROVSKITE.density)


def test_oxidation_states_are_left_behind(tmp_path):
    charged = SALT.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    charged.to(str(tmp_path / "charged.cif"))
    (item,), _ = read(tmp_path)
    assert {str(species) for species in item.structure.species} == {"Na", "Cl"}


def test_a_folder_without_a_readable_crystal_is_an_error(tmp_path):
    (tmp_path / "a.cif").write_text("nothing")
    with pytest.raises(UsageError, match=r"no crystal that can be read.*a: "):
        list(read_structures(tmp_path))


@pytest.mark.parametrize("address", ["cif:{}/none", "ase:{}/none.db", "json:{}/none.json",
                                     "csv:{}/none.csv", "cif:{}"])  # fmt: skip
def test_what_is_not_there_is_an_error(tmp_path, address):
    with pytest.raises(UsageError, match=r"There is no"):
        list(read_structures(address.format(tmp_path)))


@pytest.fixture
def atoms():
    from ase import Atoms
    from ase.build import bulk, molecule

    salt = bulk("NaCl", "rocksalt", a=5.64)
    salt.info.update(formation_energy=-2.1, band_gap=5.0, energy=-7.3, material_id="salt-1")
    layer = Atoms("C2", cell=[2.46, 2.46, 15], pbc=(True, True, False))
    water = molecule("H2O")
    iron = bulk("Fe", cubic=True)
    iron.info.update(hform=0.0, ehull=0.0, gap=0.0, spacegroup="Im-3m")
    return [salt, layer, water, iron]


def test_extended_xyz_gives_periodic_crystals_with_labels(tmp_path, atoms):
    from ase.io import write

    write(tmp_path / "all.extxyz", atoms)
    (salt, iron), bad = read(tmp_path / "all.extxyz")
    assert salt.identifier == "salt-1"
    assert salt.labels == {
        "formation_energy": -2.1,
        "band_gap": 5.0,
        "density": pytest.approx(2.16, abs=0.02),
    }
    assert iron.identifier == "all.extxyz:4"
    assert (iron.labels["space_group"], iron.labels["crystal_system"]) == ("229", "cubic")
    assert (iron.labels["energy_above_hull"], iron.labels["band_gap"]) == (0.0, 0.0)
    assert list(bad) == ["all.extxyz:2", "all.extxyz:3"]
    assert all("not periodic" in reason for reason in bad.values())


def test_a_torn_xyz_file_gives_what_lies_before_the_tear(tmp_path, atoms):
    from ase.io import write

    path = tmp_path / "torn.xyz"
    write(path, atoms[:1] * 3, format="extxyz")
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:-1], "Cl spoiled"]) + "\n")
    items, bad = read(path)
    assert len(items) == 2
    assert list(bad) == ["torn.xyz:3"]
    assert "rest of the file" in bad["torn.xyz:3"]


def test_an_ase_database_gives_rows_with_labels(tmp_path, atoms):
    from ase.db import connect

    path = tmp_path / "all.db"
    with connect(path) as database:
        for one in atoms:
            pairs = {k: v for k, v in one.info.items() if k not in ("spacegroup", "energy")}
            database.write(one, key_value_pairs=pairs)
    items, bad = read(path)
    assert [item.identifier for item in items] == ["salt-1", "all.db:4"]
    assert items[0].labels["formation_energy"] == -2.1
    assert items[1].labels["energy_above_hull"] == 0.0
    assert list(bad) == ["all.db:2", "all.db:3"]
    assert [item.identifier for item in read(f"ase:{path}?Fe")[0]] == ["all.db:4"]


def test_a_spoiled_database_is_one_clear_error(tmp_path):
    (tmp_path / "x.db").write_bytes(b"this is no database at all, not even nearly" * 30)
    with pytest.raises(UsageError, match=r"x\.db cannot be read"):
        list(read_structures(tmp_path / "x.db"))


def structures_json(kind):
    salt, perovskite = SALT.as_dict(), PEROVSKITE.as_dict()
    return {
        "one": salt,
        "list": [salt, perovskite, 17, {"structure": {"lattice": {}}}],
        "labels": [
            {"structure": salt, "labels": {"band_gap": 5.0}, "identifier": "a"},
            {"structure": perovskite, "e_above_hull": 0.0, "symmetry": {"number": 221}, "id": "b"},
        ],
        "names": {"first": salt, "second": {"structure": perovskite, "band_gap": None}},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "identifiers", "bad"),
    [
        ("one", ["x.json.gz"], []),
        ("list", ["x.json.gz:1", "x.json.gz:2"], ["x.json.gz:3", "x.json.gz:4"]),
        ("labels", ["a", "b"], []),
        ("names", ["first", "second"], []),
    ],
)
def test_json_in_all_its_forms(tmp_path, kind, identifiers, bad):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps(structures_json(kind)).encode()))
    items, passed_over = read(path)
    assert [item.identifier for item in items] == identifiers
    assert list(passed_over) == bad
    assert same(items[0].structure, SALT)
    if kind == "labels":
        assert items[0].labels["band_gap"] == 5.0
        assert items[1].labels["energy_above_hull"] == 0.0
        assert items[1].labels["space_group"] == "221"


def test_json_never_runs_what_it_names(tmp_path):
    trap = {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(tmp_path / "ran")]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps([SALT.as_dict(), trap, {"structure": trap, "band_gap": 1}]))
    items, bad = read(path)
    assert len(items) == 1
    assert len(bad) == 2
    assert not (tmp_path / "ran").exists()


def test_several_sources_come_one_after_the_other(folder, table):
    items, bad = read([table, f"cif:{folder}"])
    assert [item.identifier for item in items][:3] == ["mp-1", "mp-2", "latin"]
    assert len(bad) == 6


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("crystals.xyzzy", "It is not clear how to read"),
        ("unheard:of", "materials-project"),
        ("mp:colour=red", "colour"),
        ("mp:", "nothing is asked for"),
        ("optimade:ftp://example.org", "no URL of an OPTIMADE"),
        ("optimade:nowhere", "There is no OPTIMADE provider 'nowhere'"),
    ],
)
def test_an_address_that_means_nothing_says_what_would(address, said):
    with pytest.raises(UsageError, match=said):
        read_structures(address)


def test_a_setting_that_does_not_exist_is_refused_where_it_is_meant_for_one_source(table):
    with pytest.raises(UsageError, match="colour"):
        open_source(table, {"colour": "red"})


def test_the_built_in_kinds_are_registered():
    assert set(kinds()) >= {
        "ase", "cif", "materials-project", "mp20-csv", "optimade", "pymatgen-json"}  # fmt: skip

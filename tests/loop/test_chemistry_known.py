"""Known crystals from files, read lazily."""

import csv
import gzip
import io
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.chemistry.known import KnownCrystals
from matterloop.loop.errors import UsageError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


HALITE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def salt(cation="Na", anion="Cl", a=5.64):
    structure = HALITE.copy()
    structure.replace_species({"Na": cation, "Cl": anion})
    structure.scale_lattice(a**3)
    return structure


def write_csv(path, rows, columns=("material_id", "cif")):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["known.csv", "known.csv.gz"])
def test_a_known_crystal_is_found_by_id_and_a_new_one_is_not(tmp_path, name):
    rows = [("mp-1", salt().to(fmt="cif")), ("mp-2", salt("K").to(fmt="cif"))]
    known = KnownCrystals.from_path(write_csv(tmp_path / name, rows))
    assert len(known) == 2
    doubled = salt("K", a=5.7)
    doubled.make_supercell([2, 1, 1])
    assert known.find(doubled).label == "mp-2"
    assert known.find(salt("Li")) is None
    other = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    assert known.find(other) is None


def test_a_folder_of_cif_files(tmp_path):
    salt().to(filename=str(tmp_path / "halite.cif"))
    known = KnownCrystals.from_path(tmp_path)
    assert known.find(salt(a=5.5)).label == "halite"
    assert [name for name, _ in known.structures("NaCl")] == ["halite"]


def test_rows_without_an_id_are_named_by_file_and_number(tmp_path):
    path = write_csv(tmp_path / "mine.csv", [(salt().to(fmt="cif"),)], columns=("cif",))
    assert KnownCrystals.from_csv(path).find(salt()).label == "mine.csv:1"


def test_sources_can_be_joined_later(tmp_path):
    known = KnownCrystals()
    assert known.find(salt()) is None
    known.extend([("late", salt().to(fmt="cif"))])
    assert known.find(salt()).label == "late"


def test_only_crystals_of_the_same_formula_are_parsed(tmp_path):
    broken = "data_x\n_chemical_formula_sum 'K4 Cl4'\nloop_\n"
    rows = [("good", salt().to(fmt="cif")), ("broken", broken), ("empty", "")]
    known = KnownCrystals.from_csv(write_csv(tmp_path / "known.csv", rows))
    assert known.find(salt()).label == "good"
    assert set(known.unreadable) == {"empty"}  # nobody asked for KCl yet
    assert known.find(salt("K")) is None
    assert set(known.unreadable) == {"empty", "broken"}


def test_missing_files_and_columns_are_explained(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        KnownCrystals.from_csv(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"columns a, b.*column named cif"):
        KnownCrystals.from_csv(write_csv(tmp_path / "x.csv", [(1, 2)], columns=("a", "b")))
    (tmp_path / "no.csv.gz").write_bytes(b"plain text")
    with pytest.raises(UsageError, match="cannot be read"):
        KnownCrystals.from_csv(tmp_path / "no.csv.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no CIF file"):
        KnownCrystals.from_path(tmp_path / "empty")


def test_a_disordered_candidate_is_refused():
    mixed = Structure(Lattice.cubic(4), [{"Li": 0.4}], [[0, 0, 0]])
    with pytest.raises(UsageError, match="disordered"):
        KnownCrystals().find(mixed)


@pytest.mark.shared_data
def test_sixty_candidates_against_the_materials_project_take_seconds():
    path = SHARED / "mp_le20.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout")
    started = time.process_time()
    known = KnownCrystals.from_csv(path)
    assert len(known) > 17_000
    assert known.find(salt()).label == "mp-22862"
    found = 0
    for cation in ("Li", "Na", "K", "Rb", "Cs", "Ag", "Cu", "Tl", "Mg", "Ca"):
        for anion in ("F", "Cl", "Br", "I", "O", "S"):
            found += known.find(salt(cation, anion)) is not None
    assert 10 <= found < 60
    assert time.process_time() - started < 10

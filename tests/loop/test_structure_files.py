"""Folders of crystals: every format can be read again, and no interruption loses or halves one."""

import json
import os
from pathlib import Path

import pytest
from ase.io import read as ase_read
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from matterloop.loop.candidate import ModelRef
from matterloop.loop.errors import ConflictError, UsageError
from matterloop.loop.structure_files import (
    ALL_IN_ONE,
    INDEX,
    Entry,
    Facts,
    FileFormat,
    StructureFolder,
    read_folder,
)

MODEL = ModelRef("generator", "toy", "1", "ab" * 32)
FACTS = Facts(7, MODEL, {"band_gap": 1.4, "crystal_system": "cubic"}, {"rank": 3})


def crystal(a: float = 4.0) -> Structure:
    """A perovskite, its sites in an order that a POSCAR does not keep, one beyond the cell."""
    return Structure(
        Lattice.from_parameters(a, a + 0.1, a + 0.2, 88, 91, 93),
        ["O", "Ba", "O", "Ti", "O"],
        [[0.5, 0.5, 1.02], [0, 0, 0], [0.5, 0.01, 0.5], [0.49, 0.5, 0.5], [-0.01, 0.5, 0.5]],
    )


def request(file_format: str = "cif", **more: object) -> dict[str, object]:
    return {"format": file_format, "seed": 7, **more}


def fill(folder: Path, file_format: str, draws: range, n: int = 4) -> list[Entry]:
    with StructureFolder.open(folder, request(file_format), n=n) as opened:
        return [opened.add(draw, crystal(4 + draw / 10), FACTS) for draw in draws]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != INDEX}


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_what_is_written_is_read_again(tmp_path, file_format):
    entries = fill(tmp_path, file_format, range(3))
    back = list(read_folder(tmp_path))
    assert [entry for entry, _ in back] == entries
    for number, (entry, structure) in enumerate(back):
        expected = crystal(4 + number / 10)
        assert structure.lattice.parameters == pytest.approx(expected.lattice.parameters, abs=1e-6)
        assert StructureMatcher(primitive_cell=False, scale=False).get_rms_dist(
            structure, expected
        )[1] < 1e-5  # fmt: skip
        assert (entry.formula, entry.n_atoms, entry.seed, entry.model) == ("BaTiO3", 5, 7, "toy")
        assert entry.targets == {"band_gap": 1.4, "crystal_system": "cubic"}


@pytest.mark.parametrize("file_format", ["cif", "poscar", "extxyz"])
def test_ase_reads_them_too(tmp_path, file_format):
    fill(tmp_path, file_format, range(2))
    if file_format == "extxyz":
        frames = ase_read(tmp_path / ALL_IN_ONE, ":")
        assert [frame.info["band_gap"] for frame in frames] == [1.4, 1.4]
        assert [frame.info["formula"] for frame in frames] == ["BaTiO3", "BaTiO3"]
    else:
        suffix = FileFormat(file_format).suffix
        assert suffix in {".cif", ".vasp"}
        frames = [ase_read(tmp_path / f"000{i}-BaTiO3{suffix}") for i in (1, 2)]
    for number, frame in enumerate(frames):
        assert frame.get_chemical_formula("hill", empirical=True) == "BaO3Ti"
        assert frame.get_volume() == pytest.approx(crystal(4 + number / 10).volume, rel=1e-6)
        assert all(frame.pbc)


def test_extended_xyz_carries_the_energy(tmp_path):
    with StructureFolder.open(tmp_path, request("extxyz"), n=1) as opened:
        facts = Facts(7, MODEL, relaxation={"energy_eV_per_atom": -8.0})
        opened.add(0, crystal(), facts)
    assert ase_read(tmp_path / ALL_IN_ONE).get_potential_energy() == pytest.approx(-40.0)


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_going_on_keeps_what_is_there(tmp_path, file_format):
    fill(tmp_path / "once", file_format, range(4))
    fill(tmp_path / "twice", file_format, range(2))
    with StructureFolder.open(tmp_path / "twice", request(file_format), n=4) as opened:
        assert opened.missing(4) == [2, 3]
    fill(tmp_path / "twice", file_format, range(2, 4))
    assert snapshot(tmp_path / "once") == snapshot(tmp_path / "twice")
    assert [e.draw for e, _ in read_folder(tmp_path / "twice")] == [0, 1, 2, 3]


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_a_crystal_cut_short_is_made_again(tmp_path, file_format):
    whole = fill(tmp_path, file_format, range(3))
    before = snapshot(tmp_path)
    file = tmp_path / whole[2].file
    os.truncate(file, file.stat().st_size - 10)
    with StructureFolder.open(tmp_path, request(file_format), n=4) as opened:
        assert opened.missing(3) == [2]
        opened.add(2, crystal(4.2), FACTS)
    assert snapshot(tmp_path) == before
    assert len(list(read_folder(tmp_path))) == 3


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_killed_between_a_crystal_and_its_line(tmp_path, file_format):
    fill(tmp_path, file_format, range(3))
    index = tmp_path / INDEX
    os.truncate(index, index.stat().st_size - 25)  # a line cut short, its crystal whole
    (tmp_path / ".0004-X.cif.abc.part").write_text("half")
    (tmp_path / "0003-notes.txt").write_text("mine")
    with StructureFolder.open(tmp_path, request(file_format), n=4) as opened:
        assert opened.missing(3) == [2]
        # A generator may draw differently on another machine: the leftover must not stay.
        opened.add(2, crystal().get_primitive_structure().replace_species({"Ti": "Zr"}), FACTS)
    back = [structure.composition.reduced_formula for _, structure in read_folder(tmp_path)]
    assert back == ["BaTiO3", "BaTiO3", "BaZrO3"]
    named = {"request.json", INDEX, "0003-notes.txt"}
    named |= {json.loads(line)["file"] for line in index.read_text().splitlines()}
    assert {file.name for file in tmp_path.iterdir()} == named


def test_another_request_is_refused_with_what_differs(tmp_path):
    fill(tmp_path, "cif", range(1))
    other = {"format": "cif", "seed": 8, "targets": {"density": 3.0}}
    with (
        pytest.raises(ConflictError, match=r"seed is 7 there, 8 here; targets\.density is None"),
        StructureFolder.open(tmp_path, other, n=4),
    ):
        pass
    assert len(list(read_folder(tmp_path))) == 1


def test_a_request_that_gave_nothing_does_not_keep_the_folder(tmp_path):
    with StructureFolder.open(tmp_path, request(), n=4) as opened:
        assert opened.entries == {}
    (tmp_path / "0001-BaTiO3.cif").write_text("killed before its line was written")
    other = request("json", seed=8)
    with StructureFolder.open(tmp_path, other, n=1) as opened:
        opened.add(0, crystal(), FACTS)
    assert [entry.file for entry, _ in read_folder(tmp_path)] == ["0001-BaTiO3.json"]
    assert not list(tmp_path.glob("*.cif"))
    assert json.loads((tmp_path / "request.json").read_text()) == {**other, "seed": 8, "n": 1}
    with pytest.raises(ConflictError), StructureFolder.open(tmp_path, request(), n=4):
        pass


def test_more_may_be_asked_for_only_where_draws_do_not_depend_on_it(tmp_path):
    fill(tmp_path, "cif", range(2), n=2)
    with (
        pytest.raises(ConflictError, match="n is 2 there, 3 here"),
        StructureFolder.open(tmp_path, request(), n=3, extendable=False),
    ):
        pass
    with StructureFolder.open(tmp_path, request(), n=3) as opened:
        assert opened.missing(3) == [2]
    with StructureFolder.open(tmp_path, request(), n=1) as opened:
        assert opened.missing(1) == []
    assert json.loads((tmp_path / "request.json").read_text())["n"] == 3


@pytest.mark.parametrize("name", ["request.json", "index.jsonl"])
def test_somebody_elses_folder_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ConflictError, match=name), StructureFolder.open(tmp_path, request(), n=1):
        pass
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_two_runs_cannot_fill_one_folder(tmp_path):
    with StructureFolder.open(tmp_path, request(), n=1) as opened:
        with (
            pytest.raises(ConflictError, match="Another process"),
            StructureFolder.open(tmp_path, request(), n=1),
        ):
            pass
        opened.add(0, crystal(), FACTS)
    assert len(list(read_folder(tmp_path))) == 1


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UsageError, match="Cannot write"),
        StructureFolder.open(tmp_path / "file", request(), n=1),
    ):
        pass
    with pytest.raises(UsageError, match=r"request\.json"):
        list(read_folder(tmp_path))

"""``matterloop generate``: what users ask for, and what each mistake is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Structure

from matterloop.loop.cli import main
from matterloop.loop.cli.wishes import search_space, targets
from matterloop.loop.errors import UsageError
from matterloop.loop.structure_files import read_folder

KNOWN = ("--generator", "substitution")


@pytest.fixture
def matterloop(tmp_path, monkeypatch, capsys):
    """Run the command in this process; give exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["matterloop", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return run


def elements_of(folder: Path) -> list[set[str]]:
    return [{e.symbol for e in structure.composition} for _, structure in read_folder(folder)]


def test_a_chemical_system_means_all_its_elements(matterloop, tmp_path):
    code, out, err = matterloop("generate", "--chemsys", "Ba-Ti-O", "-n", "5", *KNOWN)
    assert (code, err) == (0, "")
    folder = tmp_path / "generated" / "Ba-Ti-O"
    assert elements_of(folder) == [{"Ba", "Ti", "O"}] * 5
    assert out.startswith("5 structures in generated/Ba-Ti-O (5 new")
    files = sorted(file.name for file in folder.glob("*.cif"))
    assert files[0] == "0001-BaTiO3.cif"
    assert len(files) == 5
    again = matterloop("generate", "--chemsys", "Ba-Ti-O", "-n", "5", *KNOWN)
    assert again[1].startswith("5 structures in generated/Ba-Ti-O (0 new")


def test_elements_mean_any_of_these_and_more_can_be_demanded(matterloop, tmp_path):
    words = ("--elements", "Na,K,Cl,Br", "--require", "Na", "--forbid", "Br", "--max-atoms", "4")
    code, _, _ = matterloop("generate", *words, "-n", "6", "--out", "salts", *KNOWN)
    assert code == 0
    found = elements_of(tmp_path / "salts")
    assert all("Na" in elements <= {"Na", "K", "Cl"} for elements in found)
    assert all(len(structure) <= 4 for _, structure in read_folder(tmp_path / "salts"))


@pytest.mark.parametrize(
    ("file_format", "name"),
    [("poscar", "0001-BaTiO3.vasp"), ("json", "0001-BaTiO3.json"), ("extxyz", "structures.extxyz")],
)
def test_formula_atoms_and_formats(matterloop, tmp_path, file_format, name):
    words = ("--formula", "BaTiO3", "--atoms", "5", "--format", file_format, "--out", "out")
    assert matterloop("generate", *words, "-n", "2", "--symmetrise", *KNOWN)[0] == 0
    assert (tmp_path / "out" / name).is_file()
    back = [structure for _, structure in read_folder(tmp_path / "out")]
    assert [structure.composition.formula for structure in back] == ["Ba1 Ti1 O3"] * 2
    if file_format != "extxyz":
        assert len(Structure.from_file(tmp_path / "out" / name)) == 5


def test_the_request_lies_beside_the_structures(matterloop, tmp_path):
    matterloop("generate", "--formula", "NaCl", "-n", "1", "--seed", "3", "--out", "a", *KNOWN)
    request = json.loads((tmp_path / "a" / "request.json").read_text())
    assert request["search_space"]["formulas"] == ["NaCl"]
    assert (request["seed"], request["n"], request["format"]) == (3, 1, "cif")
    code, _, err = matterloop("generate", "--formula", "KCl", "-n", "1", "--out", "a", *KNOWN)
    assert code == 2
    assert err.startswith("matterloop: The folder 'a' holds structures of another request")
    assert "--out" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--chemsys Ba-Xx", ["--chemsys", "'Xx'", "no element"]),
        ("--elements Ba,Ti --forbid Q", ["--forbid", "'Q'"]),
        ("--formula BaTi03", ["BaTi03"]),
        ("--formula BaTiO3 --chemsys Ba-Ti-O", ["--chemsys and --formula exclude each other"]),
        ("--formula BaTiO3 --elements Ba,O", ["--formula and --elements exclude"]),
        ("--formula BaTiO3 --atoms 7", ["BaTiO3", "5 atoms, allowed 7 to 7"]),
        ("--formula BaTiO3 --forbid Ti", ["Ti"]),
        ("--chemsys Ba-Ti-O --forbid O", ["required elements are not allowed: O"]),
        ("--elements Ba,O --forbid Ba,O", ["every allowed element is also forbidden"]),
        ("--chemsys Ba-Ti-O --atoms 2", ["3 elements do not fit into max_atoms 2"]),
        ("--chemsys=", ["--chemsys is empty"]),
        ("--atoms 5 --max-atoms 8", ["--atoms"]),
        ("--min-atoms 9 --max-atoms 8", ["min_atoms 9 exceeds max_atoms 8"]),
        ("--format pdf", ["'pdf'", "cif, json, poscar, extxyz"]),
        ("--guidance-scale -1", ["guidance scale"]),
        ("--guidance-scale nan", ["guidance scale"]),
        ("--band-gap nan", ["band_gap", "finite number"]),
        ("--band-gap 1 --target band-gap=2", ["band_gap is given twice"]),
        ("--target band_gap", ["NAME=VALUE"]),
        ("--target density=heavy", ["density", "'heavy'", "finite number"]),
        ("--space-group 231", ["'231'", "1 to 230"]),
        ("--space-group Pm-3m --crystal-system trigonal", ["221 is cubic", "'trigonal'"]),
        ("--density -2", ["density is -2", "0 or more"]),
        ("--space-group Zzz", ["'Zzz'"]),
        ("--generator oracle", ["There is no generator named 'oracle'", "substitution"]),
        ("--generator substitution --steps 5", ["'substitution'", "steps"]),
        ("--generator substitution --setting aflow=perhaps", ["aflow", "'perhaps'"]),
        ("--generator substitution --band-gap 1.4", ["cannot be asked for 'band_gap'"]),
        ("--generator substitution --chemsys Na-Cl --trajectory", ["no trajectories"]),
        ("--generator substitution --elements He,Ne", ["finds no crystal"]),
    ],
)
def test_mistakes_are_explained(matterloop, words, parts):
    code, out, err = matterloop("generate", *words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("matterloop: ")
    for part in parts:
        assert part in err


@pytest.mark.parametrize("words", ["-n 0", "--atoms 0", "--n many", "--max-atoms -3"])
def test_numbers_out_of_range(matterloop, words):
    code, _, err = matterloop("generate", *words.split(), *KNOWN)
    assert code == 2
    assert "Invalid value" in err


def test_a_folder_that_cannot_be_written(matterloop, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = matterloop("generate", "--chemsys", "Na-Cl", "--out", "file/x", *KNOWN)
    assert code == 2
    assert "Cannot write into the folder 'file/x'" in err


def test_soft_conditions():
    wishes = targets(
        {"band_gap": 1.4, "density": None, "space_group": "Pm-3m", "crystal_system": "cubic"},
        ["temperature=900", "method=sol-gel"],
    )
    assert wishes == {
        "band_gap": 1.4,
        "space_group": "221",
        "crystal_system": "cubic",
        "temperature": 900.0,
        "method": "sol-gel",
    }
    assert targets({}, ["space-group=0062"]) == {"space_group": "62"}


def test_search_spaces():
    system = search_space("Ba-Ti-O", (), None, atoms=5)
    assert set(system.required_elements) == set(system.allowed_elements) == {"Ba", "Ti", "O"}
    assert (system.min_atoms, system.max_atoms) == (5, 5)
    six = search_space("Li-Na-K-Rb-Cs-Cl", (), None)
    assert six.max_elements == 6
    anything = search_space(None, (), None, forbid="Pb, Cd")
    assert {"Pb", "Cd"}.isdisjoint(anything.allowed_elements)
    assert len(anything.allowed_elements) == 116
    assert search_space(None, ("BaTiO3", "SrTiO3"), None).formulas == ("BaTiO3", "SrTiO3")
    with pytest.raises(UsageError, match="do not fit"):
        search_space(None, (), "Ba,Ti,O", require="Ba,Ti", max_atoms=1)


def test_what_generation_imports(tmp_path):
    """Start-up counts: what campaigns need besides is not loaded."""
    code = (
        "import sys; sys.argv = 'matterloop generate --chemsys Na-Cl -n 1 --generator substitution"
        "'.split()\n"
        "from matterloop.loop.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "unwanted = {'botorch', 'chgnet', 'prefect', 'sqlalchemy', 'plotly', 'matplotlib.pyplot'}\n"
        "print(*sorted(unwanted & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stderr.strip() == ""

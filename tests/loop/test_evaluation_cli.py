"""``matterloop evaluate`` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure


def matterloop(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from matterloop.loop.cli import main; main()", *words],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )


def salt(a: float, cation: str = "Na", anion: str = "Cl") -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def test_a_folder_of_somebodys_cifs(tmp_path):
    for name in ("made", "known"):
        (tmp_path / name).mkdir()
    salt(5.64).to(filename=str(tmp_path / "known" / "salt.cif"))
    for number, a in enumerate((5.6, 5.7)):
        salt(a).to(filename=str(tmp_path / "made" / f"{number}.cif"))
    salt(5.3, "K", "F").to(filename=str(tmp_path / "made" / "new.cif"))
    (tmp_path / "made" / "torn.cif").write_text("data_torn\n_cell_length_a")
    done = matterloop(
        "evaluate", "--structures", "made", "--reference", "known", "--test", "known",
        "--potential", "none", "--workers", "1", "--out", "r.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    rates = report["raw"]["rates"]
    assert {
        name: rates[name]["count"] for name in ("valid", "unique", "novel", "unique_novel")
    } == {
        "valid": 3,
        "unique": 2,
        "novel": 1,
        "unique_novel": 1,
    }
    assert rates["valid"]["samples"] == report["samples"] == 4
    assert rates["sun_0.1"] is None
    assert report["coverage"]["recall"]["fraction"] == 1
    assert "1 (25.0%)" in done.stdout
    assert "not computed" in done.stdout
    assert "novelty against 1 crystals of known" in done.stdout.lower()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("--generator or --structures",)),
        (("--structures", "nowhere.cif"), ("nowhere.cif",)),
        (("--generator", "crystal-ball"), ("no generator", "substitution")),
        (("--structures", "x", "--predict"), ("--generator and --test",)),
        (("--generator", "diffusion", "--guidance-scale", "inf"), ("guidance scale is inf",)),
    ],
)
def test_mistakes_are_told(tmp_path, words, parts):
    done = matterloop("evaluate", *words, "--potential", "none", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_a_generator_that_cannot_predict_is_told_apart(tmp_path):
    salt(5.64).to(filename=str(tmp_path / "salt.cif"))
    done = matterloop(
        "evaluate", "--generator", "substitution", "--test", "salt.cif", "--predict", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "does not predict" in done.stderr


def test_a_generators_samples_are_kept_and_counted(tmp_path):
    words = (
        "evaluate", "--generator", "substitution", "--chemsys", "Na-Cl", "--n", "3",
        "--max-atoms", "4", "--potential", "none", "--out", "r.json",
    )  # fmt: skip
    done = matterloop(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "r.json").read_text())
    assert first["samples"] == 3
    assert first["generator"]["plugin"] == "substitution"
    assert (tmp_path / "r-work" / "samples" / "structures.extxyz").exists()
    matterloop(*words, cwd=tmp_path)
    second = json.loads((tmp_path / "r.json").read_text())
    assert {k: v for k, v in second.items() if k != "wall_s"} == {
        k: v for k, v in first.items() if k != "wall_s"
    }

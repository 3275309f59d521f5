"""The generator's benchmarks run as a user runs them, on tiny networks and tables."""

import csv
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from tiny_diffusion import tiny_weights

from matterloop.loop.dataset import part_of

ROOT = Path(__file__).parents[2]


def run(script, *arguments, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def salts():
    """Rock salts, some of them of the test part."""
    left = {"train": 10, "test": 3, "validation": 1}
    cations, anions = ("Li", "Na", "K", "Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "O", "S", "Se")
    for number, (cation, anion) in enumerate(product(cations, anions)):
        part = part_of(f"{cation}{anion}")
        left[part] -= 1
        if left[part] >= 0:
            cell = Lattice.cubic(4.0 + 0.05 * number)
            yield Structure.from_spacegroup("Fm-3m", cell, [cation, anion], [[0] * 3, [0.5] * 3])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "salts.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["material_id", "formation_energy_per_atom", "e_above_hull", "band_gap",
                       "spacegroup.number", "cif"])  # fmt: skip
        for number, crystal in enumerate(salts()):
            cell = crystal.get_primitive_structure()
            rows.writerow([f"salt-{number}", -2.0, 0.0, 3.0 + number / 10, 225, cell.to(fmt="cif")])
    return path


@pytest.mark.parametrize("script", ["generator_guidance.py", "generator_physics.py"])
def test_without_a_table_there_is_one_clear_message(script, tmp_path):
    done = run(script, "--data", "missing.csv", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("There is no missing.csv: ")
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_guidance_is_swept_and_a_second_run_draws_nothing(table, tmp_path):
    weights = tiny_weights(tmp_path / "weights")
    arguments = ["--weights", weights, "--data", table, "--out", tmp_path / "found.json",
                 "--n", 3, "--scales", "0,2", "--band-gaps", "", "--densities", "2",
                 "--crystal-systems", "", "--fixed", "NaCl:2", "--fixed-densities", "2",
                 "--energies", 0, "--workers", 1, "--steps", 4]  # fmt: skip
    first = run("generator_guidance.py", *arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    kept = (tmp_path / "found-work" / "samples.jsonl").read_bytes()
    points = {(point["series"], point["scale"]): point for point in found["points"]}
    assert len(points) == 6
    assert all(point["n"] == 3 for point in points.values())
    assert {point["formula"] for point in points.values()} == {None, "NaCl"}
    unguided = points["density = 2.0 g/cm^3", 0.0]
    assert unguided["structurally_valid"] == 0 or unguided["exact"]["n"] >= 1
    assert (tmp_path / "found.png").stat().st_size > 1000
    again = run("generator_guidance.py", *arguments, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "found-work" / "samples.jsonl").read_bytes() == kept
    second = json.loads((tmp_path / "found.json").read_text())
    assert second["points"] == found["points"]


@pytest.mark.slow
def test_arms_are_trained_measured_and_not_trained_again(table, tmp_path):
    weights = tiny_weights(tmp_path / "weights")
    arguments = ["--weights", weights, "--data", table, "--out", tmp_path / "found.json",
                 "--steps", 3, "--pairs", 100, "--arms", "none,all", "--held-out", 2,
                 "--de-novo", 2, "--energies", 0, "--relaxations", 0, "--euler-steps", 3,
                 "--batches", 2, "--workers", 1]  # fmt: skip
    first = run("generator_physics.py", *arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["arms"]) == {"start", "none", "all"}
    assert found["mean_of_penalty_at_weight_1"]["density"] > 0
    assert "penalties" in found["arms"]["all"]["training"]["losses"]
    assert "penalties" not in found["arms"]["none"]["training"]["losses"]
    assert {"tries 4", "proposals 4", "proposals 8", "symmetrisation"} == set(found["after"])
    arms = sorted((tmp_path / "found-work").glob("*/checkpoint.safetensors"))
    stamps = [arm.stat().st_mtime_ns for arm in arms]
    assert len(stamps) == 2
    again = run("generator_physics.py", *arguments, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [arm.stat().st_mtime_ns for arm in arms] == stamps
    assert json.loads((tmp_path / "found.json").read_text())["arms"] == found["arms"]

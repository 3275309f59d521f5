"""The hull builder: a killed build goes on, and its table says where every number comes from."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import identify
from matterloop.adapters.potentials.hull_prototypes import (
    binary_salts,
    decorated_prototypes,
    elemental_prototypes,
    is_neutral,
)
from matterloop.adapters.potentials.hull_sources import (
    SourceCrystal,
    counts_of,
    formula_of,
    from_cif_folder,
    from_csv,
    from_elements,
    from_materials_project,
    subsystems,
)
from matterloop.adapters.potentials.hull_stages import full_treatment, near_hull
from matterloop.adapters.potentials.hull_state import BuildState, Record
from matterloop.adapters.potentials.hull_table import (
    TYPICAL_SLOPE,
    anchor_slope,
    best_records,
    hull_entries,
    lowest_per_formula,
    make_anchors,
)
from matterloop.loop.errors import ConflictError, UsageError
from matterloop.loop.hull import ReferenceHull

IDENTITY = identify("0.3.0")


def rock_salt(a, cation, anion):
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def caesium_chloride(a, cation, anion):
    return Structure(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """A table like MP-20's and a folder of CIFs, made here."""
    rows = [
        ("mp-1", rock_salt(5.70, "Na", "Cl"), -2.10, 0.0),
        ("mp-2", caesium_chloride(3.50, "Na", "Cl"), -2.00, 0.10),
        ("mp-3", rock_salt(6.60, "K", "Cl"), -2.26, 0.0),
        ("mp-4", rock_salt(6.55, "K", "Na"), 0.30, 0.30),
        ("mp-5", caesium_chloride(3.80, "K", "Cl"), -2.20, 0.06),
    ]
    table = folder / "table.csv.gz"
    with gzip.open(table, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "formation_energy_per_atom", "e_above_hull"])
        writer.writerows(
            [name, crystal.to(fmt="cif"), formation, above]
            for name, crystal, formation, above in rows
        )
    cifs = folder / "cifs"
    cifs.mkdir()
    bodies = {"Na": 4.2, "K": 5.3}
    for symbol, a in bodies.items():
        crystal = Structure(Lattice.cubic(a), [symbol] * 2, [[0, 0, 0], [0.5] * 3])
        crystal.get_primitive_structure().to(filename=str(cifs / f"{symbol}.cif"))
    dimer = Structure(Lattice.orthorhombic(4.5, 4.5, 6.0), ["Cl"] * 2, [[0, 0, 0], [0, 0, 0.33]])
    dimer.to(filename=str(cifs / "Cl.cif"))
    return table, cifs


def builder(*arguments: object) -> list[str]:
    module = "matterloop.adapters.potentials.build_hull"
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]


def compute(state: Path, table: Path, cifs: Path) -> list[str]:
    return builder(
        "compute", state, "--csv", table, "--cif-folder", cifs, "--no-elements", "--no-salts",
        "--prefer", "Na-Cl", "--near", 0.05, "--processes", 1,
    )  # fmt: skip


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_gives_the_same_table(tmp_path):
    table, cifs = write_inputs(tmp_path)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    done = run(compute(whole, table, cifs))
    assert done.returncode == 0, done.stderr

    with subprocess.Popen(compute(broken, table, cifs), stdout=subprocess.DEVNULL) as process:
        pause = threading.Event()
        while not (broken.exists() and broken.read_text().count("\n") >= 4):
            assert process.poll() is None
            pause.wait(0.01)
        os.kill(process.pid, signal.SIGKILL)
    half = broken.read_text()
    assert half.count("\n") < whole.read_text().count("\n")
    broken.write_text(half[:-20])  # as if the kill had struck in the middle of a line
    done = run(compute(broken, table, cifs))
    assert done.returncode == 0, done.stderr

    texts = []
    for state in (whole, broken):
        output = tmp_path / f"{state.stem}.csv.gz"
        done = run(builder("write", state, output, "--source", "made in a test"))
        assert done.returncode == 0, done.stderr
        texts.append(gzip.decompress(output.read_bytes()).decode())
    assert texts[0] == texts[1]

    hull = ReferenceHull.load(tmp_path / "broken.csv.gz")
    assert hull.identity == IDENTITY
    assert hull.card["sources"] == ["made in a test"]
    assert hull.card["statistics"]["single_points"] == 8
    entries = {entry.provenance: entry for entry in hull.entries}
    assert {"mp-1", "mp-3", "cif:Na.cif", "cif:K.cif", "cif:Cl.cif"} <= set(entries)
    assert entries["mp-1"].kind == "relaxed"
    assert entries["mp-1"].spacegroup == 225
    assert entries["mp-1"].formula == "ClNa"
    assert entries["mp-4"].kind == "single-point"
    assert "mp-2" not in entries, "a higher polymorph has no place in a hull"
    salt = hull.distance({"Na": 1, "Cl": 1}, entries["mp-1"].energy_eV_per_atom, identity=IDENTITY)
    assert salt.formation_energy_eV_per_atom == pytest.approx(-2.1, abs=0.3)

    progress = run(builder("progress", broken))
    assert "single: 8 done, 0 of them failed" in progress.stdout


def test_the_builder_says_what_is_wrong_without_a_traceback(tmp_path):
    empty = tmp_path / "empty.jsonl"
    nothing_to_write = run(builder("write", empty, tmp_path / "hull.csv.gz"))
    assert nothing_to_write.returncode == 2
    assert "holds no results yet" in nothing_to_write.stderr
    assert "Traceback" not in nothing_to_write.stderr


def record(provenance, formula, energy, stage="single", **more):
    return Record(stage, provenance, formula, energy, 40.0, 225, **more)


def dft(formation, above):
    return {
        "dft_formation_energy_eV_per_atom": formation,
        "dft_e_above_hull_eV_per_atom": above,
    }


def test_an_anchor_stands_for_a_phase_that_is_missing():
    metastable = record("mp-9", "ClNa", -3.4, **dft(-1.95, 0.05))
    (anchor,) = make_anchors([metastable], slope=0.5)
    assert anchor.kind == "anchor"
    assert anchor.provenance == "mp-9"
    assert anchor.energy_eV_per_atom == pytest.approx(-3.425)


@pytest.mark.parametrize("softness", [0.0, 0.4, 0.9])
def test_the_slope_of_anchors_is_that_of_the_potential(softness):
    pairs = []
    for number, formula in enumerate(["ClNa", "BrNa", "ClK", "BrK", "FNa"] * 12):
        name = f"{formula}{number + 2}"
        gap = 0.01 + 0.001 * number
        pairs.append(record(f"mp-a{number}", name, -3.0, **dft(-2.0, 0.0)))
        pairs.append(record(f"mp-b{number}", name, -3.0 + softness * gap, **dft(-2.0 + gap, gap)))
    slope, n = anchor_slope(pairs)
    assert n == 60
    assert slope == pytest.approx(softness, abs=1e-9)
    assert anchor_slope(pairs[:10]) == (TYPICAL_SLOPE, 5)


def test_no_anchor_where_the_crystals_at_hand_explain_the_hull():
    metastable = record("mp-9", "ClNa", -3.4, **dft(-1.95, 0.05))
    stable = record("mp-1", "ClNa", -3.45, **dft(-2.0, 0.0))
    assert make_anchors([metastable, stable]) == []
    # The same composition by decomposition into neighbours: the hull of A3B and AB3 at AB.
    between = record("mp-8", "ClNa", -3.4, **dft(-0.95, 0.05))
    neighbours = [
        record("mp-6", "ClNa3", -3, **dft(-1.0, 0.0)),
        record("mp-7", "Cl3Na", -3, **dft(-1.0, 0.0)),
    ]
    assert make_anchors([between, *neighbours]) == []
    assert [a.provenance for a in make_anchors([between, neighbours[0]])] == ["mp-8"]


def test_no_anchor_from_a_crystal_far_above_the_hull():
    assert make_anchors([record("mp-9", "ClNa", -3.4, **dft(-1.5, 0.5))]) == []


def test_a_relaxed_crystal_replaces_its_single_point_and_prototypes_need_relaxing(tmp_path):
    with BuildState(tmp_path / "s.jsonl", IDENTITY) as state:
        state.add(record("mp-1", "ClNa", -3.40))
        state.add(record("mp-1", "ClNa", -3.45, stage="relax"))
        state.add(record("mp-2", "ClNa", -3.50))
        state.add(record("mp-2", "ClNa", -9.0, stage="relax", converged=False))
        state.add(record("prototype:x:Cl-Na", "ClNa", -5.0))
        state.add(Record("single", "mp-3", "ClNa", failure="Two atoms are 0 A apart."))
        records = best_records(state)
    assert [(r.provenance, r.stage) for r in records] == [("mp-1", "relax"), ("mp-2", "single")]
    entries = {e.kind: e.energy_eV_per_atom for e in lowest_per_formula(records)}
    assert entries == {"relaxed": -3.45, "single-point": -3.50}
    higher = replace(records[1], energy_eV_per_atom=-3.42)
    assert [e.kind for e in lowest_per_formula([records[0], higher])] == ["relaxed"]


def test_no_anchor_where_a_relaxed_prototype_lies_at_or_below_the_crystal():
    crystal = record("mp-9", "ClNa", -3.4, **dft(-1.95, 0.05))
    higher = record("prototype:x:Cl-Na", "ClNa", -3.39, stage="relax")
    lower = record("prototype:y:Cl-Na", "ClNa", -3.41, stage="relax")
    assert [a.provenance for a in make_anchors([crystal, higher])] == ["mp-9"]
    assert make_anchors([crystal, higher, lower]) == []


def test_binary_salts_are_neutral_and_hold_the_commonest_ones():
    salts = list(binary_salts(["Na", "Ca", "F", "Cl", "Al", "O"]))
    formulas = {formula_of(salt.counts) for salt in salts}
    assert formulas == {"FNa", "ClNa", "CaF2", "CaCl2", "CaO", "Al2O3", "Na2O", "AlF3", "AlCl3"}
    (fluorite,) = [s for s in salts if s.provenance == "prototype:AB2_cF12_225_a_c:Ca-F"]
    assert len(fluorite.load()) == 3


def test_anchors_enter_the_table_only_where_they_lower_the_hull(tmp_path):
    with BuildState(tmp_path / "s.jsonl", IDENTITY) as state:
        for symbol in ("Na", "Cl"):
            state.add(record(f"element:{symbol}:0", symbol, -1.0, stage="relax"))
        state.add(record("mp-9", "ClNa", -3.4, **dft(-1.95, 0.05)))
        kinds = [(e.kind, e.provenance) for e in hull_entries(state) if len(e.elements) > 1]
        assert kinds == [("single-point", "mp-9"), ("anchor", "mp-9")]
        state.add(record("mp-10", "ClNa", -3.6, stage="relax"))
        kinds = [(e.kind, e.provenance) for e in hull_entries(state) if len(e.elements) > 1]
        assert kinds == [("relaxed", "mp-10")]


def test_a_state_file_belongs_to_one_potential_and_one_builder(tmp_path):
    path = tmp_path / "s.jsonl"
    with BuildState(path, IDENTITY) as state:
        state.add(record("mp-1", "ClNa", -3.4))
        with pytest.raises(ConflictError, match="Another builder"):
            BuildState(path, IDENTITY)
        with BuildState(path, IDENTITY, writable=False) as reader:
            assert reader.has("single", "mp-1")
            assert not reader.has("relax", "mp-1")
    with pytest.raises(ConflictError, match=r"chgnet-0\.2\.0"):
        BuildState(path, identify("0.2.0"))


def test_sources_are_read_and_wrong_ones_named(tmp_path, monkeypatch):
    table, cifs = write_inputs(tmp_path)
    rows = list(from_csv(table))
    assert [row.provenance for row in rows] == [f"mp-{i}" for i in range(1, 6)]
    assert rows[1].dft_e_above_hull_eV_per_atom == 0.1
    assert rows[0].counts == counts_of(rows[0].load()) == {"Na": 1, "Cl": 1}
    assert [c.counts for c in from_cif_folder(cifs)] == [{"Cl": 1}, {"K": 1}, {"Na": 1}]
    assert [c.provenance for c in from_cif_folder(cifs)] == [
        "cif:Cl.cif",
        "cif:K.cif",
        "cif:Na.cif",
    ]
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,structure\n1,2\n")
    with pytest.raises(UsageError, match="material_id, cif"):
        list(from_csv(wrong))
    with pytest.raises(UsageError, match="cannot be read"):
        list(from_csv(tmp_path / "missing.csv"))
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="no CIF file"):
        list(from_cif_folder(tmp_path / "void"))
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(UsageError, match="MP_API_KEY"):
        list(from_materials_project(["Li-S"]))


def test_element_polymorphs_are_numbered(tmp_path):
    body = Structure(Lattice.cubic(3.5), ["Li"] * 2, [[0, 0, 0], [0.5] * 3])
    face = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.4), ["Li"], [[0, 0, 0]])
    table = tmp_path / "elements.json.gz"
    with gzip.open(table, "wt") as file:
        json.dump({"Li": {"structure": [body.as_dict(), face.as_dict()]}}, file)
    crystals = list(from_elements(table))
    assert [c.provenance for c in crystals] == ["element:Li:0", "element:Li:1"]
    assert crystals[1].load() == face


def test_ionic_systems_get_neutral_decorations_only_and_alloys_all():
    salts = list(decorated_prototypes("Na-Cl"))
    assert {formula_of(c.counts) for c in salts} == {"ClNa"}
    names = [c.provenance for c in salts]
    assert "prototype:AB_cF8_225_a_b:Cl-Na" in names
    assert len(names) == len(set(names))
    alloys = list(decorated_prototypes("Ni-Al"))
    assert {"AlNi", "AlNi3", "Al3Ni"} <= {formula_of(c.counts) for c in alloys}
    assert is_neutral({"Ni": 7, "Al": 5})
    assert not is_neutral({"Na": 2, "Cl": 1})
    for crystal in [*salts[:5], *alloys[:20]]:
        structure = crystal.load()
        assert len(structure) <= 16
        assert counts_of(structure) == dict(sorted(crystal.counts.items()))
        assert 5 < structure.volume / len(structure) < 60


def test_an_element_without_a_source_gets_the_structures_of_metals():
    crystals = {c.provenance: c for c in elemental_prototypes(["Yb"])}
    face_centred = crystals["prototype:A_cF4_225_a:Yb"].load()
    assert face_centred.lattice.angles == pytest.approx((60, 60, 60), abs=0.01)
    assert 10 < face_centred.volume < 60
    assert {tuple(c.counts) for c in crystals.values()} == {("Yb",)}


def test_subsystems_are_all_subsets():
    assert list(subsystems("S-Li")) == [("Li",), ("S",), ("Li", "S")]


def source(provenance, atoms=1):
    crystal = Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]]) * (atoms, 1, 1)
    return SourceCrystal(provenance, lambda: crystal)


def test_the_first_system_and_the_best_decorations_are_relaxed_first(tmp_path):
    energies = {
        "element:Na:0": ("Na", -1.0),
        "element:Na:1": ("Na", -1.3),
        "mp-1": ("ClNa", -3.4),
        "mp-2": ("ClK", -3.4),
        "mp-3": ("ClKNa", -3.4),
        **{f"prototype:{i}:Cl-Na": ("ClNa", -3.0 - 0.01 * i) for i in range(7)},
        "prototype:x:Cl3-Na": ("Cl3Na", -2.0),
        "prototype:far:Cl3-Na": ("Cl3Na", -1.5),
    }
    with BuildState(tmp_path / "s.jsonl", IDENTITY) as state:
        for provenance, (formula, energy) in energies.items():
            state.add(record(provenance, formula, energy))
        state.add(Record("single", "mp-4", "ClNa", failure="Two atoms are 0 A apart."))
        crystals = [source(provenance) for provenance in [*energies, "mp-4", "mp-5"]]
        chosen = full_treatment(state, crystals, ["Cl-K", "Na-Cl"])
    assert [crystal.provenance for crystal in chosen] == [
        "element:Na:1",
        "element:Na:0",
        "mp-2",
        "mp-1",
        "prototype:x:Cl3-Na",
        "prototype:6:Cl-Na",
        "prototype:5:Cl-Na",
        "prototype:4:Cl-Na",
        "prototype:3:Cl-Na",
        "prototype:2:Cl-Na",
    ]


def test_near_hull_crystals_come_by_preference_and_then_by_distance(tmp_path):
    rows = {"mp-1": ("ClK", -3.4), "mp-2": ("ClNa", -3.4), "mp-3": ("ClNa", -3.39)}
    rows |= {"mp-4": ("ClNa", -3.3), "mp-5": ("BrNa", -3.0)}
    with BuildState(tmp_path / "s.jsonl", IDENTITY) as state:
        for symbol in ("Na", "Cl", "K", "Br"):
            state.add(record(f"element:{symbol}:0", symbol, -1.0, stage="relax"))
        for provenance, (formula, energy) in rows.items():
            state.add(record(provenance, formula, energy))
        missing_phase = record("mp-7", "Br3Na", -1.0, **dft(-0.5, 0.08))
        state.add(missing_phase)
        crystals = [source(provenance) for provenance in [*rows, "mp-7", "element:Na:0"]]
        chosen = near_hull(state, crystals, 0.03, ["Br-Na"])
    assert [c.provenance for c in chosen] == ["mp-5", "mp-7", "mp-1", "mp-2", "mp-3"]


def test_a_molecule_in_a_vacuum_does_not_get_on_the_hull(tmp_path):
    with BuildState(tmp_path / "state.jsonl", identify("0.3.0")) as state:
        state.add(Record("single", "solid", "LiS4", -4.1, volume_A3_per_atom=20.0))
        state.add(Record("single", "gas", "LiS4", -4.3, volume_A3_per_atom=189.8))
    with BuildState(tmp_path / "state.jsonl", identify("0.3.0")) as state:
        assert [record.provenance for record in best_records(state)] == ["solid"]

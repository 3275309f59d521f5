"""MatterGen's adapter against a stand-in that takes its options and writes its files.

The stand-in shows that options and files fit what MatterGen documents; MatterGen itself cannot be
installed beside these tests.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from matterloop.adapters.generators.mattergen import MattergenGenerator
from matterloop.adapters.generators.mattergen_conditions import draw_systems
from matterloop.loop.candidate import Conditions
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import PluginFailedError, UsageError
from matterloop.loop.plugins import installed
from matterloop.loop.spec import SearchSpace

STAND_IN = Path(__file__).with_name("stand_in_mattergen.py")
COMMAND = (sys.executable, str(STAND_IN))
LI_O = SearchSpace(chemical_system="Li-O", min_elements=2, max_atoms=8)


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    """Return the options of every call so far."""
    log = tmp_path / "calls.jsonl"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    log.touch()
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def generator(**settings):
    given = {"weights": "chemical_system", "command": COMMAND, "command_takes_seed": True}
    return MattergenGenerator(MattergenGenerator.Settings(**{**given, **settings}))


def sample(made, n, space=LI_O, *, seed=1, scale=2.0, **targets):
    return made.sample(n, Conditions(space, targets), guidance_scale=scale, seed=seed)


def as_dicts(candidates):
    return [(c.structure.as_dict(), dict(c.origin)) for c in candidates]


def test_it_is_installed_as_a_plugin():
    assert installed("generators")["mattergen"].load() is MattergenGenerator


def test_a_chemical_system_becomes_a_condition_and_all_crystals_obey_it(calls):
    found = sample(generator(), 10)
    assert len(found) == 10
    for candidate in found:
        assert LI_O.why_outside(element_counts(candidate.structure)) is None
        assert candidate.origin["conditions"] == {"chemical_system": "Li-O"}
        assert candidate.origin["guidance_factor"] == 2.0
    first = calls()[0]
    assert first["pretrained_name"] == "chemical_system"
    assert first["batch_size"] * first["num_batches"] >= 10
    assert first["diffusion_guidance_factor"] == 2.0
    assert first["properties_to_condition_on"] == {"chemical_system": "Li-O"}


def test_what_was_outside_is_counted_and_the_attempts_are_bounded(calls):
    space = SearchSpace(chemical_system="Li-O", required_elements=("Li",), max_atoms=2)
    model = generator(weights="mattergen_base", rounds=2)
    found = sample(model, 50, space)
    assert 0 < len(found) < 50
    counts = found[0].origin
    assert counts["drawn"] == sum(c["batch_size"] * c["num_batches"] for c in calls())
    assert counts["drawn"] <= 50 + 4 * 50 + 2 * 15  # every round fills its last batch
    assert counts["outside_search_space"] == counts["drawn"] - len(found)
    assert len(calls()) == 2
    assert "properties_to_condition_on" not in calls()[0]


@pytest.mark.parametrize(
    ("weights", "target", "named"),
    [
        ("dft_band_gap", {"band_gap": 1.4}, {"dft_band_gap": 1.4}),
        ("space_group", {"space_group": 225.0}, {"space_group": 225}),
    ],
)
def test_targets_get_matter_gens_names(calls, weights, target, named):
    space = SearchSpace(elements=("Li", "O", "Na", "Cl", "Fe", "S"))
    sample(generator(weights=weights), 2, space, **target)
    assert calls()[0]["properties_to_condition_on"] == named


def test_two_conditions_at_once_and_the_rest_is_named(calls):
    model = generator(weights="chemical_system_energy_above_hull")
    found = sample(model, 2, energy_above_hull=0.05, density=4.0)
    assert calls()[0]["properties_to_condition_on"] == {
        "energy_above_hull": 0.05,
        "chemical_system": "Li-O",
    }
    assert found[0].origin["targets_passed_over"] == ["density"]


def test_formulas_go_to_a_model_of_fixed_compositions(calls, tmp_path):
    folder = tmp_path / "csp"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1\n")
    space = SearchSpace(formulas=("Li2O",), min_atoms=5, max_atoms=12)
    model = generator(weights=str(folder), structure_prediction=True)
    found = sample(model, 5, space)
    assert len(found) == 5
    (composition,) = calls()[0]["target_compositions"]
    assert composition["Li"] == 2 * composition["O"]
    assert 5 <= sum(composition.values()) <= 12
    assert calls()[0]["model_path"] == str(folder)
    with pytest.raises(UsageError, match="name formulas"):
        sample(model, 1)


@pytest.fixture
def python_with_stand_in(tmp_path):
    """An interpreter whose `mattergen` is the stand-in."""
    package = tmp_path / "site" / "mattergen" / "scripts"
    package.mkdir(parents=True)
    (package / "generate.py").write_text(STAND_IN.read_text())
    python = tmp_path / "python"
    site = tmp_path / "site"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_the_launcher_seeds_a_matter_gen_that_has_no_option_for_it(python_with_stand_in):
    model = generator(interpreter=python_with_stand_in, command_takes_seed=False)
    assert model.describe().config["repeatable"]
    first = as_dicts(sample(model, 6, seed=5))
    assert first == as_dicts(sample(model, 6, seed=5))
    assert first != as_dicts(sample(model, 6, seed=6))


FOLLOW = """
import sys
from matterloop.adapters.generators.mattergen import MattergenGenerator
from matterloop.loop.candidate import Conditions
from matterloop.loop.spec import SearchSpace
settings = {"weights": "mattergen_base", "interpreter": sys.argv[1]}
generator = MattergenGenerator(MattergenGenerator.Settings(**settings))
space = Conditions(SearchSpace(elements=("Li", "O")))
generator.sample(1, space, guidance_scale=0.0, seed=0)
"""


def test_it_ends_when_its_parent_is_killed(python_with_stand_in, calls, monkeypatch):
    monkeypatch.setenv("STAND_IN_MODE", "hang")
    parent = subprocess.Popen([sys.executable, "-c", FOLLOW, str(python_with_stand_in)])
    try:
        assert wait_until(lambda: bool(calls()))
    finally:
        parent.kill()
        parent.wait()
    (call,) = calls()
    assert wait_until(lambda: gone(call["pid"]))


def gone(pid):
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, limit_s=60.0):
    """Poll, because what a foreign process does can be observed in no other way."""
    end = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.05)
    return True


def test_the_same_seed_gives_the_same_crystals_and_no_seed_is_admitted():
    model = generator()
    first = as_dicts(sample(model, 6, seed=3))
    assert first == as_dicts(sample(model, 6, seed=3))
    assert first != as_dicts(sample(model, 6, seed=4))
    blind = generator(command_takes_seed=False)
    assert not blind.describe().config["repeatable"]
    assert sample(blind, 1)[0].origin["repeatable"] is False


def test_the_cif_archive_serves_as_well(monkeypatch):
    plain = sample(generator(), 4)
    monkeypatch.setenv("STAND_IN_MODE", "zip only")
    zipped = sample(generator(), 4)
    for one, other in zip(plain, zipped, strict=True):
        assert element_counts(one.structure) == element_counts(other.structure)
        assert one.structure.volume == pytest.approx(other.structure.volume, rel=1e-3)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("crash", "CUDA out of memory"),
        ("nothing", "left neither"),
        ("garbage", "cannot be read"),
    ],
)
def test_failures_name_the_plugin_and_the_reason(monkeypatch, mode, message):
    monkeypatch.setenv("STAND_IN_MODE", mode)
    with pytest.raises(PluginFailedError, match=message):
        sample(generator(), 1)


def test_it_is_stopped_when_it_takes_too_long(monkeypatch):
    monkeypatch.setenv("STAND_IN_MODE", "hang")
    with pytest.raises(PluginFailedError, match="did not finish within 2 s"):
        sample(generator(timeout_s=2), 1)


def test_missing_weights_programs_and_conditions_have_one_clear_message(tmp_path):
    with pytest.raises(UsageError, match="has no weights"):
        MattergenGenerator(MattergenGenerator.Settings())
    with pytest.raises(UsageError, match="no checkpoint of MatterGen"):
        generator(weights=str(tmp_path))
    with pytest.raises(UsageError, match="cannot start 'no-such-program'"):
        sample(generator(command=("no-such-program",)), 1)
    with pytest.raises(UsageError, match="cannot be conditioned on hhi_score"):
        generator(properties={"hhi_score": 1000})


def test_the_description_follows_the_weights(tmp_path):
    folder = tmp_path / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1\n")
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"one")
    one = generator(weights=str(folder)).describe()
    assert one.version == "mine"
    assert sorted(one.config["weights"]) == ["checkpoints/last.ckpt", "config.yaml"]
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"two")
    assert generator(weights=str(folder)).describe().sha256 != one.sha256
    json.dumps(one.config)


def test_systems_are_drawn_without_listing_them_all():
    import numpy as np

    random = np.random.default_rng(0)
    small = SearchSpace(chemical_system="Li-P-S", required_elements=("S",), min_elements=2)
    assert sorted(draw_systems(small, 99, random)) == ["Li-P-S", "Li-S", "P-S"]
    wide = SearchSpace(elements=("Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si"))
    drawn = draw_systems(wide, 20, random)
    assert len(set(drawn)) == 20
    assert all(1 <= len(system.split("-")) <= 5 for system in drawn)

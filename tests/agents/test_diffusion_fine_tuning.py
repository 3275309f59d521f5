"""The diffusion generator learns from a campaign, forgets little, and refuses what is no lesson."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure
from tiny_diffusion import LABELS, rock_salt, tiny_generator

from matterloop.agents.generator.diffusion.composition import log_likelihood
from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.fine_tuning.experience import (
    effective_number,
    hold_out,
    lessons,
)
from matterloop.agents.generator.diffusion.fine_tuning.new_labels import geometry_start
from matterloop.agents.generator.diffusion.fine_tuning.settings import FineTuningSettings
from matterloop.agents.generator.diffusion.generator import DiffusionGenerator
from matterloop.agents.generator.diffusion.weights import FORMULAS_FILE, WeightsError, read
from matterloop.loop.candidate import Conditions
from matterloop.loop.errors import FineTuningRefusedError, UsageError
from matterloop.loop.evaluation.novelty import formula_index, read_formula_index
from matterloop.loop.protocols import FineTunable, Reloadable
from matterloop.loop.selection import Observation, PoolItem, evidence_sha256
from matterloop.loop.spec import SearchSpace

RECIPE = {"temperature": 900.0, "pressure": 1e-4, "method": "solid-state"}
NACL, KF = [11, 17], [9, 19]


def made(cation, anion, above_hull=0.0, merit=None, strain=1.0, **values):
    structure = rock_salt(cation, anion, strain)
    item = PoolItem(f"{cation}{anion}{strain}", structure, screening={"formation_energy": -2.0})
    measured = {"energy_above_hull": above_hull, **values}
    return Observation(item, measured, conditions=RECIPE, merit=merit)


def failed(cation, anion):
    return replace(made(cation, anion), values={}, feasible=False)


CAMPAIGN = [
    made("Na", "Cl", 0.0),
    made("Na", "Br", 0.01),
    made("Na", "F", 0.02),
    made("Li", "Cl", 0.4),
    failed("K", "F"),
]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("parent"))


@pytest.fixture(scope="module")
def tuned(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "cycle-1"
    return folder, generator.fine_tune(CAMPAIGN, seed=3, folder=folder)


def tensors(network):
    return dict(network.state_dict())


def same(left, right):
    a, b = tensors(left), tensors(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_generator_promises_what_it_does(generator):
    assert isinstance(generator, FineTunable)
    assert isinstance(generator, Reloadable)


def test_a_challenger_is_written_with_its_pedigree(generator, tuned):
    folder, challenger = tuned
    card = json.loads((folder / "card.json").read_text())
    assert card["parent"] == generator.weights.sha256
    assert card["data"]["candidates"] == [o.item.candidate_id for o in CAMPAIGN]
    assert card["data"]["sha256"] == evidence_sha256(CAMPAIGN)
    assert card["seed"] == 3
    assert card["cost"]["cpu_s"] > 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json", "composition.safetensors", "geometry.safetensors",
    ]  # fmt: skip
    loaded = generator.with_weights(folder)
    assert loaded.describe() == replace(challenger, metrics={})
    assert challenger.sha256 != generator.describe().sha256
    assert not same(loaded.weights.geometry, generator.weights.geometry)
    assert not same(loaded.weights.composition, generator.weights.composition)


def test_a_challenger_remembers_what_its_parent_learned_from_and_whom_to_name(tmp_path):
    parent = tiny_generator(tmp_path / "parent", steps=2, composition_steps=2, replay_fraction=0.0)
    (tmp_path / "parent" / FORMULAS_FILE).write_bytes(
        formula_index([rock_salt("Li", "S")], "the parent's data")
    )
    card = {**parent.weights.card, "attribution": "Somebody, CC BY 4.0"}
    parent.weights = replace(parent.weights, card=card)
    parent.fine_tune(CAMPAIGN, seed=3, folder=tmp_path / "new")
    challenger = parent.with_weights(tmp_path / "new")
    assert challenger.weights.card["attribution"] == "Somebody, CC BY 4.0"
    known = read_formula_index(challenger.training_formulas())
    assert set(known.units) == {"LiS", "ClNa", "BrNa", "FNa", "ClLi", "FK"}
    assert known.source == "the parent's data, campaign"


def test_it_learns_what_was_good_and_remembers_what_was_replayed(tuned):
    _, challenger = tuned
    before, after = challenger.metrics["before"], challenger.metrics["after"]
    assert after["learned"]["composition_nll"] < before["learned"]["composition_nll"]
    assert after["learned"]["denoising"] < before["learned"]["denoising"]
    assert challenger.metrics["replayed"] > 0
    assert after["replay"]["denoising"] < 1.3 * before["replay"]["denoising"]
    assert after["held_out"] is None  # five compositions are all needed for learning


def test_better_crystals_gain_more_and_failures_gain_least(generator, tmp_path):
    strong = tiny_generator(
        tmp_path / "parent",
        composition_steps=60,
        composition_learning_rate=1e-3,
        replay_fraction=0.0,
    )
    strong.fine_tune(CAMPAIGN, seed=3, folder=tmp_path / "new")
    networks = generator.weights.composition, read(tmp_path / "new").composition
    old, new = (log_likelihood(network, [NACL, KF]) for network in networks)
    gain = (new - old).tolist()
    assert gain[0] > 0.2
    assert gain[1] < gain[0] - 0.5


def test_conditions_of_synthesis_become_known(generator, tuned):
    folder, _ = tuned
    new = generator.with_weights(folder)
    assert generator.target_names == LABELS
    assert {"temperature", "pressure", "method"} < set(new.target_names)
    space = SearchSpace(chemical_system="Na-Cl", max_atoms=4)
    wish = Conditions(space, {"method": "solid-state"}, temperature_K=900.0)
    [candidate] = new.sample(1, wish, guidance_scale=1.0, seed=1)
    assert candidate.origin["asked_for"]["temperature"] == 900.0
    with pytest.raises(UsageError, match="cannot be asked for method"):
        generator.sample(1, wish, guidance_scale=1.0, seed=1)


def test_a_new_label_begins_without_effect(generator):
    start = geometry_start(generator.weights.geometry, ["temperature", "method"])
    given = LabelTensors.encode([{"temperature": 900.0, "method": "solid-state"}])
    with torch.no_grad():
        assert torch.allclose(start.labels(given), start.labels(LabelTensors.null(1)), atol=1e-6)
        old = generator.weights.geometry.labels
        assert not torch.allclose(old(given), old(LabelTensors.null(1)), atol=1e-6)


def test_the_same_seed_gives_the_same_challenger(generator, tuned, tmp_path):
    _, challenger = tuned
    again = generator.fine_tune(CAMPAIGN, seed=3, folder=tmp_path / "again")
    assert again.sha256 == challenger.sha256
    other = generator.fine_tune(CAMPAIGN, seed=4, folder=tmp_path / "other")
    assert other.sha256 != challenger.sha256


def test_a_repeated_call_trains_nothing_and_another_one_is_refused(generator, tuned):
    folder, challenger = tuned
    stamp = (folder / "geometry.safetensors").stat().st_mtime_ns
    assert generator.fine_tune(CAMPAIGN, seed=3, folder=folder) == challenger
    assert (folder / "geometry.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="another training"):
        generator.fine_tune(CAMPAIGN, seed=4, folder=folder)


def test_changed_weights_are_not_loaded(generator, tuned, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tuned[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "geometry.safetensors").write_bytes((tuned[0] / "composition.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        generator.with_weights(copy)


KILLED = """
import os, signal, sys
from pathlib import Path
from matterloop.agents.generator.diffusion import training
from tiny_diffusion import tiny_generator
from test_diffusion_fine_tuning import CAMPAIGN
save = training.TrainingState.save
def save_and_die(self, path):
    save(self, path)
    if self.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)
training.TrainingState.save = save_and_die
tiny_generator(Path(sys.argv[1])).fine_tune(CAMPAIGN, seed=3, folder=Path(sys.argv[2]))
"""


def test_a_killed_fine_tuning_goes_on_and_ends_the_same(generator, tuned, tmp_path):
    folder = tmp_path / "torn"
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(generator.settings.weights), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not (folder / "card.json").exists()
    assert (folder / "unfinished" / "geometry.safetensors").exists()
    resumed = generator.fine_tune(CAMPAIGN, seed=3, folder=folder)
    assert resumed.sha256 == tuned[1].sha256
    assert not (folder / "unfinished").exists()


def test_checkpoints_of_other_data_are_thrown_away(generator, tuned, tmp_path):
    work = tmp_path / "models" / "unfinished"
    work.mkdir(parents=True)
    (work / "begun.json").write_text('"of something else"')
    (work / "geometry.safetensors").write_bytes(b"nonsense")
    challenger = generator.fine_tune(CAMPAIGN, seed=3, folder=tmp_path / "models")
    assert challenger.sha256 == tuned[1].sha256


SHEARED = Structure(Lattice.cubic(math.nan), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "nothing to fine-tune on"),
        ([*CAMPAIGN, made("K", "Cl", math.nan)], "KCl1.0 cannot .* energy_above_hull is nan"),
        ([*CAMPAIGN, made("K", "Cl", density=math.inf)], "density is inf"),
        ([*CAMPAIGN, made("K", "Cl", merit=math.nan)], "merit is nan"),
        ([*CAMPAIGN, replace(CAMPAIGN[0], conditions={"temperature": math.nan})], "temperature"),
        ([*CAMPAIGN, replace(CAMPAIGN[0], item=PoolItem("x", SHEARED))], "x cannot be .* its cell"),
        ([made("Na", "Cl"), made("Na", "Cl", strain=1.01), failed("K", "F")], "1 different .*NaCl"),
        ([failed("Na", "Cl"), failed("K", "F")], "all weights are zero"),
        ([made("Na", "Cl", 1e9), made("K", "F", 1e9)], "all weights are zero"),
    ],
)
def test_what_is_no_lesson_is_refused_and_nothing_written(generator, tmp_path, dataset, message):
    folder = tmp_path / "models" / "cycle-1"
    with pytest.raises(FineTuningRefusedError, match=message):
        generator.fine_tune(dataset, seed=1, folder=folder)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    generator = tiny_generator(tmp_path / "parent")
    # A parent that is broken: its first loss is no number.
    with torch.no_grad():
        generator.weights.geometry.cell.weight.fill_(math.nan)
    with pytest.raises(FineTuningRefusedError, match="nothing of it was kept"):
        generator.fine_tune(CAMPAIGN, seed=1, folder=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_weights_fall_exponentially_with_the_reward():
    settings = FineTuningSettings(energy_temperature_eV=0.2)
    found = lessons(CAMPAIGN, settings)
    assert [lesson.weight for lesson in found] == pytest.approx(
        [1.0, math.exp(-0.05), math.exp(-0.1), math.exp(-2), 0.05]
    )
    merits = [0.5, None, 1.5, -0.5]
    judged = [replace(o, merit=m) for o, m in zip(CAMPAIGN, merits, strict=False)]
    assert [lesson.weight for lesson in lessons(judged, FineTuningSettings())] == pytest.approx(
        [math.exp(-1), math.exp(-1.5), 1.0, math.exp(-2)]
    )
    assert effective_number([1.0, 1.0, 0.0]) == pytest.approx(2)


def test_labels_say_what_was_measured_and_failures_no_conditions():
    *_, lithium, potassium = lessons(CAMPAIGN, FineTuningSettings())
    assert lithium.labels["energy_above_hull"] == 0.4
    assert lithium.labels["formation_energy"] == -2.0  # of screening, since not measured
    assert lithium.labels["space_group"] == "225"
    assert {name: lithium.labels[name] for name in RECIPE} == RECIPE
    assert not potassium.made
    assert not set(RECIPE) & set(potassium.labels)


def test_held_out_compositions_are_not_learned_from():
    pairs = [(c, a) for c in ("Li", "Na", "K") for a in ("F", "Cl", "Br")]
    dataset = [made(*pair) for pair in pairs] + [made(*pair, strain=1.01) for pair in pairs]
    found = lessons(dataset, FineTuningSettings())
    train, held = hold_out(found, 0.2, 2, seed=1)
    assert len(train) + len(held) == 18
    assert len({lesson.formula for lesson in held}) == 2
    assert not {lesson.formula for lesson in train} & {lesson.formula for lesson in held}
    other = hold_out(found, 0.2, 2, seed=2)[1]
    assert {lesson.formula for lesson in other} != {lesson.formula for lesson in held}
    assert hold_out(found[:5], 0.2, 2, seed=1)[1] == []


def test_replay_from_files_of_the_users_choice(tmp_path):
    for cation in ("Li", "Na", "K"):
        rock_salt(cation, "F").to(str(tmp_path / f"{cation}F.cif"))
    generator = tiny_generator(
        tmp_path / "parent", replay_structures=[f"cif:{tmp_path}"], steps=2, composition_steps=2
    )
    challenger = generator.fine_tune(CAMPAIGN, seed=1, folder=tmp_path / "models")
    assert challenger.metrics["replayed"] == 3


def test_settings_of_fine_tuning_do_not_change_the_model(tmp_path, generator):
    other = tiny_generator(tmp_path, steps=5)
    assert other.describe() == generator.describe()
    assert DiffusionGenerator.Settings().fine_tuning == FineTuningSettings()

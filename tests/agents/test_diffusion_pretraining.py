"""``matterloop train generator``: from a table of crystals to a generator, whatever is killed."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from few_crystals import composition_network, geometry_network, labelled, packed, perovskite

from matterloop.agents.generator.diffusion.augmentation.augment import (
    AugmentationSettings,
    SupercellSettings,
)
from matterloop.agents.generator.diffusion.generator import DiffusionGenerator, DiffusionSettings
from matterloop.agents.generator.diffusion.pretraining.packing import (
    PackedData,
    decoded,
    pack_structures,
)
from matterloop.agents.generator.diffusion.pretraining.pretrain import pretrain
from matterloop.agents.generator.diffusion.pretraining.selection import (
    NetworkJudge,
    PackedReference,
    candidate_steps,
    score,
    validation_loss,
)
from matterloop.agents.generator.diffusion.pretraining.settings import (
    DataSettings,
    PretrainingSettings,
    SelectionSettings,
)
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings
from matterloop.agents.generator.diffusion.weights import read
from matterloop.loop.candidate import Conditions
from matterloop.loop.cli import main
from matterloop.loop.dataset import LabelledStructure, dataset_sha256, part_of
from matterloop.loop.errors import ConflictError, UsageError
from matterloop.loop.evaluation.novelty import read_formula_index
from matterloop.loop.examples import recipe_files
from matterloop.loop.settings_file import load_settings
from matterloop.loop.spec import SearchSpace
from matterloop.loop.training import TrainingData, TrainingRequest

_STEP = {"warmup_steps": 1, "pairs_per_batch": 200, "max_crystals": 8, "precision": "float32"}
TINY = {
    "version": "tiny",
    "data": {"licence": "CC BY 4.0", "attribution": "made up", "test": 0.0, "validation": 0.2},
    "composition_network": {"width": 16, "depth": 1, "max_atoms": 8},
    "composition": {"steps": 10, "batch_size": 8, "evaluate_every": 5, "warmup": 1},
    "network": {"width": 16, "depth": 1},
    "geometry": {"steps": 8, "checkpoint_every": 2, **_STEP},
    "finishing": {
        "steps": 4,
        "checkpoint_every": 2,
        "penalties": {"distance": 1, "density": 0.1, "stability": 0.1, "properties": 0.1},
        **_STEP,
    },
    "selection": {"candidates": 2, "samples": 4, "steps": 2},
}
SETTINGS = PretrainingSettings.model_validate(TINY)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A file in the form of MP-20."""
    path = tmp_path_factory.mktemp("data") / "crystals.csv"
    columns = ["material_id", "formation_energy_per_atom", "e_above_hull", "band_gap", "cif"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for item in labelled():
            gap = item.labels["band_gap"]
            writer.writerow([item.identifier, -1.5, 0.02, gap, item.structure.to(fmt="cif")])
        writer.writerow(["broken", "", "", "", "no CIF at all"])
    return path


@pytest.fixture
def matterloop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["matterloop", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return run


def pack(items, settings: DataSettings | None = None, max_atoms: int = 8) -> PackedData:
    *done, data = pack_structures(
        items, settings or DataSettings(), max_atoms=max_atoms, source="x", seed=0
    )
    assert done == list(range(1, len(items) + 1))
    assert isinstance(data, PackedData)
    return data


def request(table: Path, folder: Path, **changes) -> TrainingRequest:
    given = TrainingRequest(TrainingData.at([str(table)]), folder, seed=3, device="cpu")
    return replace(given, **changes)


class Killed(BaseException):
    pass


def test_the_command_trains_a_generator_that_obeys(matterloop, table, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    words = ("train", "generator", "--data", str(table), "--config", "tiny.yaml", "--workers", "1")
    code, out, err = matterloop(*words, "--out", "w", "--device", "cpu")
    assert (code, out.splitlines()[0][:14]) == (0, "diffusion tiny")
    assert "geometry: 8 of 8 steps; velocity" in err
    assert re.search(r"reading data: \d+ of \d+ crystals; train \d+, validation \d+, test \d+", err)
    card = json.loads((tmp_path / "w" / "card.json").read_text())
    assert (card["licence"], card["attribution"], card["seed"]) == ("CC BY 4.0", "made up", 0)
    data = card["data"]
    assert data["sources"][0]["name"] == "crystals.csv"
    assert (data["read"], data["unreadable"], data["left_out"]) == (11, 1, 0)
    assert data["train"] + data["validation"] == 11
    assert len(data["dataset_sha256"]) == len(data["sources"][0]["sha256"]) == 64
    assert "energy_above_hull" in card["labels"]
    found = card["metrics"]["selection"]
    assert set(found["candidates"]) == {"geometry-6", "geometry-8", "finishing-4"}
    best = max(row["all_four"] for row in found["candidates"].values())
    assert found["candidates"][found["chosen"]]["all_four"] == best
    assert card["cost"]["cpu_s"] > 0
    assert set(card["cost"]["phases"]) == {
        "prepare", "composition", "geometry", "finishing", "selection"
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(card)

    settings = DiffusionSettings(weights=tmp_path / "w", steps=3, plausible_only=False)
    generator = DiffusionGenerator(settings)
    space = SearchSpace(elements=("Mg", "Ca", "O"), required_elements=("O",), max_atoms=5)
    for made in generator.sample(5, Conditions(space), guidance_scale=1.0, seed=1):
        symbols = {element.symbol for element in made.structure.composition}
        assert "O" in symbols <= {"Mg", "Ca", "O"}
        assert len(made.structure) <= 5
    index = read_formula_index(generator.training_formulas())
    assert index.basis.size == data["train"]

    again = matterloop(*words, "--out", "w", "--device", "cpu")
    assert again[:2] == (code, out)
    assert again[2] == ""
    code, _, err = matterloop(*words, "--out", "w", "--device", "cpu", "--seed", "1")
    assert code == 2
    assert "seed is 0 there, 1 here" in err


def test_the_users_mistakes_are_told_without_a_traceback(matterloop, table, tmp_path):
    (tmp_path / "odd.yaml").write_text("geometry: {step: 3}\nselection: {samples: none}\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    train = ("train", "generator", "--out", "w", "--workers", "1", "--device", "cpu")
    known = ("--data", str(table))
    for words, told in [
        ((*train, *known, "--config", "odd.yaml"), "geometry.step: there is no such field"),
        ((*train, *known, "--config", "list.yaml"), "a mapping of fields"),
        ((*train, *known, "--config", "broken.yaml"), "no YAML"),
        ((*train, *known, "--config", "none.yaml"), "No such file"),
        ((*train, *known, "--generator", "substitution"), "cannot be trained from nothing"),
        ((*train, *known, "--generator", "alchemy"), "no generator named"),
        ((*train, "--data", "nowhere.csv"), "nowhere.csv"),
        ((*train[:-1], "abacus", *known), "no device"),
    ]:
        code, _, err = matterloop(*words)
        assert code == 2, words
        assert told in err
        assert "Traceback" not in err
    assert not (tmp_path / "w" / "card.json").exists()


@pytest.mark.parametrize("where", [("geometry", 5), ("finishing", 2), ("selection", 1)])
def test_whatever_is_killed_the_same_call_ends_with_the_same_weights(table, tmp_path, where, whole):
    def kill(progress):
        if (progress.phase, progress.done) == where:
            raise Killed

    with pytest.raises(Killed):
        pretrain(request(table, tmp_path, watch=kill), SETTINGS)
    assert not (tmp_path / "card.json").exists()
    begun = []
    pretrain(request(table, tmp_path, watch=begun.append), SETTINGS)
    assert "reading data" not in {progress.phase for progress in begun}
    one, other = read(tmp_path), read(whole)
    assert one.sha256 == other.sha256
    assert one.card["metrics"] == other.card["metrics"]


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pretrain(request(table, folder), SETTINGS)
    return folder


def test_foreign_folders_and_two_at_once_are_refused(table, whole, tmp_path):
    (tmp_path / "geometry.safetensors").write_bytes(b"somebody's")
    with pytest.raises(ConflictError, match="another training"):
        pretrain(request(table, tmp_path), SETTINGS)
    other = tmp_path / "other"

    def twice(progress):
        pretrain(request(table, other), SETTINGS)

    with pytest.raises(ConflictError, match="Another process"):
        pretrain(request(table, other, watch=twice), SETTINGS)
    changed = SETTINGS.model_copy(update={"version": "2"})
    with pytest.raises(ConflictError, match=r"settings.version is 'tiny' there, '2' here"):
        pretrain(request(table, whole), changed)


def test_a_training_that_never_found_its_data_does_not_keep_the_folder(table, tmp_path, whole):
    with pytest.raises(UsageError):
        pretrain(request(tmp_path / "nowhere.csv", tmp_path), SETTINGS)
    pretrain(request(table, tmp_path), SETTINGS)
    assert read(tmp_path).sha256 == read(whole).sha256


def test_a_judge_from_outside_decides(table, tmp_path):
    def judge(structures):
        return [9.0 for _ in structures]

    weights = pretrain(request(table, tmp_path, stability=judge, stability_name="gloomy"), SETTINGS)
    found = weights.card["metrics"]["selection"]
    assert found["judge_of_stability"] == "gloomy"
    assert {row["stable"] for row in found["candidates"].values()} == {0.0}
    assert found["chosen"] == "finishing-4"  # of equal ones the last


def test_packing_splits_labels_counts_and_can_be_read_back(tmp_path):
    items = labelled()
    big = perovskite()
    big.make_supercell([2, 1, 1])
    items.append(LabelledStructure(big, {"colour": 1.0}, "made-up", "big"))
    data = pack(items, DataSettings(validation=0.3))
    parts = [part_of(i.reduced_formula, DataSettings(validation=0.3).fractions) for i in items[:-1]]
    assert len(data.train) == parts.count("train")
    assert len(data.validation) == parts.count("validation")
    assert data.facts["left_out"] == 1
    assert "big: 10 atoms" in data.facts["reasons"]
    assert data.facts["dataset_sha256"] == dataset_sha256(items)
    labels = decoded(next(iter(data.train.blocks.values())).labels)[0]
    assert labels["space_group"] == "225"
    assert labels["crystal_system"] == "cubic"
    assert labels["density"] > 0
    assert "temperature" not in labels
    data.save(tmp_path / "packed", "mark")
    back = PackedData.load(tmp_path / "packed", "mark")
    assert back is not None
    assert (back.facts, back.formulas) == (data.facts, data.formulas)
    for size, block in data.train.blocks.items():
        assert torch.equal(back.train.blocks[size].fractional, block.fractional)
    assert PackedData.load(tmp_path / "packed", "another") is None
    assert PackedData.load(tmp_path / "nothing", "mark") is None


def test_nothing_to_train_on_is_told():
    with pytest.raises(UsageError, match="Nothing is left to train on"):
        pack(labelled()[:3], max_atoms=1)
    with pytest.raises(UsageError, match="0 crystals read"):
        pack([])


def test_what_is_made_from_the_training_part_joins_it_and_weighs_less():
    changes = AugmentationSettings(supercell=SupercellSettings(copies=1, max_atoms=8))
    data = pack(labelled(), DataSettings(augmentation=changes, augmented_weight=0.25))
    assert len(data.augmented) > 0
    assert len(data.everything) == len(data.train) + len(data.augmented)
    weights = torch.cat([block.weight for block in data.everything.blocks.values()])
    assert set(weights.tolist()) == {1.0, 0.25}


def test_candidates_are_checkpoints_of_the_last_part():
    training = TrainingSettings(steps=1000, checkpoint_every=100)
    chosen = candidate_steps(training, SelectionSettings(candidates=4, after=0.5))
    assert chosen[-1] == 1000
    assert len(chosen) == 4
    assert all(step >= 500 and step % 100 == 0 for step in chosen)
    few = training.model_copy(update={"checkpoint_every": 5000})
    assert candidate_steps(few, SelectionSettings()) == [1000]


def test_scores_count_all_four_and_know_the_training_part():
    data = packed()
    known = PackedReference(data, "here")
    items = labelled()
    assert known.basis.size == len(items)
    assert all(known.holds(item.structure) for item in items)
    stretched = items[0].structure.copy()
    stretched.replace_species({"Mg": "Zn"})
    assert not known.holds(stretched)
    network = geometry_network()
    settings = SelectionSettings(samples=3, steps=2)
    found = score(
        network,
        [(12, 8), (12, 8), (26, 8, 8)],
        settings,
        known=known,
        judge=NetworkJudge(network),
        seed=0,
    )
    least = min(found.valid, found.unique, found.novel, found.stable)
    assert 0 <= found.all_four <= least <= 1
    judged = NetworkJudge(network)([item.structure for item in items])
    assert len(judged) == len(items)
    assert all(value is not None for value in judged)


def test_the_validation_loss_is_always_the_same():
    one, two = (
        validation_loss(geometry_network(), packed(), TrainingSettings(), 3) for _ in range(2)
    )
    assert one == two
    assert set(one) == {"velocity", "lattice", "properties"}
    assert composition_network().settings.max_atoms == 8


def test_settings_that_contradict_themselves_are_refused():
    for wrong in (
        {"data": {"test": 0.6, "validation": 0.5}},
        {"geometry": {"penalties": {"stability": 1.0}}},
        {"geometrie": {}},
    ):
        with pytest.raises(ValueError, match="validation error"):
            PretrainingSettings.model_validate(wrong)


def test_the_shipped_recipe_can_be_read():
    settings = load_settings(recipe_files()["train-generator"], PretrainingSettings)
    assert (settings.network.width, settings.network.depth) == (192, 5)
    assert settings.finishing is not None
    assert settings.finishing.penalties.critical
    assert settings.data.licence == "CC BY 4.0"
    assert load_settings(None, PretrainingSettings) == PretrainingSettings()

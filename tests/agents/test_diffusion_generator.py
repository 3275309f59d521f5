"""The plugin: constraints hold, a stream goes on where it ended, weights are what they claim."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from few_crystals import composition_network, geometry_network

from matterloop.agents.generator.diffusion.generator import (
    DiffusionGenerator,
    DiffusionSettings,
    chunks,
)
from matterloop.agents.generator.diffusion.weights import WeightsError, read, write
from matterloop.loop.candidate import Conditions
from matterloop.loop.errors import UsageError
from matterloop.loop.protocols import (
    Guidable,
    RemembersTraining,
    StreamingGenerator,
    StructurePredictor,
    TrajectoryGenerator,
)
from matterloop.loop.spec import SearchSpace

OXIDES = Conditions(SearchSpace(elements=("Mg", "Ca", "O"), required_elements=("O",), max_atoms=6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write(folder, geometry_network(), composition_network(), {"version": "arbitrary"})
    return folder


@pytest.fixture(scope="module")
def generator(folder) -> DiffusionGenerator:
    return DiffusionGenerator(
        DiffusionSettings(weights=folder, steps=3, tries=2, plausible_only=False)
    )


def drawn(generator, n, start=0, **changes):
    given = {"guidance_scale": 0.0, "seed": 4, **changes}
    return list(generator.stream(n, OXIDES, start=start, **given))


def test_it_keeps_its_promises_of_abilities(generator):
    for ability in (
        Guidable, RemembersTraining, StreamingGenerator, StructurePredictor, TrajectoryGenerator
    ):  # fmt: skip
        assert isinstance(generator, ability)
    assert generator.training_formulas() is None
    assert "band_gap" in generator.target_names


def test_a_stream_goes_on_as_if_it_had_never_ended(generator):
    whole, tail, longer = drawn(generator, 20), drawn(generator, 20, start=13), drawn(generator, 33)
    assert len(whole) == 20
    assert [c.structure for c in tail] == [c.structure for c in whole[13:]]
    assert [c.structure for c in longer[:20]] == [c.structure for c in whole]
    assert [c.origin["draw"] for c in tail] == list(range(13, 20))
    assert drawn(generator, 5, start=5) == []
    assert drawn(generator, 3, seed=5)[0].structure != whole[0].structure


def test_every_crystal_obeys_the_search_space(generator):
    for candidate in drawn(generator, 12, guidance_scale=2.0):
        symbols = {element.symbol for element in candidate.structure.composition}
        assert "O" in symbols <= {"Mg", "Ca", "O"}
        assert len(candidate.structure) <= 6
        assert candidate.origin["asked_for"]["energy_above_hull"] == 0.0
    exact = Conditions(SearchSpace(formulas=("CaMgO2",), max_atoms=8))
    for candidate in generator.sample(4, exact, guidance_scale=0.0, seed=0):
        assert candidate.structure.composition.reduced_formula == "CaMgO2"


def test_a_trajectory_ends_in_the_first_crystal(generator):
    frames = generator.trajectory(OXIDES, guidance_scale=1.5, seed=4)
    [first] = generator.sample(1, OXIDES, guidance_scale=1.5, seed=4)
    times = [time for time, _ in frames]
    assert (times[0], times[-1], times) == (0.0, 1.0, sorted(times))
    last = frames[-1][1]
    assert last.species == first.structure.species
    assert last.lattice.matrix == pytest.approx(first.structure.lattice.matrix, rel=1e-3)
    gap = last.frac_coords - first.structure.frac_coords
    assert abs(gap - gap.round()).max() < 1e-3


def test_predictions_hold_the_atoms_that_were_asked_for(generator):
    found = generator.predict([(12, 8), (20, 8, 8)], 3, seed=1)
    assert [[s.atomic_numbers for s in group] for group in found] == [
        [(12, 8)] * 3, [(20, 8, 8)] * 3
    ]  # fmt: skip
    assert found[0][0] != found[0][1]
    for wrong in ([()], [(0,)], [(8, 101)]):
        with pytest.raises(UsageError):
            generator.predict(wrong, 1, seed=0)


def test_mistakes_are_told(generator):
    with pytest.raises(UsageError, match="colour"):
        generator.sample(
            1, Conditions(OXIDES.search_space, {"colour": 3}), guidance_scale=1, seed=0
        )
    with pytest.raises(UsageError, match="space_group"):
        generator.sample(
            1, Conditions(OXIDES.search_space, {"space_group": "231"}), guidance_scale=1, seed=0
        )
    for n, scale in ((-1, 1.0), (1, -1.0), (1, 1e9), (1, float("nan"))):
        with pytest.raises(UsageError):
            generator.sample(n, OXIDES, guidance_scale=scale, seed=0)


def test_the_description_follows_weights_and_settings(generator, folder, tmp_path):
    same = DiffusionGenerator(generator.settings).describe()
    assert same == generator.describe()
    busy = DiffusionGenerator(generator.settings.model_copy(update={"threads": 2})).describe()
    assert busy == same
    more = DiffusionGenerator(generator.settings.model_copy(update={"steps": 4})).describe()
    write(tmp_path, geometry_network(9), composition_network(), {"version": "arbitrary"})
    other = DiffusionGenerator(generator.settings.model_copy(update={"weights": tmp_path}))
    assert len({same.sha256, more.sha256, other.describe().sha256}) == 3
    assert (same.name, same.version) == ("diffusion", "arbitrary")


def test_the_chunks_do_not_depend_on_how_many_are_asked_for():
    assert list(chunks(0)) == []
    assert list(chunks(50))[:2] == list(chunks(20))[:2] == [(0, 16), (16, 32)]
    long = list(chunks(600))
    assert [a for a, _ in long[1:]] == [b for _, b in long[:-1]]
    assert max(b - a for a, b in long) == 128


def copied(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["geometry.safetensors", "composition.safetensors"])
def test_changed_or_missing_weights_are_refused(folder, tmp_path, name):
    path = copied(folder, tmp_path) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match="no file"):
        read(tmp_path)


def test_weights_of_other_settings_are_refused(folder, tmp_path):
    card_file = copied(folder, tmp_path) / "card.json"
    card = json.loads(card_file.read_text())
    card["geometry_settings"]["width"] = 32
    card_file.write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="does not fit"):
        read(tmp_path)
    card_file.write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(WeightsError, match="of format 99"):
        read(tmp_path)
    card_file.write_text("{}")
    with pytest.raises(WeightsError, match="no readable weights"):
        read(tmp_path)


def test_weights_on_another_device_leave_the_shared_ones_and_compositions_where_they_are(folder):
    weights = read(folder)
    moved = weights.to("meta")

    def devices(network):
        return {parameter.device.type for parameter in network.parameters()}

    assert devices(moved.geometry) == {"meta"}
    assert devices(weights.geometry) == devices(moved.composition) == {"cpu"}
    assert weights.to("cpu") is weights


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_is_never_opened(folder, tmp_path, writer):
    import hashlib

    path = copied(folder, tmp_path) / "geometry.safetensors"
    with path.open("wb") as file:
        writer(Trap(), file)
    card = json.loads((tmp_path / "card.json").read_text())
    card["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="does not fit"):
        read(tmp_path)

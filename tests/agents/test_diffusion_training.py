"""Training: it learns, it resumes to the last bit, it refuses what it cannot learn from."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
import torch
from few_crystals import TINY, geometry_network, labelled, packed

from matterloop.agents.generator.diffusion.dataset import Example, PackedCrystals, examples_of
from matterloop.agents.generator.diffusion.network import GeometryNetwork, NetworkSettings
from matterloop.agents.generator.diffusion.physics import PenaltyWeights
from matterloop.agents.generator.diffusion.team import WorkerDiedError, team
from matterloop.agents.generator.diffusion.training import (
    TrainingError,
    TrainingSettings,
    TrainingState,
    frozen,
    learning_rate,
    new_network,
    train_geometry,
)
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError

DATA = packed()
FAST = TrainingSettings(
    steps=12,
    warmup_steps=2,
    learning_rate=3e-3,
    pairs_per_batch=200,
    max_crystals=8,
    checkpoint_every=4,
    ema_decay=0.9,
    precision="float32",
)

NO_ASSIGNMENT = FAST.model_copy(update={"assign_noise": False})


def start(seed: int = 0) -> GeometryNetwork:
    return new_network(TINY, DATA, seed=seed)


def weights(network: GeometryNetwork) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


class Stopped(Exception):  # noqa: N818
    pass


def test_the_loss_falls():
    seen = []
    settings = FAST.model_copy(update={"steps": 150, "checkpoint_every": 30})
    train_geometry(start(), DATA, settings, seed=1, watch=lambda p, _: seen.append(p))
    assert [progress.step for progress in seen] == [30, 60, 90, 120, 150]
    total = [sum(progress.losses.values()) for progress in seen]
    assert total[-1] < 0.85 * total[0]
    assert set(seen[0].losses) == {"velocity", "lattice", "properties"}
    assert seen[-1].crystals > seen[0].crystals > 0


@pytest.mark.parametrize("stop_at", [4, 7, 8])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, stop_at):
    whole = train_geometry(start(), DATA, FAST, seed=5)

    def stop(progress):
        if progress.step == stop_at:
            raise Stopped

    file = tmp_path / "checkpoint"
    with pytest.raises(Stopped):
        train_geometry(start(), DATA, FAST, seed=5, checkpoint=file, each_step=stop)
    assert file.exists() == (stop_at > 4)
    resumed = train_geometry(start(), DATA, FAST, seed=5, checkpoint=file)
    assert torch.equal(weights(resumed), weights(whole))
    again = train_geometry(start(), DATA, FAST, seed=5, checkpoint=file)
    assert torch.equal(weights(again), weights(whole))
    assert not torch.equal(weights(train_geometry(start(), DATA, FAST, seed=6)), weights(whole))


def forgetful() -> GeometryNetwork:
    settings = TINY.model_copy(update={"descriptors": True, "element_dropout": 0.5, "dropout": 0.2})
    return new_network(settings, DATA, seed=0)


def test_dropout_is_drawn_from_the_seed_and_leaves_torchs_generator_alone():
    torch.manual_seed(1)
    first = train_geometry(forgetful(), DATA, FAST, seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = train_geometry(forgetful(), DATA, FAST, seed=5)
    assert torch.equal(weights(first), weights(second))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trained_network_with_dropout_predicts_the_same_twice():
    trained = train_geometry(forgetful(), DATA, FAST, seed=5)
    block = next(iter(DATA.blocks.values()))
    args = (
        block.numbers,
        block.fractional,
        trained.standardise(block.lattice),
        torch.ones(len(block)),
        block.labels,
    )
    assert torch.equal(trained(*args).velocity, trained(*args).velocity)
    trained.train()
    assert not torch.equal(trained(*args).lattice, trained(*args).lattice)


def test_no_checkpoint_stands_that_nobody_was_told_of(tmp_path):
    file = tmp_path / "checkpoint"

    def watch(progress, averaged):
        raise Stopped

    with pytest.raises(Stopped):
        train_geometry(start(), DATA, FAST, seed=5, checkpoint=file, watch=watch)
    assert not file.exists()


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_refused(tmp_path):
    file = tmp_path / "checkpoint"
    train_geometry(start(), DATA, FAST.model_copy(update={"steps": 4}), seed=5, checkpoint=file)
    other = new_network(NetworkSettings(width=32, depth=1), DATA, seed=0)
    with pytest.raises(TrainingError, match="another network"):
        train_geometry(other, DATA, FAST, seed=5, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrainingError, match="damaged"):
        train_geometry(start(), DATA, FAST, seed=5, checkpoint=file)


def test_the_start_stays_as_it_is_and_a_trained_network_can_be_trained_on():
    network = start()
    before = weights(network).clone()
    first = train_geometry(network, DATA, FAST, seed=1)
    assert torch.equal(weights(network), before)
    second = train_geometry(first, DATA, FAST, seed=2)
    assert not torch.equal(weights(second), weights(first))


def test_bf16_trains_and_keeps_its_parameters_in_full():
    settings = FAST.model_copy(update={"precision": "bfloat16"})
    trained = train_geometry(start(), DATA, settings, seed=1)
    assert all(p.dtype == torch.float32 for p in trained.parameters())
    assert torch.isfinite(weights(trained)).all()
    assert not torch.equal(weights(trained), weights(train_geometry(start(), DATA, FAST, seed=1)))


def test_penalties_change_the_result_and_want_their_critic():
    penalised = FAST.model_copy(
        update={"penalties": PenaltyWeights(distance=1, density=1, stability=1, properties=1)}
    )
    with pytest.raises(TrainingError, match="no critic"):
        train_geometry(start(), DATA, penalised, seed=1)
    critic = geometry_network(4)
    before = weights(critic).clone()
    seen = []
    trained = train_geometry(
        start(), DATA, penalised, seed=1, critic=critic, watch=lambda p, _: seen.append(p.losses)
    )
    assert seen[-1]["penalties"] > 0
    assert not torch.equal(weights(trained), weights(train_geometry(start(), DATA, FAST, seed=1)))
    assert torch.equal(weights(critic), before)
    copy = frozen(start())
    assert copy is not None
    assert not any(p.requires_grad for p in copy.parameters())


def test_averaged_weights_lag_behind(tmp_path):
    file = tmp_path / "checkpoint"
    slow = FAST.model_copy(update={"ema_decay": 0.5, "steps": 6, "checkpoint_every": 6})
    averaged = train_geometry(start(), DATA, slow, seed=1, checkpoint=file)
    state = TrainingState.begin(start(), slow)
    state.load(file)
    assert state.step == 6
    assert torch.equal(weights(state.averaged), weights(averaged))
    begin, now = weights(start()), weights(state.network)
    assert float((weights(averaged) - begin).norm()) < float((now - begin).norm())
    plain = FAST.model_copy(update={"ema_decay": 0.0, "steps": 6, "checkpoint_every": 6})
    copied = train_geometry(start(), DATA, plain, seed=1, checkpoint=tmp_path / "plain")
    state.load(tmp_path / "plain")
    assert torch.allclose(weights(state.network), weights(copied), atol=1e-7)


def test_the_learning_rate_rises_stays_and_falls():
    settings = FAST.model_copy(
        update={"steps": 100, "warmup_steps": 10, "decay_fraction": 0.5, "learning_rate": 1.0}
    )
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:51] == [1.0] * 41
    assert rates[51:] == sorted(rates[51:], reverse=True)
    assert rates[62] == pytest.approx(1 - math.sqrt(12 / 50))
    assert 0 < rates[-1] < 0.02
    flat = settings.model_copy(update={"decay_fraction": 0.0})
    assert learning_rate(99, flat) == 1.0


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(TrainingError, match="nothing to train on"):
        train_geometry(start(), PackedCrystals({}), FAST, seed=0)
    structure = labelled()[0].structure
    with pytest.raises(UsageError, match="band_gap"):
        LabelledStructure(structure, {"band_gap": math.nan})
    [example] = examples_of([LabelledStructure(structure)])[0]
    with pytest.raises(UsageError, match="formation_energy is -inf"):
        PackedCrystals.pack([Example(example.crystal, {"formation_energy": -math.inf})])
    lost = replace(example.crystal, fractional=example.crystal.fractional * math.nan)
    with pytest.raises(TrainingError, match="no longer finite"):
        train_geometry(
            start(), PackedCrystals.pack([Example(lost, {}), Example(lost, {})]), NO_ASSIGNMENT,
            seed=0,
        )  # fmt: skip


def test_no_checkpoint_holds_weights_that_are_lost(tmp_path):
    """The losses that the leader sees can be finite while another worker's were not."""
    broken = start()
    with torch.no_grad():
        broken.element.weight[99] = math.nan  # no crystal holds einsteinium
    with pytest.raises(TrainingError, match="weight is no longer finite"):
        train_geometry(broken, DATA, FAST, seed=0, checkpoint=tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_labels_that_are_not_known_are_not_learned():
    """NaN stands for what is not known: it leaves the loss finite."""
    [example] = examples_of(labelled()[:1])[0]
    data = PackedCrystals.pack([Example(example.crystal, {}), Example(example.crystal, {})])
    seen = []
    train_geometry(start(), data, FAST, seed=0, watch=lambda p, _: seen.append(p.losses))
    assert seen[-1]["properties"] == 0.0


@pytest.mark.slow
def test_two_workers_give_what_one_gives():
    alone = train_geometry(start(), DATA, FAST, seed=3)
    shared = train_geometry(start(), DATA, FAST, seed=3, workers=2)
    assert torch.allclose(weights(alone), weights(shared), atol=1e-5)


def _dies(members) -> None:
    os._exit(3)


@pytest.mark.slow
def test_a_worker_that_dies_is_told():
    with pytest.raises(WorkerDiedError), team(_dies, 2) as members:
        members.add_gradients(start(), 1)

"""The scheduled trainer."""

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.agents.trainer.scheduled import ScheduledTrainer
from matterloop.loop.candidate import ModelRef
from matterloop.loop.errors import UsageError
from matterloop.loop.selection import Observation, PoolItem
from matterloop.loop.spec import CampaignSpec

CRYSTAL = Structure(Lattice.cubic(3.0), ["Fe"], [[0, 0, 0]])
MADE = Observation(PoolItem("a", CRYSTAL), {"density": 7.9})
FAILED = Observation(PoolItem("b", CRYSTAL), {}, feasible=False)


class Still:
    def describe(self):
        return ModelRef("generator", "still", "1", "0" * 64)

    def sample(self, n, conditions, *, guidance_scale, seed):
        return []


class Learner(Still):
    def fine_tune(self, dataset, *, seed, folder):
        return ModelRef("generator", "learner", "2", f"{len(dataset) + seed:064d}")


def spec(**fine_tuning):
    return CampaignSpec(
        name="c",
        search_space={"chemical_system": "Li-S"},
        objectives=[{"property": "density", "goal": "minimise"}],
        budget={"cycles": 9},
        characterizers=["virtual-pycnometer"],
        fine_tuning=fine_tuning,
    )


@pytest.fixture
def trainer():
    return ScheduledTrainer(ScheduledTrainer.Settings())


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ({}, []),
        ({"every_cycles": 2}, [2, 4, 6]),
        ({"after_measurements": 10}, [4, 5, 6]),
        ({"every_cycles": 3, "after_measurements": 15}, [3, 5, 6]),
    ],
)
def test_the_schedule_of_the_campaign_decides(trainer, schedule, due):
    found = [c for c in range(1, 7) if trainer.due(spec(**schedule), c, 3 * c)]
    assert found == due


def test_a_challenger_is_trained_only_where_something_can_learn(trainer, tmp_path):
    dataset = [MADE, FAILED]
    challenger = trainer.train(Learner(), dataset, seed=5, folder=tmp_path)
    assert challenger is not None
    assert challenger.sha256.endswith("7")
    assert trainer.train(Still(), dataset, seed=5, folder=tmp_path) is None
    assert trainer.train(Learner(), [FAILED], seed=5, folder=tmp_path) is None
    patient = ScheduledTrainer(ScheduledTrainer.Settings(min_dataset=2))
    assert patient.train(Learner(), dataset, seed=5, folder=tmp_path) is None


def test_senseless_questions_are_refused(trainer):
    with pytest.raises(UsageError, match="cycle 0"):
        trainer.due(spec(), 0, 1)

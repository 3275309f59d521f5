"""Chemeleon-DNG's adapter: what needs no library, and the real library where there is one.

The library is looked for in the interpreter of the tests, or in the one that the environment
variable ``MATTERLOOP_CHEMELEON_PYTHON`` names. Its published weights cannot be had here, so its
architecture runs with random ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from matterloop.adapters.generators.chemeleon import ChemeleonGenerator
from matterloop.adapters.generators.rejection import Draft, crystal, gather
from matterloop.loop.candidate import Conditions
from matterloop.loop.elements import element_counts, same_composition
from matterloop.loop.errors import UsageError
from matterloop.loop.plugins import installed
from matterloop.loop.spec import SearchSpace

PYTHON = os.environ.get("MATTERLOOP_CHEMELEON_PYTHON", sys.executable)
NACL = SearchSpace(formulas=("NaCl", "Na2O"), max_atoms=6)


def has_chemeleon() -> bool:
    look = "from importlib.metadata import version; version('chemeleon-dng')"
    return subprocess.run([PYTHON, "-c", look], capture_output=True).returncode == 0


needs_chemeleon = pytest.mark.skipif(
    not has_chemeleon(), reason=f"chemeleon-dng is not installed in {PYTHON}"
)


def generator(**settings):
    given = {"weights": "random", "random_timesteps": 2, "interpreter": Path(PYTHON)}
    return ChemeleonGenerator(ChemeleonGenerator.Settings(**{**given, **settings}))


def sample(made, n, space=NACL, *, seed=1, **targets):
    return made.sample(n, Conditions(space, targets), guidance_scale=1.0, seed=seed)


def as_dicts(candidates):
    return [(c.structure.as_dict(), dict(c.origin)) for c in candidates]


def test_it_is_installed_as_a_plugin():
    assert installed("generators")["chemeleon"].load() is ChemeleonGenerator


def test_without_weights_one_message_says_what_to_do():
    with pytest.raises(UsageError, match=r"has no weights.*`weights: download`"):
        ChemeleonGenerator(ChemeleonGenerator.Settings())


def test_an_interpreter_without_the_library_is_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no installed packages
    bare.chmod(0o755)
    with pytest.raises(UsageError, match=r"not installed in .*matterloop\[chemeleon\]"):
        generator(interpreter=bare)


def test_drafts_outside_the_search_space_are_counted_and_asked_for_again():
    inside = crystal([11, 17], [[4, 0, 0], [0, 4, 0], [0, 0, 4]], [[0, 0, 0], [0.5, 0.5, 0.5]])
    outside = crystal([12, 8], [[4, 0, 0], [0, 4, 0], [0, 0, 4]], [[0, 0, 0], [0.5, 0.5, 0.5]])
    asked = []

    def draw(round_, count):
        asked.append(count)
        return [Draft(each) for each in ([inside, outside, None, outside] * count)[:count]]

    found = gather(4, NACL, draw, rounds=9, seed=0, origin={"method": "test"})
    assert asked == [4, 12]
    assert len(found) == 4
    counts = {"drawn": 16, "outside_search_space": 8, "not_a_crystal": 4}
    assert found[0].origin == {"method": "test", **counts}
    asked.clear()
    assert gather(2, SearchSpace(elements=("Fe",)), draw, rounds=3, seed=0, origin={}) == []
    assert asked == [2, 8, 8]


@pytest.mark.parametrize(
    ("numbers", "cell"),
    [
        ([0], [[4, 0, 0], [0, 4, 0], [0, 0, 4]]),
        ([11], [[4, 0, 0], [0, 4, 0], [4, 4, 0]]),
        ([11], [[float("nan"), 0, 0], [0, 4, 0], [0, 0, 4]]),
        ([], [[4, 0, 0], [0, 4, 0], [0, 0, 4]]),
    ],
)
def test_numbers_that_make_no_crystal(numbers, cell):
    assert crystal(numbers, cell, [[0, 0, 0]] * len(numbers)) is None


@needs_chemeleon
@pytest.mark.slow
def test_formulas_are_predicted_and_marked_as_untrained():
    model = generator()
    found = sample(model, 5, band_gap=1.0)
    assert len(found) == 5
    for candidate in found:
        counts = element_counts(candidate.structure)
        assert same_composition(counts, {"Na": 1, "Cl": 1}) or same_composition(
            counts, {"Na": 2, "O": 1}
        )
        assert candidate.origin["weights"] == "random-weights"
        assert candidate.origin["task"] == "csp"
        assert candidate.origin["targets_passed_over"] == ["band_gap"]
    described = model.describe()
    assert described.version.endswith("+random-weights")
    assert described.config["weights"] == "random-weights"
    json.dumps(described.config)
    assert as_dicts(found) == as_dicts(sample(generator(), 5, band_gap=1.0))
    assert as_dicts(found) != as_dicts(sample(generator(), 5, seed=2, band_gap=1.0))


@needs_chemeleon
@pytest.mark.slow
def test_compositions_are_invented_within_the_search_space():
    # The untrained network gives all atoms of a cell the same element.
    space = SearchSpace(chemical_system="Li-P-S", min_atoms=3, max_atoms=6)
    found = sample(generator(), 6, space)
    assert len(found) == 6
    for candidate in found:
        assert space.why_outside(element_counts(candidate.structure)) is None
        assert candidate.origin["task"] == "dng"


@needs_chemeleon
def test_structure_prediction_needs_formulas():
    with pytest.raises(UsageError, match="name formulas"):
        sample(generator(task="csp"), 1, SearchSpace(chemical_system="Li-S"))


SAVE = """
import sys
from importlib import import_module
sys.path.insert(0, sys.argv[1])
worker = import_module("chemeleon_worker")
from pytorch_lightning import Trainer
module = worker.random_weights("csp", 2, 0)
trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
trainer.strategy.connect(module)
trainer.save_checkpoint(sys.argv[2])
import torch
class Code:
    def __reduce__(self):
        return (open, (sys.argv[3] + ".ran", "w"))
torch.save({"state_dict": Code()}, sys.argv[3])
"""


@needs_chemeleon
@pytest.mark.slow
def test_checkpoints_are_loaded_without_running_their_code(tmp_path):
    """Save the random weights as the library's trainer does, and a file that would run code."""
    import matterloop.adapters.generators as package

    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    script = tmp_path / "save.py"
    script.write_text(SAVE)
    folder = str(Path(package.__file__).absolute().parent)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [PYTHON, str(script), folder, str(good), str(bad)],
        check=True, capture_output=True, cwd=tmp_path, env=environment,
    )  # fmt: skip

    loaded = generator(weights=str(good))
    described = loaded.describe()
    assert "random" not in described.version
    assert list(described.config["weights"]) == ["good.ckpt"]
    ours = [c.structure.as_dict() for c in sample(loaded, 2)]
    assert ours == [c.structure.as_dict() for c in sample(generator(), 2)]
    with pytest.raises(UsageError, match="trained for 'csp'"):
        sample(loaded, 1, SearchSpace(chemical_system="Li-S"))
    with pytest.raises(UsageError, match=r"cannot be loaded safely.*trust_checkpoint"):
        sample(generator(weights=str(bad)), 1)
    assert not Path(f"{bad}.ran").exists()
    with pytest.raises(UsageError, match="no weights of Chemeleon at"):
        sample(generator(weights=str(tmp_path / "nowhere")), 1)
    with pytest.raises(UsageError, match="no weights of Chemeleon at"):
        generator(weights=str(tmp_path)).describe()

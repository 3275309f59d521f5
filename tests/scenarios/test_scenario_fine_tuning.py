"""A generator learns from its campaign, is killed while it does, and is used afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_campaign import SPEC, run
from sqlalchemy import select
from tiny_diffusion import tiny_weights

from matterloop.loop.champion import file_hashes
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import CandidateRow, Cycle, EventRow, ModelVersion
from matterloop.loop.spec_file import load_spec
from matterloop.loop.workplace import open_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLED_WHILE_LEARNING = """
import os, signal, sys
from pathlib import Path
from matterloop.agents.generator.diffusion import training
from matterloop.loop.spec_file import load_spec
from matterloop.loop.workplace import open_ledger
from small_campaign import run
save = training.TrainingState.save
def save_and_die(self, path):
    save(self, path)
    os.kill(os.getpid(), signal.SIGKILL)
training.TrainingState.save = save_and_die
ledger, spec, folder = sys.argv[1:]
with open_ledger(ledger) as engine:
    run(engine, load_spec(Path(spec)), Path(folder))
"""


@pytest.fixture
def spec_file(tmp_path):
    generator = {
        "name": "diffusion",
        "candidates_per_cycle": 14,
        "guidance_scale": 0.0,
        "settings": {
            "weights": str(tiny_weights(tmp_path / "parent")),
            "steps": 10,
            "fine_tuning": {
                "steps": 30, "composition_steps": 10, "replay_crystals": 16, "checkpoint_every": 10,
            },
        },
    }  # fmt: skip
    spec = {
        **SPEC,
        "budget": {"cycles": 2},
        "search_space": {
            "elements": ["Li", "Na", "K", "F", "Cl", "Br"],
            "min_elements": 2,
            "max_elements": 2,
            "max_atoms": 4,
        },
        "objectives": [{"property": "density", "goal": "minimise"}],
        "constraints": [],
        "batch_size": 5,
        "generator": generator,
        "screening": {"fmax_eV_per_A": 0.03, "max_energy_above_hull": 0.04},
        "selector": "random",
        "control_arms": [],
        "characterizers": ["virtual-pycnometer"],
        "fine_tuning": {"every_cycles": 1, "promote": "always"},
    }
    file = tmp_path / "salts.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def test_a_campaign_killed_while_its_generator_learns(tmp_path, spec_file):
    folder, ledger = tmp_path / "campaign", str(tmp_path / "ledger.sqlite")
    folder.mkdir()
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    torn = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_LEARNING, ledger, str(spec_file), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert torn.returncode == -signal.SIGKILL, torn.stderr.decode()
    [checkpoint] = (folder / "models").rglob("geometry.safetensors")
    assert checkpoint.parent.name == "unfinished"

    with open_ledger(ledger) as engine:
        campaign_id = run(engine, load_spec(spec_file), folder)
        with reading(engine) as session:
            refused = session.scalars(
                select(EventRow.detail).where(EventRow.kind == "learn.refused")
            ).all()
            assert refused == []
            base, first, second = session.scalars(
                select(ModelVersion)
                .where(ModelVersion.kind == "generator")
                .order_by(ModelVersion.created_at)
            )
            proposed_by = dict(
                session.execute(
                    select(Cycle.number, CandidateRow.model_version_id).join(
                        Cycle, CandidateRow.cycle_id == Cycle.id
                    )
                ).all()
            )
        assert (first.parent_id, second.parent_id) == (base.id, first.id)
        assert [row.state for row in (base, first, second)] == ["retired", "retired", "champion"]
        assert proposed_by == {1: base.id, 2: first.id}
        assert first.data_snapshot["cycle"] == 1
        assert len(second.data_snapshot["candidates"]) > len(first.data_snapshot["candidates"])
        assert {"temperature", "method"} <= set(learned_labels(folder, first))
        for row in (first, second):
            assert file_hashes(folder / row.config["weights_folder"]) == row.config["weights_files"]
        before = file_times(folder)
        assert run(engine, load_spec(spec_file), folder) == campaign_id
        assert file_times(folder) == before


def learned_labels(folder, row):
    card = yaml.safe_load((folder / row.config["weights_folder"] / "card.json").read_text())
    return card["labels"]


def file_times(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "models").rglob("*")}

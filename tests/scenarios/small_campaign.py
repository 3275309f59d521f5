"""A campaign small enough for a test and real in every part: CHGNet, the hull, the virtual lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Engine, select

from matterloop.loop.driving import drive, plain_runner
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    DecisionRow,
    MeasurementRow,
    RecipeRow,
    SampleRow,
)
from matterloop.loop.open_campaign import OpenCampaign, enter
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.spec_file import parse_spec

SPEC: dict[str, Any] = {
    "name": "chlorides",
    "search_space": {"chemical_system": "Li-S-Cl", "required_elements": ["Li"], "max_atoms": 6},
    "objectives": [
        {"property": "energy_above_hull", "goal": "minimise"},
        {"property": "density", "goal": "minimise"},
    ],
    "constraints": [{"property": "energy_above_hull", "at_most": 0.1}],
    "budget": {"cycles": 2, "experiments": 20},
    "batch_size": 2,
    "generator": {"name": "substitution", "candidates_per_cycle": 8},
    "screening": {"max_steps": 40, "max_energy_above_hull": 1.0},
    "control_arms": [{"name": "random", "selector": "random"}],
    "characterizers": ["virtual-calorimeter", "virtual-pycnometer"],
    "seed": 7,
}


def small_spec(**changes: Any) -> CampaignSpec:
    """Return the campaign with some fields replaced."""
    return parse_spec(yaml.safe_dump({**SPEC, **changes}))


def run(engine: Engine, spec: CampaignSpec, folder: Path) -> str:
    """Run a campaign in this process without a workflow engine and return its id."""
    campaign_id = enter(engine, spec)
    with OpenCampaign(engine, campaign_id, folder, workers=1) as campaign:
        drive(campaign, plain_runner(campaign))
    return campaign_id


def start_runner(ledger: str, spec_file: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that runs a campaign; the caller may kill it."""
    code = (
        "import sys; from pathlib import Path;"
        "from matterloop.loop.spec_file import load_spec;"
        "from matterloop.loop.workplace import open_ledger;"
        "from small_campaign import run;"
        "ledger, spec, folder = sys.argv[1:];"
        "manager = open_ledger(ledger); engine = manager.__enter__();"
        "run(engine, load_spec(Path(spec)), Path(folder)); manager.__exit__(None, None, None)"
    )
    path = filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-c", code, ledger, str(spec_file), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )


def facts(engine: Engine, campaign_id: str) -> dict[str, list[Any]]:
    """Return all that a rerun must reproduce, named by cycle and ordinal instead of ids."""
    with reading(engine) as session:
        places = {
            candidate: (number, ordinal)
            for candidate, number, ordinal in session.execute(
                select(CandidateRow.id, Cycle.number, CandidateRow.ordinal)
                .join(Cycle)
                .where(CandidateRow.campaign_id == campaign_id)
            )
        }
        candidates = session.scalars(
            select(CandidateRow).where(CandidateRow.campaign_id == campaign_id)
        )
        of_candidates = sorted(
            (places[row.id], row.structure_sha256, row.relaxed_sha256 or "", row.state, row.seed)
            for row in candidates
        )
        decisions = sorted(
            (
                places[row.candidate_id],
                session.get_one(Cycle, row.cycle_id).number,
                row.arm,
                row.rank or 0,
                row.acquisition_value,
                row.surrogate_sha256 or "",
                tuple(sorted((k, v["mean"], v["std"]) for k, v in row.posterior.items())),
            )
            for row in session.scalars(
                select(DecisionRow).where(DecisionRow.campaign_id == campaign_id)
            )
        )
        recipes = sorted(
            (places[row.candidate_id], row.method, row.temperature_K, row.time_h)
            for row in session.scalars(select(RecipeRow))
            if row.candidate_id in places
        )
        samples = sorted(
            (places[row.candidate_id], row.success, row.yield_fraction, row.product_sha256 or "")
            for row in session.scalars(select(SampleRow))
            if row.candidate_id in places
        )
        measurements = sorted(
            (places[row.candidate_id], row.fidelity, row.property, row.method, row.value)
            for row in session.scalars(
                select(MeasurementRow).where(MeasurementRow.campaign_id == campaign_id)
            )
        )
    return {
        "candidates": of_candidates,
        "decisions": decisions,
        "recipes": recipes,
        "samples": samples,
        "measurements": measurements,
    }

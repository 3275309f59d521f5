"""Time and yield of the demo campaign, stage by stage: ``python benchmarks/demo_campaign.py``.

Runs the campaign file in a temporary folder through the command line, as a user does, and reads
from the ledger how long each stage took and what each arm found. Prints a table, writes JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import select

from matterloop.loop.crew import MAIN_ARM
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign, Cycle, EventRow
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.stages.evidence import observations
from matterloop.loop.workplace import open_ledger

PACKAGES = ("matterloop", "torch", "botorch", "chgnet", "pymatgen", "prefect", "sqlalchemy")


def main(
    campaign_file: Annotated[Path, typer.Argument()] = Path("examples/li-p-s-cl.yaml"),
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/demo_campaign.json"),
    workers: Annotated[int, typer.Option()] = os.cpu_count() or 1,
) -> None:
    """Run the campaign and report."""
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable, "-c", "from matterloop.loop.cli import main; main()", "run",
                str(campaign_file), "--folder", folder, "--workers", str(workers),
            ],
            check=True,
        )  # fmt: skip
        wall_s = time.perf_counter() - start
        with open_ledger(f"sqlite:///{folder}/ledger.sqlite") as engine:
            result = _measure(engine)
    result |= {
        "wall_s": round(wall_s, 1),
        "workers": workers,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)


def _measure(engine: Any) -> dict[str, Any]:
    with reading(engine) as session:
        campaign = session.scalars(select(Campaign)).one()
        spec = CampaignSpec.model_validate(campaign.spec)
        seconds: dict[str, list[float]] = defaultdict(list)
        for cycle in session.scalars(select(Cycle).order_by(Cycle.number)):
            before: datetime = cycle.started_at
            for event in session.scalars(
                select(EventRow)
                .where(EventRow.kind == "cycle.stage", EventRow.subject_id == cycle.id)
                .order_by(EventRow.at, EventRow.id)
            ):
                seconds[str(event.after)].append((event.at - before).total_seconds())
                before = event.at
        arms = {}
        for arm in (MAIN_ARM, *(control.name for control in spec.control_arms)):
            seen = observations(session, campaign.id, arm)
            good = [
                o
                for o in seen
                if all(p in o.values for p in spec.wanted_properties)
                and all(c.holds(o.values[c.property]) for c in spec.constraints)
            ]
            arms[arm] = {
                "experiments": len(seen),
                "made": sum(o.feasible for o in seen),
                "constraints_kept": len(good),
            }
        return {
            "campaign": campaign.name,
            "seed": campaign.seed,
            "spec_sha256": campaign.spec_sha256,
            "hull_sha256": campaign.hull_sha256,
            "seconds_per_stage": dict(seconds),
            "arms": arms,
        }


def _print(result: dict[str, Any]) -> None:
    print(f"\n{'stage':<14}{'seconds in each cycle'}")
    for stage, seconds in result["seconds_per_stage"].items():
        print(f"{stage:<14}{'  '.join(f'{value:7.1f}' for value in seconds)}")
    print(f"{'in all':<14}{result['wall_s']:7.1f} s, start-up and report included")
    print(f"\n{'arm':<14}{'experiments':>12}{'made':>6}{'constraints kept':>18}")
    for arm, row in result["arms"].items():
        print(f"{arm:<14}{row['experiments']:>12}{row['made']:>6}{row['constraints_kept']:>18}")
    print(f"\nload before {result['load_before'][0]:.1f}, after {result['load_after'][0]:.1f}")


if __name__ == "__main__":
    typer.run(main)

"""One arm of `generator_speed.py` in a fresh process: ``python generator_speed_arms.py ARM JOBS``.

`ARM` is ``diffusion`` or the path of Chemeleon's worker script; `JOBS` is JSON, and JSON is the
last line of the output. Chemeleon's arm runs in its own interpreter, so nothing but torch is
imported at the top. Every figure is `time.process_time` of this process with one torch thread;
building the model, and a first pass of every job's first batch, are outside of the clock.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import torch

CYCLE = (8, 20, 8, 22, 8)
"""Elements that the atoms get in turn (CaTiO3); the cost does not depend on them."""

Job = dict[str, Any]
Draw = Callable[[list[int], Job, int], object]


def main(arm: str, jobs: list[Job]) -> dict[str, Any]:
    """Time all jobs."""
    torch.set_num_threads(1)
    start = time.process_time()
    prepare = _diffusion if arm == "diffusion" else _chemeleon
    about, draw, warm_up = prepare(arm)
    about["build_cpu_s"] = round(time.process_time() - start, 2)
    timed = []
    for job in jobs:
        if job.get("compositions") and "untrained" in about["weights"]:
            continue  # its sampler refuses
        batches = list(_batches(job["sizes"], job["batch"], mixed=arm != "diffusion"))
        warm_up(batches[0], job, 0)
        runs = []
        for repeat in range(job.get("repeats", 1)):
            start = time.process_time()
            for number, batch in enumerate(batches):
                draw(batch, job, 1000 * repeat + number)
            runs.append((time.process_time() - start) / len(job["sizes"]))
        timed.append({**job, "cpu_s_per_structure": sorted(runs)[len(runs) // 2], "runs": runs})
    return {
        **about,
        "jobs": timed,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _batches(sizes: list[int], batch: int, *, mixed: bool) -> Iterator[list[int]]:
    """Cut into batches; ours hold cells of one size, as the generator forms them."""
    groups = [sizes] if mixed else [[s for s in sizes if s == g] for g in sorted(set(sizes))]
    for group in groups:
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _atoms(size: int) -> list[int]:
    return [CYCLE[index % len(CYCLE)] for index in range(size)]


def _diffusion(_: str) -> tuple[dict[str, Any], Draw, Draw]:
    from matterloop.agents.generator.diffusion.composition.network import (
        CompositionNetwork,
        CompositionSettings,
    )
    from matterloop.agents.generator.diffusion.composition.sampler import sample_compositions
    from matterloop.agents.generator.diffusion.drawing import DrawingSettings, draw_crystals
    from matterloop.agents.generator.diffusion.network import GeometryNetwork, NetworkSettings
    from matterloop.agents.generator.diffusion.sampler import SamplerSettings
    from matterloop.agents.generator.diffusion.weights import WeightsError, load_shipped

    try:
        shipped = load_shipped()
        geometry, compositions, weights = shipped.geometry, shipped.composition, shipped.sha256
        tries = DrawingSettings().tries
    except WeightsError:
        torch.manual_seed(0)
        geometry = GeometryNetwork(NetworkSettings()).eval()
        compositions = CompositionNetwork(CompositionSettings()).eval()
        weights, tries = "untrained, no weights are shipped yet", 1

    def draw(batch: list[int], job: Job, seed: int) -> object:
        if job.get("compositions"):
            generator = torch.Generator().manual_seed(seed)
            return sample_compositions(compositions, len(batch), generator=generator)
        guided = job.get("guidance", 0.0)
        return draw_crystals(
            geometry,
            [_atoms(size) for size in batch],
            DrawingSettings(sampler=SamplerSettings(steps=job["steps"]), tries=tries),
            labels={"band_gap": 1.4} if guided else None,
            guidance_scale=guided,
            seeds=range(seed, seed + len(batch)),
        )

    about = {
        "arm": "diffusion",
        "library": f"matterloop {version('matterloop')}",
        "weights": weights,
        "parameters": sum(p.numel() for p in geometry.parameters()),
    }
    return about, draw, draw


def _chemeleon(script: str) -> tuple[dict[str, Any], Draw, Draw]:
    spec = spec_from_file_location("chemeleon_worker", script)
    assert spec is not None
    assert spec.loader is not None
    worker = module_from_spec(spec)
    spec.loader.exec_module(worker)
    module = worker.random_weights("csp", 256, 0).eval()

    def draw(batch: list[int], job: Job, seed: int) -> object:
        torch.manual_seed(seed)
        module.num_timesteps = job["steps"]
        return module.sample(
            task="csp",
            num_atoms=batch,
            atom_types=[number for size in batch for number in _atoms(size)],
            verbose=False,
        )

    def warm_up(batch: list[int], job: Job, seed: int) -> object:
        return draw(batch, {**job, "steps": 2}, seed)

    about = {
        "arm": "chemeleon",
        "library": f"chemeleon-dng {worker.installed_version()}",
        "weights": "random-weights",
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    return about, draw, warm_up


if __name__ == "__main__":
    outcome = main(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps(outcome))

"""CPU time per crystal, ours beside Chemeleon-DNG: ``python benchmarks/generator_speed.py``.

Both get the composition and give a crystal (structure prediction), on one thread, each in a fresh
process; ours draws again where atoms collide, as users have it, and that counts. Building the
models and a first pass are outside of the clock. Chemeleon-DNG has random weights, which cost what
trained ones do, and its published size and 256 steps; without ``--chemeleon-python`` (or the
package beside Matterloop) that arm is left out. Prints tables, writes JSON and a plot of the cost
against number of atoms and batch size.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from matterloop.adapters.generators import chemeleon_worker
from matterloop.adapters.generators.cell_sizes import MP20_TRAIN_COUNTS

ATOMS = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 30, 40)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEPS = (25, 50)
CHEMELEON_STEPS = 256
CLAIM = 200


def main(
    chemeleon_python: Annotated[
        Path | None, typer.Option(help="Python that has chemeleon-dng.")
    ] = None,
    chemeleon_batch: Annotated[int, typer.Option(help="Its crystals per pass.", min=1)] = 8,
    batch: Annotated[int, typer.Option(help="Our crystals per pass.", min=1)] = 64,
    sweeps: Annotated[bool, typer.Option(help="Cost against atoms and batch size.")] = True,
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/generator_speed.json"),
) -> None:
    """Run both arms and report."""
    load_before = os.getloadavg()
    ours = _run(sys.executable, "diffusion", _our_jobs(batch, sweeps=sweeps))
    theirs = _their_arm(chemeleon_python, chemeleon_batch)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "measured": "time.process_time per structure, one thread, composition given",
        "outside_of_the_clock": "imports, building the model, one first pass per job",
        "diffusion": ours,
        "chemeleon": theirs,
        "ratios": _ratios(ours, theirs) if theirs else None,
        "claim": f"at least {CLAIM} times faster than its {CHEMELEON_STEPS} steps",
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)
    if sweeps:
        _plot(result, out.with_suffix(".png"))


def mp20_sizes(count: int) -> list[int]:
    """Return numbers of atoms at evenly spaced quantiles of MP-20's training split."""
    total, sizes, running = sum(MP20_TRAIN_COUNTS), [], 0
    for size, cells in enumerate(MP20_TRAIN_COUNTS, start=1):
        running += cells
        while len(sizes) < count and (len(sizes) + 0.5) / count * total <= running:
            sizes.append(size)
    return sizes


def _our_jobs(batch: int, *, sweeps: bool) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    for steps in STEPS:
        jobs += [
            _job("10 atoms", [10] * 8, 1, steps, repeats=3),
            _job("10 atoms", [10] * batch, batch, steps, repeats=3),
            _job("MP-20", mp20_sizes(2 * batch), batch, steps),
        ]
    jobs.append(_job("10 atoms, guided", [10] * batch, batch, STEPS[0], guidance=2.0))
    jobs.append(_job("composition alone", [10] * 4 * batch, 4 * batch, 0, compositions=True))
    if sweeps:
        jobs += [_job("against atoms", [atoms] * 16, 16, STEPS[0]) for atoms in ATOMS]
        jobs += [_job("against batch", [10] * max(size, 8), size, STEPS[0]) for size in BATCHES]
    return jobs


def _their_arm(python: Path | None, batch: int) -> dict[str, Any] | None:
    interpreter = str(python or sys.executable)
    look = "from importlib.metadata import version; version('chemeleon-dng')"
    if subprocess.run([interpreter, "-c", look], capture_output=True).returncode:
        print(
            f"{interpreter} has no chemeleon-dng: that arm is left out. Install torch and"
            " chemeleon-dng==0.1.5 in an environment of their own and name its Python with"
            " --chemeleon-python."
        )
        return None
    jobs = [
        _job("10 atoms", [10], 1, CHEMELEON_STEPS),
        _job("10 atoms", [10] * batch, batch, CHEMELEON_STEPS),
        _job("MP-20", mp20_sizes(batch), batch, CHEMELEON_STEPS),
    ]
    return _run(interpreter, str(Path(chemeleon_worker.__file__).absolute()), jobs)


def _job(name: str, sizes: list[int], batch: int, steps: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "sizes": sizes, "batch": batch, "steps": steps, **more}


def _run(interpreter: str, arm: str, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # In a folder of its own: libraries write logs and caches where they stand.
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(
            [
                interpreter,
                str(Path(__file__).absolute().with_name("generator_speed_arms.py")),
                arm,
                json.dumps(jobs),
            ],
            check=True,
            cwd=folder,
            env={**os.environ, **threads},
            stdout=subprocess.PIPE,
            text=True,
        )
    outcome: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    for job in outcome["jobs"]:
        sizes = job.pop("sizes")
        job["structures"], job["mean_atoms"] = len(sizes), sum(sizes) / len(sizes)
    return outcome


def _ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare jobs of one name, single crystals with single ones and batches with batches."""
    return [
        {
            "name": job["name"],
            "our_steps": job["steps"],
            "our_batch": job["batch"],
            "their_batch": other["batch"],
            "times_faster": other["cpu_s_per_structure"] / job["cpu_s_per_structure"],
        }
        for job in ours["jobs"]
        for other in theirs["jobs"]
        if job["name"] == other["name"] and (job["batch"] == 1) == (other["batch"] == 1)
    ]


def _print(result: dict[str, Any]) -> None:
    print(
        f"\n{'generator':<12}{'cells':<20}{'atoms':>6}{'steps':>7}{'batch':>7}{'CPU-s/structure':>17}"
    )
    for arm in (result["diffusion"], result["chemeleon"]):
        for job in arm["jobs"] if arm else ():
            print(
                f"{arm['arm']:<12}{job['name']:<20}{job['mean_atoms']:>6.1f}{job['steps']:>7}"
                f"{job['batch']:>7}{job['cpu_s_per_structure']:>17.4f}"
            )
    for ratio in result["ratios"] or ():
        print(
            f"{ratio['name']}, {ratio['our_steps']} steps, batch {ratio['our_batch']} against"
            f" {CHEMELEON_STEPS} steps, batch {ratio['their_batch']}:"
            f" {ratio['times_faster']:.0f} times faster (aim: {CLAIM})"
        )
    print(f"\nour weights: {result['diffusion']['weights']}")
    print(f"load before {result['load_before'][0]:.1f}, after {result['load_after'][0]:.1f}")


def _plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    jobs = result["diffusion"]["jobs"]
    for pane, name, axis, label, ticks in (
        (panes[0], "against atoms", "mean_atoms", "atoms in the cell", (2, 5, 10, 20, 40)),
        (panes[1], "against batch", "batch", "10-atom crystals per pass", (1, 4, 16, 64, 256)),
    ):
        points = [(job[axis], job["cpu_s_per_structure"]) for job in jobs if job["name"] == name]
        pane.loglog(*zip(*points, strict=True), "o-", label=f"diffusion, {STEPS[0]} steps")
        theirs = [
            (job[axis], job["cpu_s_per_structure"])
            for job in (result["chemeleon"] or {"jobs": []})["jobs"]
            if (job["batch"] > 1 if axis == "mean_atoms" else job["name"] == "10 atoms")
        ]
        if theirs:
            pane.loglog(
                *zip(*theirs, strict=True), "s", label=f"Chemeleon-DNG, {CHEMELEON_STEPS} steps"
            )
        pane.set_xticks(ticks, map(str, ticks))
        pane.minorticks_off()
        pane.set_xlabel(label)
        pane.grid(visible=True, which="major", alpha=0.3)
    panes[0].set_ylabel("CPU-seconds per structure, one thread")
    panes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    typer.run(main)

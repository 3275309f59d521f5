"""How good a generator's crystals are: ``python benchmarks/generator_quality.py --generator NAME``.

De novo: samples of nothing in particular, raw and relaxed, against the training part of the data
and held-out crystals. What a generator does by itself stays on: `diffusion` asks for a low energy
above hull with ``--guidance-scale``, and draws implausible compositions and colliding geometries
again; the report holds its settings and how often it did. To see the networks alone:
``--guidance-scale 0 --settings '{"plausible_only": false, "tries": 1}'``.
Structure prediction: held-out crystals from their compositions, one sample for each, and the best
of several on a subset. Prints tables, writes JSON. Everything that takes time is kept in the work
folder as it comes: the same command goes on where it was interrupted, and ends with the same
figures. Relaxing takes some 3 CPU-seconds per crystal.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from circumstances import Circumstances
from rich.console import Console

from matterloop.loop.candidate import Conditions
from matterloop.loop.chemistry.matching import MatchTolerances
from matterloop.loop.cli.wishes import search_space
from matterloop.loop.evaluation.evaluation import Evaluation, Yardsticks, evaluate
from matterloop.loop.evaluation.held_out import read_held_out
from matterloop.loop.evaluation.novelty import ReferenceStructures
from matterloop.loop.evaluation.prediction import PREDICTION_TOLERANCES, predict_held_out, score
from matterloop.loop.evaluation.records import Records
from matterloop.loop.evaluation.report import (
    evaluation_json,
    evaluation_notes,
    evaluation_table,
    prediction_json,
    prediction_table,
    write_json,
)
from matterloop.loop.evaluation.samples import samples_of
from matterloop.loop.generation import GenerationRequest, build_generator, generate_files
from matterloop.loop.hull import ReferenceHull
from matterloop.loop.plugins import build
from matterloop.loop.protocols import Generator, StructurePredictor
from matterloop.loop.structure_files import FileFormat, read_folder

PACKAGES = ("matterloop", "torch", "chgnet", "pymatgen", "smact", "spglib", "numpy")
EVERY_S = 20.0


def main(
    generator: Annotated[str, typer.Option(help="Plugin.")] = "diffusion",
    settings: Annotated[str, typer.Option(help="Its settings, JSON.")] = "{}",
    n: Annotated[int, typer.Option(help="De novo samples; 0 leaves this part out.")] = 1000,
    chemsys: Annotated[str | None, typer.Option(help="Only crystals of Ba-Ti-O.")] = None,
    max_atoms: Annotated[int, typer.Option()] = 20,
    guidance_scale: Annotated[float, typer.Option()] = 1.0,
    data: Annotated[
        Path, typer.Option(help="Training and test crystals; split by the hash of the composition.")
    ] = Path("../shared/data/mp_le20.csv.gz"),
    test_limit: Annotated[int | None, typer.Option(help="Held-out crystals at the most.")] = None,
    relax: Annotated[bool, typer.Option()] = True,
    predict: Annotated[bool, typer.Option(help="Structure prediction, too.")] = True,
    best_of: Annotated[int, typer.Option(help="Samples for each of the subset.")] = 20,
    subset: Annotated[int, typer.Option(help="Held-out crystals with so many samples.")] = 200,
    seed: Annotated[int, typer.Option()] = 0,
    workers: Annotated[int, typer.Option()] = os.cpu_count() or 1,
    work: Annotated[Path | None, typer.Option(help="Default: beside --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: benchmarks/results.")] = None,
) -> None:
    """Measure a generator."""
    out = out or Path(f"benchmarks/results/generator_quality_{generator}.json")
    work = work or out.with_name(f"{out.stem}-work")
    request = GenerationRequest(
        conditions=Conditions(search_space(chemsys, (), None, max_atoms=max_atoms)),
        n=n,
        generator=generator,
        settings=json.loads(settings),
        guidance_scale=guidance_scale,
        seed=seed,
        file_format=FileFormat.EXTXYZ,
    )
    circumstances = Circumstances(workers, PACKAGES)
    plugin = build_generator(request)
    model = plugin.describe()
    held_out = read_held_out(data, part="test", limit=test_limit, seed=seed)
    result: dict[str, Any] = {
        "generator": {"plugin": generator, "name": model.name, "version": model.version,
                      "sha256": model.sha256, "settings": dict(request.settings),
                      "config": dict(model.config)},
        "seed": seed,
        "guidance_scale": guidance_scale,
        "search_space": {"chemsys": chemsys, "max_atoms": max_atoms},
        "data": data.name,
    }  # fmt: skip
    if n:
        found, sampling = _de_novo(
            request, plugin, held_out, data, work, relax=relax, workers=workers
        )
        result["de_novo"] = {"sampling": sampling, **evaluation_json(found)}
        _print_evaluation(found)
    if predict and isinstance(plugin, StructurePredictor):
        few = read_held_out(data, part="test", limit=min(subset, len(held_out)), seed=seed)
        result["prediction"] = _prediction(request, plugin, held_out, 1, work)
        if best_of > 1:
            result[f"prediction_best_of_{best_of}"] = _prediction(
                request, plugin, few, best_of, work
            )
    elif predict:
        result["prediction"] = f"{generator} does not predict crystals of a given composition"
        print(f"\n{result['prediction']}")
    result |= circumstances.facts()
    write_json(out, result)
    print(f"\n{circumstances}; report: {out}")


def _de_novo(
    request: GenerationRequest,
    generator: Generator,
    held_out: list[Any],
    data: Path,
    work: Path,
    *,
    relax: bool,
    workers: int,
) -> tuple[Evaluation, dict[str, float | int | None]]:
    """Sample, or read the samples of an earlier run, and judge them."""
    watch = _Told()
    folder = work / "samples"
    wall, cpu = time.perf_counter(), _cpu_s()
    done = generate_files(
        request, generator, folder, looker_on=lambda now, total: watch("samples", now, total)
    )
    sampling: dict[str, float | int | None] = {
        "new": done.new,
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(_cpu_s() - cpu, 2),
    }
    entries = [pair for pair in read_folder(folder) if pair[0].draw < request.n]
    sampling |= _redraws([entry.origin for entry, _ in entries])
    made = [structure for _, structure in entries]
    potential = build("potentials", "chgnet", {"workers": workers}, None)
    try:
        yardsticks = Yardsticks(
            ReferenceStructures(data, MatchTolerances(), part="train"),
            held_out,
            potential,
            ReferenceHull.shipped(potential.identity),
            relax,
        )
        found = evaluate(
            samples_of(made, request.n), yardsticks, work, workers=workers, watch=watch
        )
    finally:
        potential.close()
    return found, sampling


def _redraws(origins: list[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Tell how many draws stand behind the samples, where the generator accounts for them."""
    geometries = [n for origin in origins if (n := origin.get("geometries_drawn")) is not None]
    if not geometries:
        return {"geometries_per_sample": None, "kept_at_first_try": None}
    return {
        "geometries_per_sample": sum(geometries) / len(geometries),
        "kept_at_first_try": geometries.count(1) / len(geometries),
    }


def _prediction(
    request: GenerationRequest,
    generator: StructurePredictor,
    held_out: list[Any],
    samples: int,
    work: Path,
) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), _cpu_s()
    model = generator.describe()  # type: ignore[attr-defined]
    predictions = predict_held_out(
        generator,
        held_out,
        samples,
        seed=request.seed,
        records=Records(work / "predictions.jsonl"),
        name=request.generator,
        version=[model.sha256, dict(request.settings)],
        watch=_Told(),
    )
    ks = sorted({1, samples} | {k for k in (5, 10) if k < samples})
    print()
    Console().print(prediction_table([score(predictions, k) for k in ks]))
    return {
        "tolerances": {
            "ltol": PREDICTION_TOLERANCES.ltol,
            "stol": PREDICTION_TOLERANCES.stol,
            "angle_tol_deg": PREDICTION_TOLERANCES.angle_tol,
        },
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(_cpu_s() - cpu, 1),
        **prediction_json(predictions, ks),
    }


def _print_evaluation(found: Evaluation) -> None:
    print()
    Console().print(evaluation_table(found))
    for note in evaluation_notes(found):
        print(note)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Told:
    """Prints how far it is, now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last > EVERY_S or done == total:
            print(f"{what}: {done}/{total}", flush=True)
            self._last = time.monotonic()


if __name__ == "__main__":
    typer.run(main)

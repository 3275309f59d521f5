"""What physics buys, in training and after it: ``python benchmarks/generator_physics.py``.

From one trained network the training goes on for a short budget with a decaying learning rate and
the same seed: without penalty, with each penalty alone, with all. Every arm then draws the same
held-out compositions and the same de novo compositions from the same noise, one try for each, so
that nothing hides what the penalty does. Weights are chosen so that each penalty is the same share
of the loss before the arm's training. With the start network alone: redraws, choice among
proposals, symmetrisation, short relaxation. Prints tables, writes JSON and a plot. Each arm has its
own folder with a checkpoint; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from circumstances import Circumstances
from physics_after import Energies, after_the_network, energy_facts
from physics_measurements import (
    PENALTIES,
    Task,
    drawn,
    magnitudes,
    paired,
    structure_of,
    summary,
    weights_for,
)
from physics_report import plot_physics, print_physics

from matterloop.agents.generator.diffusion.composition import ANYTHING, draw_compositions
from matterloop.agents.generator.diffusion.dataset import PackedCrystals
from matterloop.agents.generator.diffusion.drawing import DrawingSettings
from matterloop.agents.generator.diffusion.physics import CLOSEST, PenaltyWeights
from matterloop.agents.generator.diffusion.pretraining.packing import PackedData, pack_structures
from matterloop.agents.generator.diffusion.pretraining.settings import DataSettings
from matterloop.agents.generator.diffusion.sampler import SamplerSettings
from matterloop.agents.generator.diffusion.training import (
    Progress,
    TrainingSettings,
    train_geometry,
)
from matterloop.agents.generator.diffusion.weights import (
    CARD_FILE,
    Weights,
    load_shipped,
    read,
    write,
)
from matterloop.loop.dataset import LabelledStructure, part_of
from matterloop.loop.evaluation.records import Records
from matterloop.loop.evaluation.report import write_json
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.ledger.structures import structure_content
from matterloop.loop.sources import read_structures

PACKAGES = ("matterloop", "torch", "chgnet", "pymatgen", "spglib", "numpy")
ARMS = ("none", *PENALTIES, "all")


def main(
    steps: Annotated[int, typer.Option(help="Training steps of each arm.", min=1)] = 1500,
    rate: Annotated[float, typer.Option(help="Learning rate, decaying from the start.")] = 3e-4,
    share_of_loss: Annotated[
        float, typer.Option(help="Share of the loss that each penalty is.", min=0, max=0.5)
    ] = 0.03,
    penalties: Annotated[
        str, typer.Option(help='Weights instead, JSON: {"distance": 1, ...}.')
    ] = "",
    arms: Annotated[str, typer.Option(help="Which arms.")] = ",".join(ARMS),
    held_out: Annotated[int, typer.Option(help="Held-out crystals at the most.", min=2)] = 300,
    de_novo: Annotated[int, typer.Option(help="De novo crystals.", min=2)] = 300,
    energies: Annotated[int, typer.Option(help="De novo crystals that CHGNet judges.")] = 60,
    relaxations: Annotated[int, typer.Option(help="Held-out crystals relaxed.")] = 40,
    euler_steps: Annotated[int, typer.Option()] = 25,
    batches: Annotated[int, typer.Option(help="For the size of the penalties.", min=1)] = 20,
    pairs: Annotated[int, typer.Option(help="Pairs of atoms per batch of training.")] = 9000,
    weights: Annotated[Path | None, typer.Option(help="Start; default: shipped.")] = None,
    data: Annotated[Path, typer.Option(help="Table of crystals, as MP-20 has it.")] = Path(
        "../shared/data/mp_le20.csv.gz"
    ),
    seed: Annotated[int, typer.Option()] = 0,
    workers: Annotated[int, typer.Option()] = os.cpu_count() or 1,
    work: Annotated[Path | None, typer.Option(help="Default: beside --out.")] = None,
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/generator_physics.json"),
) -> None:
    """Train the arms, measure them and the post-processing, report."""
    if not data.is_file():
        typer.echo(
            f"There is no {data}: the arms learn from a table of Materials Project crystals"
            " (columns material_id, cif, formation_energy_per_atom, ...). Name one with --data.",
            err=True,
        )
        raise typer.Exit(2)
    chosen = [arm.strip() for arm in arms.split(",") if arm.strip()]
    if strange := set(chosen) - set(ARMS):
        raise typer.BadParameter(f"no arm {', '.join(strange)}; there are {', '.join(ARMS)}")
    torch.set_num_threads(1)
    work = work or out.with_name(f"{out.stem}-work")
    circumstances = Circumstances(workers, PACKAGES)
    base = load_shipped() if weights is None else read(weights)
    packed, test = _data(data, work, workers, seed)
    training = TrainingSettings(
        steps=steps, learning_rate=rate, warmup_steps=min(50, steps // 10), decay_fraction=1.0,
        ema_decay=0.995, pairs_per_batch=pairs, checkpoint_every=min(250, steps),
    )  # fmt: skip
    sizes = magnitudes(base.geometry, base.geometry, packed, training, batches=batches, seed=seed)
    given = PenaltyWeights.model_validate_json(penalties) if penalties else None
    wanted = given.model_dump() if given else weights_for(sizes, share_of_loss)
    tasks = _tasks(base, test, held_out, de_novo, seed)
    records = Records(work / "drawn.jsonl")
    plain = DrawingSettings(sampler=SamplerSettings(steps=euler_steps), tries=1)
    judge = Energies(work, workers, energies)
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    costs: dict[str, Any] = {}
    for arm in ["start", *chosen]:
        trained = base
        if arm != "start":
            on = {name: wanted[name] if arm in (name, "all") else 0.0 for name in PENALTIES}
            settings = training.model_copy(update={"penalties": PenaltyWeights(**on)})
            trained = _arm(arm, base, packed, settings, seed, work, workers)
            costs[arm] = dict(trained.card["cost"])
        rows[arm] = {
            task.name: drawn(task, trained.geometry, base.geometry, trained.sha256, plain, records)
            for task in tasks
        }
        print(f"{arm}: measured", flush=True)
    found = {}
    for arm, by_task in rows.items():
        found[arm] = {name: summary(of_task) for name, of_task in by_task.items()}
        above = judge.above_hull(by_task["de-novo"])
        for row, value in zip(by_task["de-novo"], above, strict=False):
            row["above_hull"] = value
        found[arm]["de-novo"]["above_hull_chgnet_unrelaxed"] = energy_facts(above)
        found[arm]["training"] = costs.get(arm)
    if "none" in rows:
        for arm, by_task in rows.items():
            found[arm]["against_none"] = _against(by_task, rows["none"])
    after = after_the_network(base, rows["start"], tasks, plain, records, judge, relaxations)
    judge.close()
    result = {
        "start": {"sha256": base.sha256, "version": base.card.get("version")},
        "seed": seed,
        "closest_allowed": CLOSEST,
        "training": training.model_dump(mode="json"),
        "mean_of_penalty_at_weight_1": sizes,
        "weights": wanted,
        "weights_for_a_share_of_the_loss": {
            f"{value:.0%}": weights_for(sizes, value) for value in (0.01, 0.03, 0.05)
        },
        "drawing": plain.model_dump(mode="json"),
        "arms": found,
        "after": after,
        **circumstances.facts(),
    }
    write_json(out, result)
    print_physics(result)
    plot_physics(result, out.with_suffix(".png"))
    print(f"\n{circumstances}; report: {out}")


def _data(
    data: Path, work: Path, workers: int, seed: int
) -> tuple[PackedCrystals, list[LabelledStructure]]:
    """Return the training part, packed, and the test part; the second time from the work folder."""
    facts = data.stat()
    own = content_hash([data.name, facts.st_size, facts.st_mtime_ns, seed])
    records = Records(work / "test-part.jsonl")
    packed = PackedData.load(work / "packed.safetensors", own)
    if packed is None or own not in records:
        test: list[LabelledStructure] = []

        def passing() -> Iterator[LabelledStructure]:
            for item in read_structures(data, settings={"processes": workers}):
                if part_of(item.reduced_formula) == "test":
                    test.append(item)
                yield item

        work.mkdir(parents=True, exist_ok=True)
        for done in pack_structures(
            passing(), DataSettings(), max_atoms=20, source=data.name, seed=seed, processes=1
        ):
            if isinstance(done, PackedData):
                packed = done
            elif done % 2000 == 0:
                print(f"packed: {done} crystals", flush=True)
        assert packed is not None
        packed.save(work / "packed.safetensors", own)
        records.put(own, {"test": [
            {"structure": structure_content(item.structure), "labels": dict(item.labels)}
            for item in test
        ]})  # fmt: skip
    row = records.get(own)
    assert row is not None
    return packed.train, [
        LabelledStructure(structure_of(one), one["labels"]) for one in row["test"]
    ]


def _tasks(
    base: Weights, test: Sequence[LabelledStructure], held_out: int, de_novo: int, seed: int
) -> list[Task]:
    draw = torch.Generator().manual_seed(derive_seed(seed, "held-out"))
    order = torch.randperm(len(test), generator=draw)[:held_out].sort().values.tolist()
    real = [item for i in order if len((item := test[i]).structure) <= 20]
    drawn_compositions = draw_compositions(
        base.composition,
        de_novo,
        ANYTHING,
        {},
        generator=torch.Generator().manual_seed(derive_seed(seed, "compositions")),
    ).compositions
    return [
        Task("held-out", [sorted(i.structure.atomic_numbers) for i in real], real, seed),
        Task("de-novo", drawn_compositions, (), seed),
    ]


def _arm(
    arm: str,
    base: Weights,
    packed: PackedCrystals,
    settings: TrainingSettings,
    seed: int,
    work: Path,
    workers: int,
) -> Weights:
    """Train one arm, or read what an earlier run trained; its folder is one of weights."""
    own = content_hash([base.sha256, settings.model_dump(mode="json"), seed, len(packed)])
    folder = work / f"{arm}-{own[:8]}"
    if (folder / CARD_FILE).is_file():
        return read(folder)
    folder.mkdir(parents=True, exist_ok=True)
    losses: dict[str, float] = {}

    def watch(progress: Progress, _: object) -> None:
        losses.update(progress.losses)
        told = ", ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
        print(f"{arm}: step {progress.step}/{settings.steps}: {told}", flush=True)

    start = time.perf_counter()
    geometry = train_geometry(
        base.geometry, packed, settings, seed=seed, checkpoint=folder / "checkpoint.safetensors",
        critic=base.geometry if settings.penalties.critical else None, watch=watch,
        workers=min(workers, settings.batches_per_step),
    )  # fmt: skip
    cost = {"wall_s_since_last_start": round(time.perf_counter() - start, 1), "losses": losses}
    card = {"version": f"penalty-{arm}", "parent": base.sha256, "seed": seed, "cost": cost,
            "labels": list(base.card.get("labels", ()))}  # fmt: skip
    return write(folder, geometry.eval().requires_grad_(False), base.composition, card)


def _against(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    none: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Return differences from the arm without penalties, crystal by crystal."""
    here, there = rows["held-out"], none["held-out"]
    made, makes = rows["de-novo"], none["de-novo"]
    return {
        "match_rate": paired(here, there, lambda row: float(row["rms"] is not None)),
        "rms_where_both_match": paired(here, there, lambda row: row["rms"]),
        "volume_error": paired(here, there, lambda row: abs(row["log_volume"])),
        "close": paired([*here, *made], [*there, *makes], lambda row: float(row["close"])),
        "physically_valid": paired(
            [*here, *made], [*there, *makes], lambda row: float(row["physical"])
        ),
        "above_hull_chgnet_unrelaxed": paired(made, makes, lambda row: row.get("above_hull")),
    }


if __name__ == "__main__":
    typer.run(main)

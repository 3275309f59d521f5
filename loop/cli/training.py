"""``matterloop train``: models from nothing but data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

    from matterloop.loop.training import StabilityJudge

train = typer.Typer(help="Train models.", no_args_is_help=True)
_NO_POTENTIAL = "none"


@train.callback()
def _group() -> None:
    """Keep `train` a group of commands, however many there are."""


@train.command()
def generator(
    data: Annotated[
        list[str],
        typer.Option(
            help="Crystals with labels: CSV with a column cif, folder of CIFs, extended XYZ, ASE"
            " database, pymatgen JSON, KIND:ADDRESS. May be repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets the weights.")],
    config: Annotated[
        Path | None, typer.Option(help="Settings (YAML); `matterloop init` knows an example.")
    ] = None,
    plugin: Annotated[
        str, typer.Option("--generator", help="Plugin that is trained.")
    ] = "diffusion",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    workers: Annotated[
        int,
        typer.Option(
            envvar="MATTERLOOP_WORKERS",
            help="Processes that share the work on a CPU.",
            min=1,
            show_default=False,
        ),
    ] = os.cpu_count() or 1,
    limit: Annotated[int | None, typer.Option(help="Only the first crystals.", min=1)] = None,
    potential: Annotated[
        str,
        typer.Option(
            help="Plugin whose energies above its hull choose among checkpoints; `none`: the"
            " model's own."
        ),
    ] = _NO_POTENTIAL,
) -> None:
    """Train a generator from nothing. The same command goes on where it was interrupted."""
    from matterloop.loop.cli.stopping import stoppable
    from matterloop.loop.cli.training_display import shown
    from matterloop.loop.plugins import calling, load
    from matterloop.loop.settings_file import load_settings
    from matterloop.loop.training import TrainingData, TrainingRequest

    factory = load("generators", plugin)
    if not (hasattr(factory, "train") and hasattr(factory, "Training")):
        raise UsageError(
            f"The generator {plugin!r} cannot be trained from nothing.",
            "one that can, such as diffusion",
        )
    settings = load_settings(config, factory.Training)
    with stoppable(), _judge(potential, workers, out) as (name, judge), shown() as watch:
        request = TrainingRequest(
            data=TrainingData.at(data, limit),
            folder=out,
            seed=seed,
            device=device,
            workers=workers,
            stability=judge,
            stability_name=name,
            watch=watch,
        )
        with calling("generators", plugin):
            model = factory.train(request, settings)
    print(f"{model.name} {model.version} (SHA-256 {model.sha256[:12]}) in {out}")
    if plugin == "diffusion":
        print(f"Use it: matterloop generate --setting weights={out}", flush=True)


@contextmanager
def _judge(potential: str, workers: int, out: Path) -> Iterator[tuple[str, StabilityJudge | None]]:
    """Make a potential and its hull a judge of stability."""
    if potential == _NO_POTENTIAL:
        yield "", None
        return
    from matterloop.loop.evaluation.energies import raw_energies
    from matterloop.loop.evaluation.records import Records
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.plugins import build

    model: Any = build("potentials", potential, {}, _Bench(workers))
    try:
        hull = ReferenceHull.shipped(model.identity)
        records = Records(out / "training" / "energies.jsonl")

        def judge(structures: Sequence[Structure]) -> list[float | None]:
            found = raw_energies(structures, model, hull, records)
            return [energy.above_hull_eV_per_atom for energy in found]

        yield f"{potential}, hull {hull.sha256[:12]}", judge
    finally:
        model.close()


class _Bench:
    """The part of a workshop that a potential needs."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

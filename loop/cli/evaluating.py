"""``matterloop evaluate``: how good generated crystals are, one's own or anybody's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from matterloop.loop.evaluation.energies import Watch
    from matterloop.loop.evaluation.novelty import KnownSet
    from matterloop.loop.evaluation.samples import Sample
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import Generator, Potential

_WHAT, _AGAINST, _ENERGY, _HOW = (
    "What is evaluated",
    "Against what",
    "Energies",
    "Files and machine",
)
_NO_POTENTIAL = "none"


def evaluate(
    generator: Annotated[
        str | None, typer.Option(help="Plugin whose crystals are judged.", rich_help_panel=_WHAT)
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(
            help="Crystals made by anybody: folder or file of CIF, extended XYZ, JSON, CSV.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", "-n", help="Samples.", min=1, rich_help_panel=_WHAT)
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=_WHAT)] = 0,
    chemsys: Annotated[
        str | None, typer.Option(help="Only crystals of Ba-Ti-O.", rich_help_panel=_WHAT)
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Only of any of Ba,Ti,O.", rich_help_panel=_WHAT)
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option(help="Default: 20.", min=1, rich_help_panel=_WHAT)
    ] = None,
    guidance_scale: Annotated[float, typer.Option(min=0, rich_help_panel=_WHAT)] = 1.0,
    predict: Annotated[
        bool,
        typer.Option(
            "--predict",
            help="Structure prediction: for each held-out crystal from its composition.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    samples: Annotated[
        int,
        typer.Option(help="With --predict: crystals for each.", min=1, rich_help_panel=_WHAT),
    ] = 1,
    reference: Annotated[
        str | None,
        typer.Option(help="Known crystals (training set), for novelty.", rich_help_panel=_AGAINST),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Held-out crystals: coverage, distributions, prediction.",
            rich_help_panel=_AGAINST,
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Of --reference only the training part, of --test only the test part, by the"
            " hash of the composition that training uses.",
            rich_help_panel=_AGAINST,
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Held-out crystals at the most.", min=1, rich_help_panel=_AGAINST),
    ] = None,
    potential: Annotated[
        str, typer.Option(help="Plugin, or `none`.", rich_help_panel=_ENERGY)
    ] = "chgnet",
    hull: Annotated[
        Path | None,
        typer.Option(
            help="NAME.csv.gz. Default: the one shipped for the potential.", rich_help_panel=_ENERGY
        ),
    ] = None,
    relax: Annotated[
        bool, typer.Option(help="Relax the samples, too.", rich_help_panel=_ENERGY)
    ] = True,
    out: Annotated[Path, typer.Option(help="JSON to write.", rich_help_panel=_HOW)] = Path(
        "evaluation.json"
    ),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder of samples and energies, which a later run goes on with. Default: beside"
            " --out.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar="MATTERLOOP_WORKERS", min=1, rich_help_panel=_HOW)
    ] = os.cpu_count() or 1,
) -> None:
    """Measure generated crystals. The same command goes on where it was interrupted."""
    if (generator is None) == (structures is None):
        raise UsageError("Give what is evaluated.", "either --generator or --structures")
    if not guidance_scale < float("inf"):
        raise UsageError(f"The guidance scale is {guidance_scale}.", "a number, not below 0")
    if predict and (generator is None or test is None):
        raise UsageError(
            "--predict lets a generator find held-out crystals.", "--generator and --test with it"
        )
    from matterloop.loop.cli.stopping import stoppable
    from matterloop.loop.workplace import writable_folder

    order = _Order(
        generator, structures, n, seed, chemsys, elements, max_atoms, guidance_scale, samples,
        reference, test, split, limit, potential, hull, relax, out,
        work or out.with_name(f"{out.name.removesuffix('.json')}-work"), workers,
    )  # fmt: skip
    with stoppable():
        writable_folder(order.work)
        (_predict if predict else _evaluate)(order)


@dataclass(frozen=True)
class _Order:
    """The options of the command."""

    generator: str | None
    structures: str | None
    n: int
    seed: int
    chemsys: str | None
    elements: str | None
    max_atoms: int | None
    guidance_scale: float
    samples: int
    reference: str | None
    test: str | None
    split: bool
    limit: int | None
    potential: str
    hull: Path | None
    relax: bool
    out: Path
    work: Path
    workers: int


def _evaluate(order: _Order) -> None:
    from rich.console import Console

    from matterloop.loop.evaluation.evaluation import Yardsticks, evaluate
    from matterloop.loop.evaluation.held_out import read_held_out
    from matterloop.loop.evaluation.report import (
        evaluation_json,
        evaluation_notes,
        evaluation_table,
        write_json,
    )

    began = time.monotonic()
    with _watched() as watch:
        generator, samples, told = _samples(order, watch)
        known = _known(order, generator)
        held_out = (
            read_held_out(
                order.test, part="test" if order.split else None, limit=order.limit, seed=order.seed
            )
            if order.test
            else []
        )
        with _potential(order) as (potential, hull):
            found = evaluate(
                samples,
                Yardsticks(known, held_out, potential, hull, order.relax),
                order.work,
                workers=order.workers,
                watch=watch,
            )
    report = {**told, "wall_s": round(time.monotonic() - began, 1), **evaluation_json(found)}
    write_json(order.out, report)
    console = Console()
    console.print(evaluation_table(found))
    for note in evaluation_notes(found):
        print(note)
    print(f"Report: {order.out}")


def _predict(order: _Order) -> None:
    from rich.console import Console

    from matterloop.loop.evaluation.held_out import read_held_out
    from matterloop.loop.evaluation.prediction import predict_held_out, score
    from matterloop.loop.evaluation.records import Records
    from matterloop.loop.evaluation.report import prediction_json, prediction_table, write_json
    from matterloop.loop.protocols import StructurePredictor

    assert order.generator is not None
    assert order.test is not None
    began = time.monotonic()
    generator = _generator(order)
    if not isinstance(generator, StructurePredictor):
        raise UsageError(
            f"The generator {order.generator!r} does not predict crystals of a given composition.",
            "one that does, such as diffusion",
        )
    held_out = read_held_out(
        order.test, part="test" if order.split else None, limit=order.limit, seed=order.seed
    )
    model = _model(generator, order.generator)
    with _watched() as watch:
        predictions = predict_held_out(
            generator,
            held_out,
            order.samples,
            seed=order.seed,
            records=Records(order.work / "predictions.jsonl"),
            name=order.generator,
            version=model,
            watch=watch,
        )
    ks = sorted({1, order.samples})
    report = {
        "generator": model,
        "seed": order.seed,
        "test": Path(order.test).name,
        "wall_s": round(time.monotonic() - began, 1),
        **prediction_json(predictions, ks),
    }
    write_json(order.out, report)
    Console().print(prediction_table([score(predictions, k) for k in ks]))
    print(f"{len(predictions)} held-out crystals. Report: {order.out}")


def _samples(order: _Order, watch: Watch) -> tuple[Generator | None, list[Sample], dict[str, Any]]:
    """Read or generate the samples, and tell where they come from."""
    from matterloop.loop.evaluation.samples import read_samples, samples_of

    if order.structures is not None:
        return None, read_samples(order.structures), {"structures": Path(order.structures).name}
    from matterloop.loop.candidate import Conditions
    from matterloop.loop.cli.wishes import search_space
    from matterloop.loop.generation import GenerationRequest, build_generator, generate_files
    from matterloop.loop.structure_files import FileFormat, read_folder

    assert order.generator is not None
    space = search_space(order.chemsys, (), order.elements, max_atoms=order.max_atoms)
    request = GenerationRequest(
        conditions=Conditions(space),
        n=order.n,
        generator=order.generator,
        guidance_scale=order.guidance_scale,
        seed=order.seed,
        file_format=FileFormat.EXTXYZ,
    )
    generator = build_generator(request)
    folder = order.work / "samples"
    generate_files(
        request, generator, folder, looker_on=lambda done, total: watch("samples", done, total)
    )
    made = [structure for entry, structure in read_folder(folder) if entry.draw < order.n]
    told = {
        "generator": _model(generator, order.generator),
        "seed": order.seed,
        "guidance_scale": order.guidance_scale,
        "search_space": {"chemsys": order.chemsys, "elements": order.elements},
    }
    return generator, samples_of(made, order.n), told


def _generator(order: _Order) -> Generator:
    from matterloop.loop.plugins import build

    assert order.generator is not None
    generator: Generator = build("generators", order.generator, {}, None)
    return generator


def _model(generator: Generator, name: str) -> dict[str, Any]:
    model = generator.describe()
    return {"plugin": name, "name": model.name, "version": model.version, "sha256": model.sha256}


def _known(order: _Order, generator: Generator | None) -> KnownSet | None:
    """Find what novelty is judged by: the reference, or what the generator remembers."""
    from matterloop.loop.evaluation.novelty import ReferenceStructures, read_formula_index
    from matterloop.loop.protocols import RemembersTraining

    if order.reference is not None:
        return ReferenceStructures(order.reference, part="train" if order.split else None)
    if isinstance(generator, RemembersTraining):
        remembered = generator.training_formulas()
        return read_formula_index(remembered) if remembered is not None else None
    return None


@dataclass(frozen=True)
class _Bench:
    """The part of a workshop that a potential needs."""

    workers: int


@contextmanager
def _potential(order: _Order) -> Iterator[tuple[Potential | None, ReferenceHull | None]]:
    if order.potential == _NO_POTENTIAL:
        yield None, None
        return
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.plugins import build

    potential: Potential = build("potentials", order.potential, {}, _Bench(order.workers))
    try:
        yield (
            potential,
            ReferenceHull.load(order.hull)
            if order.hull is not None
            else ReferenceHull.shipped(potential.identity),
        )
    finally:
        potential.close()


@contextmanager
def _watched() -> Iterator[Watch]:
    """Show on a terminal what is being done; elsewhere say it now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, Any] = {}

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks or bars.tasks[tasks[what]].total != total:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield watch

"""``matterloop generate``: crystals as files, without a campaign."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matterloop.loop.cli.wishes import merged, pairs, search_space, symbols, targets
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matterloop.loop.generation import Generated

_SHOWN = 8

_HARD, _SOFT, _DRAW, _FILES = (
    "Hard conditions: every crystal obeys",
    "Soft conditions: crystals tend towards",
    "Drawing",
    "Files",
)


def generate(
    chemsys: Annotated[
        str | None,
        typer.Option(help="Crystals of all these elements: Ba-Ti-O.", rich_help_panel=_HARD),
    ] = None,
    formula: Annotated[
        list[str] | None,
        typer.Option(
            help="Exactly this composition, in any number of formula units (see --atoms). May be"
            " repeated.",
            rich_help_panel=_HARD,
        ),
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Any of these elements: Ba,Ti,O.", rich_help_panel=_HARD)
    ] = None,
    require: Annotated[
        str | None, typer.Option(help="Elements that all hold: Li,O.", rich_help_panel=_HARD)
    ] = None,
    forbid: Annotated[
        str | None, typer.Option(help="Elements that none holds: Pb,Cd.", rich_help_panel=_HARD)
    ] = None,
    atoms: Annotated[
        int | None, typer.Option(help="Atoms in the cell.", min=1, rich_help_panel=_HARD)
    ] = None,
    min_atoms: Annotated[int | None, typer.Option(min=1, rich_help_panel=_HARD)] = None,
    max_atoms: Annotated[
        int | None, typer.Option(help="Default: 20.", min=1, rich_help_panel=_HARD)
    ] = None,
    band_gap: Annotated[float | None, typer.Option(help="eV.", rich_help_panel=_SOFT)] = None,
    density: Annotated[float | None, typer.Option(help="g/cm^3.", rich_help_panel=_SOFT)] = None,
    formation_energy: Annotated[
        float | None, typer.Option(help="eV/atom.", rich_help_panel=_SOFT)
    ] = None,
    energy_above_hull: Annotated[
        float | None, typer.Option(help="eV/atom.", rich_help_panel=_SOFT)
    ] = None,
    space_group: Annotated[
        str | None, typer.Option(help="Number or symbol: 221, Pm-3m.", rich_help_panel=_SOFT)
    ] = None,
    crystal_system: Annotated[
        str | None, typer.Option(help="cubic, tetragonal, ...", rich_help_panel=_SOFT)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Any other: NAME=VALUE. May be repeated.", rich_help_panel=_SOFT),
    ] = None,
    guidance_scale: Annotated[
        float, typer.Option(help="How hard they pull; 0 ignores them.", rich_help_panel=_SOFT)
    ] = 1.0,
    n: Annotated[
        int, typer.Option("--n", "-n", help="Number of crystals.", min=1, rich_help_panel=_DRAW)
    ] = 16,
    generator: Annotated[
        str, typer.Option(help="Plugin that generates.", rich_help_panel=_DRAW)
    ] = "diffusion",
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=_DRAW)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps from noise to crystal.", min=1, rich_help_panel=_DRAW),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other setting of the generator: NAME=VALUE. May be repeated.",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    symmetrise: Annotated[
        bool,
        typer.Option(
            "--symmetrise",
            help="Move atoms by up to 0.1 Angstrom onto symmetric places.",
            rich_help_panel=_DRAW,
        ),
    ] = False,
    relax: Annotated[
        bool,
        typer.Option("--relax", help="Relax shortly with CHGNet.", rich_help_panel=_DRAW),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            envvar="MATTERLOOP_WORKERS",
            help="Processes that relax.",
            min=1,
            rich_help_panel=_DRAW,
            show_default=False,
        ),
    ] = os.cpu_count() or 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to fill. Default: generated/SYSTEM.", rich_help_panel=_FILES),
    ] = None,
    file_format: Annotated[
        str,
        typer.Option(
            "--format", help="cif, json (pymatgen), poscar or extxyz.", rich_help_panel=_FILES
        ),
    ] = "cif",
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory",
            help="Show the first crystal appearing: trajectory.gif and .html.",
            rich_help_panel=_FILES,
        ),
    ] = False,
) -> None:
    """Generate crystals as files. The same command goes on where it was interrupted."""
    began = time.monotonic()
    from matterloop.loop.candidate import Conditions
    from matterloop.loop.cli.stopping import stoppable
    from matterloop.loop.generation import (
        GenerationRequest,
        build_generator,
        generate_files,
    )
    from matterloop.loop.generation import trajectory as frames_of
    from matterloop.loop.structure_files import FileFormat
    from matterloop.loop.workplace import writable_folder

    if file_format not in list(FileFormat):
        raise UsageError(f"There is no format {file_format!r}.", f"one of {', '.join(FileFormat)}")
    if not 0 <= guidance_scale < float("inf"):
        raise UsageError(f"The guidance scale is {guidance_scale}.", "a number, not below 0")
    space = search_space(
        chemsys, formula or (), elements, require, forbid, atoms, min_atoms, max_atoms
    )
    named = {
        "band_gap": band_gap,
        "density": density,
        "formation_energy": formation_energy,
        "energy_above_hull": energy_above_hull,
        "space_group": space_group,
        "crystal_system": crystal_system,
    }
    settings = {name: value for name, value in (("steps", steps),) if value is not None}
    request = GenerationRequest(
        conditions=Conditions(space, targets(named, target or ())),
        n=n,
        generator=generator,
        settings=merged(settings, pairs("--setting", setting or ())),
        guidance_scale=guidance_scale,
        seed=seed,
        file_format=FileFormat(file_format),
        symmetrise=symmetrise,
        relax=relax,
    )
    folder = out or Path("generated") / _label(chemsys, formula, elements)
    with stoppable():
        writable_folder(folder)
        with _progress(n) as looker_on:
            model = build_generator(request)
            frames = frames_of(request, model) if trajectory else []
            done = generate_files(request, model, folder, workers=workers, looker_on=looker_on)
        print(_summary(done, n, folder, time.monotonic() - began), flush=True)
        if trajectory:
            from matterloop.loop.trajectory import write_gif, write_html

            print(f"Trajectory: {write_gif(frames, folder / 'trajectory.gif')}", flush=True)
            print(f"            {write_html(frames, folder / 'trajectory.html')}", flush=True)


def _label(chemsys: str | None, formula: Sequence[str] | None, elements: str | None) -> str:
    if chemsys or elements:
        return "-".join(symbols("--chemsys", chemsys or elements))
    return "-".join(formula) if formula else "any"


@contextmanager
def _progress(n: int) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on the terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        bar = bars.add_task("loading generator", total=n)

        def looker_on(done: int, total: int) -> None:
            bars.update(bar, description="structures", completed=done, total=total)

        yield looker_on


def _summary(done: Generated, n: int, folder: Path, seconds: float) -> str:
    count = len(done.entries)
    formulas = Counter(entry.formula for entry in done.entries).most_common()
    shown = [f"{name} x {k}" if k > 1 else name for name, k in formulas[:_SHOWN]]
    if len(formulas) > _SHOWN:
        shown.append(f"and {len(formulas) - _SHOWN} more")
    lines = [
        f"{count} structure{'s' if count != 1 else ''} in {folder}"
        f" ({done.new} new, {seconds:.1f} s): {', '.join(shown)}"
    ]
    if count < n:
        lines.append(f"The search space holds no more: {count} of {n}.")
    return "\n".join(lines)

"""Build a reference hull: ``python -m matterloop.adapters.potentials.build_hull --help``.

``compute`` may be killed at any instant and started again with the same arguments; ``write`` turns
what there is so far into a table, at any time, also while ``compute`` runs.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from matterloop.adapters.potentials.chgnet import ChgnetPotential, Version, identify
from matterloop.adapters.potentials.hull_prototypes import (
    MAX_ATOMS,
    binary_salts,
    decorated_prototypes,
    elemental_prototypes,
)
from matterloop.adapters.potentials.hull_sources import (
    SourceCrystal,
    from_cif_folder,
    from_csv,
    from_elements,
    from_materials_project,
)
from matterloop.adapters.potentials.hull_stages import (
    best_salts,
    full_treatment,
    near_hull,
    relaxations,
    single_points,
)
from matterloop.adapters.potentials.hull_state import BuildState
from matterloop.adapters.potentials.hull_table import MAX_ANCHOR_EV_PER_ATOM, hull_entries, summary
from matterloop.loop.calculation import RelaxOptions
from matterloop.loop.errors import MatterloopError, UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

OPTIONS = RelaxOptions()
"""The same that candidates are relaxed with, so that errors of convergence cancel."""

State = Annotated[Path, typer.Argument(help="File of JSON lines that keeps what was computed.")]
VersionOption = Annotated[str, typer.Option("--version", help="CHGNet's: 0.3.0, 0.2.0, r2scan.")]


@app.command()
def compute(
    state_file: State,
    csv: Annotated[list[Path] | None, typer.Option(help="Table with material_id and cif.")] = None,
    cif_folder: Annotated[list[Path] | None, typer.Option(help="Folder of CIF files.")] = None,
    elements: Annotated[bool, typer.Option(help="Polymorphs of the elements (matcalc).")] = True,
    mp_system: Annotated[
        list[str] | None, typer.Option(help="Ask the Materials Project for this system.")
    ] = None,
    mp_key: Annotated[str | None, typer.Option(help="API key, or MP_API_KEY.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="Relax everything in this system, decorated prototypes included; the first"
            " that is named comes before all else."
        ),
    ] = None,
    salts: Annotated[
        bool, typer.Option(help="Binary salts of all elements in the commonest structure types.")
    ] = True,
    prefer: Annotated[
        list[str] | None, typer.Option(help="Relax this system's near-hull crystals first.")
    ] = None,
    near: Annotated[
        float, typer.Option(help="Relax crystals this close to the hull, eV/atom.")
    ] = 0.03,
    max_hours: Annotated[
        float, typer.Option(help="Stop relaxing near-hull crystals after so many hours.")
    ] = 24.0,
    processes: Annotated[int, typer.Option(min=1, help="One-thread processes.")] = 2,
    version: VersionOption = "0.3.0",
) -> None:
    """Compute single points of everything, then relax what matters, the most important first."""
    deadline = time.monotonic() + 3600 * max_hours
    systems, preferred = system or [], prefer or []
    crystals = _gather(
        _sources(csv or [], cif_folder or [], elements, mp_system or [], mp_key, systems)
    )
    settings = ChgnetPotential.Settings(version=cast("Version", version), workers=processes)
    with (
        ChgnetPotential(settings) as potential,
        BuildState(state_file, potential.identity) as state,
        _progress() as bars,
    ):
        # The elements and the first system first, so that a useful table exists within minutes.
        first = [crystal for crystal in crystals if _belongs(crystal, systems[:1])]
        bar = bars.add_task("single points: elements, first system", total=len(first))
        single_points(state, potential, first, lambda n: bars.advance(bar, n))
        chosen = full_treatment(state, first, systems[:1])
        bar = bars.add_task("relaxing elements, first system", total=len(chosen))
        relaxations(state, potential, chosen, OPTIONS, lambda n: bars.advance(bar, n))
        pairs = list(binary_salts(_alone(crystals))) if salts else []
        bar = bars.add_task("single points: binary salts", total=len(pairs))
        single_points(state, potential, pairs, lambda n: bars.advance(bar, n))
        chosen = best_salts(state, pairs)
        bar = bars.add_task("relaxing binary salts", total=len(chosen))
        relaxations(state, potential, chosen, OPTIONS, lambda n: bars.advance(bar, n))
        bar = bars.add_task("single points: everything", total=len(crystals))
        single_points(state, potential, crystals, lambda n: bars.advance(bar, n))
        chosen = full_treatment(state, crystals, systems)
        bar = bars.add_task("relaxing the systems", total=len(chosen))
        relaxations(state, potential, chosen, OPTIONS, lambda n: bars.advance(bar, n))
        chosen = near_hull(state, crystals, near, preferred)
        bar = bars.add_task(f"relaxing within {near:g} eV/atom", total=len(chosen))
        done = relaxations(
            state, potential, chosen, OPTIONS, lambda n: bars.advance(bar, n), deadline
        )
    sys.stdout.write("Done.\n" if done else "Out of time; the same command goes on from here.\n")


@app.command()
def write(
    state_file: State,
    output: Annotated[Path, typer.Argument(help="NAME.csv.gz; the card NAME.json stands beside.")],
    source: Annotated[
        list[str] | None, typer.Option(help="Source of the crystals, with its citation.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the crystals.")] = "CC BY 4.0",
    version: VersionOption = "0.3.0",
) -> None:
    """Write the table and its card from what was computed so far."""
    from matterloop.loop.hull import ReferenceHull

    with BuildState(state_file, identify(version), writable=False) as state:
        if not state.records:
            raise UsageError(f"{state_file} holds no results yet.", remedy="run `compute` first")
        entries = hull_entries(state)
        card: dict[str, Any] = {
            "sources": source or ["as given to the builder"],
            "licence": licence,
            "settings": {
                "relaxation": {
                    "fmax_eV_per_A": OPTIONS.fmax_eV_per_A,
                    "max_steps": OPTIONS.max_steps,
                    "relax_cell": OPTIONS.relax_cell,
                },
                "max_atoms_of_prototypes": MAX_ATOMS,
                "anchors_from_dft_within_eV_per_atom": MAX_ANCHOR_EV_PER_ATOM,
            },
            "statistics": summary(state, entries),
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {
                "python": platform.python_version(),
                **{
                    name: installed_version(name) for name in ("ase", "chgnet", "pymatgen", "torch")
                },
            },
        }
        ReferenceHull(state.identity, entries).save(output, card)
    sys.stdout.write(f"{output}: {len(entries)} entries, {output.stat().st_size / 1024:.0f} KiB\n")


@app.command()
def progress(state_file: State, version: VersionOption = "0.3.0") -> None:
    """Count what was computed so far."""
    if not state_file.exists():
        raise UsageError(f"There is no state file {state_file}.", remedy="run `compute` first")
    with BuildState(state_file, identify(version), writable=False) as state:
        for stage in ("single", "relax"):
            records = [record for (own, _), record in state.records.items() if own == stage]
            failed = sum(record.energy_eV_per_atom is None for record in records)
            sys.stdout.write(f"{stage}: {len(records)} done, {failed} of them failed\n")


def main() -> None:
    """Run the command line; an error raised on purpose is one message and an exit code."""
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")  # of He, Ne, Ar
    try:
        app()
    except MatterloopError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def _sources(
    tables: list[Path],
    folders: list[Path],
    elements: bool,
    mp_systems: list[str],
    mp_key: str | None,
    systems: list[str],
) -> Iterator[SourceCrystal]:
    if elements:
        yield from from_elements()
    for system in systems:
        yield from decorated_prototypes(system)
    for table in tables:
        yield from from_csv(table)
    for folder in folders:
        yield from from_cif_folder(folder)
    if mp_systems:
        yield from from_materials_project(mp_systems, mp_key)


def _gather(crystals: Iterator[SourceCrystal]) -> list[SourceCrystal]:
    """Keep the first crystal of each provenance; elements without any get simple structures."""
    found: dict[str, SourceCrystal] = {}
    for crystal in crystals:
        found.setdefault(crystal.provenance, crystal)
    everything = frozenset[str]().union(*(crystal.counts or {} for crystal in found.values()))
    return [*elemental_prototypes(everything - _alone(found.values())), *found.values()]


def _alone(crystals: Iterable[SourceCrystal]) -> frozenset[str]:
    """Return the elements that stand alone in a crystal."""
    counts = [crystal.counts or {} for crystal in crystals]
    return frozenset[str]().union(*(elements for elements in counts if len(elements) == 1))


def _belongs(crystal: SourceCrystal, systems: list[str]) -> bool:
    """Tell whether a crystal is an element or inside one of some systems."""
    if crystal.counts is None:
        return False
    return len(crystal.counts) == 1 or any(
        set(crystal.counts) <= set(system.split("-")) for system in systems
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


if __name__ == "__main__":
    main()

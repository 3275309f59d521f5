"""``matterloop doctor``: whether everything that a campaign needs works here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from matterloop.loop.errors import MatterloopError
from matterloop.loop.plugins import GROUPS, installed, load
from matterloop.loop.workplace import open_ledger, writable_folder

PACKAGES = ("torch", "botorch", "chgnet", "pymatgen", "ase", "prefect", "sqlalchemy", "smact")

MIN_FREE_GB = 1.0
"""Below it a campaign of a few thousand candidates may fill the disk."""


def examine(ledger: str, folder: Path) -> bool:
    """Print one line per check and return whether all passed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", lambda: f"{sys.version.split()[0]} at {sys.executable}"),
        ("packages", _packages),
        ("folder", lambda: _folder(folder)),
        ("ledger", lambda: _ledger(ledger)),
        *((f"plugins: {group}", lambda group=group: _plugins(group)) for group in GROUPS),
        ("potential", _potential),
    ]
    results = [_report(name, check) for name, check in checks]
    print("\nEverything works." if all(results) else "\nSomething is wrong, see above.")
    return all(results)


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        print(f"ok      {name}: {check()}", flush=True)
    except MatterloopError as error:
        print(f"WRONG   {name}: {error}", flush=True)
        return False
    return True


def _packages() -> str:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise MatterloopError(
            f"Not installed: {', '.join(missing)}.", remedy="install matterloop again"
        )
    return ", ".join(found)


def _folder(folder: Path) -> str:
    writable_folder(folder)
    free = shutil.disk_usage(folder).free / 1e9
    if free < MIN_FREE_GB:
        raise MatterloopError(
            f"Only {free:.1f} GB are free in {str(folder)!r}.", f"at least {MIN_FREE_GB:g} GB"
        )
    return f"{folder}, {free:.0f} GB free"


def _ledger(url: str) -> str:
    with open_ledger(url) as engine:
        return f"{engine.url.render_as_string(hide_password=True)} is at the present version"


def _plugins(group: str) -> str:
    names = sorted(installed(group))
    for name in names:
        load(group, name)
    return ", ".join(names) or "none"


def _potential() -> str:
    from pymatgen.core import Lattice, Structure

    from matterloop.loop.calculation import SinglePoint
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.plugins import build

    potential = build("potentials", "chgnet", {}, None)
    try:
        salt = Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        ).get_primitive_structure()
        point = potential.single_points([salt])[0]
    finally:
        potential.close()
    if not isinstance(point, SinglePoint):
        raise MatterloopError(f"The potential refuses rock salt: {point.reason}.")
    distance = ReferenceHull.shipped(potential.identity).distance(
        {"Na": 1, "Cl": 1}, point.energy_eV_per_atom, identity=potential.identity
    )
    return (
        f"{potential.identity}; rock salt: formation energy"
        f" {distance.formation_energy_eV_per_atom:.2f} eV/atom"
    )

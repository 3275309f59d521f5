"""Reading the files that ``mattergen-generate`` writes.

Format as in MatterGen's README and ``mattergen/common/utils/eval_utils.py`` (``save_structures``):
``generated_crystals.extxyz`` holds one frame per crystal, ``generated_crystals_cif.zip`` the same
crystals as ``gen_0.cif``, ``gen_1.cif``, ...
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from matterloop.adapters.generators.rejection import crystal
from matterloop.loop.errors import PluginFailedError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

EXTXYZ = "generated_crystals.extxyz"
CIF_ZIP = "generated_crystals_cif.zip"


def read_crystals(folder: Path) -> list[Structure | None]:
    """Read the crystals of one run in order; None stands for one that is no crystal.

    Raises
    ------
    PluginFailedError
        If neither file is there, or it cannot be read.
    """
    try:
        if (folder / EXTXYZ).is_file():
            frames = _from_extxyz(folder / EXTXYZ)
        elif (folder / CIF_ZIP).is_file():
            frames = _from_cif_zip(folder / CIF_ZIP)
        else:
            raise _unreadable(f"it left neither {EXTXYZ} nor {CIF_ZIP}")
    except (ValueError, KeyError, IndexError, OSError, BadZipFile, AssertionError) as error:
        raise _unreadable(f"its output cannot be read ({type(error).__name__}: {error})") from error
    return [_structure(atoms) for atoms in frames]


def _structure(atoms: Atoms) -> Structure | None:
    try:
        fractional = atoms.get_scaled_positions(wrap=False)
    except ValueError:  # no cell, or a flat one
        return None
    return crystal(atoms.numbers.tolist(), atoms.cell.array.tolist(), fractional.tolist())


def _from_extxyz(path: Path) -> list[Atoms]:
    import ase.io

    frames = ase.io.read(path, index=":", format="extxyz")
    return frames if isinstance(frames, list) else [frames]


def _from_cif_zip(path: Path) -> list[Atoms]:
    import ase.io

    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"gen_\d+\.cif", name)]
        names.sort(key=lambda name: int(name[4:-4]))
        return [ase.io.read(io.BytesIO(archive.read(name)), format="cif") for name in names]


def _unreadable(reason: str) -> PluginFailedError:
    return PluginFailedError("matterloop.generators", "mattergen", reason)

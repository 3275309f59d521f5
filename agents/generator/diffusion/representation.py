"""Crystals as tensors: atomic numbers, fractional coordinates, a lattice of six free numbers.

The cell is Niggli-reduced and turned so that its matrix is lower triangular with positive diagonal
(rows are the lattice vectors): the Cholesky factor of the metric tensor. Its diagonal enters as
logarithm, and everything is divided by the cube root of the volume that the elements have in known
crystals (`ELEMENT_VOLUME_A3`), so that the six numbers say little more than the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pymatgen.core import Element, Lattice, Structure
from torch import Tensor

from matterloop.agents.generator.cell_volume import ELEMENT_VOLUME_A3
from matterloop.loop.errors import MatterloopError

MAX_ATOMIC_NUMBER = 100
_DEFAULT_VOLUME_A3 = 20.0
_SMALLEST_CELL_A3 = 1e-3
_LOG_RANGE = 2.5
"""Cell vectors are held within exp(+-2.5) of the expected length: a bound for early noise only."""


class RepresentationError(MatterloopError):
    """A crystal cannot be represented."""


@dataclass(frozen=True)
class CrystalArrays:
    """One crystal.

    Attributes
    ----------
    numbers
        (atoms,) atomic numbers.
    fractional
        (atoms, 3) in [0, 1).
    lattice
        (6,) logarithmic Cholesky parameters, not standardised; see `encode_cell`.
    """

    numbers: np.ndarray
    fractional: np.ndarray
    lattice: np.ndarray


def element_volumes() -> Tensor:
    """Return (101,) volumes per atom in A^3 by atomic number; index 0 is unused."""
    volumes = [_DEFAULT_VOLUME_A3] * (MAX_ATOMIC_NUMBER + 1)
    for symbol, volume in ELEMENT_VOLUME_A3.items():
        volumes[Element(symbol).Z] = volume
    return torch.tensor(volumes)


def length_scale(numbers: Tensor) -> Tensor:
    """Return (batch,) cube root of the expected cell volume in Angstrom for (batch, atoms)."""
    return element_volumes().to(numbers.device)[numbers].sum(-1) ** (1 / 3)


def encode_cell(cell: Tensor, scale: Tensor) -> Tensor:
    """Turn (batch, 3, 3) lower-triangular cells in Angstrom into (batch, 6) parameters."""
    shape = cell / scale[:, None, None]
    return torch.stack(
        [
            shape[:, 0, 0].log(),
            shape[:, 1, 1].log(),
            shape[:, 2, 2].log(),
            shape[:, 1, 0],
            shape[:, 2, 0],
            shape[:, 2, 1],
        ],
        dim=-1,
    )


def decode_cell(parameters: Tensor, scale: Tensor) -> Tensor:
    """Invert `encode_cell`: (batch, 3, 3) lower-triangular cells in Angstrom."""
    diagonal = parameters[:, :3].clamp(-_LOG_RANGE, _LOG_RANGE).exp()
    off = parameters[:, 3:].clamp(-8, 8)
    zero = torch.zeros_like(diagonal[:, 0])
    rows = [
        torch.stack([diagonal[:, 0], zero, zero], -1),
        torch.stack([off[:, 0], diagonal[:, 1], zero], -1),
        torch.stack([off[:, 1], off[:, 2], diagonal[:, 2]], -1),
    ]
    return torch.stack(rows, dim=1) * scale[:, None, None]


def to_arrays(structure: Structure) -> CrystalArrays:
    """Represent an ordered crystal in its Niggli-reduced cell, as given (not made primitive).

    Raises
    ------
    RepresentationError
        For disorder, elements beyond Z = 100 or a cell that cannot be reduced.
    """
    if not structure.is_ordered:
        raise RepresentationError(
            f"{structure.composition.reduced_formula} has partially occupied sites.",
            "an ordered crystal",
        )
    numbers = np.array(structure.atomic_numbers)
    if len(numbers) == 0 or numbers.max() > MAX_ATOMIC_NUMBER:
        raise RepresentationError(
            f"{structure.composition.reduced_formula or 'an empty cell'} cannot be represented.",
            f"one atom or more, atomic numbers up to {MAX_ATOMIC_NUMBER}",
        )
    if not (np.isfinite(structure.frac_coords).all() and structure.volume > _SMALLEST_CELL_A3):
        raise RepresentationError(
            f"The cell of {structure.composition.reduced_formula} has the volume"
            f" {structure.volume:.3g} A^3, or a coordinate is not finite.",
            "three lattice vectors that span a volume, and finite coordinates",
        )
    try:
        reduced = structure.get_reduced_structure("niggli")
        metric = reduced.lattice.matrix @ reduced.lattice.matrix.T
        cell = torch.from_numpy(np.linalg.cholesky(metric)).float()[None]
    except (ValueError, np.linalg.LinAlgError) as error:
        raise RepresentationError(
            f"The cell of {structure.composition.reduced_formula} cannot be reduced: {error}.",
            "three lattice vectors that span a volume",
        ) from error
    numbers = np.array(reduced.atomic_numbers)
    scale = length_scale(torch.from_numpy(numbers)[None])
    return CrystalArrays(
        numbers, reduced.frac_coords % 1.0, encode_cell(cell, scale)[0].numpy().astype(np.float64)
    )


def to_structures(numbers: Tensor, fractional: Tensor, cell: Tensor) -> list[Structure]:
    """Turn (batch, atoms), (batch, atoms, 3) and (batch, 3, 3) in Angstrom into crystals."""
    return [
        Structure(Lattice(matrix), species.tolist(), coordinates % 1.0)
        for matrix, species, coordinates in zip(
            cell.double().cpu().numpy(),
            numbers.cpu().numpy(),
            fractional.double().cpu().numpy(),
            strict=True,
        )
    ]


def group_by_size(sizes: Sequence[int]) -> dict[int, list[int]]:
    """Return number of atoms to the indices of the crystals that have it, in ascending order."""
    groups: dict[int, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    return dict(sorted(groups.items()))

"""What an interatomic potential is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pymatgen.core import Structure


@dataclass(frozen=True)
class PotentialIdentity:
    """Key under which energies may be compared: they meet in one hull only if all three agree.

    Attributes
    ----------
    name
        Name and version of the model, e.g. ``chgnet-0.3.0``.
    sha256
        Hash of the weights, 64 hexadecimal digits.
    correction_scheme
        Which energy corrections the energies contain: ``MP2020``, ``none``, ...
    """

    name: str
    sha256: str
    correction_scheme: str

    def __str__(self) -> str:
        return f"{self.name} ({self.sha256[:8]}, corrections {self.correction_scheme})"


@dataclass(frozen=True)
class SinglePoint:
    """Energy and its derivatives for a fixed crystal.

    Attributes
    ----------
    energy_eV_per_atom
        Total energy per atom, in the potential's correction scheme.
    forces_eV_per_A
        Shape (n_atoms, 3).
    stress_GPa
        Shape (3, 3), positive under tension (ASE's sign).
    embedding
        Structure descriptor, shape (n_features,), or None where the potential has none.
    """

    energy_eV_per_atom: float
    forces_eV_per_A: NDArray[np.float64]
    stress_GPa: NDArray[np.float64]
    embedding: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class RelaxOptions:
    """How far and how carefully a crystal is relaxed.

    Attributes
    ----------
    fmax_eV_per_A
        Convergence criterion on forces, and on the cell's gradient as ASE's filters define it.
    max_steps
        Optimiser steps at the most, the fallback's included.
    relax_cell
        Whether the cell may change.
    pressure_GPa
        External hydrostatic pressure, positive under compression.
    """

    fmax_eV_per_A: float = 0.05
    max_steps: int = 300
    relax_cell: bool = True
    pressure_GPa: float = 0.0


@dataclass(frozen=True)
class Relaxation:
    """A relaxed crystal and how it was reached.

    Attributes
    ----------
    structure
        The relaxed crystal, same site order as the input.
    energy_eV_per_atom
        Energy per atom at the end (without the p V term).
    converged
        Whether `fmax_eV_per_A` was reached within the steps.
    steps
        Optimiser steps taken.
    optimizer
        Which optimiser ended the relaxation (``BFGS``, ``LBFGS``, ``FIRE``).
    max_force_eV_per_A
        Largest force norm at the end.
    rms_displacement_A
        Root mean square displacement of the atoms, fractional shifts in the relaxed cell.
    volume_change
        Relaxed volume over input volume, minus one.
    cpu_s
        CPU seconds spent.
    embedding
        As in `SinglePoint`.
    """

    structure: Structure
    energy_eV_per_atom: float
    converged: bool
    steps: int
    optimizer: str
    max_force_eV_per_A: float
    rms_displacement_A: float
    volume_change: float
    cpu_s: float
    embedding: NDArray[np.float64] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CalculationFailure:
    """A crystal for which the potential's answer must not be used.

    Attributes
    ----------
    reason
        One sentence with the figure that broke the limit, and the limit.
    """

    reason: str

"""Guards: what a potential is not asked, and what it is not believed.

A learned potential answers everything. Far from its training data the answer is not physical (one
potential was driven to 1e12 eV by a bad crystal), so that input and output are checked against
limits which real crystals at moderate pressure keep with a wide margin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.calculation import SinglePoint


class Guards(BaseModel):
    """Limits beyond which a crystal or an answer is refused.

    Attributes
    ----------
    max_atoms
        Largest cell, in atoms.
    min_distance_A
        Smallest distance between atoms; the shortest bond there is, H-H, has 0.74 Angstrom.
    min_volume_A3_per_atom, max_volume_A3_per_atom
        Diamond has 5.7, caesium 117 Angstrom^3/atom.
    min_energy_eV_per_atom, max_energy_eV_per_atom
        Window of total energies. Tungsten, the most strongly bound element, has -13 eV/atom with
        PBE; free atoms lie near 0.
    max_force_eV_per_A
        Largest force norm that is believed.
    max_volume_factor
        Relaxation may multiply or divide the volume by this much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_atoms: int = Field(512, ge=1)
    min_distance_A: float = Field(0.6, ge=0)
    min_volume_A3_per_atom: float = Field(2.0, gt=0)
    max_volume_A3_per_atom: float = Field(300.0, gt=0)
    min_energy_eV_per_atom: float = -20.0
    max_energy_eV_per_atom: float = 10.0
    max_force_eV_per_A: float = Field(100.0, gt=0)
    max_volume_factor: float = Field(2.5, gt=1)

    def refuse_crystal(self, structure: Structure) -> str:
        """Say why a crystal is not calculated: one sentence with figure and limit, or empty."""
        n = len(structure)
        if n == 0:
            return "The crystal holds no atom."
        if n > self.max_atoms:
            return f"The cell holds {n} atoms, more than the limit of {self.max_atoms}."
        if not structure.is_ordered:
            return "The crystal is disordered: a site is shared between species or partly empty."
        matrix = np.asarray(structure.lattice.matrix, dtype=float)
        if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
            return "The lattice or a coordinate is not a finite number."
        volume = abs(float(np.linalg.det(matrix))) / n
        if volume < self.min_volume_A3_per_atom:
            return (
                f"The volume of {volume:.3g} A^3/atom is below the limit of"
                f" {self.min_volume_A3_per_atom:g} A^3/atom."
            )
        if volume > self.max_volume_A3_per_atom:
            return (
                f"The volume of {volume:.4g} A^3/atom exceeds the limit of"
                f" {self.max_volume_A3_per_atom:g} A^3/atom."
            )
        distance = shortest_distance(structure, self.min_distance_A)
        if distance is not None:
            return (
                f"Two atoms are {distance:.3g} A apart, closer than the limit of"
                f" {self.min_distance_A:g} A."
            )
        return ""

    def refuse_answer(self, answer: SinglePoint) -> str:
        """Say why an answer is not believed: one sentence with figure and limit, or empty."""
        energy = answer.energy_eV_per_atom
        if not (
            np.isfinite(energy)
            and np.isfinite(answer.forces_eV_per_A).all()
            and np.isfinite(answer.stress_GPa).all()
        ):
            return "The potential returned an energy, force or stress that is not a finite number."
        if not self.min_energy_eV_per_atom <= energy <= self.max_energy_eV_per_atom:
            return (
                f"The potential returned {energy:.4g} eV/atom, outside the window from"
                f" {self.min_energy_eV_per_atom:g} to {self.max_energy_eV_per_atom:g} eV/atom."
            )
        force = max_force(answer)
        if force > self.max_force_eV_per_A:
            return (
                f"The potential returned a force of {force:.4g} eV/A, above the limit of"
                f" {self.max_force_eV_per_A:g} eV/A."
            )
        return ""

    def refuse_volume_change(self, change: float) -> str:
        """Judge the relative volume change (final over initial, minus one) of a relaxation."""
        if 1 / self.max_volume_factor <= 1 + change <= self.max_volume_factor:
            return ""
        return (
            f"Relaxation changed the volume by {change:+.0%}, beyond the limits of"
            f" {1 / self.max_volume_factor - 1:+.0%} and {self.max_volume_factor - 1:+.0%}."
        )


def max_force(answer: SinglePoint) -> float:
    """Return the largest force norm of an answer, in eV/Angstrom."""
    return float(np.linalg.norm(answer.forces_eV_per_A, axis=1).max())


def shortest_distance(structure: Structure, below: float) -> float | None:
    """Return the shortest distance between two atoms or periodic images, in Angstrom.

    None if no pair is closer than `below`, which keeps the search short.
    """
    distances = structure.get_neighbor_list(below, exclude_self=True)[3]
    return float(distances.min()) if len(distances) else None

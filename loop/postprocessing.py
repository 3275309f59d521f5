"""What is done to a generated crystal before it is written: symmetrisation, a short relaxation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matterloop.loop.calculation import CalculationFailure, RelaxOptions
from matterloop.loop.elements import element_counts, same_composition
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import Potential

SYMPREC_A = 0.1
"""How far atoms may stand from symmetric places, Angstrom: generated crystals are noisy to some
hundredths of an Angstrom, and what a relaxation moves is of the order of a tenth. MatterGen's
evaluation uses the same (Zeni et al., Nature 639, 624 (2025))."""

MAX_VOLUME_CHANGE = 0.1
"""A symmetrised cell whose volume per atom differs by more was not the same crystal."""

SHORT_RELAXATION = RelaxOptions(fmax_eV_per_A=0.05, max_steps=200)


@dataclass(frozen=True)
class Symmetrised:
    """A crystal on its symmetric places.

    Attributes
    ----------
    structure
        Primitive standard cell (Setyawan and Curtarolo 2010), or the input where not `applied`.
    space_group, symbol
        Number and Hermann-Mauguin symbol found within the tolerance; 1 and ``P1`` if none was.
    applied
        Whether the crystal was changed.
    reason
        Why not; empty if it was.
    """

    structure: Structure
    space_group: int
    symbol: str
    applied: bool
    reason: str = ""

    def facts(self, symprec_A: float) -> dict[str, Any]:
        """Return a JSON account."""
        return {
            "space_group": self.space_group,
            "symbol": self.symbol,
            "symprec_A": symprec_A,
            "applied": self.applied,
            **({"reason": self.reason} if self.reason else {}),
        }


def symmetrised(structure: Structure, symprec_A: float = SYMPREC_A) -> Symmetrised:
    """Move the atoms to the symmetric places nearby and return the primitive standard cell.

    The input comes back where no symmetry can be found, or where the result has another
    composition or density: a wide tolerance may fuse atoms.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    with warnings.catch_warnings():
        # spglib announces future error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            analyzer = SpacegroupAnalyzer(structure, symprec=symprec_A)
            number, symbol = analyzer.get_space_group_number(), analyzer.get_space_group_symbol()
            cell = analyzer.get_primitive_standard_structure()
        except (SymmetryUndeterminedError, ValueError, TypeError) as error:
            # pymatgen raises the latter two where spglib finds no standard cell.
            return Symmetrised(structure, 1, "P1", False, f"no symmetry was found: {error}")

    def kept(reason: str) -> Symmetrised:
        return Symmetrised(structure, number, symbol, False, reason)

    if not same_composition(element_counts(cell), element_counts(structure)):
        return kept(f"the symmetric cell would be {cell.composition.reduced_formula}")
    change = cell.volume / len(cell) / (structure.volume / len(structure)) - 1
    if abs(change) > MAX_VOLUME_CHANGE:
        return kept(f"the symmetric cell's volume per atom would differ by {change:+.0%}")
    return Symmetrised(cell, number, symbol, True)


@dataclass(frozen=True)
class ShortlyRelaxed:
    """A crystal after a short relaxation, or as it was where that failed.

    Attributes
    ----------
    structure
        Relaxed, or the input.
    facts
        A JSON account: energies (eV/atom), steps, potential; or why it failed.
    """

    structure: Structure
    facts: dict[str, Any]


def shortly_relaxed(
    structures: Sequence[Structure],
    potential: Potential,
    hull: ReferenceHull | None = None,
    options: RelaxOptions = SHORT_RELAXATION,
) -> Iterator[ShortlyRelaxed]:
    """Relax crystals; the results come in the order of the input.

    Parameters
    ----------
    hull
        If given, the energy above it is told too, where it knows the elements.
    """
    identity = potential.identity
    results = dict(potential.relax(structures, options))
    for index, structure in enumerate(structures):
        result = results[index]
        facts: dict[str, Any] = {"potential": identity.name, "potential_sha256": identity.sha256}
        if isinstance(result, CalculationFailure):
            yield ShortlyRelaxed(structure, {**facts, "failed": result.reason})
            continue
        facts |= {
            "energy_eV_per_atom": result.energy_eV_per_atom,
            "corrections": identity.correction_scheme,
            "converged": result.converged,
            "steps": result.steps,
            "rms_displacement_A": result.rms_displacement_A,
            "volume_change": result.volume_change,
        }
        if hull is not None:
            try:
                distance = hull.distance(
                    element_counts(result.structure), result.energy_eV_per_atom, identity=identity
                )
            except UsageError as error:
                facts["no_hull"] = str(error)
            else:
                facts |= {
                    "energy_above_hull_eV_per_atom": distance.energy_above_hull_eV_per_atom,
                    "formation_energy_eV_per_atom": distance.formation_energy_eV_per_atom,
                    "thin_hull": distance.thin,
                }
        yield ShortlyRelaxed(result.structure, facts)

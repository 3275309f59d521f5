"""Crystals and phases as they travel between the virtual instruments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymatgen.core import Composition, Structure

from matterloop.loop.errors import InfeasibleError, UsageError
from matterloop.loop.experiment import Phase, Precursor
from matterloop.loop.hull import ReferenceEntry


def crystal(document: dict[str, Any]) -> Structure:
    """Read a crystal from ``Structure.as_dict()``, without oxidation states and site properties.

    Raises
    ------
    UsageError
        If the document is no crystal.
    """
    try:
        structure = Structure.from_dict(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"A phase's structure cannot be read: {type(error).__name__}: {error}.",
            "a dictionary as pymatgen's Structure.as_dict() writes it",
        ) from None
    if not structure.is_ordered:
        return structure
    symbols = [site.specie.symbol for site in structure]
    return Structure(structure.lattice, symbols, structure.frac_coords)


def known_phase(structure: Structure, fraction: float, provenance: str) -> Phase:
    """Return a phase whose crystal is known."""
    return Phase(
        formula=structure.composition.reduced_formula,
        fraction=fraction,
        structure=Structure(structure.lattice, structure.species, structure.frac_coords).as_dict(),
        provenance=provenance,
    )


def reference_phases(
    decomposition: Sequence[tuple[ReferenceEntry, float]], share: float = 1.0
) -> tuple[Phase, ...]:
    """Return the phases into which the hull splits a composition, scaled to `share` together."""
    total = sum(fraction for _, fraction in decomposition)
    return tuple(
        Phase(
            # The hull names elements in alphabetical order, ClLi; people and samples say LiCl.
            formula=Composition(entry.formula).reduced_formula,
            fraction=min(share * fraction / total, 1.0),
            provenance=entry.provenance,
        )
        for entry, fraction in decomposition
    )


def unreacted(precursors: Sequence[Precursor]) -> tuple[Phase, ...]:
    """Return a mixture of starting materials as phases; fractions by atoms."""
    atoms = [Composition(p.formula).num_atoms * p.amount_mol for p in precursors]
    return tuple(
        Phase(formula=p.formula, fraction=n / sum(atoms), provenance="unreacted precursor")
        for p, n in zip(precursors, atoms, strict=True)
    )


def described(phases: Sequence[Phase]) -> str:
    """Return phases in words, with the reference that tells polymorphs of a formula apart."""
    return " + ".join(
        f"{phase.fraction:.0%} {phase.formula}"
        + (f" ({phase.provenance})" if phase.provenance and phase.structure is None else "")
        for phase in phases
    )


def main_phase(phases: Sequence[Phase]) -> Phase:
    """Return the largest phase of a sample; of equal ones the first.

    Raises
    ------
    InfeasibleError
        If the sample is empty or the phase's crystal structure is unknown.
    """
    if not phases:
        raise InfeasibleError("The sample is empty; there is nothing to measure.")
    largest = max(phases, key=lambda phase: phase.fraction)
    if largest.structure is None:
        raise InfeasibleError(
            f"The sample ({described(phases)}) cannot be measured: the crystal structure of its"
            f" main phase, {largest.formula}, is not known.",
            "a sample whose main phase has a known crystal structure",
        )
    return largest

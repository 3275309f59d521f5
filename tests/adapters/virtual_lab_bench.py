"""A workshop for the tests of the virtual laboratory: real CHGNet, a hull of its own energies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import ChgnetPotential
from matterloop.loop.calculation import Relaxation, RelaxOptions
from matterloop.loop.experiment import CharacterizationRequest, Phase, Recipe, SynthesisRequest
from matterloop.loop.hull import ReferenceEntry, ReferenceHull


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def zinc_blende(cation: str, anion: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "F-43m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.25, 0.25, 0.25]]
    ).get_primitive_structure()


def antifluorite(cation: str, anion: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0.25, 0.25, 0.25], [0, 0, 0]]
    ).get_primitive_structure()


def body_centred(element: str, a: float) -> Structure:
    return Structure.from_spacegroup("Im-3m", Lattice.cubic(a), [element], [[0, 0, 0]])


def diamond(element: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(a), [element], [[0, 0, 0]]
    ).get_primitive_structure()


def chlorine() -> Structure:
    """Solid chlorine, Cmce: molecules with 1.98 A between the atoms."""
    return Structure.from_spacegroup(
        "Cmce", Lattice.orthorhombic(6.15, 4.40, 8.15), ["Cl"], [[0, 0.117, 0.102]]
    )


def sulfur_chains() -> Structure:
    """Chains as in selenium, P3_121: close to the rings in energy, and 3 atoms instead of 128."""
    return Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.1, 4.3), ["S"], [[0.23, 0.0, 1 / 3]]
    )


NACL = rock_salt("Na", "Cl", 5.64)
LI2S = antifluorite("Li", "S", 5.71)
LIS = zinc_blende("Li", "S", 5.5)
"""Nobody made it: far above the hull of Li2S and sulfur."""


@dataclass(frozen=True)
class Bench:
    """A workshop as `protocols.Workshop` asks."""

    folder: Path
    potential: ChgnetPotential
    workers: int = 2
    given_hull: ReferenceHull | None = None

    @cached_property
    def hull(self) -> ReferenceHull:
        return self.given_hull or small_hull(self.potential)

    def at(self, folder: Path) -> Bench:
        return replace(self, folder=folder, given_hull=self.hull)


def small_hull(potential: ChgnetPotential) -> ReferenceHull:
    """Build a hull of Li-S and Na-Cl from relaxations with the potential."""
    crystals = {
        "Li": body_centred("Li", 3.44),
        "S": sulfur_chains(),
        "Li2S": LI2S,
        "Na": body_centred("Na", 4.2),
        "Cl": chlorine(),
        "NaCl": NACL,
    }
    entries = []
    for index, result in potential.relax(list(crystals.values()), RelaxOptions(max_steps=200)):
        assert isinstance(result, Relaxation)
        formula = list(crystals)[index]
        entries.append(ReferenceEntry(formula, result.energy_eV_per_atom, f"test:{formula}"))
    return ReferenceHull(potential.identity, entries)


def synthesis(
    structure: Structure, seed: int = 1, temperature_K: float = 900.0, **recipe: object
) -> SynthesisRequest:
    formula = structure.composition.reduced_formula
    fields = {"method": "solid-state", "target_formula": formula, "time_h": 24.0, **recipe}
    return SynthesisRequest(
        recipe=Recipe(temperature_K=temperature_K, **fields),
        structure=structure.as_dict(),
        seed=seed,
    )


def pure(structure: Structure) -> tuple[Phase, ...]:
    return (
        Phase(
            formula=structure.composition.reduced_formula,
            fraction=1.0,
            structure=structure.as_dict(),
        ),
    )


def characterization(
    structure: Structure, *properties: str, seed: int = 1
) -> CharacterizationRequest:
    return CharacterizationRequest(phases=pure(structure), properties=properties, seed=seed)


def do(instrument, request, key: str = "key"):
    """Submit, wait, collect."""
    handle = instrument.submit(key, request)
    assert instrument.drain(timeout_s=120)
    return instrument.collect(handle)

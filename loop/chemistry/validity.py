"""Physical validity of a crystal, before anything is spent on it.

Radii are the covalent radii of Cordero et al., Dalton Trans., 2832 (2008), as ASE holds them, in
Angstrom. They are given for H to Cm; heavier elements take curium's 1.69.

The limits were set on 24,985 relaxed crystals of the Materials Project (at most 52 atoms). In them
the smallest distance over the sum of the two radii was 0.65 (U-Fe, Ce-Ru); the volume per atom ran
from 5.7 (an organic crystal; NiH 6.4) to 122 A^3 (Rb), the volume over that of the covalent spheres
from 0.69 (U2Ti) to 26 (methane), the density from 0.43 (methane) to 22 g/cm^3 (IrOs). Each default
lies a little outside. Eight entries fail, all for their volume, and rightly: their atoms or
molecules float in a vacuum of 188 to 896 A^3 per atom (mp-995393, "LiS4", although that database
places it on the hull; "CaC2" at 4 eV/atom above it).

Charge is another matter: 10 % of these crystals, and as many of those within 0.1 eV/atom of the
hull, are not neutral under SMACT's rule, which knows neither mixed valence (LiMn2O4) nor
intermetallics with metalloids (ScCuSi). A campaign in such chemistry sets ``charge`` to ``flag``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from matterloop.loop.candidate import Verdict
from matterloop.loop.chemistry.oxidation import OxidationRule, assignments
from matterloop.loop.elements import SYMBOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Composition, Structure

_HEAVIEST_RADIUS_A = 1.69


@dataclass(frozen=True)
class PhysicalLimits:
    """What a crystal must obey; see the module's docstring for the reasons.

    Attributes
    ----------
    distance_factor
        Smallest allowed distance over the sum of covalent radii.
    volume_A3_per_atom
        Smallest and largest volume per atom.
    relative_volume
        Smallest and largest volume over the sum of the volumes of the covalent spheres.
    density_g_cm3
        Smallest and largest density.
    charge
        ``require``: a crystal that is not neutral is refused; ``flag``: it gets a verdict that does
        not refuse it; ``ignore``: no test.
    oxidation
        Rule of neutrality.
    """

    distance_factor: float = 0.6
    volume_A3_per_atom: tuple[float, float] = (4.0, 150.0)
    relative_volume: tuple[float, float] = (0.6, 30.0)
    density_g_cm3: tuple[float, float] = (0.3, 25.0)
    charge: Literal["require", "flag", "ignore"] = "require"
    oxidation: OxidationRule = field(default_factory=OxidationRule)


def check_structure(structure: Structure, limits: PhysicalLimits | None = None) -> list[Verdict]:
    """Judge one crystal.

    Returns
    -------
    list of Verdict
        ``ordered``, ``finite``, ``volume``, ``density``, ``distances``, ``charge``, in this order.
        The list ends early where a failure makes the next question meaningless: no distances are
        looked for in a crystal whose volume is absurd.
    """
    limits = limits or PhysicalLimits()
    verdicts: list[Verdict] = []
    for check in (_ordered, _finite):
        verdicts.append(check(structure))
        if not verdicts[-1].passed:
            return verdicts
    for window in (_volume, _density):
        verdicts.append(window(structure, limits))
        if not verdicts[-1].passed:
            return verdicts
    verdicts.append(_distances(structure, limits))
    if limits.charge != "ignore":
        verdicts.append(_charge(structure, limits))
    return verdicts


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Sum up the verdicts of `check_structure` in one verdict ``valid``."""
    against = [verdict for verdict in verdicts if verdict.decisive and not verdict.passed]
    told = against or list(verdicts)
    return Verdict("valid", not against, " ".join(verdict.reason for verdict in told))


def closest_pair(structure: Structure) -> tuple[str, float, float] | None:
    """Find the pair of atoms that are closest in units of the sum of their covalent radii.

    Periodic images count, also an atom's own.

    Returns
    -------
    tuple or None
        Pair of symbols such as ``Li-S``, distance in Angstrom, distance over sum of radii; None if
        every pair is further apart than the sum of the largest radii.
    """
    from pymatgen.core import Structure as Crystal

    radii = covalent_radii_A(structure)
    symbols = [site.specie.symbol for site in structure]
    reduced = structure.lattice.get_lll_reduced_lattice()
    # In a reduced cell the shortest edge is the shortest translation, near enough. Where it is
    # absurd the atoms meet their own images, and a neighbour list could fill the memory.
    edge = min(reduced.abc)
    if edge < float(radii.min()) / 2:
        largest = int(radii.argmax())
        return (
            f"{symbols[largest]}-{symbols[largest]}",
            edge,
            edge / float(2 * radii[largest]),
        )
    crystal = Crystal(reduced, structure.species, structure.cart_coords, coords_are_cartesian=True)
    first, second, _, distances = crystal.get_neighbor_list(
        2 * float(radii.max()), exclude_self=True
    )
    if not len(distances):
        return None
    ratios = distances / (radii[first] + radii[second])
    k = int(ratios.argmin())
    pair = sorted((symbols[first[k]], symbols[second[k]]))
    return "-".join(pair), float(distances[k]), float(ratios[k])


def covalent_radii_A(structure: Structure) -> NDArray[np.float64]:  # noqa: N802  # A: Angstrom
    """Return the covalent radius of every atom, shape (n_atoms,)."""
    return element_radii_A(np.array(structure.atomic_numbers))


def element_radii_A(numbers: NDArray[np.int64]) -> NDArray[np.float64]:  # noqa: N802  # A: Angstrom
    """Return covalent radii by atomic number; beyond curium, where none are known, curium's."""
    from ase.data import covalent_radii

    radii = np.full(len(numbers), _HEAVIEST_RADIUS_A)
    tabulated = numbers <= 96
    radii[tabulated] = covalent_radii[numbers[tabulated]]
    return radii


def _ordered(structure: Structure) -> Verdict:
    if not len(structure):
        return Verdict("ordered", False, "The crystal holds no atoms.")
    if not structure.is_ordered:
        n_mixed = sum(not site.is_ordered for site in structure)
        return Verdict("ordered", False, f"{n_mixed} of {len(structure)} sites are disordered.")
    strange = sorted({site.specie.symbol for site in structure} - SYMBOLS)
    if strange:
        return Verdict("ordered", False, f"{', '.join(strange)} is no element.")
    return Verdict("ordered", True, f"All {len(structure)} sites are ordered.")


def _finite(structure: Structure) -> Verdict:
    numbers = (structure.lattice.matrix, structure.frac_coords)
    n_wrong = sum(int(np.size(part) - np.isfinite(part).sum()) for part in numbers)
    if n_wrong:
        return Verdict("finite", False, f"{n_wrong} cell vectors or coordinates are not finite.")
    return Verdict("finite", True, "Cell and coordinates are finite numbers.")


def _volume(structure: Structure, limits: PhysicalLimits) -> Verdict:
    return check_volume(structure.composition, float(structure.volume) / len(structure), limits)


def check_volume(
    composition: Composition, volume_A3_per_atom: float, limits: PhysicalLimits
) -> Verdict:
    """Judge a volume per atom where no crystal is at hand; the verdict ``volume``."""
    numbers = np.array([element.Z for element in composition.elements])
    shares = np.array([composition.get_atomic_fraction(e) for e in composition.elements])
    spheres = float((4 / 3 * np.pi * element_radii_A(numbers) ** 3 * shares).sum())
    per_atom, relative = volume_A3_per_atom, volume_A3_per_atom / spheres
    (low, high), (loose, wide) = limits.volume_A3_per_atom, limits.relative_volume
    return Verdict(
        "volume",
        low <= per_atom <= high and loose <= relative <= wide,
        f"Volume {per_atom:.4g} A^3 per atom (allowed {low:g} to {high:g}),"
        f" {relative:.3g} times that of the covalent spheres (allowed {loose:g} to {wide:g}).",
    )


def _density(structure: Structure, limits: PhysicalLimits) -> Verdict:
    density, (low, high) = float(structure.density), limits.density_g_cm3
    return Verdict(
        "density",
        low <= density <= high,
        f"Density {density:.4g} g/cm^3 (allowed {low:g} to {high:g}).",
    )


def _distances(structure: Structure, limits: PhysicalLimits) -> Verdict:
    closest = closest_pair(structure)
    if closest is None:
        return Verdict("distances", True, "No two atoms are closer than their covalent radii.")
    pair, distance, ratio = closest
    return Verdict(
        "distances",
        ratio >= limits.distance_factor,
        f"Closest pair {pair} at {distance:.3g} A, {ratio:.3g} times the sum of covalent radii"
        f" (allowed from {limits.distance_factor:g}).",
    )


def _charge(structure: Structure, limits: PhysicalLimits) -> Verdict:
    counts: dict[str, int] = {}
    for site in structure:
        counts[site.specie.symbol] = counts.get(site.specie.symbol, 0) + 1
    found = assignments(counts, limits.oxidation)
    formula, rule = structure.composition.reduced_formula, limits.oxidation.states
    decisive = limits.charge == "require"
    if not found:
        reason = f"No oxidation states of SMACT's set {rule} make {formula} neutral."
        return Verdict("charge", False, reason, decisive)
    if not any(found[0].values()):
        return Verdict("charge", True, f"{formula} is an element or an alloy.", decisive)
    states = " ".join(f"{element}{state:+d}" for element, state in found[0].items())
    return Verdict("charge", True, f"{formula} is neutral, for example with {states}.", decisive)

"""Critic by physical limits, sameness and known crystals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from matterloop.loop.candidate import Verdict
from matterloop.loop.chemistry.known import KnownCrystals
from matterloop.loop.chemistry.matching import MatchTolerances, StructureIndex
from matterloop.loop.chemistry.validity import PhysicalLimits, check_structure, overall
from matterloop.loop.errors import UsageError
from matterloop.loop.protocols import Workshop


class PhysicalSettings(BaseModel):
    """Settings of `PhysicalCritic`.

    Attributes
    ----------
    distance_factor
        Smallest allowed distance over the sum of covalent radii.
    volume_per_atom_A3
        Smallest and largest volume per atom.
    density_g_cm3
        Smallest and largest density.
    charge
        ``require``: refuse what cannot be charge-neutral; ``flag``: only say so; ``ignore``.
    length_tolerance, site_tolerance, angle_tolerance_deg
        When two crystals are the same, as in pymatgen's `StructureMatcher` (fractions, degrees).
    reference_structures
        CSV files with a `cif` column or folders of CIF files; what matches one is not novel.
    refuse_known
        Whether a known crystal is refused; otherwise it carries a flag and stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    distance_factor: float = Field(default=0.6, gt=0, lt=1.2)
    volume_per_atom_A3: tuple[float, float] = (4.0, 150.0)  # A: Angstrom
    density_g_cm3: tuple[float, float] = (0.3, 25.0)
    charge: Literal["require", "flag", "ignore"] = "require"
    length_tolerance: float = Field(default=0.2, gt=0, le=1)
    site_tolerance: float = Field(default=0.3, gt=0, le=1)
    angle_tolerance_deg: float = Field(default=5.0, gt=0, le=45)
    reference_structures: tuple[str, ...] = ()
    refuse_known: bool = False


class PhysicalCritic:
    """Verdicts ``valid``, ``unique`` and ``novel``; behind `matterloop.loop.protocols.Critic`.

    Besides the sum, every physical check has its own verdict with its figures (``distances``,
    ``charge``, ...), which is a flag: ``valid`` alone decides. An invalid crystal gets no other
    verdict, for sameness of absurd crystals means nothing. Without reference structures there is
    nothing that novelty could be judged by, and no verdict on it.
    """

    Settings = PhysicalSettings

    def __init__(self, settings: PhysicalSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings
        self._tolerances = MatchTolerances(
            ltol=settings.length_tolerance,
            stol=settings.site_tolerance,
            angle_tol=settings.angle_tolerance_deg,
        )
        self._limits = PhysicalLimits(
            distance_factor=settings.distance_factor,
            volume_A3_per_atom=settings.volume_per_atom_A3,
            density_g_cm3=settings.density_g_cm3,
            charge=settings.charge,
        )
        for path in settings.reference_structures:
            if not Path(path).exists():
                raise UsageError(
                    f"The reference structures {path} do not exist.",
                    "a CSV file with a `cif` column, or a folder of CIF files",
                    "correct the path under `reference_structures`",
                )

    def judge(
        self, candidates: Sequence[Structure], known: Sequence[Structure]
    ) -> list[list[Verdict]]:
        """Judge every candidate; of like ones the first wins.

        Parameters
        ----------
        known
            Earlier candidates of the campaign. Those that are no proper crystals are passed over.
        """
        index = StructureIndex(self._tolerances)
        for number, structure in enumerate(known, start=1):
            if self._valid(structure)[0].passed:
                index.find_or_add(structure, f"earlier candidate {number}")
        verdicts = []
        for number, structure in enumerate(candidates, start=1):
            valid = self._valid(structure)
            if valid[0].passed:
                valid.append(self._unique(structure, index, number))
                valid += self._novel(structure)
            verdicts.append(valid)
        return verdicts

    def _valid(self, structure: Structure) -> list[Verdict]:
        checks = check_structure(structure, self._limits)
        flags = [Verdict(c.check, c.passed, c.reason, decisive=False) for c in checks]
        return [overall(checks), *flags]

    def _unique(self, structure: Structure, index: StructureIndex, number: int) -> Verdict:
        match = index.find_or_add(structure, f"candidate {number} of this batch")
        tolerances = (
            f"ltol {self._tolerances.ltol:g}, stol {self._tolerances.stol:g},"
            f" angle {self._tolerances.angle_tol:g} deg"
        )
        if match is None:
            reason = f"Matches none of {len(index) - 1} distinct candidates before it"
        else:
            reason = f"Is the same crystal as {match.label}"
        return Verdict("unique", match is None, f"{reason} ({tolerances}).")

    def _novel(self, structure: Structure) -> list[Verdict]:
        if not self._references:
            return []
        decisive = self._settings.refuse_known
        match = next((m for r in self._references if (m := r.find(structure))), None)
        if match:
            reason = f"Is known: it matches {match.label}."
            return [Verdict("novel", False, reason, decisive)]
        size = sum(len(reference) for reference in self._references)
        return [Verdict("novel", True, f"Matches none of {size} known crystals.", decisive)]

    @cached_property
    def _references(self) -> list[KnownCrystals]:
        return [
            KnownCrystals.from_path(Path(path), self._tolerances)
            for path in self._settings.reference_structures
        ]

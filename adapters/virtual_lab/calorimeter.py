"""Energies of a sample: formation energy, and distance from the hull of everything known."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from matterloop.adapters.virtual_lab.characterizer import VirtualCharacterizer
from matterloop.adapters.virtual_lab.instrument import InstrumentSettings
from matterloop.adapters.virtual_lab.phases import crystal, main_phase
from matterloop.loop.experiment import CharacterizationRequest, CharacterizationResult
from matterloop.loop.protocols import Workshop


class CalorimeterSettings(InstrumentSettings):
    """Settings of the virtual calorimeter.

    Attributes
    ----------
    noise_eV_per_atom
        One standard deviation of both energies. Good solution calorimetry reproduces formation
        enthalpies to about 1 kJ per mole of atoms, 0.01 eV/atom; half of that here.
    """

    cost: float = Field(default=20.0, ge=0)
    duration_h: float = Field(default=4.0, ge=0)
    noise_eV_per_atom: float = Field(default=0.005, ge=0)


class VirtualCalorimeter(VirtualCharacterizer):
    """Measures the main phase of a sample: the potential's energy of the relaxed crystal."""

    Settings = CalorimeterSettings
    name: ClassVar[str] = "virtual-calorimeter"
    description = "Calorimeter, simulated: energy of the relaxed main phase against the hull."
    needs_hull = True

    def __init__(self, settings: CalorimeterSettings, workshop: Workshop) -> None:
        noise = settings.noise_eV_per_atom
        super().__init__(
            settings, workshop, {"formation_energy": noise, "energy_above_hull": noise}
        )

    def _perform(self, request: CharacterizationRequest) -> CharacterizationResult:
        phase = main_phase(request.phases)
        relaxation = self._relax(crystal(phase.structure or {}))
        distance = self._distance(relaxation.structure, relaxation.energy_eV_per_atom)
        return CharacterizationResult(
            measurements=self._measured(
                request,
                {
                    "formation_energy": distance.formation_energy_eV_per_atom,
                    "energy_above_hull": distance.energy_above_hull_eV_per_atom,
                },
                method=f"relaxed-energy/{self._workshop.potential.identity.name}",
                flags=("thin-hull",) if distance.thin else (),
                provenance={
                    **self._origin(),
                    "phase": phase.formula,
                    "phase_fraction": phase.fraction,
                    "energy_eV_per_atom": relaxation.energy_eV_per_atom,
                    "converged": relaxation.converged,
                    "competing_phases": {
                        entry.provenance: share for entry, share in distance.decomposition
                    },
                    "thin_reason": distance.thin_reason,
                },
            )
        )

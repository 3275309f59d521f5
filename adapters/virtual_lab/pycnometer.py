"""Density of a sample's main phase, and the volume per atom that follows from it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from matterloop.adapters.virtual_lab.characterizer import VirtualCharacterizer
from matterloop.adapters.virtual_lab.instrument import InstrumentSettings
from matterloop.adapters.virtual_lab.phases import crystal, main_phase
from matterloop.loop.experiment import CharacterizationRequest, CharacterizationResult
from matterloop.loop.protocols import Workshop


class PycnometerSettings(InstrumentSettings):
    """Settings of the virtual pycnometer.

    Attributes
    ----------
    noise_g_per_cm3, noise_A3_per_atom
        One standard deviation; gas pycnometers reproduce densities to a few 0.01 g/cm^3.
    """

    cost: float = Field(default=5.0, ge=0)
    duration_h: float = Field(default=0.5, ge=0)
    noise_g_per_cm3: float = Field(default=0.02, ge=0)
    noise_A3_per_atom: float = Field(default=0.1, ge=0)


class VirtualPycnometer(VirtualCharacterizer):
    """Measures the crystal as it is in the sample, at the volume to which it was relaxed."""

    Settings = PycnometerSettings
    name: ClassVar[str] = "virtual-pycnometer"
    description = "Gas pycnometer, simulated: density of the main phase's crystal."

    def __init__(self, settings: PycnometerSettings, workshop: Workshop) -> None:
        super().__init__(
            settings,
            workshop,
            {"density": settings.noise_g_per_cm3, "volume_per_atom": settings.noise_A3_per_atom},
        )

    def _perform(self, request: CharacterizationRequest) -> CharacterizationResult:
        phase = main_phase(request.phases)
        structure = crystal(phase.structure or {})
        return CharacterizationResult(
            measurements=self._measured(
                request,
                {
                    "density": float(structure.density),
                    "volume_per_atom": float(structure.volume) / len(structure),
                },
                method="crystal-volume",
                provenance={
                    "phase": phase.formula,
                    "phase_fraction": phase.fraction,
                    "crystal": phase.provenance,
                },
            )
        )

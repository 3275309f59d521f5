"""Bulk modulus of a sample's main phase from its equation of state.

The crystal is relaxed fully, then held at volumes within ``strain`` of its own, the cell scaled
evenly and the atoms relaxed within it. A third-order Birch-Murnaghan curve (Birch, Physical
Review 71, 809 (1947)) is fitted to energy over volume; B is its curvature at the minimum.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pymatgen.analysis.eos import EOS, EOSError
from pymatgen.core import Structure

from matterloop.adapters.virtual_lab.characterizer import VirtualCharacterizer
from matterloop.adapters.virtual_lab.instrument import InstrumentSettings
from matterloop.adapters.virtual_lab.phases import crystal, main_phase
from matterloop.loop.calculation import CalculationFailure, RelaxOptions
from matterloop.loop.errors import InfeasibleError, InstrumentFaultError
from matterloop.loop.experiment import CharacterizationRequest, CharacterizationResult
from matterloop.loop.protocols import Workshop


class PressSettings(InstrumentSettings):
    """Settings of the virtual press.

    Attributes
    ----------
    noise_GPa
        One standard deviation of the bulk modulus.
    strain
        Largest relative change of volume.
    points
        Number of volumes, the relaxed one among them if odd.
    relax_positions
        Whether atoms relax at each volume. Without it the press is several times faster, and a
        crystal with free positions comes out too stiff: Li2S in its 12-atom form by 15 %, a
        molecular crystal such as P2S7 twentyfold.
    fmax_eV_per_A
        Tighter than elsewhere: at 0.05 eV/A the atoms of that Li2S would not stir under 5 % strain.
    max_residual_eV_per_atom
        Largest root mean square deviation of the energies from the fitted curve.
    """

    cost: float = Field(default=40.0, ge=0)
    duration_h: float = Field(default=6.0, ge=0)
    fmax_eV_per_A: float = Field(default=0.02, gt=0)
    noise_GPa: float = Field(default=1.0, ge=0)
    strain: float = Field(default=0.05, gt=0, le=0.15)
    points: int = Field(default=7, ge=5, le=21)
    relax_positions: bool = True
    max_residual_eV_per_atom: float = Field(default=0.001, gt=0)


class VirtualPress(VirtualCharacterizer):
    """Compresses and stretches a crystal and fits its equation of state."""

    Settings = PressSettings
    name: ClassVar[str] = "virtual-press"
    description = "Press, simulated: Birch-Murnaghan equation of state of the main phase."

    def __init__(self, settings: PressSettings, workshop: Workshop) -> None:
        super().__init__(settings, workshop, {"bulk_modulus": settings.noise_GPa})
        self._settings = settings

    def _perform(self, request: CharacterizationRequest) -> CharacterizationResult:
        phase = main_phase(request.phases)
        relaxed = self._relax(crystal(phase.structure or {})).structure
        strain, n = self._settings.strain, self._settings.points
        volumes = np.linspace(1 - strain, 1 + strain, n) * float(relaxed.volume)
        energies = self._energies(relaxed, volumes)
        formula = relaxed.composition.reduced_formula
        fit = fit_birch_murnaghan(volumes / len(relaxed), energies, formula)
        if fit["rms_eV_per_atom"] > self._settings.max_residual_eV_per_atom:
            raise InfeasibleError(
                f"The equation of state of {formula} does not fit: energies deviate by"
                f" {1000 * fit['rms_eV_per_atom']:.2g} meV/atom from the Birch-Murnaghan curve,"
                f" more than {1000 * self._settings.max_residual_eV_per_atom:g} meV/atom."
            )
        return CharacterizationResult(
            measurements=self._measured(
                request,
                {"bulk_modulus": fit["bulk_modulus_GPa"]},
                method=f"eos-birch-murnaghan/{self._workshop.potential.identity.name}",
                provenance={
                    "phase": phase.formula,
                    "phase_fraction": phase.fraction,
                    "potential": self._origin()["potential"],
                    "relaxed_positions": self._settings.relax_positions,
                    "fit": fit,
                },
            ),
            artifacts={
                "equation_of_state": {
                    "volume_A3_per_atom": [float(v) / len(relaxed) for v in volumes],
                    "energy_eV_per_atom": [float(e) for e in energies],
                }
            },
        )

    def _energies(self, relaxed: Structure, volumes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return energies per atom at the volumes, in eV/atom."""
        scaled = [relaxed.copy() for _ in volumes]
        for structure, volume in zip(scaled, volumes, strict=True):
            structure.scale_lattice(float(volume))
        potential = self._workshop.potential
        found: dict[int, float] = {}
        answers = (
            potential.relax(scaled, self._fixed_cell())
            if self._settings.relax_positions
            else enumerate(potential.single_points(scaled))
        )
        for index, answer in answers:
            if isinstance(answer, CalculationFailure):
                raise InfeasibleError(
                    f"{relaxed.composition.reduced_formula} cannot be computed at"
                    f" {volumes[index] / relaxed.volume:.1%} of its volume: {answer.reason}"
                )
            found[index] = answer.energy_eV_per_atom
        if len(found) != len(scaled):
            raise InstrumentFaultError(
                f"The potential returned {len(found)} energies for {len(scaled)} crystals."
            )
        return np.array([found[index] for index in range(len(scaled))])

    def _fixed_cell(self) -> RelaxOptions:
        return RelaxOptions(
            fmax_eV_per_A=self._settings.fmax_eV_per_A,
            max_steps=self._settings.max_steps,
            relax_cell=False,
        )


def fit_birch_murnaghan(
    volumes: NDArray[np.float64], energies: NDArray[np.float64], formula: str
) -> dict[str, float]:
    """Fit a third-order Birch-Murnaghan equation of state.

    Parameters
    ----------
    volumes, energies
        Shape (n,), ascending volumes in A^3/atom, energies in eV/atom.
    formula
        For the messages.

    Returns
    -------
    dict
        ``bulk_modulus_GPa``, its pressure derivative ``bulk_modulus_derivative``,
        ``volume_A3_per_atom``, ``energy_eV_per_atom`` and ``rms_eV_per_atom`` of the residuals.

    Raises
    ------
    InfeasibleError
        If the energies do not fall to one minimum inside the volumes and rise again, or the curve
        is not that of a crystal.
    """
    lowest = int(np.argmin(energies))
    steps = np.diff(energies)
    if lowest in (0, len(energies) - 1) or (steps[:lowest] > 0).any() or (steps[lowest:] < 0).any():
        raise InfeasibleError(
            f"{formula} has no equation of state here: between {volumes[0]:.4g} and"
            f" {volumes[-1]:.4g} A^3/atom its energy does not fall to one minimum and rise again"
            f" (it varies by {1000 * float(np.ptp(energies)):.2g} meV/atom)."
        )
    try:
        fit = EOS("birch_murnaghan").fit(volumes, energies)
    except EOSError as error:
        raise InfeasibleError(
            f"The equation of state of {formula} cannot be fitted: {error}"
        ) from None
    modulus, volume = float(fit.b0_GPa), float(fit.v0)
    if not (volumes[0] <= volume <= volumes[-1] and 0 < modulus < 1000):
        # The stiffest crystal known, diamond, has 443 GPa.
        raise InfeasibleError(
            f"The equation of state of {formula} is not that of a crystal: B = {modulus:.3g} GPa at"
            f" {volume:.4g} A^3/atom.",
            "a modulus between 0 and 1000 GPa inside the volumes that were computed",
        )
    residuals = energies - np.asarray(fit.func(volumes))
    return {
        "bulk_modulus_GPa": modulus,
        "bulk_modulus_derivative": float(fit.b1),
        "volume_A3_per_atom": volume,
        "energy_eV_per_atom": float(fit.e0),
        "rms_eV_per_atom": float(np.sqrt(np.mean(residuals**2))),
    }

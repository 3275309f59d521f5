"""Simulated powder X-ray diffraction, and how well a sample matches the intended crystal.

Each phase with a known crystal gives lines at the angles and with the structure factors, Lorentz
and polarisation factors that pymatgen computes; they add up in proportion to v |F|^2 / V_cell^2,
v being the phase's share of the volume (Hill and Howard, Journal of Applied Crystallography 20,
467 (1987)). Lines are Gaussians of one width on a flat background, and each step's count is drawn
from a Poisson distribution.

The *phase match* is the cosine of the angle between the measured profile (less its background) and
the intended crystal's: 1 for the same pattern, 0 where no lines overlap. The intended lattice may
be scaled evenly by a few per cent to fit, as a refinement does, so that thermal or computed
expansion is not taken for another phase. The residual Rwp of the same fit is in the provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Structure

from matterloop.adapters.virtual_lab.characterizer import VirtualCharacterizer
from matterloop.adapters.virtual_lab.instrument import InstrumentSettings
from matterloop.adapters.virtual_lab.phases import crystal, main_phase
from matterloop.loop.errors import InfeasibleError
from matterloop.loop.experiment import CharacterizationRequest, CharacterizationResult, Phase
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop

RADIATION = "CuKa"
"""Cu K-alpha, 1.54184 A, the mean of both lines."""
Profile = NDArray[np.float64]


class DiffractometerSettings(InstrumentSettings):
    """Settings of the virtual diffractometer.

    Attributes
    ----------
    noise
        One standard deviation of the phase match, for what sample preparation does (texture,
        displacement) beyond counting. The sum is kept within 0 and 1.
    two_theta_deg
        Range of the scattering angle, degrees.
    step_deg, fwhm_deg
        Step of the scan, and width of a line at half its height.
    peak_counts, background_counts
        Expected counts at the highest point above the background, and of the background, per step.
    lattice_scale
        Largest relative scaling of the intended lattice in the fit.
    """

    cost: float = Field(default=10.0, ge=0)
    duration_h: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.01, ge=0)
    two_theta_deg: tuple[float, float] = (10.0, 80.0)
    step_deg: float = Field(default=0.05, gt=0, le=0.2)
    fwhm_deg: float = Field(default=0.2, gt=0)
    peak_counts: float = Field(default=5000.0, gt=0)
    background_counts: float = Field(default=20.0, ge=0)
    lattice_scale: float = Field(default=0.02, ge=0, lt=0.1)


@dataclass(frozen=True)
class Lines:
    """Lines of a powder pattern: angles in degrees and intensities per atom of sample."""

    two_theta_deg: Profile
    intensity: Profile

    def scaled(self, factor: float) -> Lines:
        """Return the lines of the lattice scaled by `factor` (Bragg: sin theta goes as 1/d)."""
        sines = np.sin(np.radians(self.two_theta_deg / 2)) / factor
        inside = sines < 1
        angles = 2 * np.degrees(np.arcsin(sines[inside]))
        return Lines(angles, self.intensity[inside])


class VirtualDiffractometer(VirtualCharacterizer):
    """Takes a powder pattern of a sample and compares it with the intended crystal's."""

    Settings = DiffractometerSettings
    name: ClassVar[str] = "virtual-diffractometer"
    description = "Powder diffractometer, simulated: Cu K-alpha pattern and phase match."

    def __init__(self, settings: DiffractometerSettings, workshop: Workshop) -> None:
        super().__init__(settings, workshop, {"phase_match": settings.noise})
        self._settings = settings
        low, high = settings.two_theta_deg
        self._angles: Profile = np.arange(low, high + settings.step_deg / 2, settings.step_deg)

    def _perform(self, request: CharacterizationRequest) -> CharacterizationResult:
        main = main_phase(request.phases)
        expected = self._expected_counts(request.phases)
        rng = np.random.default_rng(derive_seed(request.seed, "counts"))
        counts = rng.poisson(expected)
        reference = self._lines(crystal(request.intended or main.structure or {}))
        match, scale, rwp = self._match(counts, reference)
        unknown = sum(phase.fraction for phase in request.phases if phase.structure is None)
        measurements = self._measured(
            request,
            {"phase_match": match},
            method="xrd-cosine",
            flags=("phases-without-pattern",) if unknown else (),
            provenance={
                "radiation": RADIATION,
                "compared_with": "intended crystal" if request.intended else "main phase",
                "pattern_cosine": match,
                "rwp": rwp,
                "lattice_scale": scale,
                "fraction_without_pattern": unknown,
            },
        )
        return CharacterizationResult(
            measurements=tuple(
                m.model_copy(update={"value": min(max(m.value, 0.0), 1.0)}) for m in measurements
            ),
            artifacts={"powder_pattern": self._pattern(counts, request.phases)},
        )

    def _pattern(self, counts: NDArray[np.int64], phases: Sequence[Phase]) -> dict[str, Any]:
        """Return the scan as JSON: start and step in degrees, counts, and the phases in it."""
        return {
            "radiation": RADIATION,
            "two_theta_start_deg": float(self._angles[0]),
            "two_theta_step_deg": self._settings.step_deg,
            "counts": [int(count) for count in counts],
            "background_counts": self._settings.background_counts,
            "phases": [phase.formula for phase in phases if phase.structure is not None],
        }

    def _expected_counts(self, phases: Sequence[Phase]) -> Profile:
        profile = np.zeros_like(self._angles)
        for phase in phases:
            if phase.structure is not None:
                lines = self._lines(crystal(phase.structure))
                profile += phase.fraction * self._profile(lines)
        if not profile.max() > 0:
            low, high = self._settings.two_theta_deg
            raise InfeasibleError(f"The sample has no line between {low:g} and {high:g} degrees.")
        expected: Profile = profile * (self._settings.peak_counts / profile.max())
        expected += self._settings.background_counts
        return expected

    def _lines(self, structure: Structure) -> Lines:
        """Return a crystal's lines, a little beyond the scan so that scaling loses none."""
        low, high = self._settings.two_theta_deg
        try:
            pattern = XRDCalculator(RADIATION).get_pattern(
                structure, scaled=False, two_theta_range=(0.8 * low, min(1.2 * high, 179.0))
            )
        except ValueError as error:
            raise InfeasibleError(
                f"No pattern of {structure.composition.reduced_formula}: {error}"
            ) from None
        weight = 1 / (len(structure) * float(structure.volume))  # (V / n) / V^2
        return Lines(
            np.asarray(pattern.x, dtype=float), weight * np.asarray(pattern.y, dtype=float)
        )

    def _profile(self, lines: Lines) -> Profile:
        """Return the broadened lines on the scan's angles."""
        step, n = self._settings.step_deg, len(self._angles)
        reach = int(np.ceil(2 * self._settings.fwhm_deg / step))
        sigma = self._settings.fwhm_deg / np.sqrt(8 * np.log(2))
        position = (lines.two_theta_deg - self._angles[0]) / step + reach
        inside = (position >= 0) & (position < n + 2 * reach - 1)
        position, intensity = position[inside], lines.intensity[inside]
        left = np.floor(position).astype(int)
        share = position - left
        bars = np.zeros(n + 2 * reach)
        np.add.at(bars, left, (1 - share) * intensity)
        np.add.at(bars, left + 1, share * intensity)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
        profile: Profile = np.convolve(bars, kernel, mode="valid")
        return profile

    def _match(self, counts: NDArray[np.int64], reference: Lines) -> tuple[float, float, float]:
        """Return cosine, lattice scale and Rwp of the best even scaling of the reference."""
        measured = counts - self._settings.background_counts
        limit = self._settings.lattice_scale
        # Steps of 0.1 %, which move a line by a quarter of its width at the most.
        scales = 1 + np.linspace(-limit, limit, 2 * round(1000 * limit) + 1)
        best = (0.0, 1.0, self._profile(reference))
        for scale in sorted(scales, key=lambda s: abs(s - 1)):
            profile = self._profile(reference.scaled(float(scale)))
            norm = float(np.linalg.norm(profile) * np.linalg.norm(measured))
            cosine = float(profile @ measured) / norm if norm else 0.0
            if cosine > best[0]:
                best = (cosine, float(scale), profile)
        cosine, scale, profile = best
        weights = 1 / np.maximum(counts, 1)
        norm = float(weights * profile @ profile)
        height = float(weights * profile @ measured) / norm if norm else 0.0
        residual = float(weights @ (measured - height * profile) ** 2)
        rwp = float(np.sqrt(residual / float(weights @ counts.astype(float) ** 2)))
        return cosine, scale, rwp

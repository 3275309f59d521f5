"""Lines stand where Bragg's law puts them, and the phase match tells crystals apart."""

import numpy as np
import pytest
from scipy.signal import find_peaks
from virtual_lab_bench import LI2S, NACL, do, pure, rock_salt

from matterloop.adapters.virtual_lab.diffractometer import VirtualDiffractometer
from matterloop.loop.errors import InfeasibleError
from matterloop.loop.experiment import CharacterizationRequest, Phase

SALT_LINES_DEG = [27.4, 31.7, 45.5, 53.9, 56.5, 66.3, 73.2, 75.4]
"""Halite, Cu K-alpha, 10 to 80 degrees (PDF 5-628): 111, 200, 220, 311, 222, 400, 331, 420."""


@pytest.fixture
def device(bench):
    return VirtualDiffractometer(VirtualDiffractometer.Settings(noise=0), bench)


def scan(device, phases, intended=None, key="key", seed=1):
    request = CharacterizationRequest(
        phases=phases,
        properties=("phase_match",),
        seed=seed,
        intended=intended.as_dict() if intended else None,
    )
    return do(device, request, key)


def lines(pattern) -> list[float]:
    counts = np.array(pattern["counts"])
    peaks, _ = find_peaks(counts, height=5 * pattern["background_counts"], distance=6)
    return list(pattern["two_theta_start_deg"] + pattern["two_theta_step_deg"] * peaks)


def mixture(share: float) -> tuple[Phase, ...]:
    main, other = pure(NACL)[0], pure(LI2S)[0]
    return (
        main.model_copy(update={"fraction": 1 - share}),
        other.model_copy(update={"fraction": share}),
    )


def test_salt_shows_its_lines(device):
    result = scan(device, pure(NACL), NACL)
    found = lines(result.artifacts["powder_pattern"])
    # The weakest, 331, is one per cent of the strongest and may drown.
    for expected in [line for line in SALT_LINES_DEG if line != 73.2]:
        assert min(abs(line - expected) for line in found) < 0.15
    assert all(min(abs(line - known) for known in SALT_LINES_DEG) < 0.15 for line in found)
    counts = np.array(result.artifacts["powder_pattern"]["counts"])
    assert 10 + 0.05 * counts.argmax() == pytest.approx(31.7, abs=0.1), "200 is the strongest"
    assert result.measurements[0].value > 0.99
    assert result.measurements[0].provenance["rwp"] < 0.2


def test_another_crystal_does_not_match(device):
    match = scan(device, pure(LI2S), NACL).measurements[0]
    assert match.value < 0.6
    assert match.provenance["rwp"] > 0.4
    assert match.provenance["compared_with"] == "intended crystal"


def test_the_match_falls_with_every_foreign_phase(device):
    shares = (0.0, 0.1, 0.2, 0.3, 0.4)
    values = [
        scan(device, mixture(share), NACL, key=f"{share}").measurements[0].value for share in shares
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.03  # Li2S scatters weakly beside NaCl


def test_an_evenly_expanded_lattice_still_matches_and_the_expansion_is_told(device):
    match = scan(device, pure(rock_salt("Na", "Cl", 5.64 * 1.012)), NACL).measurements[0]
    assert match.value > 0.98
    assert match.provenance["lattice_scale"] == pytest.approx(1.012, abs=0.001)


def test_a_lattice_beyond_the_fit_does_not_match(device):
    match = scan(device, pure(rock_salt("Na", "Cl", 5.64 * 1.06)), NACL).measurements[0]
    assert match.value < 0.5


def test_the_match_can_be_recomputed_from_the_stored_counts(device):
    request = CharacterizationRequest(phases=mixture(0.2), properties=("phase_match",), seed=3)
    result = do(device, request)
    again = do(device, request, "again")
    assert result == again
    assert result.measurements[0].value == result.measurements[0].provenance["pattern_cosine"]
    other = scan(device, mixture(0.2), key="other seed", seed=4)
    assert other.artifacts != result.artifacts, "counting noise follows the seed"


def test_phases_without_a_pattern_are_flagged(device):
    phases = (pure(NACL)[0].model_copy(update={"fraction": 0.8}), Phase(formula="S", fraction=0.2))
    measurement = scan(device, phases, NACL).measurements[0]
    assert measurement.flags == ("phases-without-pattern",)
    assert measurement.provenance["fraction_without_pattern"] == pytest.approx(0.2)


def test_an_unknown_main_phase_cannot_be_compared(device):
    with pytest.raises(InfeasibleError, match="main phase, S8, is not known"):
        scan(device, (Phase(formula="S8", fraction=1.0),), NACL)


def test_the_match_stays_between_0_and_1(bench):
    noisy = VirtualDiffractometer(VirtualDiffractometer.Settings(noise=0.5), bench)
    values = [
        scan(noisy, pure(NACL), NACL, key=f"{seed}", seed=seed).measurements[0].value
        for seed in range(12)
    ]
    assert 0 <= min(values) < max(values) <= 1

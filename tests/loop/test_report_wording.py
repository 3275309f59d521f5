"""Rounding by uncertainty, units, formulas, aims."""

from __future__ import annotations

import math

import pytest
import report_ledger as ledger
from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.experiment import UNITS
from matterloop.loop.report import wording


@pytest.mark.parametrize(
    ("value", "uncertainty", "unit", "text"),
    [
        (43.1284, 1.237, "GPa", "43.1 ± 1.2 GPa"),
        (43.1284, 3.7, "GPa", "43 ± 4 GPa"),
        (-0.08231, 0.0042, "eV/atom", "−0.082 ± 0.004 eV/atom"),
        (-0.0001, 0.004, "eV/atom", "0.000 ± 0.004 eV/atom"),
        (1234.0, 51.0, "GPa", "1230 ± 50 GPa"),
        (1.65, 0.096, "g/cm^3", "1.65 ± 0.10 g/cm³"),
        (0.93, None, "1", "0.9300"),
        (20.456, None, "A^3/atom", "20.46 Å³/atom"),
        (0.0, None, "eV/atom", "0 eV/atom"),
        (1.5e-7, None, "eV/atom", "1.500×10^−7 eV/atom"),
    ],
)
def test_figures_are_rounded_by_their_uncertainty(
    value: float, uncertainty: float | None, unit: str, text: str
) -> None:
    assert wording.figure_text(value, uncertainty, unit).replace("\u202f", " ") == text


@given(st.floats(-1e4, 1e4), st.floats(1e-5, 1e2))
def test_rounding_moves_a_figure_less_than_its_uncertainty(value: float, spread: float) -> None:
    text = wording.figure_text(value, spread, "1").replace("−", "-")
    shown, error = (float(part) for part in text.split(" ± "))
    assert abs(shown - value) <= spread
    assert math.isclose(error, spread, rel_tol=0.34)


def test_formulas_are_set_with_low_numbers_and_escaped() -> None:
    assert wording.formula_html("Li6PS5Cl") == "Li<sub>6</sub>PS<sub>5</sub>Cl"
    assert "<b>" not in wording.formula_html("<b>2")


def test_the_aim_names_space_objectives_and_constraints() -> None:
    aim = wording.aim_text(
        ledger.spec(
            objectives=[
                {"property": "density", "goal": "target", "target": 2.0, "tolerance": 0.1},
                {"property": "bulk_modulus", "goal": "maximise"},
            ],
            constraints=[{"property": "energy_above_hull", "at_least": -0.5, "at_most": 0.1}],
        ),
        UNITS,
    ).replace("\u202f", " ")
    assert aim == (
        "Search the chemical system Li-P-S-Cl (1 to 16 atoms per primitive cell) for crystals that"
        " bring density to 2.00 ± 0.10 g/cm³ and maximise bulk modulus (GPa), keeping energy above"
        " hull at least −0.5 eV/atom and at most 0.1 eV/atom."
    )


def test_space_groups_have_symbols() -> None:
    assert wording.space_group_text(194) == "P6₃/mmc (194)"
    assert wording.space_group_text(None) == "–"

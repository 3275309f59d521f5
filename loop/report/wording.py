"""Numbers, units, formulas and aims as a reader wants to see them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import floor, isfinite, log10

from markupsafe import Markup, escape

from matterloop.loop.spec import CampaignSpec, Constraint, Goal, Objective, SearchSpace

MINUS, TIMES, THIN_SPACE = "−", "×", "\u202f"
_UNITS = {"A^3/atom": "Å³/atom", "g/cm^3": "g/cm³", "1": ""}
_THIN = (
    "The reference hull knows few phases around this composition: the true energy above hull is"
    " probably larger."
)
FLAGS: Mapping[str, str] = {"thin-hull": _THIN}


def unit_text(unit: str) -> str:
    """Return a unit for the eye; empty for a pure number."""
    return _UNITS.get(unit, unit)


def property_text(name: str, unit: str | None = None) -> str:
    """Return ``energy above hull (eV/atom)``."""
    words = name.replace("_", " ")
    if unit is None:
        return words
    return f"{words} ({unit_text(unit) or 'dimensionless'})"


def figure_text(value: float, uncertainty: float | None, unit: str) -> str:
    """Write a figure with its unit, rounded as its uncertainty deserves.

    The uncertainty keeps one digit, or two if it starts with a 1 or 2 (Particle Data Group style);
    the value is cut at the same decimal. Without an uncertainty: four significant digits.
    """
    tail = f"{THIN_SPACE}{unit_text(unit)}" if unit_text(unit) else ""
    if uncertainty is None or not isfinite(uncertainty) or uncertainty <= 0:
        return plain_text(value) + tail
    exponent = floor(log10(uncertainty))
    digits = 1 if f"{uncertainty:e}"[0] in "12" else 0
    decimals = digits - exponent
    if decimals < 0:
        step = 10.0**-decimals
        value, uncertainty, decimals = (
            round(value / step) * step,
            round(uncertainty / step) * step,
            0,
        )
    return f"{_signed(value, decimals)} ± {uncertainty:.{decimals}f}{tail}"


def plain_text(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    exponent = floor(log10(abs(value)))
    if -5 <= exponent < 6:
        return _signed(value, max(0, digits - 1 - exponent))
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}{TIMES}10^{int(power)}".replace("-", MINUS)


def bare_text(value: float) -> str:
    """Write a number that somebody chose, or a rough one: three digits, no trailing zeros."""
    return (f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}").replace("-", MINUS)


def _signed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def formula_html(formula: str) -> Markup:
    """Return a formula with its numbers set low, safe to put into a page."""
    return Markup(  # noqa: S704 - escaped first, only digits are wrapped
        re.sub(r"(\d+(?:\.\d+)?)", r"<sub>\1</sub>", str(escape(formula.replace(" ", ""))))
    )


def space_group_text(number: int | None) -> str:
    """Return ``P6₃/mmc (194)``, or a dash where it is not known."""
    if number is None:
        return "–"
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    symbol = re.sub(r"_(\d)", lambda m: chr(0x2080 + int(m[1])), sg_symbol_from_int_number(number))
    return f"{symbol} ({number})"


def objective_text(objective: Objective, unit: str) -> str:
    """Return ``maximise bulk modulus (GPa)``."""
    name = property_text(objective.property)
    if objective.goal is Goal.TARGET:
        assert objective.target is not None
        aim = figure_text(objective.target, objective.tolerance, unit)
        return f"bring {name} to {aim}"
    return f"{objective.goal.value} {property_text(objective.property, unit)}"


def constraint_text(limit: Constraint, unit: str) -> str:
    """Return ``energy above hull at most 0.1 eV/atom``."""
    tail = f"{THIN_SPACE}{unit_text(unit)}" if unit_text(unit) else ""
    bounds = []
    if limit.at_least is not None:
        bounds.append(f"at least {bare_text(limit.at_least)}{tail}")
    if limit.at_most is not None:
        bounds.append(f"at most {bare_text(limit.at_most)}{tail}")
    return f"{property_text(limit.property)} {' and '.join(bounds)}"


def space_text(space: SearchSpace) -> str:
    """Say in words which crystals are allowed."""
    if space.chemical_system:
        where = f"the chemical system {space.chemical_system}"
    elif space.formulas:
        where = f"the formulas {', '.join(space.formulas)}"
    else:
        where = f"crystals of {', '.join(space.elements or ())}"
    extras = [f"{space.min_atoms} to {space.max_atoms} atoms per primitive cell"]
    if space.required_elements:
        extras.append(f"always with {', '.join(space.required_elements)}")
    if space.forbidden_elements:
        extras.append(f"without {', '.join(space.forbidden_elements)}")
    return f"{where} ({'; '.join(extras)})"


def aim_text(spec: CampaignSpec, units: Mapping[str, str]) -> str:
    """Say the campaign's aim in one sentence."""
    wishes = listing([objective_text(o, units[o.property]) for o in spec.objectives])
    bounds = listing([constraint_text(c, units[c.property]) for c in spec.constraints])
    aim = f"Search {space_text(spec.search_space)} for crystals that {wishes}"
    return f"{aim}, keeping {bounds}." if bounds else f"{aim}."


def listing(parts: list[str]) -> str:
    """Join with commas and a final *and*."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def flag_text(flag: str) -> str:
    """Explain a flag; unknown ones speak for themselves."""
    return FLAGS.get(flag, f"The measurement carries the flag {flag!r}.")

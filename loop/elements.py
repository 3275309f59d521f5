"""Element symbols and chemical formulas, without the weight of a materials library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMBOLS: frozenset[str] = frozenset(
    (
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As"
        " Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu"
        " Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np"
        " Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
    ).split()
)
"""The 118 elements."""

_TERM = re.compile(r"([A-Z][a-z]?)(\d*)|([(])|[)](\d*)")


def parse_formula(text: str) -> dict[str, int]:
    """Read a formula with whole coefficients and brackets: ``Li6PS5Cl``, ``Ca3(PO4)2``.

    Returns
    -------
    dict
        Element symbol to count, in order of first appearance; not reduced.

    Raises
    ------
    ValueError
        With what was read and what was expected.
    """
    stack: list[dict[str, int]] = [{}]
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if not match:
            raise ValueError(f"{text!r} is not a formula: cannot read {text[position:]!r}")
        symbol, count, opening, multiplier = match.groups()
        if re.match(r"0\d", count or multiplier or ""):
            raise ValueError(f"{text!r} is not a formula: {match.group()!r} has a zero for an O")
        if opening:
            stack.append({})
        elif symbol:
            if symbol not in SYMBOLS:
                raise ValueError(f"{text!r} is not a formula: {symbol!r} is no element")
            stack[-1][symbol] = stack[-1].get(symbol, 0) + int(count or 1)
        else:
            if len(stack) == 1:
                raise ValueError(f"{text!r} is not a formula: a bracket closes that never opened")
            for inner, n in stack.pop().items():
                stack[-1][inner] = stack[-1].get(inner, 0) + n * int(multiplier or 1)
        position = match.end()
    if len(stack) > 1:
        raise ValueError(f"{text!r} is not a formula: a bracket is not closed")
    if not stack[0] or 0 in stack[0].values():
        raise ValueError(f"{text!r} is not a formula with positive whole coefficients")
    return stack[0]


def reduced_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Divide counts by their greatest common divisor."""
    divisor = reduce(gcd, counts.values())
    return {element: count // divisor for element, count in counts.items()}


def same_composition(left: Mapping[str, int], right: Mapping[str, int]) -> bool:
    """Whether two counts of atoms stand in the same ratio: Li2S and Li4S2."""
    return reduced_counts(left) == reduced_counts(right)


def element_counts(structure: Structure) -> dict[str, int]:
    """Return element symbol to number of atoms in the cell of an ordered crystal."""
    amounts = structure.composition.get_el_amt_dict()
    return {str(element): round(amount) for element, amount in amounts.items()}

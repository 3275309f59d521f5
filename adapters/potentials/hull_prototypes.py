"""Known structure types decorated with the elements of a chemical system.

A decoration's volume comes from pymatgen's data-mined bond lengths. In systems with a non-metal
only charge-neutral compositions are decorated; alloys get every decoration.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from matterloop.adapters.potentials.hull_sources import (
    SourceCrystal,
    counts_of,
    subsystems,
)
from matterloop.loop.chemistry.oxidation import OxidationRule, are_neutral

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_ATOMS = 16
"""Largest primitive cell; keeps 238 of the 288 prototypes."""
MAX_ATOMS_OF_ELEMENTS = 4
SALT_TYPES = (
    "AB_cF8_225_a_b",  # rock salt
    "AB_cP2_221_b_a",  # caesium chloride
    "AB_cF8_216_c_a",  # zinc blende
    "AB_hP4_186_b_b",  # wurtzite
    "AB_hP4_194_c_a",  # nickel arsenide
    "AB2_cF12_225_a_c",  # fluorite
    "A2B_tP6_136_f_a",  # rutile
    "AB2_hP3_164_a_d",  # cadmium iodide
    "AB2_hP6_194_c_f",  # molybdenum disulfide
    "A2B3_hR5_166_c_ac",  # bismuth telluride
    "A3B2_hP5_164_ad_d",  # lanthanum oxide
    "A2B3_hR10_167_c_e",  # corundum
    "A3B_cP4_221_d_a",  # rhenium trioxide
    "AB3_cF16_225_a_bc",  # bismuth fluoride
    "AB3_hR8_148_c_f",  # bismuth iodide
    "AB3_hP8_194_c_bf",  # sodium arsenide
)
"""Structure types that most binary salts have."""
ANIONS = ("H", "N", "P", "As", "O", "S", "Se", "Te", "F", "Cl", "Br", "I")


def decorated_prototypes(system: str, max_atoms: int = MAX_ATOMS) -> Iterator[SourceCrystal]:
    """Yield the AFLOW prototypes decorated with every combination of a system's elements.

    Elements alone are left out, for their polymorphs are known. Source of the prototypes: Mehl et
    al., Computational Materials Science 136, S1 (2017), as pymatgen stores them.
    """
    for elements in subsystems(system):
        if len(elements) < 2:
            continue
        for label, prototype in _prototypes(max_atoms):
            kinds = sorted({site.specie.symbol for site in prototype})
            if len(kinds) != len(elements):
                continue
            for order in permutations(elements):
                mapping = dict(zip(kinds, order, strict=True))
                counts = _renamed(counts_of(prototype), mapping)
                if not is_neutral(counts):
                    continue
                yield SourceCrystal(
                    provenance=f"prototype:{label}:{'-'.join(order)}",
                    load=partial(_decorate, prototype, mapping),
                    counts=counts,
                )


def binary_salts(symbols: Iterable[str]) -> Iterator[SourceCrystal]:
    """Yield every charge-neutral binary salt of the elements in the types of `SALT_TYPES`.

    A hull without the commonest compounds makes everything beside them look stable.
    """
    known = sorted(symbols)
    pairs = [pair for pair in permutations(known, 2) if len(set(pair) & set(ANIONS)) == 1]
    for label, prototype in _prototypes(MAX_ATOMS):
        if label not in SALT_TYPES:
            continue
        kinds = sorted({site.specie.symbol for site in prototype})
        for pair in pairs:
            mapping = dict(zip(kinds, pair, strict=True))
            counts = _renamed(counts_of(prototype), mapping)
            if _is_salt(tuple(sorted(counts.items()))):
                yield SourceCrystal(
                    provenance=f"prototype:{label}:{'-'.join(pair)}",
                    load=partial(_decorate, prototype, mapping),
                    counts=counts,
                )


@cache
def _is_salt(composition: tuple[tuple[str, int], ...]) -> bool:
    elements = [symbol for symbol, _ in composition]
    amounts = np.array([[n for _, n in composition]])
    return bool(
        are_neutral(elements, amounts, OxidationRule(states="pymatgen_sp", alloys=False))[0]
    )


def elemental_prototypes(symbols: Iterable[str]) -> Iterator[SourceCrystal]:
    """Yield the simple structures of metals (fcc, bcc, hcp, ...) for elements without a source."""
    for symbol in sorted(symbols):
        for label, prototype in _prototypes(MAX_ATOMS_OF_ELEMENTS):
            kinds = {site.specie.symbol for site in prototype}
            if len(kinds) == 1:
                yield SourceCrystal(
                    provenance=f"prototype:{label}:{symbol}",
                    load=partial(_decorate, prototype, {kinds.pop(): symbol}),
                    counts={symbol: 1},
                )


@cache
def _neutral(composition: tuple[tuple[str, int], ...]) -> bool:
    elements = [symbol for symbol, _ in composition]
    amounts = np.array([[n for _, n in composition]])
    return bool(are_neutral(elements, amounts)[0])


def is_neutral(counts: dict[str, int]) -> bool:
    """Tell whether a composition is charge-neutral or an alloy."""
    return _neutral(tuple(sorted(counts.items())))


@cache
def _prototypes(max_atoms: int) -> tuple[tuple[str, Structure], ...]:
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    found: list[tuple[str, Any]] = []
    names: dict[str, int] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        primitive = entry["snl"].structure.get_primitive_structure()
        label = entry["tags"]["aflow"]
        names[label] = names.get(label, 0) + 1  # some labels stand for several structure types
        if names[label] > 1:
            label = f"{label}.{names[label]}"
        if len(primitive) <= max_atoms and primitive.is_ordered:
            found.append((label, primitive))
    return tuple(found)


def _renamed(counts: dict[str, int], mapping: dict[str, str]) -> dict[str, int]:
    return {mapping[symbol]: n for symbol, n in counts.items()}


def _decorate(prototype: Structure, mapping: dict[str, str]) -> Structure:
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

    decorated: Structure = prototype.copy()
    decorated.replace_species(mapping)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces every element without bond data
        predicted: Structure = DLSVolumePredictor().get_predicted_structure(decorated)
    return predicted

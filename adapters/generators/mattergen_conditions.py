"""What MatterGen is to be asked, from our conditions: its own names, one errand per call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from types import MappingProxyType

import numpy as np

from matterloop.adapters.generators.cell_sizes import cell_of_formula
from matterloop.loop.candidate import Conditions
from matterloop.loop.elements import parse_formula
from matterloop.loop.errors import UsageError
from matterloop.loop.spec import SearchSpace

PRETRAINED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mattergen_base": (),
        "mp_20_base": (),
        "chemical_system": ("chemical_system",),
        "space_group": ("space_group",),
        "dft_mag_density": ("dft_mag_density",),
        "dft_band_gap": ("dft_band_gap",),
        "ml_bulk_modulus": ("ml_bulk_modulus",),
        "dft_mag_density_hhi_score": ("dft_mag_density", "hhi_score"),
        "chemical_system_energy_above_hull": ("chemical_system", "energy_above_hull"),
    }
)
"""Published models and what each may be conditioned on (MatterGen's README)."""

TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "band_gap": "dft_band_gap",  # eV
        "bulk_modulus": "ml_bulk_modulus",  # GPa
        "energy_above_hull": "energy_above_hull",  # eV/atom
        "space_group": "space_group",  # number
    }
)
"""Our property to MatterGen's, where meaning and unit agree."""

Value = float | int | str


@dataclass(frozen=True)
class Errand:
    """One call of MatterGen.

    Attributes
    ----------
    count
        Crystals wanted.
    properties
        Conditions under MatterGen's names.
    composition
        Element to number of atoms, for a model of fixed compositions only.
    passed_over
        Our targets that the model does not know.
    """

    count: int
    properties: Mapping[str, Value]
    composition: Mapping[str, int] | None = None
    passed_over: tuple[str, ...] = ()


def errands(
    conditions: Conditions,
    count: int,
    *,
    conditions_on: Sequence[str],
    fixed: Mapping[str, Value],
    structure_prediction: bool,
    most: int,
    seed: int,
) -> list[Errand]:
    """Divide `count` draws among at most `most` calls.

    A model of fixed compositions gets compositions, one that knows chemical systems gets systems of
    the search space, drawn by `seed` without replacement; any other gets a single errand.

    Raises
    ------
    UsageError
        If fixed compositions are wanted of a search space that names no formulas.
    """
    space = conditions.search_space
    properties: dict[str, Value] = {}
    passed_over = []
    for target, value in sorted(conditions.targets.items()):
        name = TARGETS.get(target)
        if name is None or name not in conditions_on:
            passed_over.append(target)
        else:
            properties[name] = int(value) if name == "space_group" else float(value)
    properties.update(fixed)
    generator = np.random.default_rng(seed)
    passed = tuple(passed_over)
    if structure_prediction:
        formulas = _formulas(space)
        order = generator.permutation(len(formulas))[: min(most, count)]
        cells = [cell_of_formula(formulas[int(index)], space, generator) for index in order]
        shares = _shares(count, len(cells))
        return [
            Errand(share, properties, cell, passed)
            for share, cell in zip(shares, cells, strict=True)
        ]
    if "chemical_system" not in conditions_on or "chemical_system" in fixed:
        return [Errand(count, properties, None, passed)]
    systems = draw_systems(space, min(most, count), generator)
    return [
        Errand(share, {**properties, "chemical_system": system}, None, passed)
        for share, system in zip(_shares(count, len(systems)), systems, strict=True)
    ]


def draw_systems(space: SearchSpace, most: int, generator: np.random.Generator) -> list[str]:
    """Draw different chemical systems of a search space, all equally likely.

    Returns
    -------
    list of str
        At most `most`, fewer where there are no more; elements in alphabetical order: ``Li-O``.
    """
    if space.formulas:
        named = sorted({"-".join(sorted(parse_formula(formula))) for formula in space.formulas})
        return [named[int(index)] for index in generator.permutation(len(named))[:most]]
    required = sorted(space.required_elements)
    free = sorted(set(space.allowed_elements) - set(required))
    sizes = range(
        max(space.min_elements - len(required), 0 if required else 1),
        min(space.max_elements - len(required), len(free)) + 1,
    )
    ways = np.array([comb(len(free), size) for size in sizes], dtype=float)
    # Drawn, not listed: 90 elements have 44 million systems of up to five.
    found: dict[str, None] = {}
    while len(found) < min(most, int(ways.sum())):
        size = int(generator.choice(sizes, p=ways / ways.sum()))
        chosen = [free[int(index)] for index in generator.permutation(len(free))[:size]]
        found["-".join(sorted([*required, *chosen]))] = None
    return list(found)


def fire_value(value: Mapping[str, Value]) -> str:
    """Write a mapping as MatterGen's command line wants it: a Python literal without spaces."""
    return "{" + ",".join(f"{key!r}:{item!r}" for key, item in value.items()) + "}"


def _formulas(space: SearchSpace) -> tuple[str, ...]:
    if not space.formulas:
        raise UsageError(
            "A MatterGen model for structure prediction needs to know the formulas.",
            "a search space that names `formulas`",
            "name formulas in the search space, or set `structure_prediction: false` with a model"
            " that invents compositions",
        )
    return space.formulas


def _shares(count: int, parts: int) -> list[int]:
    """Divide a number as evenly as can be."""
    return [count // parts + (part < count % parts) for part in range(parts)]

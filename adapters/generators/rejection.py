"""Keeping what lies inside the search space, and asking again for the rest, a bounded time.

These generators do not know our search space, or know only a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matterloop.loop.candidate import Candidate
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.spec import SearchSpace

MOST_PER_ROUND = 4
"""A round draws at the most so many times the number of crystals wanted."""
_SMALLEST_VOLUME = 1.0
"""A^3 per atom; below it a cell is taken for collapsed. The densest solid, diamond, has 5.7."""


@dataclass(frozen=True)
class Draft:
    """One draw: a crystal, or None where the numbers make none, and how it came about."""

    structure: Structure | None
    origin: Mapping[str, Any] = field(default_factory=dict)


Draw = Callable[[int, int], Sequence[Draft]]
"""Called with (number of the round, drafts wanted)."""


def check_request(n: int, guidance_scale: float) -> None:
    """Refuse what no generator can be asked.

    Raises
    ------
    UsageError
        If `n` or `guidance_scale` is negative or not a number.
    """
    if n < 0 or not guidance_scale >= 0:
        raise UsageError(
            f"sample was asked for n = {n} with guidance scale {guidance_scale}.",
            "neither below zero",
        )


def gather(
    n: int,
    search_space: SearchSpace,
    draw: Draw,
    *,
    rounds: int,
    seed: int,
    origin: Mapping[str, Any],
) -> list[Candidate]:
    """Draw until `n` crystals lie in the search space, at most `rounds` times.

    A round after the first draws as many as the share kept so far suggests, within
    `MOST_PER_ROUND` times `n`.

    Returns
    -------
    list of Candidate
        In the order of the draws. Every origin holds `origin`, the draft's own, and three counts of
        this call: ``drawn``, ``outside_search_space``, ``not_a_crystal``.
    """
    kept: list[Draft] = []
    drawn = outside = broken = 0
    for round_ in range(rounds if n else 0):
        share = max(len(kept) / drawn, 1 / MOST_PER_ROUND) if drawn else 1.0
        drafts = draw(round_, min(math.ceil((n - len(kept)) / share), MOST_PER_ROUND * n))
        drawn += len(drafts)
        for draft in drafts:
            if draft.structure is None:
                broken += 1
            elif search_space.why_outside(element_counts(draft.structure)) is not None:
                outside += 1
            else:
                kept.append(draft)
        if len(kept) >= n:
            break
    counts = {"drawn": drawn, "outside_search_space": outside, "not_a_crystal": broken}
    return [
        Candidate(draft.structure, {**origin, **draft.origin, **counts}, seed)
        for draft in kept[:n]
        if draft.structure is not None
    ]


def crystal(
    numbers: Sequence[int], cell: Sequence[Sequence[float]], fractional: Sequence[Sequence[float]]
) -> Structure | None:
    """Build an ordered structure, or None where the numbers make none.

    Parameters
    ----------
    numbers
        Atomic numbers (atoms,); 0 or beyond 118 is no element.
    cell
        Rows are lattice vectors in Angstrom (3, 3). Only lengths and angles are kept, so a
        left-handed cell becomes its right-handed mirror frame.
    fractional
        (atoms, 3), brought into [0, 1).
    """
    import numpy as np
    from pymatgen.core import Element, Lattice, Structure

    matrix, places = np.array(cell, dtype=float), np.array(fractional, dtype=float)
    if not numbers or not all(0 < number <= 118 for number in numbers):
        return None
    if not np.isfinite(matrix).all() or not np.isfinite(places).all():
        return None
    if abs(np.linalg.det(matrix)) < _SMALLEST_VOLUME * len(numbers):
        return None
    lattice = Lattice.from_parameters(*Lattice(matrix).parameters)
    species = [Element.from_Z(number) for number in numbers]
    return Structure(lattice, species, places % 1.0)

"""The crystals that a generator has not seen: what its samples and predictions are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.chemistry.known import KnownCrystals
from matterloop.loop.dataset import part_of
from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.novelty import is_parsed_late, reduced_formula
from matterloop.loop.evaluation.samples import sample_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.dataset import Part


def read_held_out(
    address: str | Path, *, part: Part | None = None, limit: int | None = None, seed: int = 0
) -> list[Structure]:
    """Read held-out crystals; what is disordered, empty or not finite is passed over.

    Parameters
    ----------
    address
        See `matterloop.loop.sources`; of a CSV file only the rows that are wanted are parsed.
    part
        Only this part of the split by composition, see `matterloop.loop.dataset.part_of`.
    limit
        So many at the most, drawn by `seed`.

    Raises
    ------
    UsageError
        If there are none.
    """
    import numpy as np

    if is_parsed_late(address):
        known = KnownCrystals.from_path(Path(address))
        if part is not None:
            known.keep(lambda counts: part_of(reduced_formula(counts)) == part)
        found = [structure for _, structure in sorted(known.crystals(), key=lambda pair: pair[0])]
    else:
        from matterloop.loop.sources import read_structures

        found = [
            item.structure
            for item in read_structures(address)
            if part is None or part_of(item.reduced_formula) == part
        ]
    found = [structure for structure in found if sample_of("", structure).structure is not None]
    if not found:
        raise UsageError(f"{str(address)!r} holds no crystal{f' of the {part} part' * bool(part)}.")
    if limit is None or limit >= len(found):
        return found
    chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
    return [found[i] for i in sorted(chosen)]

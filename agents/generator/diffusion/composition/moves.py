"""A composition as a sequence of moves: number of atoms, then element and count, again and again.

Elements come in canonical order (`descriptors.element_ranks`), so that every composition is exactly
one sequence and its probability is the product over the moves. It ends where no atoms remain.
Anions first did a little better in trials than metals first, and all elements before all counts
did worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.descriptors import ELEMENTS
from matterloop.loop.errors import UsageError

Composition = tuple[int, ...]
"""Sorted atomic numbers of all atoms of a cell."""


class Stage(IntEnum):
    """What is decided next."""

    ATOMS = 0
    ELEMENT = 1
    COUNT = 2


@dataclass(frozen=True)
class States:
    """Compositions under construction; one row per decision to be made.

    Attributes
    ----------
    stage
        (rows,) `Stage`.
    atoms
        (rows,) number of atoms that was chosen, 0 before.
    counts
        (rows, 101) atoms of each element so far.
    focus
        (rows,) atomic number: at `COUNT` the element whose count is asked, at `ELEMENT` the one
        that was placed last; 0 for none.
    """

    stage: Tensor
    atoms: Tensor
    counts: Tensor
    focus: Tensor

    @property
    def remaining(self) -> Tensor:
        """(rows,) atoms that have no element yet."""
        return self.atoms - self.counts.sum(-1)

    @property
    def placed(self) -> Tensor:
        """(rows,) elements that have their count."""
        return (self.counts > 0).sum(-1)

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, rows: Tensor | slice) -> States:
        return States(self.stage[rows], self.atoms[rows], self.counts[rows], self.focus[rows])

    def repeated(self, times: int) -> States:
        """Stack the same rows `times` times."""
        return States(
            self.stage.repeat(times),
            self.atoms.repeat(times),
            self.counts.repeat(times, 1),
            self.focus.repeat(times),
        )

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Find equal rows, of which small chemical systems have many.

        Returns
        -------
        tuple of Tensor
            (distinct,) one row of each kind, and (rows,) which kind each row is.
        """
        # Random 64-bit weights: two different states share a key with a probability of 2^-64.
        weights = torch.randint(
            -(2**62), 2**62, (ELEMENTS + 3,), generator=torch.Generator().manual_seed(0)
        )
        single = torch.stack([self.stage, self.atoms, self.focus], dim=-1)
        keys = (torch.cat([single, self.counts], dim=-1) * weights).sum(-1)
        kinds, same = torch.unique(keys, return_inverse=True)
        first = torch.empty(len(kinds), dtype=torch.long)
        first[same] = torch.arange(len(self))  # any one of each kind
        return first, same

    @classmethod
    def start(cls, rows: int) -> States:
        """Nothing decided."""
        zero = torch.zeros(rows, dtype=torch.long)
        return cls(zero, zero, torch.zeros((rows, ELEMENTS), dtype=torch.long), zero)


@dataclass(frozen=True)
class Moves:
    """The decisions that lead to given compositions.

    Attributes
    ----------
    states
        All decisions of all compositions, those of one composition together and in order.
    chosen
        (rows,) number of atoms, atomic number or count that was chosen.
    owner
        (rows,) index of the composition.
    lengths
        (compositions,) decisions of each: 1 + 2 * its elements.
    rows
        (rows,) where each decision stands among those of which this is a selection.
    """

    states: States
    chosen: Tensor
    owner: Tensor
    lengths: Tensor
    rows: Tensor

    def of(self, compositions: Tensor) -> Moves:
        """Select compositions by index (batch,); `owner` counts within the selection."""
        lengths = self.lengths[compositions]
        first = torch.cumsum(self.lengths, 0) - self.lengths
        owner = torch.repeat_interleave(torch.arange(len(compositions)), lengths)
        within = torch.arange(len(owner)) - (torch.cumsum(lengths, 0) - lengths)[owner]
        rows = first[compositions][owner] + within
        return Moves(self.states[rows], self.chosen[rows], owner, lengths, rows)


def check_composition(numbers: Sequence[int], max_atoms: int) -> Composition:
    """Return sorted atomic numbers.

    Raises
    ------
    UsageError
        For no atoms, more than `max_atoms`, or elements beyond fermium.
    """
    composition = tuple(sorted(int(number) for number in numbers))
    if not composition or len(composition) > max_atoms:
        raise UsageError(
            f"A composition of {len(composition)} atoms does not fit the composition sampler.",
            f"1 to {max_atoms} atoms",
        )
    if composition[0] < 1 or composition[-1] >= ELEMENTS:
        raise UsageError(
            f"A composition holds the atomic numbers {composition[0]} to {composition[-1]}.",
            f"1 to {ELEMENTS - 1}",
        )
    return composition


def moves_of(compositions: Sequence[Composition], ranks: Tensor) -> Moves:
    """Write compositions (sorted atomic numbers) as moves, in the order of `ranks` (101,)."""
    rank = ranks.tolist()
    stages: list[int] = []
    atoms: list[int] = []
    focus: list[int] = []
    chosen: list[int] = []
    lengths: list[int] = []
    placed: list[tuple[int, int, int]] = []
    for composition in compositions:
        elements = sorted(set(composition), key=rank.__getitem__)
        total, begin = len(composition), len(stages)
        stages.append(Stage.ATOMS)
        atoms.append(0)
        focus.append(0)
        chosen.append(total)
        end = begin + 1 + 2 * len(elements)
        previous = 0
        for element in elements:
            count = composition.count(element)
            stages += [Stage.ELEMENT, Stage.COUNT]
            atoms += [total, total]
            focus += [previous, element]
            chosen += [element, count]
            placed += [(row, element, count) for row in range(len(stages), end)]
            previous = element
        lengths.append(end - begin)
    counts = torch.zeros((len(stages), ELEMENTS), dtype=torch.long)
    if placed:
        rows, elements_, amounts = torch.tensor(placed).T
        counts[rows, elements_] = amounts
    sizes = torch.tensor(lengths, dtype=torch.long)
    return Moves(
        States(torch.tensor(stages), torch.tensor(atoms), counts, torch.tensor(focus)),
        torch.tensor(chosen),
        torch.repeat_interleave(torch.arange(len(lengths)), sizes),
        sizes,
        torch.arange(len(stages)),
    )

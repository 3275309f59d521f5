"""Masks on the moves of the sampler that look ahead: no allowed move leads into a dead end.

After every move something must be able to follow. With n atoms left, k elements placed, r required
elements missing and a allowed elements later in the canonical order, the composition can be
finished if n = 0 and nothing is missing, or if the elements that must still come,
m = max(min_elements - k, r, 1), are no more than min(n, a, max_elements - k): m of them can share n
atoms, and one can take them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.constraints import CompositionConstraint
from matterloop.agents.generator.diffusion.composition.descriptors import ELEMENTS
from matterloop.agents.generator.diffusion.composition.moves import Stage, States
from matterloop.loop.errors import UsageError


class LegalMoves:
    """The moves that a constraint allows.

    Parameters
    ----------
    constraint
        Without formulas, which are no matter of masks.
    ranks
        (101,) canonical order of the elements.
    max_atoms
        Largest cell that the network knows.
    known
        (101,) elements that may occur at all.

    Raises
    ------
    UsageError
        If no composition obeys.
    """

    def __init__(
        self,
        constraint: CompositionConstraint,
        ranks: Tensor,
        max_atoms: int,
        known: Tensor | None = None,
    ) -> None:
        self.ranks = ranks
        self.max_atoms = max_atoms
        self.min_elements = constraint.min_elements
        self.max_elements = min(constraint.max_elements, ELEMENTS)
        allowed = torch.ones(ELEMENTS, dtype=torch.bool) if known is None else known.clone()
        allowed[0] = False
        if constraint.elements is not None:
            named = torch.zeros(ELEMENTS, dtype=torch.bool)
            named[sorted(constraint.elements)] = True
            allowed &= named
        required = torch.zeros(ELEMENTS, dtype=torch.bool)
        required[sorted(constraint.required)] = True
        self.allowed = allowed
        by_rank = torch.zeros((2, ELEMENTS), dtype=torch.long)
        by_rank[0, ranks] = allowed.long()
        by_rank[1, ranks] = required.long()
        # entry r: how many have a rank beyond r
        self.allowed_after, self.required_after = by_rank.flip(1).cumsum(1).flip(1) - by_rank
        self.next_required = torch.full((ELEMENTS,), ELEMENTS)
        for rank in range(ELEMENTS - 2, -1, -1):
            following = int(self.next_required[rank + 1])
            self.next_required[rank] = rank + 1 if by_rank[1, rank + 1] else following
        self.atoms_mask = self._atoms(constraint)
        if bool((required & ~allowed).any()) or not bool(self.atoms_mask.any()):
            raise UsageError(
                "No composition that the generator knows obeys the constraints:"
                f" {constraint.described(max_atoms)}.",
                f"cells of at most {max_atoms} atoms with room for every required element, of"
                " elements that occur in the generator's training data",
                "relax one of the constraints",
            )

    def mask(self, states: States) -> Tensor:
        """Return (rows, 101) which numbers of atoms, atomic numbers or counts may be chosen."""
        masks = torch.zeros((len(states), ELEMENTS), dtype=torch.bool)
        for stage, at in (
            (Stage.ATOMS, lambda rows: self.atoms_mask.expand(len(rows), -1)),
            (Stage.ELEMENT, self._elements),
            (Stage.COUNT, self._counts),
        ):
            rows = (states.stage == stage).nonzero()[:, 0]
            if len(rows):
                masks[rows] = at(states[rows])
        return masks

    def _atoms(self, constraint: CompositionConstraint) -> Tensor:
        """(101,) numbers of atoms."""
        atoms = torch.arange(ELEMENTS)
        most = min(constraint.max_atoms, self.max_atoms)
        fits = (atoms >= max(constraint.min_atoms, 1)) & (atoms <= most)
        none = torch.zeros_like(atoms)
        return fits & self._can_finish(none, atoms, none)

    def _elements(self, states: States) -> Tensor:
        """(rows, 101) elements after the last one, none that is required left behind."""
        last = self.ranks[states.focus][:, None]
        rank = self.ranks[None, :]
        in_order = (rank > last) & (rank <= self.next_required[last]) & self.allowed
        placed = states.placed[:, None] + 1
        # The new element takes all that remains, or one atom.
        everything = self._can_finish(rank, torch.zeros_like(placed), placed)
        one = self._can_finish(rank, states.remaining[:, None] - 1, placed)
        return in_order & (everything | one)

    def _counts(self, states: States) -> Tensor:
        """(rows, 101) counts of the element in focus."""
        count = torch.arange(ELEMENTS)[None, :]
        left = states.remaining[:, None] - count
        rank = self.ranks[states.focus][:, None]
        return (count >= 1) & self._can_finish(rank, left, states.placed[:, None] + 1)

    def _can_finish(self, rank: Tensor, left: Tensor, placed: Tensor) -> Tensor:
        """Whether `left` atoms can be filled with elements beyond `rank`; shapes broadcast."""
        missing = torch.maximum(self.min_elements - placed, self.required_after[rank])
        room = torch.minimum(
            torch.minimum(left, self.allowed_after[rank]), self.max_elements - placed
        )
        finished = (left == 0) & (missing <= 0)
        return finished | ((left > 0) & (missing.clamp_min(1) <= room))

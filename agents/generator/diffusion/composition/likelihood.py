"""How likely compositions and moves are, given labels: classifier-free guidance of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.constraints import ANYTHING
from matterloop.agents.generator.diffusion.composition.legal_moves import LegalMoves
from matterloop.agents.generator.diffusion.composition.moves import (
    States,
    check_composition,
    moves_of,
)
from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.conditioning import Labels, LabelTensors
from matterloop.loop.errors import UsageError

_ROWS_AT_ONCE = 8192


def log_likelihood(
    network: CompositionNetwork,
    compositions: Sequence[Sequence[int]],
    labels: Labels | None = None,
    *,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Return (compositions,) natural logarithms of the probability of being drawn unconstrained.

    Parameters
    ----------
    network
        Is left in evaluation mode.
    compositions
        Atomic numbers of all atoms, in any order.
    labels
        What the compositions are asked for; nothing if None.
    guidance_scale
        See `Guidance`.

    Raises
    ------
    UsageError
        For compositions or labels that the network cannot know.
    """
    return Guidance(network, labels or {}, guidance_scale).log_likelihood(compositions)


class Guidance:
    """The network under labels, and how strongly they are wished for.

    The logits are u + scale * (c - u) with c those given the labels and u those given none
    (Ho and Salimans 2022, arXiv:2207.12598), both from one batch. Scale 0 passes over the labels,
    1 follows them as the data do, more exaggerates. Labels that training never saw are passed over.

    Raises
    ------
    UsageError
        For a scale that is negative or no number, and for labels that do not exist.
    """

    def __init__(self, network: CompositionNetwork, labels: Labels, scale: float) -> None:
        if not 0 <= scale < float("inf"):
            raise UsageError(f"The guidance scale is {scale}.", "0 or a positive number")
        network.eval()
        self.network = network
        given, null = network.known_labels(LabelTensors.encode([labels])), LabelTensors.null(1)
        nothing = bool(torch.isnan(given.continuous).all()) and not bool(given.categorical.any())
        self.scale = 0.0 if nothing else scale
        if self.scale == 0:
            self.labels = null
        elif self.scale == 1:
            self.labels = given
        else:
            self.labels = LabelTensors(
                torch.cat([given.continuous, null.continuous]),
                torch.cat([given.categorical, null.categorical]),
            )

    @torch.no_grad()
    def logits(self, states: States) -> Tensor:
        """Return (rows, 101) guided logits of moves, not masked."""
        rows = len(states)
        if len(self.labels) == 1:
            return self._network(states, torch.zeros(rows, dtype=torch.long))
        owner = torch.arange(2).repeat_interleave(rows)
        conditional, free = self._network(states.repeated(2), owner).chunk(2)
        guided = free + self.scale * (conditional - free)
        # Where the network has no word, both are minus infinity and their difference is nothing.
        return torch.where(torch.isneginf(free), free, guided)

    @torch.no_grad()
    def log_likelihood(self, compositions: Sequence[Sequence[int]]) -> Tensor:
        """Return (compositions,) log-probabilities of being drawn unconstrained."""
        most = self.network.settings.max_atoms
        checked = [check_composition(composition, most) for composition in compositions]
        result = torch.zeros(len(checked))
        if not checked:
            return result
        moves = moves_of(checked, self.network.ranks)
        legal = LegalMoves(ANYTHING, self.network.ranks, most)
        for start in range(0, len(moves.chosen), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            states = moves.states[rows]
            logits = self.logits(states).masked_fill(~legal.mask(states), -torch.inf)
            taken = logits.log_softmax(-1).gather(-1, moves.chosen[rows, None])[:, 0]
            result.index_add_(0, moves.owner[rows], taken)
        return result

    def _network(self, states: States, owner: Tensor) -> Tensor:
        logits: Tensor = self.network(states, self.labels, owner)
        return logits

"""Draw compositions: conditional, constrained, all of them legal.

Masking each move alone gives legal compositions, but not in the network's proportions: it may
choose a number of atoms, or a first element, that the constraint hardly admits. So more are drawn
than asked for, and those are kept that the network favours once all moves are counted (importance
weights: the probability that each mask left over).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.constraints import (
    ANYTHING,
    CompositionConstraint,
)
from matterloop.agents.generator.diffusion.composition.element_supply import supply_bias
from matterloop.agents.generator.diffusion.composition.legal_moves import LegalMoves
from matterloop.agents.generator.diffusion.composition.likelihood import Guidance
from matterloop.agents.generator.diffusion.composition.moves import Composition, Stage, States
from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.composition.plausibility import is_plausible
from matterloop.agents.generator.diffusion.conditioning import Labels
from matterloop.loop.errors import UsageError

_ROUNDS = 40
_ROWS_AT_ONCE = 8192
_PILOT = 256
"""Draws at the least by which the spread of the importance weights is judged."""
_MARGIN = 2.0
_ROUNDING = 1e-3


@dataclass(frozen=True)
class SamplingOptions:
    """How compositions are drawn.

    Attributes
    ----------
    guidance_scale
        0 passes over the labels, 1 follows them, more exaggerates.
    temperature
        Divides the logits: below 1 the likely becomes likelier.
    cost_weight, supply_weight
        How strongly dear and scarce elements are avoided; see `element_supply.supply_bias`.
    plausible_only
        Draw again what is neither charge-neutral nor metallic (`plausibility`). Formulas that a
        constraint names are not questioned.
    oversampling
        Draws per composition kept, at the most, where a constraint bites; 1 masks only.
    formulas_by_likelihood
        With formulas: choose among them by likelihood rather than with equal chances.
    """

    guidance_scale: float = 1.0
    temperature: float = 1.0
    cost_weight: float = 0.0
    supply_weight: float = 0.0
    plausible_only: bool = False
    oversampling: int = 16
    formulas_by_likelihood: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"The temperature is {self.temperature}.", "a positive number")
        if self.oversampling < 1:
            raise UsageError(f"oversampling is {self.oversampling}.", "1 or more")


@dataclass(frozen=True)
class CompositionDraws:
    """What was drawn.

    Attributes
    ----------
    compositions
        Sorted atomic numbers, in order of drawing; repetitions are possible.
    drawn
        How many were drawn to get them, the implausible included.
    """

    compositions: list[Composition]
    drawn: int


def sample_compositions(
    network: CompositionNetwork,
    n: int,
    constraint: CompositionConstraint = ANYTHING,
    labels: Labels | None = None,
    *,
    generator: torch.Generator,
    options: SamplingOptions | None = None,
) -> list[Composition]:
    """Draw `n` compositions, sorted atomic numbers each; see `draw_compositions`."""
    return draw_compositions(
        network, n, constraint, labels, generator=generator, options=options
    ).compositions


def draw_compositions(
    network: CompositionNetwork,
    n: int,
    constraint: CompositionConstraint = ANYTHING,
    labels: Labels | None = None,
    *,
    generator: torch.Generator,
    options: SamplingOptions | None = None,
) -> CompositionDraws:
    """Draw `n` compositions, every one of which obeys `constraint`.

    Labels that the network's training never saw are passed over. The network is left in evaluation
    mode.

    Raises
    ------
    UsageError
        If no composition obeys, labels are unknown, or `plausible_only` finds too few.
    """
    if n < 0:
        raise UsageError(f"{n} compositions were asked for.", "0 or more")
    options = options or SamplingOptions()
    network.eval()
    guidance = Guidance(network, labels or {}, options.guidance_scale)
    source = (_Formulas if constraint.formulas else _Free)(network, constraint, guidance, options)
    questioned = options.plausible_only and not constraint.formulas
    kept: list[Composition] = []
    drawn = 0
    for _ in range(_ROUNDS):
        if len(kept) >= n:
            break
        ask = n - len(kept) if not kept else 2 * (n - len(kept)) + 8
        batch = source.draw(ask, generator)
        for composition in batch:
            if len(kept) == n:
                break
            drawn += 1
            if not questioned or is_plausible(composition):
                kept.append(composition)
    if len(kept) < n:
        raise UsageError(
            f"Of {drawn} compositions drawn only {len(kept)} are plausible, {n} are wanted"
            f" ({constraint.described(network.settings.max_atoms)}).",
            "a search space that holds charge-neutral compounds or alloys",
            "relax the constraints, lower a guidance scale that is far above 1, or set"
            " `plausible_only` to false",
        )
    return CompositionDraws(kept, drawn)


class _Free:
    """Moves one after another."""

    def __init__(
        self,
        network: CompositionNetwork,
        constraint: CompositionConstraint,
        guidance: Guidance,
        options: SamplingOptions,
    ) -> None:
        if not bool(network.seen_elements.any()):
            raise UsageError(
                "The composition network was never trained.", "weights, or train_composition"
            )
        self.guidance, self.options = guidance, options
        limits = (network.ranks, network.settings.max_atoms, network.seen_elements)
        self.legal = LegalMoves(constraint, *limits)
        self.natural = None if constraint == ANYTHING else LegalMoves(ANYTHING, *limits)
        self.bias = supply_bias(options.cost_weight, options.supply_weight)

    def draw(self, n: int, generator: torch.Generator) -> list[Composition]:
        """Draw `n`."""
        most = self.options.oversampling
        if self.natural is None or most == 1 or n == 0:
            return _compositions(self._rollout(n, generator)[0])
        counts, weights = self._rollout(max(n, _PILOT), generator)
        more = n * min(most, _times(weights)) - len(weights)
        if more > 0:
            further = self._rollout(more, generator)
            counts, weights = torch.cat([counts, further[0]]), torch.cat([weights, further[1]])
        # Gumbel top-n: without replacement, in proportion to the weights (Efraimidis and Spirakis).
        keys = weights + _gumbel(weights.shape, generator)
        return _compositions(counts[keys.topk(n).indices])

    def _rollout(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (n, 101) counts and (n,) logarithms of importance weights."""
        parts = [
            self._play(States.start(min(_ROWS_AT_ONCE, n - start)), generator)
            for start in range(0, n, _ROWS_AT_ONCE)
        ]
        if not parts:
            return States.start(0).counts, torch.zeros(0)
        counts, weights = zip(*parts, strict=True)
        return torch.cat(counts), torch.cat(weights)

    def _play(self, states: States, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        result = states.counts.clone()
        weights = torch.zeros(len(states), dtype=torch.float64)
        rows = torch.arange(len(states))
        while len(rows):
            chosen, left_over = self._choose(states, generator)
            weights[rows] += left_over
            states = _after(states, chosen)
            done = (states.stage == Stage.ELEMENT) & (states.remaining == 0)
            result[rows[done]] = states.counts[done]
            states, rows = states[~done], rows[~done]
        return result, weights

    def _choose(self, states: States, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (rows,) choices and logarithms of the probability that the mask left over."""
        first, same = states.distinct()
        states = states[first]
        logits = self.guidance.logits(states) / self.options.temperature
        at_element = (states.stage == Stage.ELEMENT)[:, None]
        logits = logits + torch.where(at_element, self.bias, torch.zeros(()))
        masked = logits.masked_fill(~self.legal.mask(states), -torch.inf)
        chosen = _categorical(masked[same], generator)
        if self.natural is None:
            return chosen, torch.zeros(len(same), dtype=torch.float64)
        natural = logits.masked_fill(~self.natural.mask(states), -torch.inf)
        left_over = masked.double().logsumexp(-1) - natural.double().logsumexp(-1)
        return chosen, left_over[same]


class _Formulas:
    """A formula first, then its number of formula units by likelihood."""

    def __init__(
        self,
        network: CompositionNetwork,
        constraint: CompositionConstraint,
        guidance: Guidance,
        options: SamplingOptions,
    ) -> None:
        known = frozenset(network.seen_elements.nonzero()[:, 0].tolist())
        cells = constraint.cells(network.settings.max_atoms, known)
        self.cells = list(cells.values())
        flat = [cell for multiples in self.cells for cell in multiples]
        scores = guidance.log_likelihood(flat) / options.temperature
        self.scores = torch.split(scores, [len(multiples) for multiples in self.cells])
        bias = supply_bias(options.cost_weight, options.supply_weight)
        totals = torch.stack([bias[sorted(set(unit))].sum() for unit in cells])
        if options.formulas_by_likelihood:
            totals = totals + torch.stack([score.logsumexp(0) for score in self.scores])
        self.totals = totals

    def draw(self, n: int, generator: torch.Generator) -> list[Composition]:
        """Draw `n`."""
        drawn = []
        for formula in _categorical(self.totals.expand(n, -1), generator).tolist():
            multiple = int(_categorical(self.scores[formula][None], generator))
            drawn.append(self.cells[formula][multiple])
        return drawn


def _times(weights: Tensor) -> int:
    """Return how many draws per kept one make up for unequal weights (their logarithms).

    The effective sample size (Kish 1965) of m draws is (sum of weights)^2 / sum of squares.
    """
    effective = float((2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp())
    return 1 + math.ceil(_MARGIN * (len(weights) / effective - 1) - _ROUNDING)


def _after(states: States, chosen: Tensor) -> States:
    """Make one move in every row."""
    stage, focus = states.stage, states.focus
    at_atoms, at_element, at_count = (stage == s for s in Stage)
    rows = torch.arange(len(states))
    counts = states.counts.clone()
    counts[rows[at_count], focus[at_count]] = chosen[at_count]
    return States(
        stage=torch.where(at_element, int(Stage.COUNT), int(Stage.ELEMENT)),
        atoms=torch.where(at_atoms, chosen, states.atoms),
        counts=counts,
        focus=torch.where(at_element, chosen, focus),
    )


def _categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """(rows, choices) to (rows,) by the Gumbel-max trick."""
    return (logits + _gumbel(logits.shape, generator)).argmax(-1)


def _gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    exponential = torch.empty(tuple(shape)).exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()


def _compositions(counts: Tensor) -> list[Composition]:
    """(rows, 101) counts to sorted atomic numbers."""
    numbers = torch.arange(counts.shape[1])
    return [tuple(torch.repeat_interleave(numbers, row).tolist()) for row in counts]

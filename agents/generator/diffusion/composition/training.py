"""Train the composition sampler: maximum likelihood of the moves, with labels dropped at random.

The data are few for the network, so training watches held-out compositions and keeps the averaged
weights (EMA) that knew them best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.constraints import ANYTHING
from matterloop.agents.generator.diffusion.composition.legal_moves import LegalMoves
from matterloop.agents.generator.diffusion.composition.moves import (
    Composition,
    Moves,
    check_composition,
    moves_of,
)
from matterloop.agents.generator.diffusion.composition.network import (
    CompositionNetwork,
    CompositionSettings,
)
from matterloop.agents.generator.diffusion.composition.training_state import (
    TrainingState,
    fingerprint,
)
from matterloop.agents.generator.diffusion.conditioning import Labels, LabelTensors
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import derive_seed

_COMPOSITIONS_AT_ONCE = 1024


class CompositionExample(NamedTuple):
    """A known composition.

    Attributes
    ----------
    numbers
        Atomic numbers of all atoms of the cell.
    labels
        What is known of the crystal.
    weight
        How much it counts in the loss.
    """

    numbers: Sequence[int]
    labels: Labels
    weight: float = 1.0


class CompositionTraining(BaseModel):
    """How the network is trained.

    Attributes
    ----------
    steps
        Updates at the most; the learning rate falls to zero along half a cosine over them.
    batch_size
        Compositions per update.
    learning_rate, warmup, weight_decay, gradient_norm
        Of AdamW; warm-up in updates, gradients clipped to the norm.
    ema_decay
        Of the averaged weights that are validated and returned.
    keep_any
        Probability that a composition keeps labels at all; see `LabelTensors.dropped`.
    evaluate_every
        Updates between two looks at the validation set.
    patience
        Looks without a new best after which training ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=2500, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    keep_any: float = Field(default=0.7, ge=0, le=1)
    evaluate_every: int = Field(default=100, ge=1)
    patience: int = Field(default=6, ge=1)


@dataclass(frozen=True)
class CompositionProgress:
    """What training tells its callback after each look at the validation set.

    Attributes
    ----------
    training_nll
        Mean since the last look, natural units per composition, some labels given.
    validation_nll
        Mean of the next two; NaN without a validation set.
    unconditional_nll, conditional_nll
        Of the validation set given no labels and all labels.
    best_step
        Where `validation_nll` was lowest.
    """

    step: int
    training_nll: float
    validation_nll: float
    unconditional_nll: float
    conditional_nll: float
    best_step: int


def train_composition(
    examples: Sequence[CompositionExample],
    settings: CompositionSettings | None = None,
    training: CompositionTraining | None = None,
    *,
    seed: int,
    validation: Sequence[CompositionExample] = (),
    start: CompositionNetwork | None = None,
    checkpoint: Path | None = None,
    callback: Callable[[CompositionProgress], None] | None = None,
) -> CompositionNetwork:
    """Train a network, on the CPU.

    Parameters
    ----------
    examples
        With the weights of the loss; only their ratios matter.
    settings
        Of a new network; those of `start` if that is given.
    seed
        Everything random follows from it; the same call gives the same weights.
    validation
        Held-out examples; the weights that know them best are returned. Without them, the last.
    start
        Network to go on from (fine-tuning); it is not changed.
    checkpoint
        File (safetensors) that is written after each look and from which a call with the same
        arguments goes on. It stays.
    callback
        Called after each look at the validation set.

    Raises
    ------
    UsageError
        For no examples, less than two different compositions, compositions that do not fit,
        weights that are negative, no numbers or all zero; for a checkpoint of another training.
    """
    training = training or CompositionTraining()
    settings = start.settings if start else settings or CompositionSettings()
    data = _Dataset(examples, settings)
    held_out = _Dataset(validation, settings) if validation else None
    _check_training_set(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "composition", "initial"))
        network = CompositionNetwork(settings)
    if start is not None:
        network.load_state_dict(start.state_dict())
    data.arrange(network)
    if held_out:
        held_out.arrange(network)
    network.seen_elements |= data.elements()
    network.seen_labels |= data.label_names()
    state = TrainingState(network, training.learning_rate, training.weight_decay)
    mark = fingerprint(settings, training, seed, data.digest(), start)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint, mark)
    loss_sum, n_losses = 0.0, 0
    while state.step < training.steps and state.stale < training.patience:
        loss_sum += _update(state, data, training, seed)
        n_losses += 1
        if state.step % training.evaluate_every and state.step < training.steps:
            continue
        free, given = held_out.nll(state.averaged) if held_out else (math.nan, math.nan)
        state.judge((free + given) / 2)
        if checkpoint is not None:
            state.save(checkpoint, mark)
        if callback is not None:
            callback(
                CompositionProgress(
                    state.step,
                    loss_sum / n_losses,
                    (free + given) / 2,
                    free,
                    given,
                    state.best_step,
                )
            )
        loss_sum, n_losses = 0.0, 0
    return state.best_network()


def _update(
    state: TrainingState, data: _Dataset, training: CompositionTraining, seed: int
) -> float:
    """Make one step of the optimiser; return the loss."""
    step = state.step
    generator = torch.Generator().manual_seed(derive_seed(seed, "composition", "batch", step))
    batch = data.batch(step, training.batch_size, seed)
    labels = data.labels[batch].dropped(training.keep_any, generator)
    warm = min(1.0, (step + 1) / (training.warmup + 1))
    fall = (1 + math.cos(math.pi * step / training.steps)) / 2
    state.set_learning_rate(training.learning_rate * warm * fall)
    state.network.train()
    with torch.random.fork_rng(devices=[]):
        # Dropout knows no generator of its own.
        torch.manual_seed(derive_seed(seed, "composition", "dropout", step))
        nll = data.nll_of(state.network, batch, labels)
    # Not over the batch's own weights: that would let each example count more in poor company.
    loss = (data.weights[batch] * nll).sum() / (len(batch) * data.weights.mean())
    state.descend(loss, training.gradient_norm, training.ema_decay)
    return float(loss.detach())


class _Dataset:
    """Examples as tensors."""

    def __init__(
        self, examples: Sequence[CompositionExample], settings: CompositionSettings
    ) -> None:
        self.compositions: list[Composition] = [
            check_composition(example[0], settings.max_atoms) for example in examples
        ]
        self.labels = LabelTensors.encode([example[1] for example in examples])
        self.weights = torch.tensor([float(example[2]) for example in examples])
        self.max_atoms = settings.max_atoms
        self.moves: Moves
        self.legal: Tensor

    def arrange(self, network: CompositionNetwork) -> None:
        """Write the compositions in the network's order of elements."""
        self.moves = moves_of(self.compositions, network.ranks)
        legal = LegalMoves(ANYTHING, network.ranks, self.max_atoms)
        self.legal = legal.mask(self.moves.states)

    def elements(self) -> Tensor:
        """(101,) which elements occur where the weight is positive."""
        last = torch.cumsum(self.moves.lengths, 0) - 1
        states = self.moves.states[last[self.weights > 0]]
        seen = (states.counts > 0).any(0)
        seen[states.focus] = True
        return seen

    def label_names(self) -> Tensor:
        """Which labels occur where the weight is positive."""
        labels = self.labels[self.weights > 0]
        given = (~torch.isnan(labels.continuous)).any(0), (labels.categorical > 0).any(0)
        return torch.cat(given)

    def digest(self) -> list[object]:
        """Return what identifies the data, as a JSON value."""
        labels = torch.nan_to_num(self.labels.continuous, nan=-999.0)
        return [
            self.compositions,
            labels.tolist(),
            self.labels.categorical.tolist(),
            self.weights.tolist(),
        ]

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """Return the indices of the examples of a step: every epoch in an order of its own."""
        n = len(self.compositions)
        size = min(size, n)
        per_epoch = n // size
        epoch, within = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(derive_seed(seed, "composition", "epoch", epoch))
        order = torch.randperm(n, generator=generator)
        return order[within * size : (within + 1) * size]

    def nll_of(self, network: CompositionNetwork, batch: Tensor, labels: LabelTensors) -> Tensor:
        """Return (batch,) negative log-likelihoods."""
        moves = self.moves.of(batch)
        logits = network(moves.states, labels, moves.owner)
        masked = logits.masked_fill(~self.legal[moves.rows], -torch.inf)
        taken = masked.log_softmax(-1).gather(-1, moves.chosen[:, None])[:, 0]
        return -torch.zeros(len(batch)).index_add(0, moves.owner, taken)

    @torch.no_grad()
    def nll(self, network: CompositionNetwork) -> tuple[float, float]:
        """Return weighted means given no labels and given all."""
        network.eval()
        results = []
        for labels in (LabelTensors.null(len(self.labels)), self.labels):
            parts = [
                self.nll_of(network, rows, labels[rows])
                for rows in torch.split(torch.arange(len(labels)), _COMPOSITIONS_AT_ONCE)
            ]
            nll = torch.cat(parts)
            results.append(float((self.weights * nll).sum() / self.weights.sum()))
        return results[0], results[1]


def _check_training_set(data: _Dataset) -> None:
    if len(set(data.compositions)) < 2:
        raise UsageError(
            f"The training set holds {len(set(data.compositions))} different compositions.",
            "two or more",
            "add others; a network that saw one composition can draw no other",
        )
    weights = data.weights
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not weights.any():
        raise UsageError(
            "The weights of the training set are negative, no numbers or all zero.",
            "finite weights from 0, one of them positive at least",
        )

"""The network of the composition sampler: what comes next, given what stands and what is wished.

A state of the construction is a set of elements with counts; the network sees it as sums over
elements (Zaheer et al. 2017, arXiv:1703.06114), so it needs no memory of the order, and every
decision of every composition is one row of a batch. In short trials (20 to 40 s of one core) this
knew held-out compositions better than a recurrent network and a transformer over the moves.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from matterloop.agents.generator.diffusion.composition.descriptors import (
    DESCRIPTORS,
    ELEMENTS,
    element_descriptors,
    element_ranks,
)
from matterloop.agents.generator.diffusion.composition.moves import Stage, States
from matterloop.agents.generator.diffusion.conditioning import (
    CATEGORICAL_LABELS,
    CONTINUOUS_LABELS,
    LabelEmbedding,
    LabelTensors,
)

_LARGEST_INPUT = 8.0


class CompositionSettings(BaseModel):
    """Size of the composition network.

    Attributes
    ----------
    width
        Features of a state.
    depth
        Residual blocks.
    max_atoms
        Largest cell that can be drawn.
    dropout
        Share of the features that training hides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=128, ge=8, le=1024)
    depth: int = Field(default=3, ge=1, le=12)
    max_atoms: int = Field(default=20, ge=1, le=ELEMENTS - 1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class CompositionNetwork(nn.Module):
    """Logits of the next decision.

    Attributes
    ----------
    ranks
        (101,) canonical order of the elements that the network was trained with.
    seen_elements
        (101,) which elements occurred in training; the sampler draws no others.
    seen_labels
        Which labels (continuous, then categorical) occurred; the sampler passes over the others,
        for a network that never saw a temperature would answer to one with noise.
    """

    ranks: Tensor
    descriptors: Tensor
    seen_elements: Tensor
    seen_labels: Tensor

    def __init__(self, settings: CompositionSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.register_buffer("ranks", element_ranks().clone())
        self.register_buffer("descriptors", element_descriptors().clone())
        self.register_buffer("seen_elements", torch.zeros(ELEMENTS, dtype=torch.bool))
        n_labels = len(CONTINUOUS_LABELS) + len(CATEGORICAL_LABELS)
        self.register_buffer("seen_labels", torch.zeros(n_labels, dtype=torch.bool))
        self.element = nn.Embedding(ELEMENTS, width)
        self.described = nn.Linear(DESCRIPTORS, width)
        self.stage = nn.Embedding(len(Stage), width)
        self.atoms = nn.Embedding(settings.max_atoms + 1, width)
        self.remaining = nn.Embedding(settings.max_atoms + 1, width)
        self.labels = LabelEmbedding(width)
        self.present = nn.Linear(width, width, bias=False)
        self.counted = nn.Linear(width, width, bias=False)
        self.focus = nn.Linear(width, width, bias=False)
        self.balance = nn.Sequential(
            nn.Linear(2 * DESCRIPTORS + 3, width), nn.SiLU(), nn.Linear(width, width)
        )
        for table in (self.element, self.stage, self.atoms, self.remaining):
            nn.init.normal_(table.weight, std=0.1)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(_block(width, settings.dropout) for _ in range(settings.depth))
        self.final = nn.LayerNorm(width)
        self.to_atoms = nn.Linear(width, settings.max_atoms + 1)
        self.to_count = nn.Linear(width, settings.max_atoms + 1)
        self.to_element = nn.Linear(width, width)
        self.element_bias = nn.Parameter(torch.zeros(ELEMENTS))

    def forward(self, states: States, labels: LabelTensors, owner: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        states
            One row per decision.
        labels
            Soft conditions.
        owner
            (rows,) index into `labels` of each row.

        Returns
        -------
        Tensor
            (rows, 101) of numbers of atoms, atomic numbers or counts, by the row's stage; minus
            infinity where the network has no word for it.
        """
        elements = self.element.weight + self.described(self.descriptors)
        counts = states.counts.to(elements.dtype)
        presence = (counts > 0).to(elements.dtype)
        remaining = states.remaining
        hidden = (
            self.stage(states.stage)
            + self.atoms(states.atoms)
            + self.remaining(remaining)
            + self.labels(labels)[owner]
            + presence @ self.present(elements)
            + counts @ self.counted(elements) / 4
            + self.focus(elements)[states.focus]
            + self.balance(self._balance(counts, presence, remaining))
        )
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        hidden = self.final(hidden)
        logits: Tensor = hidden.new_full((len(states), ELEMENTS), -torch.inf)
        known = self.settings.max_atoms + 1
        for stage, head in ((Stage.ATOMS, self.to_atoms), (Stage.COUNT, self.to_count)):
            rows = (states.stage == stage).nonzero()[:, 0]
            if len(rows):
                padded = nn.functional.pad(
                    head(hidden[rows]), (0, ELEMENTS - known), value=-torch.inf
                )
                logits = logits.index_copy(0, rows, padded)
        rows = (states.stage == Stage.ELEMENT).nonzero()[:, 0]
        if len(rows):
            scale = 1 / math.sqrt(self.settings.width)
            scores = self.to_element(hidden[rows]) @ elements.T * scale + self.element_bias
            logits = logits.index_copy(0, rows, scores)
        return logits

    def _balance(self, counts: Tensor, presence: Tensor, remaining: Tensor) -> Tensor:
        """(rows, 2 * DESCRIPTORS + 3): what must be balanced, such as charge per atom left."""
        left = remaining.to(counts.dtype)[:, None]
        sums = counts @ self.descriptors
        per_atom_left = torch.where(left > 0, sums / left.clamp_min(1), torch.zeros_like(sums))
        numbers = [left / 10, counts.sum(-1, keepdim=True) / 10, presence.sum(-1, keepdim=True) / 3]
        parts = torch.cat([per_atom_left, presence @ self.descriptors, *numbers], dim=-1)
        return parts.clamp(-_LARGEST_INPUT, _LARGEST_INPUT)

    def known_labels(self, labels: LabelTensors) -> LabelTensors:
        """Forget labels that training never saw."""
        split = len(CONTINUOUS_LABELS)
        return LabelTensors(
            torch.where(self.seen_labels[:split], labels.continuous, torch.nan),
            torch.where(self.seen_labels[split:], labels.categorical, 0),
        )


def _block(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 3 * width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(3 * width, width),
    )

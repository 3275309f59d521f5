"""The network: messages between all pairs of atoms of a cell, blind to shifts of the crystal.

Pairs are dense, batches hold crystals of one number of atoms (no padding, no graph package). What a
pair knows is periodic: sines and cosines of the differences of fractional coordinates, the shortest
distance over the neighbouring cells, and the vector that belongs to the same cell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import silu

from matterloop.agents.generator.diffusion.composition.descriptors import (
    DESCRIPTORS,
    element_descriptors,
)
from matterloop.agents.generator.diffusion.conditioning import LabelEmbedding, LabelTensors
from matterloop.agents.generator.diffusion.path import shortest_way, without_drift
from matterloop.agents.generator.diffusion.representation import (
    MAX_ATOMIC_NUMBER,
    decode_cell,
    encode_cell,
    length_scale,
)

PROPERTIES = ("formation_energy", "energy_above_hull", "band_gap")
"""What the property heads predict, each on a scale of its own: see `property_scale`."""

_LONGEST_CELL = 64
"""Numbers of atoms beyond this share one embedding."""


class NetworkSettings(BaseModel):
    """Size of the network.

    Attributes
    ----------
    width
        Features per atom and per pair.
    depth
        Rounds of messages.
    harmonics
        Frequencies of the fractional differences.
    radial
        Gaussians of the shortest distance, between 0 and `cutoff_A`.
    descriptors
        Whether atoms are told what the periodic table says about their element, so that what is
        learned of one element carries over to its neighbours.
    element_dropout
        Share of crystals whose atoms know the descriptors of their elements only, in training.
    dropout
        Of the atoms' features, in training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=192, ge=16, le=1024)
    depth: int = Field(default=5, ge=1, le=24)
    harmonics: int = Field(default=4, ge=1, le=16)
    radial: int = Field(default=20, ge=4, le=128)
    cutoff_A: float = Field(default=8.0, gt=1, le=20)
    descriptors: bool = False
    element_dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Prediction(NamedTuple):
    """What the network says about a batch.

    Attributes
    ----------
    velocity
        (batch, atoms, 3) of the fractional coordinates, mean over the atoms zero.
    lattice
        (batch, 6) standardised lattice parameters of the finished crystal.
    properties
        (batch, len(PROPERTIES)) of the finished crystal, on the scale of `property_scale`.
    """

    velocity: Tensor
    lattice: Tensor
    properties: Tensor


class PairFeatures(NamedTuple):
    """What pairs of atoms know: (batch, atoms, atoms, features) and the sines among them."""

    features: Tensor
    sines: Tensor


class GeometryNetwork(nn.Module):
    """Predicts velocity, lattice and properties from a noisy crystal, its time and its labels."""

    lattice_mean: Tensor
    lattice_deviation: Tensor
    table: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        pair_width = 6 * settings.harmonics + settings.radial + 3
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        if settings.descriptors:
            self.descriptor = nn.Linear(DESCRIPTORS, width)
            self.register_buffer("table", element_descriptors().clone(), persistent=False)
        self.size = nn.Embedding(_LONGEST_CELL + 1, width)
        self.labels = LabelEmbedding(width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.cell = nn.Linear(6, width)
        self.context = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            MessageBlock(width, pair_width, settings.dropout) for _ in range(settings.depth)
        )
        self.final = nn.LayerNorm(width)
        self.atom_velocity = nn.Linear(width, 3)
        self.pair_velocity = nn.Linear(width, 3 * settings.harmonics)
        self.lattice_head = _head(2 * width, width, 6)
        self.property_head = _head(2 * width, width, len(PROPERTIES))
        for last in (self.atom_velocity, self.pair_velocity):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.register_buffer("lattice_mean", torch.zeros(6))
        self.register_buffer("lattice_deviation", torch.ones(6))

    def standardise(self, lattice: Tensor) -> Tensor:
        """Standardise (batch, 6) lattice parameters."""
        return (lattice - self.lattice_mean) / self.lattice_deviation

    def to_cell(self, lattice: Tensor, numbers: Tensor) -> Tensor:
        """Turn standardised lattice parameters into (batch, 3, 3) cells in Angstrom."""
        return decode_cell(
            lattice * self.lattice_deviation + self.lattice_mean, length_scale(numbers)
        )

    def to_lattice(self, cell: Tensor, numbers: Tensor) -> Tensor:
        """Invert `to_cell`."""
        return self.standardise(encode_cell(cell, length_scale(numbers)))

    def forward(
        self,
        numbers: Tensor,
        fractional: Tensor,
        lattice: Tensor,
        time: Tensor,
        labels: LabelTensors,
    ) -> Prediction:
        """Predict.

        Parameters
        ----------
        numbers
            (batch, atoms) atomic numbers.
        fractional
            (batch, atoms, 3).
        lattice
            (batch, 6), standardised.
        time
            (batch,) in [0, 1].
        labels
            Soft conditions of the batch.
        """
        settings = self.settings
        atoms = numbers.shape[1]
        with torch.autocast(numbers.device.type, enabled=False):
            pairs = pair_features(
                fractional,
                self.to_cell(lattice, numbers),
                harmonics=settings.harmonics,
                radial=settings.radial,
                cutoff=settings.cutoff_A,
            )
        size = self.size.weight[min(atoms, _LONGEST_CELL)]
        context = silu(
            self.context(
                self.time(time_features(time)) + self.cell(lattice) + self.labels(labels) + size
            )
        )
        hidden = self._elements(numbers)
        message = pairs.features
        for block in self.blocks:
            hidden, message = block(hidden, pairs.features, context)
        hidden = self.final(hidden)
        weights = self.pair_velocity(message).float() * pairs.sines
        from_pairs = weights.unflatten(-1, (settings.harmonics, 3)).sum((2, 3)) / atoms
        velocity = self.atom_velocity(hidden).float() + from_pairs
        summary = torch.cat([hidden.mean(1), context], dim=-1)
        return Prediction(
            without_drift(velocity),
            self.lattice_head(summary).float(),
            self.property_head(summary).float(),
        )

    def _elements(self, numbers: Tensor) -> Tensor:
        """Return (batch, atoms, width) features of the elements."""
        own: Tensor = self.element(numbers)
        if not self.settings.descriptors:
            return own
        if self.training and self.settings.element_dropout:
            known = torch.rand((len(numbers), 1, 1), device=numbers.device)
            own = own * (known >= self.settings.element_dropout)
        described: Tensor = self.descriptor(self.table[numbers])
        return own + described


class MessageBlock(nn.Module):
    """One round of messages between all pairs; the context scales, shifts and gates it (adaLN)."""

    def __init__(self, width: int, pair_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.sender = nn.Linear(width, width, bias=False)
        self.receiver = nn.Linear(width, width)
        self.pair = nn.Linear(pair_width, width, bias=False)
        self.message = nn.Linear(width, width)
        self.update = nn.Linear(2 * width, width)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.copy_(torch.cat([torch.zeros(2 * width), torch.ones(width)]))

    def forward(self, hidden: Tensor, pairs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, atoms, width) updated and the (batch, atoms, atoms, width) messages."""
        scale, shift, gate = self.modulation(context)[:, None].chunk(3, dim=-1)
        inner = self.norm(hidden) * (1 + scale) + shift
        message = self.pair(pairs) + self.receiver(inner)[:, :, None] + self.sender(inner)[:, None]
        message = silu(self.message(silu(message)))
        update = silu(self.update(torch.cat([inner, message.mean(2)], dim=-1)))
        return hidden + gate * self.output(self.dropout(update)), message


def pair_features(
    fractional: Tensor, cell: Tensor, *, harmonics: int, radial: int, cutoff: float
) -> PairFeatures:
    """Describe every pair of atoms of every cell.

    Parameters
    ----------
    fractional
        (batch, atoms, 3).
    cell
        (batch, 3, 3) in Angstrom, rows are vectors.

    Returns
    -------
    PairFeatures
        6 x `harmonics` sines and cosines, `radial` Gaussians of the shortest distance, the vector
        inside the cell in units of 5 Angstrom; and the sines (harmonic, axis) alone.
    """
    way = shortest_way(fractional[:, None, :, :] - fractional[:, :, None, :])
    sine, cosine = [torch.sin(2 * math.pi * way)], [torch.cos(2 * math.pi * way)]
    for _ in range(1, harmonics):
        sine.append(sine[-1] * cosine[0] + cosine[-1] * sine[0])
        cosine.append(cosine[-1] * cosine[0] - sine[-2] * sine[0])
    sines = torch.cat(sine, dim=-1)
    distance, vector = shortest_distances(way, cell)
    centres = torch.linspace(0.0, cutoff, radial, device=cell.device)
    gaussians = torch.exp(-(((distance[..., None] - centres) * radial / cutoff) ** 2))
    return PairFeatures(
        torch.cat([sines, torch.cat(cosine, dim=-1), gaussians, vector / 5.0], dim=-1), sines
    )


def shortest_distances(way: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return (batch, atoms, atoms) distances over 27 cells, and the vectors of the middle one.

    An atom's distance to itself is that to its own nearest copy. For Niggli-reduced cells and
    `way` in [-1/2, 1/2) the 27 cells hold the shortest distance.
    """
    atoms = way.shape[1]
    steps = torch.tensor([-1.0, 0.0, 1.0], device=cell.device)
    shift = torch.cartesian_prod(steps, steps, steps) @ cell
    vector = way @ cell[:, None]
    squared = (
        (vector * vector).sum(-1, keepdim=True)
        + 2 * vector @ shift.transpose(1, 2)[:, None]
        + (shift * shift).sum(-1)[:, None, None]
    )
    itself = torch.zeros((atoms, atoms, 27), device=cell.device)
    itself[torch.arange(atoms), torch.arange(atoms), 13] = torch.inf
    return (squared + itself).amin(-1).clamp_min(1e-6).sqrt(), vector


def property_scale(values: Tensor) -> Tensor:
    """Bring (batch, len(PROPERTIES)) in eV/atom, eV/atom and eV to order one; NaN stays NaN."""
    formation, above_hull, gap = values.unbind(-1)
    return torch.stack(
        [(formation + 1.2) / 1.2, torch.log1p(above_hull.clamp_min(0) / 0.02) - 0.7, gap / 1.5], -1
    )


def property_values(scaled: Tensor) -> Tensor:
    """Invert `property_scale`."""
    formation, above_hull, gap = scaled.unbind(-1)
    return torch.stack(
        [formation * 1.2 - 1.2, torch.expm1(above_hull + 0.7) * 0.02, gap * 1.5], dim=-1
    )


def time_features(time: Tensor) -> Tensor:
    """Return (batch, 64) sines and cosines of the time."""
    rates = torch.exp(torch.linspace(0, math.log(200.0), 32, device=time.device))
    angles = time[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))

"""What generation can be conditioned on, and how a network sees it.

A label is a soft wish (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598): every
label has a learned null embedding for "not given", labels are dropped at random in training, and
one network serves every subset of them. Hard constraints are no labels; see `constraints`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from matterloop.loop.dataset import CRYSTAL_SYSTEMS
from matterloop.loop.errors import UsageError


@dataclass(frozen=True)
class ContinuousLabel:
    """A number that a crystal can be asked to have.

    Attributes
    ----------
    unit
        Unit of the value.
    low, high
        Range that the embedding resolves, after `softening`; values outside are clipped to it.
    softening
        If given, the value is compressed by log(1 + value / softening): fine near zero.
    """

    unit: str
    low: float
    high: float
    softening: float | None = None

    def compress(self, value: Tensor) -> Tensor:
        """Map values in `unit` to [0, 1]; NaN stays NaN."""
        if self.softening is not None:
            value = torch.log1p(value.clamp_min(0) / self.softening)
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)


CONTINUOUS_LABELS: Mapping[str, ContinuousLabel] = {
    "formation_energy": ContinuousLabel("eV/atom", -4.5, 0.5),
    "energy_above_hull": ContinuousLabel("eV/atom", 0.0, 4.0, softening=0.02),
    "band_gap": ContinuousLabel("eV", 0.0, 8.0),
    "density": ContinuousLabel("g/cm^3", 0.0, 20.0),
    "temperature": ContinuousLabel("K", 0.0, 3000.0),
    "pressure": ContinuousLabel("GPa", 0.0, 7.0, softening=0.1),
}
"""Soft conditions with a value. The last two are conditions of synthesis."""

SYNTHESIS_METHODS = ("solid-state", "sol-gel", "hydrothermal", "cvd", "other")

CATEGORICAL_LABELS: Mapping[str, tuple[str, ...]] = {
    "crystal_system": tuple(CRYSTAL_SYSTEMS.values()),
    "space_group": tuple(str(number) for number in range(1, 231)),
    "method": SYNTHESIS_METHODS,
}
"""Soft conditions with a name. The last one is a condition of synthesis."""

LABELS = (*CONTINUOUS_LABELS, *CATEGORICAL_LABELS)

Labels = Mapping[str, float | str]
"""Label name to value (in its unit) or to one of the words of `CATEGORICAL_LABELS`."""


@dataclass(frozen=True)
class LabelTensors:
    """Labels of a batch.

    Attributes
    ----------
    continuous
        (batch, len(CONTINUOUS_LABELS)) values in their units, NaN where not given.
    categorical
        (batch, len(CATEGORICAL_LABELS)) 1 + index of the word, 0 where not given.
    """

    continuous: Tensor
    categorical: Tensor

    @classmethod
    def encode(cls, labels: Sequence[Labels]) -> Self:
        """Encode one mapping per crystal.

        Raises
        ------
        UsageError
            For a label that does not exist, a word that it does not know, an infinite value.
        """
        continuous = torch.full((len(labels), len(CONTINUOUS_LABELS)), torch.nan)
        categorical = torch.zeros((len(labels), len(CATEGORICAL_LABELS)), dtype=torch.long)
        numbers, words = list(CONTINUOUS_LABELS), list(CATEGORICAL_LABELS)
        for row, given in enumerate(labels):
            for name, value in given.items():
                if name in CONTINUOUS_LABELS:
                    if math.isinf(float(value)):
                        raise UsageError(f"The label {name} is {value}.", "a finite number")
                    continuous[row, numbers.index(name)] = float(value)
                elif name in CATEGORICAL_LABELS:
                    categorical[row, words.index(name)] = 1 + _index(name, str(value))
                else:
                    raise UsageError(
                        f"The generator cannot be conditioned on {name!r}.",
                        f"one of {', '.join(LABELS)}",
                    )
        return cls(continuous, categorical)

    @classmethod
    def null(cls, batch: int) -> Self:
        """Nothing asked for."""
        return cls.encode([{}] * batch)

    def __getitem__(self, rows: Tensor | slice) -> LabelTensors:
        return LabelTensors(self.continuous[rows], self.categorical[rows])

    def __len__(self) -> int:
        return len(self.continuous)

    def to(self, device: torch.device | str) -> LabelTensors:
        """Move to a device."""
        return LabelTensors(self.continuous.to(device), self.categorical.to(device))

    def dropped(self, keep_any: float, generator: torch.Generator) -> LabelTensors:
        """Forget labels at random, for classifier-free guidance.

        How large a share of its labels a crystal keeps is uniform between none and all: one label
        alone is asked for as often as all together, and must be learned as well.

        Parameters
        ----------
        keep_any
            Probability that a crystal keeps labels at all.
        """
        batch = len(self)

        def draw(columns: int) -> Tensor:
            return torch.rand((batch, columns), generator=generator)

        some = draw(1) < keep_any
        share = draw(1)
        numbers = some & (draw(self.continuous.shape[1]) < share)
        words = some & (draw(self.categorical.shape[1]) < share)
        return LabelTensors(
            torch.where(numbers.to(self.continuous.device), self.continuous, torch.nan),
            torch.where(words.to(self.categorical.device), self.categorical, 0),
        )


def _index(name: str, word: str) -> int:
    words = CATEGORICAL_LABELS[name]
    if word not in words:
        shown = "1 to 230" if name == "space_group" else ", ".join(words)
        raise UsageError(f"The generator was asked for {name} {word!r}.", f"one of {shown}")
    return words.index(word)


class LabelEmbedding(nn.Module):
    """Sum of one embedding per label; a learned vector where a label is not given.

    Continuous values enter as 16 Gaussians over the label's range, so that the response to a value
    need not be monotonic.
    """

    RESOLUTION = 16
    centres: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.continuous = nn.ModuleList(
            nn.Linear(self.RESOLUTION, width) for _ in CONTINUOUS_LABELS
        )
        self.null = nn.Parameter(torch.zeros(len(CONTINUOUS_LABELS), width))
        self.categorical = nn.ModuleList(
            nn.Embedding(1 + len(words), width) for words in CATEGORICAL_LABELS.values()
        )
        self.register_buffer("centres", torch.linspace(0, 1, self.RESOLUTION), persistent=False)
        for table in self.categorical:
            nn.init.normal_(table.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, labels: LabelTensors) -> Tensor:
        """Return (batch, width)."""
        total = torch.zeros((), device=self.null.device)
        for index, (label, linear) in enumerate(
            zip(CONTINUOUS_LABELS.values(), self.continuous, strict=True)
        ):
            value = labels.continuous[:, index, None]
            given = ~torch.isnan(value)
            place = label.compress(torch.nan_to_num(value))
            basis = torch.exp(-(((place - self.centres) * self.RESOLUTION) ** 2) / 2)
            total = total + torch.where(given, linear(basis), self.null[index])
        for index, table in enumerate(self.categorical):
            total = total + table(labels.categorical[:, index])
        return total

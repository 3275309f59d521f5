"""Labelled crystals packed into tensors, one block per number of atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.conditioning import Labels, LabelTensors
from matterloop.agents.generator.diffusion.representation import (
    CrystalArrays,
    RepresentationError,
    group_by_size,
    to_arrays,
)

if TYPE_CHECKING:
    from matterloop.loop.dataset import LabelledStructure


@dataclass(frozen=True)
class Example:
    """One crystal to learn from.

    Attributes
    ----------
    crystal
        See `CrystalArrays`.
    labels
        What is known about it, under the names of `conditioning.LABELS`.
    weight
        How often it is drawn, relative to 1.
    """

    crystal: CrystalArrays
    labels: Labels
    weight: float = 1.0


@dataclass(frozen=True)
class Block:
    """All examples of one number of atoms.

    Attributes
    ----------
    numbers
        (examples, atoms) atomic numbers.
    fractional
        (examples, atoms, 3).
    lattice
        (examples, 6), not standardised.
    labels
        Labels of the examples.
    weight
        (examples,).
    """

    numbers: Tensor
    fractional: Tensor
    lattice: Tensor
    labels: LabelTensors
    weight: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Tensor | slice) -> Block:
        return Block(
            self.numbers[rows],
            self.fractional[rows],
            self.lattice[rows],
            self.labels[rows],
            self.weight[rows],
        )

    def to(self, device: torch.device | str) -> Block:
        """Move to a device."""
        return Block(
            self.numbers.to(device),
            self.fractional.to(device),
            self.lattice.to(device),
            self.labels.to(device),
            self.weight.to(device),
        )


@dataclass(frozen=True)
class PackedCrystals:
    """Examples by number of atoms."""

    blocks: Mapping[int, Block]

    @classmethod
    def pack(cls, examples: Sequence[Example]) -> Self:
        """Pack examples; crystals of one size share a block."""
        sizes = [len(example.crystal.numbers) for example in examples]
        return cls(
            {
                size: _block([examples[index] for index in rows])
                for size, rows in group_by_size(sizes).items()
            }
        )

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks.values())

    def lattice_statistics(self) -> tuple[Tensor, Tensor]:
        """Return weighted mean and standard deviation (6,) of the lattice parameters."""
        lattice = torch.cat([block.lattice for block in self.blocks.values()])
        weight = torch.cat([block.weight for block in self.blocks.values()])[:, None]
        mean = (weight * lattice).sum(0) / weight.sum()
        variance = (weight * (lattice - mean) ** 2).sum(0) / weight.sum()
        return mean, variance.sqrt().clamp_min(1e-3)


def examples_of(items: Iterable[LabelledStructure]) -> tuple[list[Example], list[str]]:
    """Represent labelled structures; return the examples and why others were left out."""
    examples, left_out = [], []
    for item in items:
        try:
            crystal = to_arrays(item.structure)
        except RepresentationError as error:
            left_out.append(f"{item.identifier}: {error}")
        else:
            examples.append(Example(crystal, item.labels))
    return examples, left_out


def _block(examples: Sequence[Example]) -> Block:
    def stack(arrays: Iterable[np.ndarray], dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.stack(list(arrays)), dtype=dtype)

    return Block(
        numbers=stack((e.crystal.numbers for e in examples), torch.long),
        fractional=stack((e.crystal.fractional for e in examples), torch.float32),
        lattice=stack((e.crystal.lattice for e in examples), torch.float32),
        labels=LabelTensors.encode([e.labels for e in examples]),
        weight=torch.tensor([e.weight for e in examples]),
    )

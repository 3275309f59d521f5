"""Crystals of given compositions: batches of one size, halved when memory runs out, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure
from torch import Tensor

from matterloop.agents.generator.diffusion.conditioning import Labels, LabelTensors
from matterloop.agents.generator.diffusion.network import (
    PROPERTIES,
    GeometryNetwork,
    property_values,
)
from matterloop.agents.generator.diffusion.physics import closest_approach
from matterloop.agents.generator.diffusion.representation import group_by_size, to_structures
from matterloop.agents.generator.diffusion.sampler import SamplerSettings, sample_geometry
from matterloop.loop.chemistry.validity import PhysicalLimits
from matterloop.loop.identifiers import derive_seed

_PAIRS_AT_ONCE = 40_000
_TINY_CELL_A3 = 1.0

_Result = TypeVar("_Result")


class DrawingSettings(BaseModel):
    """How geometries are drawn.

    Attributes
    ----------
    sampler
        See `SamplerSettings`.
    tries
        Geometries drawn at most for one crystal, until no atoms collide. 1 keeps what comes.
    proposals
        Geometries drawn for every crystal, of which the one with the lowest predicted energy above
        hull is kept. 1 keeps what comes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: SamplerSettings = SamplerSettings()
    tries: int = Field(default=4, ge=1, le=100)
    proposals: int = Field(default=1, ge=1, le=100)


@dataclass(frozen=True)
class Drawn:
    """One crystal.

    Attributes
    ----------
    structure
        Ordered; Niggli-reduced or nearly so.
    seed
        Of its noise.
    tries
        Geometries drawn for it.
    predicted
        Property to the value that the network's heads see in it.
    """

    structure: Structure
    seed: int
    tries: int
    predicted: dict[str, float]


@dataclass(frozen=True)
class _Geometries:
    fractional: Tensor
    cell: Tensor
    properties: Tensor
    collides: Tensor
    seeds: list[int]

    def __getitem__(self, rows: Tensor) -> _Geometries:
        return _Geometries(
            self.fractional[rows],
            self.cell[rows],
            self.properties[rows],
            self.collides[rows],
            [self.seeds[row] for row in rows.tolist()],
        )


def draw_crystals(
    network: GeometryNetwork,
    compositions: Sequence[Sequence[int]],
    settings: DrawingSettings,
    *,
    labels: Labels | None = None,
    guidance_scale: float = 0.0,
    seeds: Sequence[int],
) -> list[Drawn]:
    """Draw one crystal for every composition, in order.

    Parameters
    ----------
    compositions
        Atomic numbers of all atoms of each cell.
    labels
        Soft conditions, the same for all.
    seeds
        One per crystal; alone they decide its noise.
    """
    result: dict[int, Drawn] = {}
    sizes = [len(composition) for composition in compositions]
    for atoms, rows in group_by_size(sizes).items():
        numbers = torch.tensor([list(compositions[row]) for row in rows])
        at_once = max(1, _PAIRS_AT_ONCE // atoms**2)

        def work(
            part: Sequence[int], numbers: Tensor = numbers, rows: list[int] = rows
        ) -> list[Drawn]:
            index = torch.tensor(part)
            own = [seeds[rows[place]] for place in part]
            return _draw(network, numbers[index], settings, labels, guidance_scale, own)

        drawn = in_batches(range(len(rows)), at_once, work)
        result.update(zip(rows, drawn, strict=True))
    return [result[row] for row in range(len(compositions))]


def in_batches(
    items: Sequence[int], size: int, work: Callable[[Sequence[int]], list[_Result]]
) -> list[_Result]:
    """Apply `work` to batches of at most `size`; halve the batch whenever memory runs out.

    Raises
    ------
    MemoryError, RuntimeError
        If memory does not suffice for a single item.
    """
    done: list[_Result] = []
    while len(done) < len(items):
        part = items[len(done) : len(done) + size]
        try:
            done += work(part)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error) or len(part) == 1:
                raise
            size = max(1, len(part) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return done


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator of torch raises a plain RuntimeError.
    return "allocate memory" in str(error) or "not enough memory" in str(error)


def _draw(
    network: GeometryNetwork,
    numbers: Tensor,
    settings: DrawingSettings,
    labels: Labels | None,
    guidance_scale: float,
    seeds: Sequence[int],
) -> list[Drawn]:
    """Draw crystals of one size."""
    kept: list[Drawn | None] = [None] * len(seeds)
    waiting = list(range(len(seeds)))
    for attempt in range(settings.tries):
        own = [_seed_of(seeds[row], attempt) for row in waiting]
        best = _best_of_proposals(network, numbers[waiting], settings, labels, guidance_scale, own)
        structures = to_structures(numbers[waiting], best.fractional, best.cell)
        values = property_values(best.properties)
        last = attempt + 1 == settings.tries
        for place, row in enumerate(waiting):
            if last or not best.collides[place]:
                predicted = dict(zip(PROPERTIES, values[place].tolist(), strict=True))
                kept[row] = Drawn(structures[place], best.seeds[place], attempt + 1, predicted)
        waiting = [row for row in waiting if kept[row] is None]
        if not waiting:
            break
    return [drawn for drawn in kept if drawn is not None]


def _best_of_proposals(
    network: GeometryNetwork,
    numbers: Tensor,
    settings: DrawingSettings,
    labels: Labels | None,
    guidance_scale: float,
    seeds: Sequence[int],
) -> _Geometries:
    """Draw `settings.proposals` geometries of every row, keep the best without collisions."""
    copies = settings.proposals
    device = next(network.parameters()).device
    many = numbers.repeat_interleave(copies, dim=0).to(device)
    geometries = _geometries(
        network,
        many,
        settings.sampler,
        None if labels is None else LabelTensors.encode([labels] * len(many)),
        guidance_scale,
        [
            derive_seed(seed, "proposal", copy) if copy else seed
            for seed in seeds
            for copy in range(copies)
        ],
    )
    if copies == 1:
        return geometries
    above_hull = geometries.properties[:, PROPERTIES.index("energy_above_hull")]
    score = (above_hull + 1e3 * geometries.collides).view(-1, copies)
    chosen = score.argmin(1) + copies * torch.arange(len(numbers), device=score.device)
    return geometries[chosen]


@torch.no_grad()
def _geometries(
    network: GeometryNetwork,
    numbers: Tensor,
    settings: SamplerSettings,
    labels: LabelTensors | None,
    guidance_scale: float,
    seeds: Sequence[int],
) -> _Geometries:
    fractional, cell = sample_geometry(
        network, numbers, settings, labels=labels, guidance_scale=guidance_scale, seeds=seeds
    )
    finished = network(
        numbers,
        fractional,
        network.to_lattice(cell, numbers),
        torch.ones(len(numbers), device=numbers.device),
        LabelTensors.null(len(numbers)).to(numbers.device),
    )
    limits = PhysicalLimits()
    volume = torch.diagonal(cell, dim1=1, dim2=2).prod(-1)
    collides = (closest_approach(numbers, fractional, cell) < limits.distance_factor) | (
        volume < _TINY_CELL_A3
    )
    return _Geometries(fractional, cell, finished.properties, collides, list(seeds))


def _seed_of(seed: int, attempt: int) -> int:
    return derive_seed(seed, "try", attempt) if attempt else seed

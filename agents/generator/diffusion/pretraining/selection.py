"""Which checkpoint is best: by valid x unique x novel x stable on a fixed set of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pymatgen.core import Element, Structure

from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.composition.sampler import (
    SamplingOptions,
    draw_compositions,
)
from matterloop.agents.generator.diffusion.dataset import Block, PackedCrystals
from matterloop.agents.generator.diffusion.drawing import DrawingSettings, draw_crystals
from matterloop.agents.generator.diffusion.heads import predicted_properties
from matterloop.agents.generator.diffusion.losses import losses
from matterloop.agents.generator.diffusion.network import GeometryNetwork
from matterloop.agents.generator.diffusion.pretraining.settings import SelectionSettings
from matterloop.agents.generator.diffusion.representation import (
    decode_cell,
    length_scale,
    to_structures,
)
from matterloop.agents.generator.diffusion.sampler import SamplerSettings
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings
from matterloop.loop.chemistry.matching import StructureIndex
from matterloop.loop.elements import element_counts, reduced_counts
from matterloop.loop.evaluation.novelty import NoveltyBasis, novelty, uniqueness
from matterloop.loop.evaluation.samples import sample_of
from matterloop.loop.evaluation.validity import INVALID, validity
from matterloop.loop.identifiers import derive_seed

_ROWS_AT_ONCE = 64

Key = tuple[tuple[int, int], ...]
Judge = Callable[[Sequence[Structure]], list[float | None]]


@dataclass(frozen=True)
class Score:
    """What the samples of one checkpoint are worth; every rate refers to all samples.

    Attributes
    ----------
    valid
        Structurally, compositionally and physically (`matterloop.loop.evaluation.validity`).
    unique, novel
        Matching no earlier sample; no crystal of the training part.
    stable
        At most the settings' energy above hull, by the judge.
    all_four
        All at once: what checkpoints are chosen by.
    """

    samples: int
    valid: float
    unique: float
    novel: float
    stable: float
    all_four: float

    def as_json(self) -> dict[str, Any]:
        """Return name to figure."""
        return {name: round(value, 5) for name, value in vars(self).items()}


def candidate_steps(training: TrainingSettings, selection: SelectionSettings) -> list[int]:
    """Return the steps whose averaged weights are kept: some checkpoints, and the last step."""
    every = training.checkpoint_every
    chosen = {training.steps}
    for number in range(1, selection.candidates):
        share = selection.after + (1 - selection.after) * number / selection.candidates
        step = round(share * training.steps / every) * every
        if every <= step < training.steps:
            chosen.add(step)
    return sorted(chosen)


class PackedReference:
    """The training part as known crystals, behind `matterloop.loop.evaluation.novelty.KnownSet`.

    Crystals are built only where a sample asks for their formula.
    """

    def __init__(self, packed: PackedCrystals, source: str) -> None:
        self._packed, self._source = packed, source
        self._places: dict[Key, list[tuple[int, int]]] = {}
        for size, block in packed.blocks.items():
            for row, numbers in enumerate(block.numbers.tolist()):
                self._places.setdefault(_formula(numbers), []).append((size, row))
        self._indices: dict[Key, StructureIndex] = {}

    @property
    def basis(self) -> NoveltyBasis:
        """Number of crystals."""
        return NoveltyBasis("structures", self._source, len(self._packed))

    def knows_formula(self, counts: Mapping[str, int]) -> bool:
        """Whether a crystal has this composition."""
        return _key(counts) in self._places

    def holds(self, structure: Structure) -> bool:
        """Whether the matcher finds the crystal among them."""
        key = _key(element_counts(structure))
        if key not in self._places:
            return False
        if key not in self._indices:
            index = StructureIndex()
            for number, (size, row) in enumerate(self._places[key]):
                index.add(_structure(self._packed.blocks[size], row), number)
            self._indices[key] = index
        return self._indices[key].find(structure) is not None


def sample_compositions(
    network: CompositionNetwork, settings: SelectionSettings, seed: int
) -> list[tuple[int, ...]]:
    """Draw the compositions that every candidate gets."""
    return draw_compositions(
        network,
        settings.samples,
        labels={"energy_above_hull": settings.energy_above_hull},
        generator=torch.Generator().manual_seed(derive_seed(seed, "selection", "composition")),
        options=SamplingOptions(guidance_scale=settings.guidance_scale),
    ).compositions


def score(
    network: GeometryNetwork,
    compositions: Sequence[Sequence[int]],
    settings: SelectionSettings,
    *,
    known: PackedReference,
    judge: Judge,
    seed: int,
) -> Score:
    """Draw samples with a candidate and judge them."""
    drawn = draw_crystals(
        network,
        compositions,
        DrawingSettings(
            sampler=SamplerSettings(steps=settings.steps, annealing=settings.annealing), tries=1
        ),
        labels={"energy_above_hull": settings.energy_above_hull},
        guidance_scale=settings.guidance_scale,
        seeds=[derive_seed(seed, "selection", index) for index in range(len(compositions))],
    )
    crystals = [sample_of(str(i), crystal.structure).structure for i, crystal in enumerate(drawn)]
    judged = [INVALID if c is None else validity(c) for c in crystals]
    valid = [v.structural and v.compositional and v.physical for v in judged]
    sound = [c if v.structural else None for c, v in zip(crystals, judged, strict=True)]
    unique, novel = uniqueness(sound), novelty(sound, known)
    rows = [row for row, crystal in enumerate(sound) if crystal is not None]
    above: list[float | None] = [None] * len(sound)
    for row, value in zip(rows, judge([c for c in sound if c is not None]), strict=True):
        above[row] = value
    stable = [value is not None and value <= settings.stable_eV_per_atom for value in above]
    n = len(crystals)
    together = [all(flags) for flags in zip(valid, unique, novel, stable, strict=True)]
    return Score(n, sum(valid) / n, sum(unique) / n, sum(novel) / n, sum(stable) / n,
                 sum(together) / n)  # fmt: skip


class NetworkJudge:
    """Energies above hull as one network's head sees them: the same judge for all candidates."""

    def __init__(self, network: GeometryNetwork) -> None:
        self._network = network

    def __call__(self, structures: Sequence[Structure]) -> list[float | None]:
        """Return eV/atom of every crystal; None where it cannot be represented."""
        return [
            None if seen is None else seen["energy_above_hull"]
            for seen in predicted_properties(self._network, structures)
        ]


@torch.no_grad()
def validation_loss(
    network: GeometryNetwork, data: PackedCrystals, settings: TrainingSettings, seed: int
) -> dict[str, float]:
    """Return the parts of the loss on held-out crystals, with noise that is always the same."""
    device = next(network.parameters()).device
    plain = settings.model_copy(update={"penalties": type(settings.penalties)()})
    sums: dict[str, float] = {}
    count = 0
    for size, block in data.blocks.items():
        for first in range(0, len(block), _ROWS_AT_ONCE):
            part = block[slice(first, first + _ROWS_AT_ONCE)].to(device)
            generator = torch.Generator().manual_seed(derive_seed(seed, "validation", size, first))
            for name, value in losses(network, part, plain, generator).items():
                sums[name] = sums.get(name, 0.0) + float(value.sum())
            count += len(part)
    return {name: value / count for name, value in sums.items()}


def _structure(block: Block, row: int) -> Structure:
    numbers = block.numbers[row : row + 1]
    cell = decode_cell(block.lattice[row : row + 1], length_scale(numbers))
    return to_structures(numbers, block.fractional[row : row + 1], cell)[0]


def _formula(numbers: Sequence[int]) -> Key:
    return _key({Element.from_Z(z).symbol: numbers.count(z) for z in set(numbers)})


def _key(counts: Mapping[str, int]) -> Key:
    reduced = reduced_counts(dict(counts))
    return tuple(sorted((Element(symbol).Z, n) for symbol, n in reduced.items()))

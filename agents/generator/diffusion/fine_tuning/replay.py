"""Crystals that a generator replays while it learns something new, so that it forgets nothing.

Training data are not shipped, so a generator replays what it draws itself, unconditionally, with
its own opinion on the energies as labels (pseudo-rehearsal, Robins 1995,
doi:10.1080/09540099550039318; learning without forgetting, Li and Hoiem 2016, arXiv:1606.09282).
Or crystals of the user's choice, from any source of `matterloop.loop.sources`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from matterloop.agents.generator.diffusion.composition.sampler import (
    SamplingOptions,
    draw_compositions,
)
from matterloop.agents.generator.diffusion.dataset import Example, examples_of
from matterloop.agents.generator.diffusion.drawing import DrawingSettings, draw_crystals
from matterloop.agents.generator.diffusion.weights import Weights
from matterloop.loop.chemistry.validity import check_structure, overall
from matterloop.loop.dataset import LabelledStructure, with_geometry_labels
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.sources import read_structures


def drawn_replay(
    parent: Weights, count: int, drawing: DrawingSettings, labels: Sequence[str], *, seed: int
) -> list[Example]:
    """Draw `count` crystals without any wish and keep those that are physically possible.

    Parameters
    ----------
    labels
        Names of the labels that the parent knows; others are not given.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "replay-compositions"))
    compositions = draw_compositions(
        parent.composition,
        count,
        generator=generator,
        options=SamplingOptions(guidance_scale=0.0),
    ).compositions
    drawn = draw_crystals(
        parent.geometry,
        compositions,
        drawing,
        seeds=[derive_seed(seed, "replay", place) for place in range(count)],
    )
    items = []
    for place, crystal in enumerate(drawn):
        if not overall(check_structure(crystal.structure)).passed:
            continue
        # Where a head lies below zero it means zero.
        predicted: dict[str, float | str] = {
            name: value if name == "formation_energy" else max(0.0, value)
            for name, value in crystal.predicted.items()
            if math.isfinite(value)
        }
        items.append(LabelledStructure(crystal.structure, predicted, "replay", str(place)))
    return _examples(items, labels)


def chosen_replay(
    addresses: Iterable[str], count: int, labels: Sequence[str], *, seed: int
) -> list[Example]:
    """Choose `count` crystals of sources at random.

    Raises
    ------
    UsageError, SourceError
        If a source cannot be read.
    """
    items = list(read_structures(addresses))
    order = sorted(range(len(items)), key=lambda place: derive_seed(seed, "replay", place))
    return _examples([items[place] for place in sorted(order[:count])], labels)


def _examples(items: Iterable[LabelledStructure], labels: Sequence[str]) -> list[Example]:
    found, _ = examples_of(with_geometry_labels(item) for item in items)
    return [Example(e.crystal, {k: v for k, v in e.labels.items() if k in labels}) for e in found]

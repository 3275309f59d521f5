"""Crystals of given compositions: in order, in batches that memory bears, without collisions."""

from __future__ import annotations

import pytest
import torch
from few_crystals import geometry_network

from matterloop.agents.generator.diffusion.drawing import (
    DrawingSettings,
    draw_crystals,
    in_batches,
)
from matterloop.agents.generator.diffusion.sampler import SamplerSettings

NETWORK = geometry_network()
FAST = SamplerSettings(steps=3, annealing=1.0)
COMPOSITIONS = [(8, 12), (26, 8, 8), (12, 8), (12,), (8, 8, 20)]


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing():
    sizes = []

    def work(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise MemoryError
        return [item * item for item in part]

    assert in_batches(range(20), 13, work) == [n * n for n in range(20)]
    assert sizes == [13, 6, 3, 3, 3, 3, 3, 3, 2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_every_way_of_running_out_of_memory_is_known(error):
    def work(part):
        if len(part) > 1:
            raise error
        return list(part)

    assert in_batches(range(5), 4, work) == list(range(5))


def test_one_item_that_does_not_fit_and_other_errors_are_errors():
    def never(part):
        raise MemoryError

    def wrong(part):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(MemoryError):
        in_batches(range(4), 4, never)
    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(range(4), 4, wrong)


def test_crystals_come_in_the_order_of_the_compositions_and_hold_these_atoms():
    drawn = draw_crystals(NETWORK, COMPOSITIONS, DrawingSettings(sampler=FAST), seeds=range(5))
    assert [crystal.structure.atomic_numbers for crystal in drawn] == COMPOSITIONS
    assert set(drawn[0].predicted) == {"formation_energy", "energy_above_hull", "band_gap"}
    alone = draw_crystals(NETWORK, COMPOSITIONS[2:3], DrawingSettings(sampler=FAST), seeds=[2])
    assert alone[0].structure.volume == pytest.approx(drawn[2].structure.volume, rel=1e-4)
    assert (alone[0].seed, alone[0].tries) == (drawn[2].seed, drawn[2].tries)


def test_colliding_crystals_are_drawn_again_so_often_and_no_more():
    crowded = [(8,) * 12]
    crushed = geometry_network()
    crushed.lattice_mean.fill_(-0.8)  # every cell is far too small
    for tries in (1, 3):
        settings = DrawingSettings(sampler=FAST, tries=tries)
        [drawn] = draw_crystals(crushed, crowded, settings, seeds=[1])
        assert drawn.tries == tries


def test_of_several_proposals_the_one_is_kept_that_seems_most_stable():
    wide = geometry_network()
    wide.lattice_mean[:3] = 0.8  # nothing collides
    one = DrawingSettings(sampler=FAST, tries=1)
    many = one.model_copy(update={"proposals": 6})
    first = draw_crystals(wide, COMPOSITIONS, one, seeds=range(5))
    best = draw_crystals(wide, COMPOSITIONS, many, seeds=range(5))
    for a, b in zip(first, best, strict=True):
        assert b.predicted["energy_above_hull"] <= a.predicted["energy_above_hull"] + 1e-5
    assert any(b.seed != a.seed for a, b in zip(first, best, strict=True))
    assert draw_crystals(wide, [], one, seeds=[]) == []

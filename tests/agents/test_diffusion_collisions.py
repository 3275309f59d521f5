"""Atoms are kept apart while a crystal forms."""

from __future__ import annotations

import pytest
import torch

from matterloop.agents.generator.diffusion.collisions import CollisionSettings, keep_apart
from matterloop.agents.generator.diffusion.physics import relative_distances

NUMBERS = torch.tensor([[8, 8, 12, 12], [8, 8, 12, 12]])
APART = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
TOGETHER = torch.tensor([[0.0, 0.0, 0.0], [0.01, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
CELL = 4.2 * torch.eye(3).expand(2, 3, 3)


def apart(fractional: torch.Tensor, time: float, **settings: float) -> torch.Tensor:
    return keep_apart(
        fractional,
        time=time,
        expected=fractional,
        cell=CELL,
        numbers=NUMBERS,
        settings=CollisionSettings(**settings),
        generators=[torch.Generator().manual_seed(k) for k in range(2)],
    )


@pytest.mark.parametrize("time", [0.0, 0.4, 0.8, 1.0])
def test_a_crystal_without_collisions_stays_as_it_is(time):
    batch = torch.stack([APART, APART])
    assert torch.equal(apart(batch, time), batch)


def test_early_one_atom_of_a_pair_gets_a_new_place_and_the_other_crystal_is_left_alone():
    batch = torch.stack([TOGETHER, APART])
    after = apart(batch, 0.5)
    assert torch.equal(after[1], APART)
    assert torch.equal(after[0, [0, 2, 3]], TOGETHER[[0, 2, 3]])
    assert not torch.equal(after[0, 1], TOGETHER[1])


def test_a_new_place_depends_on_the_crystals_own_seed_only():
    together = torch.stack([TOGETHER, TOGETHER])
    alone = torch.stack([TOGETHER, APART])
    assert torch.equal(apart(together, 0.5)[0], apart(alone, 0.5)[0])


@pytest.mark.parametrize("gap", [0.0, 1e-4, 0.05])
def test_late_a_pair_is_pushed_apart_even_from_exactly_one_place(gap):
    crystal = TOGETHER.clone()
    crystal[1, 0] = gap
    batch = torch.stack([crystal, APART])
    after = apart(batch, 0.9)
    near = relative_distances(NUMBERS, batch, CELL)[0, 0, 1]
    assert relative_distances(NUMBERS, after, CELL)[0, 0, 1] > near + 0.1
    assert torch.equal(after[1], APART)


@pytest.mark.parametrize(("time", "off"), [(0.5, "reinsert_below"), (0.9, "repel_below")])
def test_each_remedy_can_be_switched_off(time, off):
    batch = torch.stack([TOGETHER, APART])
    assert torch.equal(apart(batch, time, **{off: 0}), batch)
    assert not torch.equal(apart(batch, time), batch)


def test_nothing_happens_before_the_crystal_takes_shape():
    batch = torch.stack([TOGETHER, APART])
    assert torch.equal(apart(batch, 0.1), batch)

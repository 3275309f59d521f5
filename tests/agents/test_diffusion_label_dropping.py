"""Labels are forgotten at random, so that the network knows every subset of them."""

from __future__ import annotations

import torch

from matterloop.agents.generator.diffusion.conditioning import LabelTensors

FULL = {
    "formation_energy": -1.0,
    "energy_above_hull": 0.0,
    "band_gap": 1.4,
    "density": 4.0,
    "crystal_system": "cubic",
    "space_group": "225",
}


def _kept(keep_any: float, crystals: int = 4000) -> torch.Tensor:
    labels = LabelTensors.encode([FULL] * crystals)
    dropped = labels.dropped(keep_any, torch.Generator().manual_seed(3))
    return (~torch.isnan(dropped.continuous)).sum(1) + (dropped.categorical > 0).sum(1)


def test_every_number_of_labels_is_as_likely_where_any_is_kept():
    share = torch.bincount(_kept(1.0), minlength=7) / 4000
    assert (share - 1 / 7).abs().max() < 0.03


def test_none_is_kept_with_the_probability_that_is_asked_for():
    assert (_kept(0.0) == 0).all()
    assert abs(float((_kept(0.5) == 0).float().mean()) - (0.5 + 0.5 / 7)) < 0.03


def test_what_is_kept_is_what_it_was():
    labels = LabelTensors.encode([FULL] * 50)
    dropped = labels.dropped(1.0, torch.Generator().manual_seed(3))
    given = ~torch.isnan(dropped.continuous)
    assert torch.equal(dropped.continuous[given], labels.continuous[given])
    words = dropped.categorical > 0
    assert torch.equal(dropped.categorical[words], labels.categorical[words])

"""Guidance with scale 0 and 1 is no guidance; beyond, it is the line through both."""

from __future__ import annotations

import torch
from few_crystals import geometry_network

from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.guidance import guided

NETWORK = geometry_network()
NUMBERS = torch.tensor([[8, 12, 8], [26, 8, 8]])
WISH = LabelTensors.encode([{"density": 4.0}, {"space_group": "225"}])
NULL = LabelTensors.null(2)
STATE = (
    torch.rand((2, 3, 3), generator=torch.Generator().manual_seed(0)),
    torch.randn((2, 6), generator=torch.Generator().manual_seed(1)),
    torch.tensor([0.2, 0.7]),
)


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_nothing_asked_for_is_the_plain_network():
    plain = NETWORK(NUMBERS, *STATE, NULL)
    assert equal(guided(NETWORK, NUMBERS, None, 3.0)(*STATE), plain)
    assert equal(guided(NETWORK, NUMBERS, WISH, 0)(*STATE), plain)


def test_scale_one_is_the_conditional_network():
    assert equal(guided(NETWORK, NUMBERS, WISH, 1)(*STATE), NETWORK(NUMBERS, *STATE, WISH))


def test_other_scales_lie_on_the_line():
    null, wish = NETWORK(NUMBERS, *STATE, NULL), NETWORK(NUMBERS, *STATE, WISH)
    assert not torch.allclose(null.velocity, wish.velocity, atol=1e-3)
    for scale in (0.5, 2.5):
        found = guided(NETWORK, NUMBERS, WISH, scale)(*STATE)
        for value, a, b in zip(found, null, wish, strict=True):
            assert torch.allclose(value, a + scale * (b - a), atol=1e-4)

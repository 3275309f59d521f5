"""What a campaign asks its generator for."""

from __future__ import annotations

from small_campaign import small_spec

from matterloop.loop.stages.generate import conditions_of

OBJECTIVES = [
    {"property": "density", "goal": "target", "target": 2.5, "tolerance": 0.5},
    {"property": "bulk_modulus", "goal": "target", "target": 25, "tolerance": 5},
]


class _Asked:
    target_names = ("density", "band_gap")


def test_targets_that_a_generator_does_not_know_are_left_to_the_selector():
    spec = small_spec(
        objectives=OBJECTIVES,
        constraints=[],
        characterizers=["virtual-pycnometer", "virtual-press"],
    )
    assert conditions_of(spec, _Asked()).targets == {"density": 2.5}
    assert conditions_of(spec, object()).targets == {}

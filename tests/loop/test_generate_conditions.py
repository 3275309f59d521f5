"""What a campaign asks its generator for."""

from __future__ import annotations

from matterloop.loop.spec_file import parse_spec
from matterloop.loop.stages.generate import conditions_of

CAMPAIGN = """
name: targets
search_space: {chemical_system: Li-S-Cl}
objectives:
  - {property: density, goal: target, target: 2.5, tolerance: 0.5}
  - {property: bulk_modulus, goal: target, target: 25, tolerance: 5}
budget: {cycles: 1, experiments: 4}
characterizers: [virtual-pycnometer, virtual-press]
"""


class _Guidable:
    target_names = ("density", "band_gap")


def test_targets_that_a_generator_does_not_know_are_left_to_the_selector():
    spec = parse_spec(CAMPAIGN)
    assert conditions_of(spec, _Guidable()).targets == {"density": 2.5}
    assert conditions_of(spec, object()).targets == {}

"""Merits: what a measured crystal is worth to a campaign."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_ledger import rock_salt

from matterloop.loop.merit import with_merits
from matterloop.loop.selection import Observation, PoolItem
from matterloop.loop.spec import Constraint, Objective

SALT = rock_salt("Li", "Cl", 5.1)
STIFF = Objective(property="bulk_modulus", goal="maximise")
LIGHT = Objective(property="density", goal="minimise")
STABLE = Constraint(property="energy_above_hull", at_most=0.1)


def seen(feasible=True, **values):
    return Observation(PoolItem("x", SALT), values, feasible=feasible)


def merits(dataset, *objectives, constraints=()):
    return [o.merit for o in with_merits(dataset, objectives, constraints)]


def test_objectives_count_in_standard_deviations():
    dataset = [seen(bulk_modulus=10.0, density=2.0), seen(bulk_modulus=30.0, density=4.0)]
    assert merits(dataset, STIFF) == [-1.0, 1.0]
    assert merits(dataset, STIFF, LIGHT) == [0.0, 0.0]


def test_a_broken_constraint_costs_one():
    dataset = [
        seen(bulk_modulus=10.0, energy_above_hull=0.0),
        seen(bulk_modulus=10.0, energy_above_hull=0.2),
        seen(bulk_modulus=10.0),
    ]
    assert merits(dataset, STIFF, constraints=[STABLE]) == [0.0, -1.0, 0.0]


def test_what_was_not_made_or_measured_has_no_merit():
    dataset = [
        seen(bulk_modulus=10.0),
        seen(feasible=False, bulk_modulus=99.0),
        seen(density=2.0),
        seen(bulk_modulus=math.nan),
    ]
    assert merits(dataset, STIFF) == [0.0, None, None, None]
    assert merits([], STIFF) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(0.01, 100))
def test_merits_do_not_depend_on_the_unit(values, factor):
    plain = merits([seen(bulk_modulus=value) for value in values], STIFF)
    scaled = merits([seen(bulk_modulus=value * factor) for value in values], STIFF)
    spread = max(values) - min(values)
    if spread > 1e-3 * max(map(abs, values), default=0) and spread > 1e-2:
        assert scaled == pytest.approx(plain, abs=1e-5)
        assert sum(plain) == pytest.approx(0, abs=1e-6)
    best = max(range(len(values)), key=values.__getitem__)
    assert plain[best] == max(plain)

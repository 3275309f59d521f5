"""Screening estimates the same property: the surrogate learns what experiments add to it."""

from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.agents.selector.bayesian import BayesianSelector
from matterloop.loop.selection import Observation, PoolItem
from matterloop.loop.spec import Constraint, Objective

STABLE = Objective(property="energy_above_hull", goal="minimise")
SOFT = Objective(property="bulk_modulus", goal="minimise")
BOUND = Constraint(property="energy_above_hull", at_most=0.1)


def salt(index, screened):
    """A rock salt whose lattice parameter differs a little from the others'."""
    lattice = Lattice.cubic(5.0 + 0.05 * index)
    crystal = Structure(
        lattice, ["Na"] * 4 + ["Cl"] * 4,
        [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0],
         [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]],
    )  # fmt: skip
    return PoolItem(f"salt-{index}", crystal, screening={"energy_above_hull": screened})


def select(pool, observations, objectives=(STABLE,), n=2):
    selector = BayesianSelector(BayesianSelector.Settings())
    selection = selector.select(
        pool, observations, objectives=objectives, constraints=(BOUND,), batch_size=n, seed=1
    )
    return {choice.candidate_id: choice for choice in selection.choices}, selection


@pytest.fixture
def stable_only():
    """Four stable crystals were made and measured 5 meV/atom above their screening estimates."""
    return [
        Observation(
            salt(index, 0.001 * index),
            {"energy_above_hull": 0.001 * index + 0.005, "bulk_modulus": 20.0 + index},
            {"energy_above_hull": 0.002, "bulk_modulus": 1.0},
        )
        for index in range(4)
    ]


def test_what_screening_finds_unstable_is_not_believed_stable(stable_only):
    estimates = {f"salt-{10 + i}": 0.05 * i for i in range(6)}
    pool = [salt(10 + i, 0.05 * i) for i in range(6)]
    choices, _ = select(pool, stable_only)
    for name, estimate in estimates.items():
        prediction = choices[name].predictions["energy_above_hull"]
        assert prediction.mean == pytest.approx(estimate + 0.005, abs=0.01)


def test_a_batch_keeps_the_bound_that_screening_sees_broken(stable_only):
    pool = [salt(10 + i, above) for i, above in enumerate([0.3, 0.02, 0.25, 0.04, 0.2, 0.4])]
    choices, _ = select(pool, stable_only, objectives=(STABLE, SOFT))
    chosen = {name for name, choice in choices.items() if choice.rank is not None}
    assert chosen == {"salt-11", "salt-13"}


def test_experiments_correct_a_biased_estimate(stable_only):
    biased = [
        replace(o, values={**o.values, "energy_above_hull": o.values["energy_above_hull"] + 0.05})
        for o in stable_only
    ]
    pool = [salt(10, 0.02)]
    right, _ = select(pool, stable_only)
    shifted, _ = select(pool, biased)
    difference = (
        shifted["salt-10"].predictions["energy_above_hull"].mean
        - right["salt-10"].predictions["energy_above_hull"].mean
    )
    assert difference == pytest.approx(0.05, abs=0.003)


def test_an_estimate_that_one_crystal_lacks_is_left_out(stable_only):
    pool = [salt(10, 0.02), replace(salt(11, 0.02), screening={})]
    _, selection = select(pool, stable_only)
    assert selection.details["surrogate"]["energy_above_hull"]["mean"] == "constant"
    _, selection = select(pool[:1], stable_only)
    mean = selection.details["surrogate"]["energy_above_hull"]["mean"]
    assert mean == "constant + screening estimate"


def test_failures_at_high_estimates_lower_the_chance_there(stable_only):
    failed = [Observation(salt(20 + i, 0.2 + 0.02 * i), {}, feasible=False) for i in range(4)]
    pool = [salt(10, 0.01), salt(11, 0.25)]
    choices, selection = select(pool, [*stable_only, *failed])
    assert selection.details["feasibility_model"]["informed"]

    def chance(name):
        return int(choices[name].reason.partition("synthesis ")[2].partition("%")[0])

    assert chance("salt-10") > 2 * chance("salt-11")
    assert np.isfinite(choices["salt-10"].acquisition_value)

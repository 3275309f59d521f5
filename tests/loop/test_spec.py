"""The search space and the meaning of objectives and constraints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.spec import Constraint, Objective, SearchSpace


@pytest.mark.parametrize(
    ("space", "counts", "why"),
    [
        ({"chemical_system": "Li-P-S-Cl"}, {"Li": 2, "S": 1}, None),
        ({"chemical_system": "Li-P-S-Cl"}, {"Li": 2, "O": 1}, "holds O"),
        ({"elements": ("Li", "S"), "forbidden_elements": ("S",)}, {"Li": 1, "S": 1}, "holds S"),
        ({"chemical_system": "Li-S", "required_elements": ("Li",)}, {"S": 8}, "lacks"),
        ({"chemical_system": "Li-S", "min_elements": 2}, {"S": 8}, "has 1 elements"),
        ({"chemical_system": "Li-S", "max_atoms": 4}, {"Li": 4, "S": 2}, "has 6 atoms"),
        ({"formulas": ("Li2S",)}, {"Li": 4, "S": 2}, None),
        ({"formulas": ("Li2S",)}, {"Li": 1, "S": 1}, "none of the formulas"),
    ],
)
def test_search_space(space, counts, why):
    answer = SearchSpace(**space).why_outside(counts)
    assert answer is None if why is None else why in answer


def test_contradictory_search_space_is_refused():
    with pytest.raises(ValueError, match="required elements are not allowed: Na"):
        SearchSpace(chemical_system="Li-S", required_elements=("Na",))
    with pytest.raises(ValueError, match="every allowed element is also forbidden"):
        SearchSpace(elements=("Li",), forbidden_elements=("Li",))


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({"chemical_system": "Li-S", "min_elements": 3}, "min_elements 3 exceeds the 2 allowed"),
        (
            {"chemical_system": "Li-S-Cl", "required_elements": ("Li", "S"), "max_elements": 1},
            "2 required_elements exceed max_elements 1",
        ),
        ({"chemical_system": "Li-S", "min_elements": 2, "max_atoms": 1}, "2 elements do not fit"),
        ({"formulas": ("Li2S",), "max_atoms": 2}, "'Li2S' has 3 atoms, allowed 1 to 2"),
        ({"formulas": ("Li2S",), "min_atoms": 4, "max_atoms": 5}, "'Li2S' has 3 atoms"),
        ({"formulas": ("Li6PS5Cl",), "max_elements": 3}, "'Li6PS5Cl' has 4 elements"),
        ({"formulas": ("LiCl", "Li2S"), "forbidden_elements": ("S",)}, "'Li2S' holds S"),
    ],
)
def test_search_space_that_no_crystal_fits_is_refused(space, why):
    with pytest.raises(ValueError, match=why):
        SearchSpace(**space)


def test_a_formula_may_need_several_units_to_reach_the_smallest_cell():
    assert SearchSpace(formulas=("Li4S2",), min_atoms=5, max_atoms=7).allowed_elements


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_utility_orders_values_as_the_goal_says(left, right):
    most = Objective(property="density", goal="maximise")
    least = Objective(property="density", goal="minimise")
    near = Objective(property="density", goal="target", target=1.4, tolerance=0.1)
    assert (most.utility(left) >= most.utility(right)) == (left >= right)
    assert (least.utility(left) >= least.utility(right)) == (left <= right)
    assert (near.utility(left) >= near.utility(right)) == (abs(left - 1.4) <= abs(right - 1.4))


def test_a_target_is_reached_within_its_tolerance():
    near = Objective(property="density", goal="target", target=1.4, tolerance=0.1)
    assert [near.reached(value) for value in (1.29, 1.31, 1.4, 1.49, 1.51)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert not Objective(property="density", goal="minimise").reached(1.4)


@given(st.floats(-10, 10))
def test_constraint_keeps_both_bounds(value):
    bound = Constraint(property="density", at_least=1.0, at_most=2.0)
    assert bound.holds(value) == (1.0 <= value <= 2.0)

"""Enumerating compositions and testing them for charge neutrality."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition
from smact.screening import smact_validity

from matterloop.loop.chemistry.composition import (
    combinations,
    compositions,
    neutral_compositions,
    search_space_compositions,
)
from matterloop.loop.chemistry.oxidation import (
    OxidationRule,
    are_neutral,
    assignments,
    is_neutral,
    oxidation_states,
)
from matterloop.loop.errors import UsageError
from matterloop.loop.spec import SearchSpace

LPSC = ("Li", "P", "S", "Cl")


def test_li_p_s_cl_has_2400_combinations_and_781_neutral_compositions():
    assert len(list(combinations(LPSC, 6))) == 7**4 - 1 == 2400
    neutral = list(neutral_compositions(LPSC, 6, OxidationRule(states="icsd24", pauling=True)))
    assert len(neutral) == 781
    assert sum(len(counts) > 1 for counts in neutral) == 777
    assert sum(len(counts) == 1 for counts in neutral) == 4


def test_the_counts_under_other_rules_are_the_ones_documented():
    assert len(list(compositions(LPSC, 6))) == 2065
    assert sum(is_neutral(counts) for counts in combinations(LPSC, 6)) == 986
    for states, pauling, count in [
        ("smact14", True, 781),
        ("icsd16", True, 811),
        ("pymatgen_sp", True, 301),
        ("icsd24", False, 1426),
    ]:
        rule = OxidationRule(states=states, pauling=pauling)
        assert len(list(neutral_compositions(LPSC, 6, rule))) == count


def test_the_781_are_those_that_smact_itself_calls_valid():
    ours = {Composition(c).reduced_formula for c in neutral_compositions(LPSC, 6)}
    smact = {
        Composition(c).reduced_formula
        for c in compositions(LPSC, 6)
        if smact_validity(Composition(c), oxidation_states_set="icsd24")
    }
    assert ours == smact


def test_known_compounds_are_neutral_with_the_expected_states():
    assert assignments({"Li": 6, "P": 1, "S": 5, "Cl": 1}) == (
        {"Li": 1, "P": 5, "S": -2, "Cl": -1},
    )
    assert is_neutral({"Na": 1, "Cl": 1})
    assert not is_neutral({"Na": 2, "Cl": 1})
    # Fe2+ with two Fe3+ is mixed valence, which the rule does not know
    assert not is_neutral({"Fe": 3, "O": 4})


def test_electronegativity_order_refuses_positive_chlorine_beside_negative_sulphur():
    counts = {"S": 1, "Cl": 2}
    unordered = assignments(counts, OxidationRule(pauling=False))
    assert {"S": -2, "Cl": 1} in unordered
    assert assignments(counts) == ({"S": 2, "Cl": -1},)


def test_elements_and_alloys_need_no_charge():
    assert assignments({"S": 8}) == ({"S": 0},)
    assert is_neutral({"Ni": 3, "Al": 1})
    assert not is_neutral({"Ni": 3, "Al": 1}, OxidationRule(alloys=False))


def test_an_element_without_oxidation_states_makes_nothing_neutral():
    assert oxidation_states("Ne") == ()
    assert not is_neutral({"Ne": 1, "O": 1})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["H", "Li", "C", "O", "Mg", "Al", "P", "S", "Cl", "Fe", "Cu", "La", "Xe"]),
        st.integers(1, 9),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["smact14", "icsd16", "icsd24", "pymatgen_sp"]),
    st.booleans(),
    st.booleans(),
)
def test_neutrality_agrees_with_smact(counts, states, pauling, alloys):
    rule = OxidationRule(states=states, pauling=pauling, alloys=alloys)
    expected = smact_validity(
        Composition(counts),
        use_pauling_test=pauling,
        include_alloys=alloys,
        oxidation_states_set=states,
    )
    assert is_neutral(counts, rule) == expected
    assert bool(assignments(counts, rule)) == expected


@given(
    st.dictionaries(st.sampled_from(LPSC), st.integers(1, 6), min_size=2),
    st.integers(1, 5),
)
def test_neutrality_ignores_multiples_and_order(counts, factor):
    multiple = {element: n * factor for element, n in reversed(counts.items())}
    assert is_neutral(multiple) == is_neutral(counts)
    for states in assignments(counts):
        assert sum(states[element] * n for element, n in counts.items()) == 0


@given(st.lists(st.sampled_from(LPSC), min_size=1, unique=True), st.integers(1, 4))
def test_compositions_are_the_combinations_without_multiples(elements, most):
    expected = {
        frozenset(counts.items())
        for counts in combinations(elements, most)
        if gcd(*counts.values()) == 1
    }
    found = [frozenset(counts.items()) for counts in compositions(elements, most)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_many_compositions_of_one_system_are_judged_at_once():
    amounts = np.array([[1, 2], [3, 1], [2, 4]])
    assert are_neutral(("Mg", "Cl"), amounts).tolist() == [True, False, True]


def test_a_search_space_bounds_atoms_and_elements():
    space = SearchSpace(chemical_system="Li-P-S-Cl", required_elements=("Li",), max_atoms=8)
    found = list(search_space_compositions(space, 6))
    assert {"Li": 3, "P": 1, "S": 4} in found
    assert all("Li" in counts and sum(counts.values()) <= 8 for counts in found)
    # LiF in threes has six atoms, and no multiple of it has five
    for atoms, expected in [(6, [{"Li": 1, "F": 1}]), (5, [])]:
        tight = SearchSpace(
            chemical_system="Li-F", min_atoms=atoms, max_atoms=atoms, min_elements=2
        )
        assert list(search_space_compositions(tight, 3)) == expected


def test_named_formulas_are_taken_as_they_are():
    space = SearchSpace(formulas=("Fe3O4", "Li2O"), max_atoms=20)
    assert list(search_space_compositions(space, 6)) == [{"Fe": 3, "O": 4}, {"Li": 2, "O": 1}]


@pytest.mark.parametrize(
    ("elements", "most"), [(("Li", "Li"), 2), (("Xx",), 2), ((), 2), (("Li",), 0)]
)
def test_a_wrong_system_is_refused(elements, most):
    with pytest.raises(UsageError):
        list(combinations(elements, most))


def test_a_wrong_set_of_states_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'wiki'.*icsd24"):
        OxidationRule(states="wiki")

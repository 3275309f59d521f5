"""Solid-state recipes: balanced, within the conditions, fit for the chemistry."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from matterloop.agents.planner.precursors import balance
from matterloop.agents.planner.solid_state import SolidStatePlanner
from matterloop.loop.chemistry.melting import melting_point_K
from matterloop.loop.errors import PolicyViolationError, SpecError
from matterloop.loop.spec import CampaignSpec


def spec(**conditions):
    return CampaignSpec(
        name="c",
        search_space={"chemical_system": "Li-P-S-Cl"},
        objectives=[{"property": "density", "goal": "minimise"}],
        budget={"cycles": 1},
        characterizers=["virtual-pycnometer"],
        conditions=conditions,
    )


def crystal(formula):
    """Return any arrangement with the composition; the planner looks at nothing else."""
    species = [e for e, n in Composition(formula).get_el_amt_dict().items() for _ in range(int(n))]
    sites = [[i / len(species), 0, 0] for i in range(len(species))]
    return Structure(Lattice.cubic(3 * len(species)), species, sites)


def plan(formula, conditions=None, **options):
    planner = SolidStatePlanner(SolidStatePlanner.Settings(**options))
    return planner.plan(crystal(formula), spec(**(conditions or {})))


def amounts(recipe):
    return {p.formula: pytest.approx(p.amount_mol) for p in recipe.precursors}


@pytest.mark.parametrize(
    ("formula", "mixture"),
    [
        ("Li3PS4", {"Li2S": 1.5, "P2S5": 0.5}),
        ("Li6PS5Cl", {"Li2S": 2.5, "P2S5": 0.5, "LiCl": 1.0}),
        ("MgAl2O4", {"MgO": 1.0, "Al2O3": 1.0}),
        ("Ni3Al", {"Al": 1.0, "Ni": 3.0}),
        ("LiCl", {"Li": 1.0, "Cl": 1.0}),
        ("Fe", {"Fe": 1.0}),
    ],
)
def test_known_reactions(formula, mixture):
    assert amounts(plan(formula)) == mixture


def test_a_missing_element_comes_as_the_element():
    assert amounts(plan("Li2Se", stock=("Li2S",))) == {"Li": 2.0, "Se": 1.0}
    assert {p.formula for p in plan("Li3PS4", stock=("Li2S",)).precursors} == {"Li2S", "P", "S"}


def test_temperature_follows_the_mean_melting_point_of_the_precursors():
    # Li2S melts at 1645 K, P2S5 at 558 K; argyrodites are fired at about that temperature.
    thiophosphate = plan("Li3PS4")
    assert thiophosphate.temperature_K == pytest.approx((1645 + 558) / 2 * 2 / 3, abs=2.5)
    assert "P2S5" in thiophosphate.notes
    assert plan("Ni3Al").temperature_K == pytest.approx((933.47 + 1728) / 2 * 2 / 3, abs=2.5)
    assert plan("MgAl2O4").temperature_K == 1300  # 1808 K is beyond the range
    assert "outside the allowed" in plan("MgAl2O4").notes
    assert plan("Li3PS4", {"temperature_K": (800, 900)}).temperature_K == 800
    assert plan("Li3PS4", tammann_fraction=0.5).temperature_K == 550


@pytest.mark.parametrize(
    ("formula", "gas"),
    [("MgAl2O4", "air"), ("Li3PS4", "argon"), ("LiCl", "argon"), ("Ni3Al", "argon"),
     ("Li2OHCl", "argon")],
)  # fmt: skip
def test_atmosphere_suits_the_chemistry(formula, gas):
    assert plan(formula).atmosphere == gas


def test_pressure_stays_in_range():
    assert plan("Li3PS4").pressure_GPa == pytest.approx(1e-4)
    assert plan("Li3PS4", {"pressure_GPa": (1.0, 5.0)}).pressure_GPa == 1.0


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["Li", "Na", "P", "S", "Cl", "O", "Al", "Zr", "Ni"]),
        st.integers(1, 6),
        min_size=1,
        max_size=5,
    )
)
def test_every_recipe_conserves_every_element(counts):
    target = Composition(counts)
    mixture = balance(target, SolidStatePlanner.Settings().stock)
    total = sum(
        (Composition(p.formula) * p.amount_mol for p in mixture.precursors), start=Composition()
    )
    assert {e.symbol for e in total.elements} == set(counts)
    for element, count in counts.items():
        assert total[element] == pytest.approx(count, rel=1e-6)
    assert 1 <= len(mixture.precursors) <= 5


def test_melting_points_are_those_of_the_handbook():
    assert melting_point_K(Composition("LiCl")) == 883
    assert melting_point_K(Composition("S5P2")) == 558
    assert melting_point_K(Composition("Li3PS4")) is None
    assert melting_point_K(Composition("Ni")) == pytest.approx(1728, abs=1)


def test_refusals():
    with pytest.raises(PolicyViolationError, match="sputtering"):
        plan("LiCl", {"methods": ("sputtering",)})
    with pytest.raises(SpecError, match="Xy2"):
        SolidStatePlanner(SolidStatePlanner.Settings(stock=("Xy2",)))

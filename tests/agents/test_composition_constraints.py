"""Hard constraints: masks that look ahead allow all that obeys, and nothing else."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matterloop.agents.generator.diffusion.composition import (
    ANYTHING,
    CompositionConstraint,
    CompositionNetwork,
    CompositionSettings,
    SamplingOptions,
    is_plausible,
    sample_compositions,
)
from matterloop.agents.generator.diffusion.composition.descriptors import element_ranks
from matterloop.agents.generator.diffusion.composition.legal_moves import LegalMoves
from matterloop.agents.generator.diffusion.composition.moves import Stage, States, moves_of
from matterloop.loop.elements import parse_formula
from matterloop.loop.errors import UsageError
from matterloop.loop.spec import SearchSpace

MAX_ATOMS = 20
OX, TI, BA, PO = 8, 22, 56, 84


def _untrained(max_atoms: int = MAX_ATOMS, depth: int = 1) -> CompositionNetwork:
    """A network whose weights are random: constraints must hold whatever it thinks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = CompositionNetwork(
            CompositionSettings(width=16, depth=depth, max_atoms=max_atoms)
        )
    network.seen_elements[1:] = True
    network.seen_elements[PO] = False
    return network


NETWORK = _untrained()


@st.composite
def constraints(draw: st.DrawFn) -> CompositionConstraint:
    elements = draw(
        st.none() | st.frozensets(st.integers(1, 83), min_size=1, max_size=7), label="elements"
    )
    pool = sorted(elements) if elements else [1, OX, TI, BA, 83]
    required = draw(st.frozensets(st.sampled_from(pool), max_size=3))
    low, high = sorted(draw(st.tuples(st.integers(1, 7), st.integers(1, 7))))
    fewest, most = sorted(draw(st.tuples(st.integers(1, 24), st.integers(1, 24))))
    return CompositionConstraint(elements, required, low, high, fewest, most)


def _is_possible(constraint: CompositionConstraint) -> bool:
    available = len(constraint.elements) if constraint.elements is not None else 99
    return any(
        len(constraint.required) <= n_elements <= available and n_elements <= n_atoms
        for n_atoms in range(constraint.min_atoms, min(constraint.max_atoms, MAX_ATOMS) + 1)
        for n_elements in range(constraint.min_elements, constraint.max_elements + 1)
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(constraint=constraints(), seed=st.integers(0, 2**32), oversampling=st.integers(1, 3))
def test_every_draw_obeys_and_the_impossible_is_refused(
    constraint: CompositionConstraint, seed: int, oversampling: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    options = SamplingOptions(oversampling=oversampling)
    if not _is_possible(constraint):
        with pytest.raises(UsageError, match="No composition"):
            sample_compositions(NETWORK, 3, constraint, generator=generator, options=options)
        return
    drawn = sample_compositions(NETWORK, 12, constraint, generator=generator, options=options)
    assert len(drawn) == 12
    for composition in drawn:
        assert constraint.holds(composition)
        assert len(composition) <= MAX_ATOMS
        assert composition == tuple(sorted(composition))


def _all_sequences(legal: LegalMoves) -> list[tuple[int, ...]]:
    """Walk every legal move; fails where a state has none."""
    finished, states = [], States.start(1)
    while len(states):
        mask = legal.mask(states)
        assert mask.any(-1).all(), "a dead end"
        rows, chosen = mask.nonzero().T
        states = states[rows]
        counts = states.counts.clone()
        at_count = states.stage == Stage.COUNT
        counts[at_count.nonzero()[:, 0], states.focus[at_count]] = chosen[at_count]
        at_atoms, at_element = states.stage == Stage.ATOMS, states.stage == Stage.ELEMENT
        states = States(
            torch.where(at_element, int(Stage.COUNT), int(Stage.ELEMENT)),
            torch.where(at_atoms, chosen, states.atoms),
            counts,
            torch.where(at_element, chosen, states.focus),
        )
        done = (states.stage == Stage.ELEMENT) & (states.remaining == 0)
        numbers = torch.arange(counts.shape[1])
        finished += [
            tuple(torch.repeat_interleave(numbers, row).tolist()) for row in states.counts[done]
        ]
        states = states[~done]
    return finished


@pytest.mark.parametrize(
    "constraint",
    [
        CompositionConstraint.system("Ba", "Ti", "O"),
        CompositionConstraint.system("Ba", "Ti", "O", exact=True),
        CompositionConstraint(frozenset({1, OX, TI, BA, 79}), frozenset({TI}), 2, 3, 2, 5),
        CompositionConstraint(frozenset({1, OX, TI, BA, 79}), frozenset({1, BA}), 1, 2, 3, 6),
        CompositionConstraint(frozenset({3, 9, 11}), frozenset(), 3, 3, 5, 5),
    ],
)
def test_legal_sequences_are_the_allowed_compositions_each_once(
    constraint: CompositionConstraint,
) -> None:
    legal = LegalMoves(constraint, element_ranks(), 6)
    found = _all_sequences(legal)
    assert constraint.elements is not None
    expected = {
        composition
        for n in range(1, 7)
        for composition in combinations_with_replacement(sorted(constraint.elements), n)
        if constraint.holds(composition)
    }
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=20), min_size=1, max_size=5))
def test_the_moves_of_any_composition_are_legal_and_rebuild_it(numbers: list[list[int]]) -> None:
    compositions = [tuple(sorted(each)) for each in numbers]
    moves = moves_of(compositions, element_ranks())
    legal = LegalMoves(ANYTHING, element_ranks(), MAX_ATOMS).mask(moves.states)
    assert legal.gather(1, moves.chosen[:, None]).all()
    for index, composition in enumerate(compositions):
        mine = moves.of(torch.tensor([index]))
        at = mine.states.stage == Stage.COUNT
        pairs = zip(mine.states.focus[at].tolist(), mine.chosen[at].tolist(), strict=True)
        assert composition == tuple(sorted(e for e, n in pairs for _ in range(n)))


@given(
    elements=st.lists(
        st.sampled_from(["H", "O", "F", "Ti", "Ba", "Li", "Fe", "Au"]), min_size=2, unique=True
    ),
    low=st.integers(1, 3),
    more=st.integers(0, 3),
    atoms=st.integers(4, 20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_draws_lie_in_the_search_space(
    elements: list[str], low: int, more: int, atoms: int, seed: int
) -> None:
    low = min(low, len(elements))
    space = SearchSpace(
        elements=tuple(elements),
        required_elements=(elements[0],),
        min_elements=low,
        max_elements=low + more,
        max_atoms=atoms,
    )
    constraint = CompositionConstraint.from_search_space(space)
    generator = torch.Generator().manual_seed(seed)
    from pymatgen.core import Element

    for composition in sample_compositions(NETWORK, 10, constraint, generator=generator):
        counts: dict[str, int] = {}
        for number in composition:
            symbol = Element.from_Z(number).symbol
            counts[symbol] = counts.get(symbol, 0) + 1
        assert space.why_outside(counts) is None


def test_exact_system_and_exact_atoms() -> None:
    space = SearchSpace(chemical_system="Ba-Ti-O")
    constraint = CompositionConstraint.from_search_space(space, exact_system=True, atoms=10)
    drawn = sample_compositions(
        NETWORK, 100, constraint, generator=torch.Generator().manual_seed(0)
    )
    assert {frozenset(c) for c in drawn} == {frozenset({OX, TI, BA})}
    assert {len(c) for c in drawn} == {10}


def test_forbidden_elements_never_occur() -> None:
    space = SearchSpace(chemical_system="Ba-Ti-O", forbidden_elements=("Ti",))
    constraint = CompositionConstraint.from_search_space(space)
    drawn = sample_compositions(
        NETWORK, 100, constraint, generator=torch.Generator().manual_seed(0)
    )
    assert set().union(*drawn) == {OX, BA}


def test_formulas_are_drawn_in_whole_units_of_allowed_size() -> None:
    space = SearchSpace(formulas=("BaTiO3", "TiO2"), min_atoms=4, max_atoms=15)
    constraint = CompositionConstraint.from_search_space(space)
    drawn = sample_compositions(
        NETWORK, 300, constraint, generator=torch.Generator().manual_seed(0)
    )
    assert {len(c) for c in drawn if BA in c} == {5, 10, 15}
    assert {len(c) for c in drawn if BA not in c} <= {6, 9, 12, 15}
    assert all(constraint.holds(c) for c in drawn)
    # Equal chances for the formulas, however unlike their likelihoods: 150 +- 4 deviations.
    assert 115 < sum(BA in c for c in drawn) < 185


def test_a_formula_that_was_demanded_is_not_questioned() -> None:
    formula = CompositionConstraint.formula("Ba2O")
    assert not is_plausible((OX, BA, BA))
    options = SamplingOptions(plausible_only=True)
    drawn = sample_compositions(
        NETWORK, 5, formula, generator=torch.Generator().manual_seed(0), options=options
    )
    assert all(formula.holds(c) for c in drawn)


def test_a_formula_beyond_the_trained_size_is_left_out_and_alone_refused() -> None:
    garnet = "Li7La3Zr2O12"
    assert sum(parse_formula(garnet).values()) > MAX_ATOMS
    generator = torch.Generator().manual_seed(0)
    both = CompositionConstraint.formula(garnet, "Li2O")
    assert {frozenset(c) for c in sample_compositions(NETWORK, 20, both, generator=generator)} == {
        frozenset({3, OX})
    }
    with pytest.raises(UsageError, match="at most 20 atoms"):
        sample_compositions(NETWORK, 1, CompositionConstraint.formula(garnet), generator=generator)


def test_more_atoms_than_trained_are_cut_off_and_alone_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = CompositionConstraint(min_atoms=18, max_atoms=60)
    assert {len(c) for c in sample_compositions(NETWORK, 60, wide, generator=generator)} <= {
        18,
        19,
        20,
    }
    with pytest.raises(UsageError, match="at most 20 atoms"):
        sample_compositions(NETWORK, 1, ANYTHING.with_atoms(21), generator=generator)


def test_elements_that_training_never_saw_are_not_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    system = CompositionConstraint.system("Po", "O")
    assert set().union(*sample_compositions(NETWORK, 50, system, generator=generator)) == {OX}
    for constraint in (
        CompositionConstraint.system("Po", "O", exact=True),
        CompositionConstraint.formula("PoO2"),
    ):
        with pytest.raises(UsageError, match="training data"):
            sample_compositions(NETWORK, 1, constraint, generator=generator)


def test_contradictions_are_told() -> None:
    space = SearchSpace(chemical_system="Ba-Ti-O", max_elements=2)
    with pytest.raises(UsageError, match="max_elements"):
        CompositionConstraint.from_search_space(space, exact_system=True)
    with pytest.raises(UsageError, match="Exactly 30 atoms"):
        CompositionConstraint.from_search_space(space, atoms=30)
    with pytest.raises(UsageError, match="exclude each other"):
        CompositionConstraint.from_search_space(SearchSpace(formulas=("TiO2",)), exact_system=True)
    with pytest.raises(UsageError, match="no element 'Lr'"):
        CompositionConstraint.system("Lr", "O")
    with pytest.raises(UsageError, match="not among the allowed"):
        CompositionConstraint(elements=frozenset({OX}), required=frozenset({TI}))

"""The substitution generator: what it proposes, in what order, and that it stays in bounds."""

import time
from collections import Counter
from itertools import pairwise
from math import exp

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

from matterloop.agents.generator.ranking import SubstitutionTable, log_similarity, mendeleev_numbers
from matterloop.agents.generator.substitution import SubstitutionGenerator
from matterloop.loop.candidate import Conditions
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import canonical_json
from matterloop.loop.spec import SearchSpace

ELECTROLYTE = SearchSpace(chemical_system="Li-P-S-Cl", max_atoms=16)
ALLOY = SearchSpace(chemical_system="Ni-Al-Ti-Cr", max_atoms=16)


@pytest.fixture(scope="module")
def generator():
    return SubstitutionGenerator(SubstitutionGenerator.Settings())


def draw(generator, space, n, seed=0, scale=1.0):
    return generator.sample(n, Conditions(space), guidance_scale=scale, seed=seed)


def cell_counts(structure):
    primitive = structure.get_primitive_structure()
    return {str(k): int(v) for k, v in primitive.composition.get_el_amt_dict().items()}


def charge(candidate):
    amounts = candidate.structure.composition.get_el_amt_dict()
    return sum(q * amounts[e] for e, q in candidate.origin["oxidation_states"].items())


def test_known_solid_electrolytes_are_among_the_first_proposals(generator):
    first = {
        (c.origin["template"], c.structure.composition.reduced_formula): c.origin["rank"]
        for c in draw(generator, ELECTROLYTE, 40, scale=1000)
    }
    assert first["AB3C4_oP16_31_a_ab_2ab/Cu3AsS4", "Li3PS4"] <= 10  # gamma-Li3PS4
    assert first["AB_cF8_225_a_b/NaCl", "LiCl"] <= 5
    assert first["AB2_cF12_225_a_c/CaF2", "Li2S"] <= 40  # antifluorite


def test_the_probability_is_the_product_of_the_published_conditionals(generator):
    enargite = next(
        c
        for c in draw(generator, ELECTROLYTE, 40, scale=1000)
        if c.origin["template"].startswith("AB3C4_oP16_31_a_ab_2ab")
    )
    table = SubstitutionProbability(alpha=-5)
    pairs = (("Li+", "Cu+"), ("P5+", "As5+"), ("S2-", "S2-"))
    expected = np.prod([table.cond_prob(new, old) for new, old in pairs])
    assert enargite.origin["probability"] == pytest.approx(expected, rel=1e-9)
    assert enargite.origin["oxidation_states"] == {"Li": 1, "P": 5, "S": -2}
    assert enargite.origin["mapping"] == {"Cu": "Li", "As": "P", "S": "S"}


def test_everything_in_an_ionic_system_is_neutral_ordered_and_distinct(generator):
    everything = draw(generator, ELECTROLYTE, 10_000)
    assert len(everything) == len(generator.decorations(ELECTROLYTE)) == 670
    assert sorted(c.origin["rank"] for c in everything) == list(range(1, 671))
    chi = {"Li": 0.98, "P": 2.19, "S": 2.58, "Cl": 3.16}
    for candidate in everything:
        states = candidate.origin["oxidation_states"]
        assert charge(candidate) == 0
        assert max(chi[e] for e in states if states[e] > 0) < min(
            chi[e] for e in states if states[e] < 0
        )
        assert ELECTROLYTE.why_outside(cell_counts(candidate.structure)) is None
    canonical_json([dict(c.origin) for c in everything])
    matcher = StructureMatcher()
    salts = [
        c for c in everything if c.structure.composition.reduced_formula == "LiCl"
        and c.origin["template"] == "AB_cF8_225_a_b/NaCl"
    ]  # fmt: skip
    assert len(salts) == 1
    li3ps4 = [c.structure for c in everything if c.structure.composition.formula == "Li6 P2 S8"]
    assert not any(matcher.fit(a, b) for a, b in pairwise(li3ps4))


def test_cells_come_out_sensible(generator):
    for candidate in draw(generator, ELECTROLYTE, 10_000, scale=0):
        structure = candidate.structure
        assert 10 < structure.volume / len(structure) < 40
        assert structure.is_valid(tol=0.8)


def test_a_metallic_system_is_ranked_by_chemical_similarity(generator):
    listed = generator.decorations(ALLOY)
    assert len(listed) > 1500
    assert {d.ranking for d in listed} == {"similarity"}
    found = {(d.template.template_id, frozenset(d.elements)) for d in listed}
    assert ("AB_cP2_221_b_a/CsCl", frozenset({"Ni", "Al"})) in found  # B2
    proposals = draw(generator, ALLOY, 300, scale=1e9)
    probabilities = [c.origin["probability"] for c in proposals]
    assert probabilities == pytest.approx(sorted(probabilities, reverse=True))
    assert any(
        c.origin["template"] == "AB3_cP4_221_a_c/Cu3Au"
        and c.structure.composition.reduced_formula == "AlNi3"
        for c in proposals
    )  # gamma prime
    l12 = next(c for c in proposals if c.origin["template"] == "AB3_cP4_221_a_c/Cu3Au")
    expected = sum(log_similarity(new, old, 5.0) for old, new in l12.origin["mapping"].items())
    assert l12.origin["probability"] == pytest.approx(exp(expected))


def test_similarity_is_a_distribution_that_peaks_at_the_element_itself():
    elements = mendeleev_numbers()
    assert len(elements) == 103
    weights = {e: exp(log_similarity(e, "Ni", 5.0)) for e in elements}
    assert sum(weights.values()) == pytest.approx(1)
    assert max(weights, key=weights.get) == "Ni"
    assert weights["Pd"] > weights["Al"] > weights["Na"]


def test_the_same_seed_gives_the_same_crystals_and_another_does_not(generator):
    again = SubstitutionGenerator(SubstitutionGenerator.Settings())
    first, second = draw(generator, ELECTROLYTE, 25, seed=7), draw(again, ELECTROLYTE, 25, seed=7)
    assert [c.origin for c in first] == [c.origin for c in second]
    assert all(a.structure == b.structure for a, b in zip(first, second, strict=True))
    assert [c.origin["rank"] for c in draw(generator, ELECTROLYTE, 25, seed=8)] != [
        c.origin["rank"] for c in first
    ]
    assert generator.describe() == again.describe()


def test_draws_follow_the_probability_to_the_power_of_the_guidance_scale(generator):
    p = np.exp(generator.decorations(ELECTROLYTE).log_probabilities)
    n = 400
    for scale in (0.5, 1.0):
        weights = p**scale / (p**scale).sum()
        firsts = Counter(
            draw(generator, ELECTROLYTE, 1, seed=s, scale=scale)[0].origin["rank"] for s in range(n)
        )
        for rank in (1, 2, 7):
            expected = weights[rank - 1]
            # Five standard deviations of a binomial count.
            assert abs(firsts[rank] / n - expected) < 5 * np.sqrt(expected * (1 - expected) / n)


def test_formulas_are_kept_to_exactly(generator):
    space = SearchSpace(formulas=("Li3PS4", "LiCl", "Fe", "NiAl"), max_atoms=16)
    formulas = Counter(
        c.structure.composition.reduced_formula for c in draw(generator, space, 10_000)
    )
    assert set(formulas) == {"Li3PS4", "LiCl", "Fe", "AlNi"}


def test_pure_elements_come_only_when_asked_for(generator):
    assert all(len(d.elements) > 1 for d in generator.decorations(ELECTROLYTE))
    willing = SubstitutionGenerator(SubstitutionGenerator.Settings(pure_elements=True))
    kinds = Counter(len(d.elements) for d in willing.decorations(ELECTROLYTE))
    assert kinds[1] > 100
    only = SearchSpace(chemical_system="Li-P-S-Cl", max_elements=1)
    assert draw(generator, only, 5)


def test_metalloids_form_alloys_only_when_asked_for(generator):
    space = SearchSpace(chemical_system="Ni-B", max_atoms=12)
    default = {d.ranking for d in generator.decorations(space)}
    willing = SubstitutionGenerator(SubstitutionGenerator.Settings(metalloid_alloys=True))
    found = [d for d in willing.decorations(space) if d.ranking == "similarity"]
    assert "similarity" not in default
    assert len(found) > 50


SYMBOLS = st.sampled_from(["Li", "Na", "Mg", "Al", "Fe", "Ti", "P", "S", "O", "Cl", "C", "He"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    elements=st.lists(SYMBOLS, min_size=2, max_size=5, unique=True),
    data=st.data(),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_proposal_leaves_the_search_space(generator, elements, data, seed):
    low = data.draw(st.integers(1, 8))
    few = data.draw(st.integers(1, min(3, len(elements))))
    space = SearchSpace(
        elements=tuple(elements),
        required_elements=tuple(data.draw(st.sampled_from(([], elements[:1])))),
        min_atoms=low,
        max_atoms=max(low, few) + data.draw(st.integers(0, 12)),
        min_elements=few,
        max_elements=few + data.draw(st.integers(0, 3)),
    )
    for candidate in draw(generator, space, 8, seed=seed, scale=0.3):
        assert space.why_outside(cell_counts(candidate.structure)) is None


@pytest.mark.timeout(120)
def test_twenty_elements_stay_tractable(generator):
    names = "Li Na K Mg Ca Al Si P S O F Cl Br Zn Fe Ti Zr Y La Ge".split()
    space = SearchSpace(elements=tuple(names), max_atoms=20)
    start = time.process_time()
    proposals = draw(generator, space, 32)
    assert time.process_time() - start < 30
    assert len(proposals) == 32


def test_nothing_to_propose_and_wrong_calls(generator, tmp_path):
    assert draw(generator, SearchSpace(chemical_system="He-Ne"), 5) == []
    assert draw(generator, ELECTROLYTE, 0) == []
    with pytest.raises(UsageError, match="guidance scale -1"):
        draw(generator, ELECTROLYTE, 1, scale=-1)
    with pytest.raises(UsageError, match="no templates"):
        SubstitutionGenerator(SubstitutionGenerator.Settings(aflow=False))


def test_templates_and_settings_enter_the_hash(generator, tmp_path):
    proposal = draw(generator, ELECTROLYTE, 1, scale=1000)[0].structure
    (tmp_path / "own.cif").write_text(proposal.to(fmt="cif"))
    own = SubstitutionGenerator(
        SubstitutionGenerator.Settings(aflow=False, templates=(str(tmp_path / "own.cif"),))
    )
    decay = SubstitutionGenerator(SubstitutionGenerator.Settings(similarity_decay=3))
    hashes = {g.describe().sha256 for g in (generator, own, decay)}
    assert len(hashes) == 3
    assert {c.origin["template"] for c in draw(own, ELECTROLYTE, 100)} == {"own"}


def test_ions_of_the_table_and_the_common_ones_are_offered():
    table = SubstitutionTable()
    assert {q for _, q in table.ions("P")} >= {-3, 3, 5}
    assert table.ions("He") == ()
    assert table.log_conditional(("Li", 1), None) < table.log_conditional(("Li", 1), ("Na", 1))

"""Formulas, read without a materials library; pymatgen is the judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from matterloop.loop.elements import SYMBOLS, parse_formula, reduced_counts


def test_all_elements_are_known():
    assert {element.symbol for element in Element} - {"D", "T"} == SYMBOLS


@given(
    st.dictionaries(st.sampled_from(sorted(SYMBOLS)), st.integers(1, 30), min_size=1, max_size=6)
)
def test_parsing_agrees_with_pymatgen(counts):
    formula = "".join(f"{element}{n}" for element, n in counts.items())
    assert parse_formula(formula) == counts
    assert Composition(formula).get_el_amt_dict() == counts
    reduced = Composition(formula).reduced_composition.get_el_amt_dict()
    assert reduced_counts(counts) == reduced or len(counts) == 1


def test_brackets_multiply():
    assert parse_formula("Ca3(PO4)2") == {"Ca": 3, "P": 2, "O": 8}


@pytest.mark.parametrize("text", ["", "li", "Xx2", "Li(", "Li)2", "Li0", "Li-S", "2Li", "Li2.5S"])
def test_what_is_no_formula(text):
    with pytest.raises(ValueError, match="formula"):
        parse_formula(text)

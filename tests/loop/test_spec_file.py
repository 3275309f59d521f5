"""Campaign files: what is read, and what a wrong one is told."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.errors import SpecError, UsageError
from matterloop.loop.examples import example_files
from matterloop.loop.spec_file import dump_spec, load_spec, parse_spec

MINIMAL = """
name: salts
search_space: {chemical_system: Na-Cl}
objectives:
  - {property: density, goal: minimise}
budget: {cycles: 2}
characterizers: [virtual-pycnometer]
"""


def test_minimal_campaign_gets_defaults():
    spec = parse_spec(MINIMAL)
    assert spec.search_space.allowed_elements == ("Na", "Cl")
    assert (spec.generator.name, spec.potential.name) == ("diffusion", "chgnet")
    assert spec.seed == 0


@pytest.mark.parametrize("name", example_files())
def test_examples_are_valid_and_survive_a_round_trip(name):
    spec = load_spec(example_files()[name])
    assert parse_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    ("change", "field", "value", "allowed"),
    [
        ("budget: {cycles: 0}", "budget.cycles", "got 0", "greater than or equal to 1"),
        ("budget: {cycles: two}", "budget.cycles", "got 'two'", "whole number"),
        ("name: a b", "name", "got 'a b'", "pattern"),
        ("search_space: {chemical_system: Na-Xx}", "search_space", "Xx", "chemical elements"),
        ("search_space: {formulas: [NaCl2O0]}", "search_space.formulas", "NaCl2O0", "formula"),
        ("search_space: {}", "search_space", "none", "exactly one of chemical_system"),
        ("batch_sise: 3", "batch_sise", "no such field", "did you mean 'batch_size'"),
        ("objectives: [{property: mass, goal: minimise}]", "property", "'mass'", "known are"),
        ("objectives: [{property: density, goal: most}]", "goal", "'most'", "'maximise'"),
        ("objectives: [{property: density, goal: target}]", "objectives.0", "target", "tolerance"),
        ("constraints: [{property: density}]", "constraints.0", "at_most", "at_least"),
        ("conditions: {temperature_K: [900, 300]}", "conditions", "900", "ascending"),
        ("seed: -1", "seed", "got -1", "greater than or equal to 0"),
        ("control_arms: [{name: main, selector: random}]", "control_arms", "'main'", "differ"),
    ],
)
def test_wrong_file_names_field_value_and_what_is_allowed(change, field, value, allowed):
    document = yaml.safe_load(MINIMAL) | yaml.safe_load(change)
    with pytest.raises(SpecError) as caught:
        parse_spec(yaml.safe_dump(document), source="aim.yaml")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("aim.yaml is not a valid campaign file")
    for part in (field, value, allowed):
        assert part in message


def test_the_line_of_the_mistake_is_named():
    text = MINIMAL.replace("budget: {cycles: 2}", "budget:\n  cycles: many")
    with pytest.raises(SpecError, match=r"line 7: budget.cycles: got 'many'"):
        parse_spec(text)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL.replace("cycles: 2", "cycles: 0").replace("salts", "two words"))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing"),
        ("- a\n- b", "holds a list"),
        ("name: [", "line"),
        (MINIMAL + "name: again\n", "'name' is given twice"),
        ("? [1, 2]\n: 3", "line 1, column 3: the name of a field must be a plain word"),
    ],
)
def test_what_is_no_campaign_at_all(text, message):
    with pytest.raises(SpecError, match=message):
        parse_spec(text)


def test_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read .*No such file") as caught:
        load_spec(tmp_path / "absent.yaml")
    assert "matterloop init" in str(caught.value)


def test_paths_in_a_file_are_relative_to_the_file(tmp_path):
    file = tmp_path / "aims" / "salts.yaml"
    file.parent.mkdir()
    file.write_text(MINIMAL + "reference_structures: [known.csv]\n")
    assert load_spec(file).reference_structures == (str(tmp_path / "aims" / "known.csv"),)


@given(st.text(max_size=200))
def test_no_text_leads_to_anything_but_a_spec_error(text):
    with pytest.raises(SpecError):
        parse_spec(text)


def test_specification_is_frozen_and_hashed_by_content(tmp_path: Path):
    spec = parse_spec(MINIMAL)
    assert spec.sha256 == parse_spec(MINIMAL).sha256
    other = parse_spec(MINIMAL.replace("cycles: 2", "cycles: 3"))
    assert spec.sha256 != other.sha256
    assert spec.changed_fields(other) == {"budget": "budget"}
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 3

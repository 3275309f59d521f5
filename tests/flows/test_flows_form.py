"""The form of the Prefect UI: what it offers, what it becomes, what wrong input is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.exceptions import ParameterTypeError

from matterloop.flows import form
from matterloop.flows.campaign import discovery_campaign
from matterloop.flows.form import Changes, spec_of
from matterloop.loop.errors import ConflictError, SpecError, UsageError
from matterloop.loop.examples import example_files
from matterloop.loop.open_campaign import enter
from matterloop.loop.spec_file import load_spec

EXAMPLE = load_spec(example_files()["li-p-s-cl"])


def parameters():
    return discovery_campaign.parameters.model_dump()["properties"]


def test_every_field_has_a_title_a_description_and_one_plain_type():
    assert [field["title"] for field in parameters().values()] == [
        "Name",
        "Campaign file",
        "Chemical system",
        "Cycles",
        "Experiments",
        "Batch size",
        "Candidates per cycle",
        "Seed",
    ]
    for field in parameters().values():
        assert field["description"].endswith(".")
        assert field["type"] in ("string", "integer")
    assert discovery_campaign.parameters.required == ["name"]


def test_counts_have_bounds():
    for name in ("cycles", "experiments", "batch_size", "candidates_per_cycle"):
        field = parameters()[name]
        assert (field["minimum"], field["maximum"]) == (1, form.MOST)
    assert parameters()["seed"]["minimum"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../up"},
        {"name": ""},
        {"name": "a", "cycles": 0},
        {"name": "a", "batch_size": form.MOST + 1},
        {"name": "a", "seed": -1},
        {"name": "a", "experiments": "many"},
    ],
)
def test_values_out_of_bounds_are_refused(wrong):
    with pytest.raises(ParameterTypeError, match=list(wrong)[-1]):
        discovery_campaign.validate_parameters(wrong)


def test_a_name_alone_means_the_campaign_that_the_ledger_holds(ledger_engine):
    enter(ledger_engine, EXAMPLE)
    assert spec_of(ledger_engine, "li-p-s-cl", None, Changes()) == EXAMPLE


def test_an_unknown_name_without_a_file_is_told_what_to_fill_in(ledger_engine):
    with pytest.raises(UsageError, match=r"no campaign 'gold'.*fill in the field Campaign file"):
        spec_of(ledger_engine, "gold", None, Changes())


def test_a_file_under_another_name_with_changes(ledger_engine):
    changes = Changes("Li-S-Cl", 2, 9, 3, 11, 5)
    spec = spec_of(ledger_engine, "mine", "li-p-s-cl", changes)
    assert spec.name == "mine"
    assert spec.search_space.chemical_system == "Li-S-Cl"
    assert spec.search_space.required_elements == EXAMPLE.search_space.required_elements
    assert (spec.budget.cycles, spec.budget.experiments) == (2, 9)
    assert (spec.batch_size, spec.generator.candidates_per_cycle, spec.seed) == (3, 11, 5)
    assert spec.objectives == EXAMPLE.objectives


def test_required_elements_that_leave_the_system_are_dropped(ledger_engine):
    spec = spec_of(ledger_engine, "mine", "li-p-s-cl", Changes(chemical_system="Na-Cl"))
    assert spec.search_space.required_elements == ()


def test_a_path_is_read_and_a_wrong_one_is_named(ledger_engine, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(example_files()["li-p-s-cl"].read_text())
    assert spec_of(ledger_engine, "li-p-s-cl", str(own), Changes()) == EXAMPLE
    with pytest.raises((UsageError, SpecError), match=r"missing\.yaml"):
        spec_of(ledger_engine, "mine", str(tmp_path / "missing.yaml"), Changes())


@given(
    st.text(st.sampled_from("LiPSCl-xQ19 "), min_size=1, max_size=12).filter(
        lambda text: not {*text.split("-")} <= {"Li", "P", "S", "Cl", "C", "I"}
    )
)
def test_a_wrong_chemical_system_is_told_in_words(system):
    with pytest.raises(UsageError, match="search_space") as raised:
        form.changed(EXAMPLE, "mine", Changes(chemical_system=system))
    assert raised.value.exit_code == 2
    assert "pydantic" not in str(raised.value)


def test_only_the_budget_of_a_known_campaign_may_change(ledger_engine):
    first = enter(ledger_engine, EXAMPLE)
    richer = spec_of(ledger_engine, "li-p-s-cl", "li-p-s-cl", Changes(cycles=9, experiments=99))
    assert enter(ledger_engine, richer) == first
    other = spec_of(ledger_engine, "li-p-s-cl", "li-p-s-cl", Changes(seed=1))
    with pytest.raises(ConflictError, match=r"another (budget, )?seed"):
        enter(ledger_engine, other)

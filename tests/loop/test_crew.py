"""What is refused before anything starts: campaigns that their instruments cannot serve."""

import pytest
from report_ledger import spec

from matterloop.adapters.virtual_lab.press import VirtualPress
from matterloop.loop.crew import assemble
from matterloop.loop.errors import PluginFailedError, SpecError


def test_instruments_must_take_the_crystals_that_the_search_space_allows(tmp_path):
    demanding = spec(
        conditions={"temperature_K": [2000, 2500], "methods": ["hydrothermal"]},
        synthesizer={"name": "virtual-furnace", "settings": {"elements": ["Li", "S", "Cl"]}},
        characterizers=[
            {"name": "virtual-calorimeter", "settings": {"max_atoms": 8}},
            "virtual-pycnometer",
        ],
    )
    with pytest.raises(SpecError) as refused:
        assemble(demanding, tmp_path, 1)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "characterizers",
        "synthesizer",
        "conditions.temperature_K",
        "search_space",
        "search_space.max_atoms",
    ]
    text = str(refused.value)
    assert "none of them measures 'bulk_modulus'" in text
    assert "'virtual-furnace' does not handle P" in text
    assert "16 is more than the 8 atoms that 'virtual-calorimeter' takes" in text


def test_an_instrument_that_cannot_describe_itself_is_named(tmp_path, monkeypatch):
    def describe(self):
        raise OSError("no answer from /dev/press")

    monkeypatch.setattr(VirtualPress, "describe", describe)
    with pytest.raises(PluginFailedError, match=r"'virtual-press' of group .*no answer from /dev"):
        assemble(spec(), tmp_path, 1)

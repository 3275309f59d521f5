"""Policies review a choice in place of a person, or leave it to one."""

import pytest

from matterloop.loop import plugins
from matterloop.loop.errors import SpecError

CHOICE = {"formula": "Li3PS4", "rank": 1}


def test_auto_approve_lets_every_choice_pass():
    verdict, reason = plugins.build("policies", "auto-approve", {}, None).review(CHOICE)
    assert verdict == "approved"
    assert reason


def test_auto_approve_vetoes_forbidden_elements_with_the_reason():
    policy = plugins.build("policies", "auto-approve", {"forbidden_elements": ["P", "Hg"]}, None)
    assert policy.review(CHOICE) == ("vetoed", "Li3PS4 holds P")
    assert policy.review({"formula": "LiCl"})[0] == "approved"


def test_hold_decides_nothing():
    assert plugins.build("policies", "hold", {}, None).review(CHOICE) is None


@pytest.mark.parametrize("name", ["auto-approve", "hold"])
def test_unknown_settings_are_refused(name):
    with pytest.raises(SpecError, match="mood"):
        plugins.build("policies", name, {"mood": "good"}, None)

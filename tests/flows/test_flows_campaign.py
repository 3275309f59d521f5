"""The flow on a real Prefect server: its states, its tasks, its artifacts, its messages."""

import os
from unittest.mock import patch

import pytest
import yaml
from flows_processes import SALTS
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from matterloop.flows.artifacts import artifact_key
from matterloop.flows.campaign import discovery_campaign
from matterloop.flows.settings import FlowSettings
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign
from matterloop.loop.open_campaign import find
from matterloop.loop.workplace import default_ledger, open_ledger


@pytest.fixture(scope="module")
def settings(tmp_path_factory, prefect_server):
    """A folder for campaigns, and everything set as in the process of a served flow."""
    folder = tmp_path_factory.mktemp("campaigns")
    chosen = FlowSettings(
        default_ledger(folder), folder, 1, reports_url=f"{prefect_server.url}/reports"
    )
    with (
        patch.dict(os.environ),
        temporary_settings(
            {
                PREFECT_API_URL: prefect_server.api_url,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # its thread is joined for a second
                PREFECT_LOGGING_TO_API_ENABLED: False,  # its last lines come after the server
            }
        ),
    ):
        chosen.export()
        yield chosen


def campaign_file(settings, **changes):
    file = settings.folder / f"{changes['name']}.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(SALTS), **changes}))
    return str(file)


def run(settings, **changes):
    name = changes["name"]
    return discovery_campaign(
        name=name, campaign_file=campaign_file(settings, **changes), return_state=True
    )


def ledger_state(settings, name):
    with open_ledger(settings.ledger) as engine, reading(engine) as session:
        return session.get_one(Campaign, find(engine, name)).state


@pytest.fixture(scope="module")
def finished(settings):
    return run(settings, name="salts")


def test_a_campaign_ends_completed_with_its_report(settings, finished):
    page = settings.folder / "salts" / "report.html"
    assert finished.is_completed()
    assert finished.message == f"Report: {page}"
    assert "salts" in page.read_text(encoding="utf-8")
    assert ledger_state(settings, "salts") == "finished"


def test_the_run_bears_the_name_of_its_campaign(finished):
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(finished.state_details.flow_run_id)
    assert run.name == "salts"
    assert run.parameters["name"] == "salts"


def test_artifacts_show_the_batch_and_lead_to_the_report(settings, finished):
    with get_client(sync_client=True) as client:
        found = {
            artifact["key"]: artifact
            for artifact in client.request(
                "POST",
                "/artifacts/filter",
                json={
                    "artifacts": {
                        "flow_run_id": {"any_": [str(finished.state_details.flow_run_id)]}
                    }
                },
            ).json()
        }
    assert set(found) == {"salts-cycle", "salts-report"}
    table = found["salts-cycle"]["data"]
    assert table.startswith("## Cycle 1 of 1\n")
    head, rule, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert head == "| arm | rank | formula | made | density (g/cm^3) | why chosen |"
    assert rule.count("---") == 6
    assert len(rows) == 1
    assert rows[0].startswith("| main | 1 | ")
    assert f"({settings.reports_url}/salts)" in found["salts-report"]["data"]


def test_a_finished_campaign_runs_again_from_its_name_alone(settings, finished):
    again = discovery_campaign(name="salts", return_state=True)
    assert again.is_completed()
    assert again.message == finished.message


def test_a_batch_on_hold_ends_the_run_as_waiting(settings):
    state = run(settings, name="held", approval="hold")
    assert (state.is_completed(), state.name) == (True, "Waiting")
    assert "matterloop review held" in state.message
    assert ledger_state(settings, "held") == "waiting"


def test_a_spent_budget_fails_the_run_with_its_message(settings):
    state = run(settings, name="poor", budget={"cycles": 1, "cost": 1})
    assert state.is_failed()
    assert state.message.startswith("The campaign's budget of cost is spent: 0 used")
    assert ledger_state(settings, "poor") == "stopped"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "unheard-of"}, "fill in the field Campaign file"),
        (
            {"name": "qq", "campaign_file": "li-p-s-cl", "chemical_system": "Li-Qq"},
            "search_space: not chemical elements: 'Qq'",
        ),
    ],
)
def test_a_wrong_form_fails_the_run_with_its_message(settings, wrong, message):
    state = discovery_campaign(**wrong, return_state=True)
    assert state.is_failed()
    assert message in state.message
    assert "Traceback" not in state.message


@pytest.mark.parametrize(
    ("words", "key"),
    [(("Li P_S", "cycle"), "li-p-s-cycle"), (("--A..b--", 3), "a-b-3")],
)
def test_artifact_keys_have_the_form_that_prefect_accepts(words, key):
    assert artifact_key(*words) == key

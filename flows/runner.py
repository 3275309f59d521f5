"""Running a campaign as a Prefect flow inside this process, for the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from matterloop.flows.local_server import LocalServer, quiet_environment
from matterloop.flows.settings import FlowSettings
from matterloop.loop.errors import MatterloopError

if TYPE_CHECKING:
    from pathlib import Path

    from matterloop.flows.campaign import Watcher


def run_campaign(
    name: str, *, ledger: str, folder: Path, workers: int, looker_on: Watcher | None = None
) -> str:
    """Run the campaign `name` of the ledger to its end and return the path of its report.

    A server named by ``PREFECT_API_URL`` is used, so that the run is seen there. Without one a
    private server runs as long as this call.

    Raises
    ------
    MatterloopError
        What ended the campaign before its end; the ledger says where it stands.
    """
    FlowSettings(ledger, folder, workers).export()
    home = folder / ".prefect"
    # Prefect reads most settings at its import, which therefore comes after this.
    for variable, value in quiet_environment(home).items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    if os.environ.get("PREFECT_API_URL"):
        return _run(name, looker_on)
    with LocalServer(home) as server:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: server.api_url}):
            return _run(name, looker_on)


def _run(name: str, looker_on: Watcher | None) -> str:
    from prefect.client.schemas.objects import State

    from matterloop.flows.campaign import Watcher, discovery_campaign, watcher
    from matterloop.flows.form import CampaignForm

    token = watcher.set(looker_on or Watcher())
    try:
        state = discovery_campaign(CampaignForm(name=name), return_state=True)
    finally:
        watcher.reset(token)
    assert isinstance(state, State)
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    if not isinstance(outcome, str):
        raise MatterloopError(f"The campaign's flow ended as {state.name}: {state.message}.")
    return outcome

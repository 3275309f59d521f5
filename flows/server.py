"""``matterloop up``: a Prefect server on this machine, with the flows served from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from matterloop.flows.local_server import LocalServer, quiet_environment
from matterloop.flows.settings import FlowSettings
from matterloop.loop.workplace import open_ledger, writable_folder


def serve(
    *,
    ledger: str,
    folder: Path,
    workers: int,
    host: str,
    port: int,
    announce: Callable[[str], None],
) -> None:
    """Serve the flows until interrupted; `announce` gets the address of the pages.

    The server named by ``PREFECT_API_URL`` is used if there is one.
    """
    settings = FlowSettings(ledger, writable_folder(folder), workers)
    with open_ledger(ledger):
        pass  # migrated, or refused with a clear message before anything starts
    settings.export()
    home = folder / ".prefect"
    for variable, value in quiet_environment(home).items():
        os.environ.setdefault(variable, value)
    # Otherwise a run waits up to ten seconds before it is picked up.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    existing = os.environ.get("PREFECT_API_URL")
    if existing:
        _serve_flows(existing, announce)
        return
    with LocalServer(home, host=host, port=port, user_interface=True) as server:
        os.environ["PREFECT_API_URL"] = server.api_url
        _serve_flows(server.api_url, announce)


def _serve_flows(api_url: str, announce: Callable[[str], None]) -> None:
    from prefect import serve as serve_deployments
    from prefect.deployments.runner import RunnerDeployment

    from matterloop.flows.campaign import discovery_campaign

    deployment = discovery_campaign.to_deployment(
        name="discovery-campaign",
        description="Start a discovery campaign from a form.",
        parameters={"form": {"name": "li-p-s-cl", "campaign_file": "li-p-s-cl"}},
        tags=["matterloop"],
    )
    assert isinstance(deployment, RunnerDeployment)
    announce(api_url.removesuffix("/api"))
    serve_deployments(deployment, print_starting_message=False)

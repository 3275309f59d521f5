"""Running a campaign as a Prefect flow inside this process, for the command line."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

from matterloop.flows.local_server import LocalServer, quiet_environment
from matterloop.flows.settings import FlowSettings
from matterloop.loop.errors import MatterloopError

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.schemas.objects import State

    from matterloop.flows.watching import Watcher

MOST_AT_ONCE = 64
"""Private servers beside each other in one folder."""


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
    # The terminal shows what the watcher says; the server of others gets the log.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with ExitStack() as stack:
        api_url = os.environ.get("PREFECT_API_URL")
        if not api_url:
            os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
            homes = (home / f"run-{number}" for number in range(1, MOST_AT_ONCE + 1))
            api_url = stack.enter_context(LocalServer(homes)).api_url
        return _run(name, api_url, looker_on)


def _run(name: str, api_url: str, looker_on: Watcher | None) -> str:
    import httpx
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from matterloop.flows import watching
    from matterloop.flows.campaign import discovery_campaign

    if looker_on is not None:
        watching.look_on(looker_on)
    try:
        with temporary_settings({PREFECT_API_URL: api_url}):
            state = cast("State[Any]", discovery_campaign(name=name, return_state=True))
    except httpx.TransportError as error:
        raise MatterloopError(
            f"The Prefect server at {api_url} does not answer: {error}.",
            "a running server",
            "run the same command again; it goes on where this one ended",
        ) from None
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    if not isinstance(outcome, str):
        raise MatterloopError(f"The campaign's flow ended as {state.name}: {state.message}.")
    return outcome

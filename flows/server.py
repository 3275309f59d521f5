"""``matterloop up``: a Prefect server on this machine, with the flow served from it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from matterloop.flows.local_server import LocalServer, quiet_environment
from matterloop.flows.settings import FlowSettings
from matterloop.loop.errors import UsageError
from matterloop.loop.workplace import open_ledger, writable_folder

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.deployments.runner import RunnerDeployment

LOST = (
    "The server ended while this campaign ran. Nothing is lost: run it again under the same name,"
    " and it goes on where it stands."
)

FINE_TUNE_CRON = "0 3 * * *"
"""Every night at three, UTC."""


def serve(
    *,
    ledger: str,
    folder: Path,
    workers: int,
    host: str,
    port: int,
    announce: Callable[[str], None],
    fine_tune_cron: str = FINE_TUNE_CRON,
) -> None:
    """Serve the flows until SIGINT or SIGTERM; `announce` gets the address of the pages.

    The server named by ``PREFECT_API_URL`` is used if there is one.

    Parameters
    ----------
    fine_tune_cron
        When generators learn outside of their campaigns' cycles, as a cron expression in UTC;
        empty: only when a person starts it.

    Raises
    ------
    MatterloopError
        If the ledger, the folder or the port cannot be used; if the cron expression is wrong.
    """
    if fine_tune_cron and len(fine_tune_cron.split()) != 5:
        raise _wrong_cron(fine_tune_cron)
    writable_folder(folder)
    with open_ledger(ledger):
        pass  # migrated, or refused with a clear message before anything starts
    home = folder / ".prefect"
    for variable, value in quiet_environment(home).items():
        os.environ.setdefault(variable, value)
    # Otherwise a run waits up to ten seconds before it is picked up.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    with ExitStack() as stack:
        api_url, reports_url = os.environ.get("PREFECT_API_URL"), ""
        private = not api_url
        if not api_url:
            server = LocalServer([home / "up"], host=host, port=port, reports=folder)
            stack.enter_context(server)
            os.environ["PREFECT_API_URL"] = api_url = server.api_url
            reports_url = f"{server.url}/reports"
        FlowSettings(ledger, folder, workers, os.getpid(), reports_url).export()
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(
                _serve(
                    lambda: announce(api_url.removesuffix("/api")),
                    private=private,
                    fine_tune_cron=fine_tune_cron,
                )
            )


async def _serve(announce: Callable[[], None], *, private: bool, fine_tune_cron: str) -> None:
    from prefect.runner import Runner

    loop = asyncio.get_running_loop()
    stop = cast("asyncio.Task[None]", asyncio.current_task()).cancel

    class ServingRunner(Runner):
        def handle_sigterm(self, *_: Any) -> None:
            # As on Ctrl-C. Prefect's own handler leaves runs behind as if they still ran.
            loop.call_soon_threadsafe(stop)

    runner = ServingRunner(name="matterloop", pause_on_shutdown=False)
    served = [
        await runner.aadd_deployment(deployment)
        for deployment in (await _campaigns(), await fine_tuning_deployment(fine_tune_cron))
    ]
    if private:
        await _give_up_lost_runs(served)
    announce()
    try:
        await runner.start()
    finally:
        if private:
            await _give_up_lost_runs(served)


async def _campaigns() -> RunnerDeployment:
    from prefect.types.entrypoint import EntrypointType

    from matterloop.flows.campaign import discovery_campaign

    deployment = await discovery_campaign.ato_deployment(
        name="discovery-campaign",
        description="Start a discovery campaign from a form.",
        parameters={"name": "li-p-s-cl", "campaign_file": "li-p-s-cl"},
        tags=["matterloop"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    for field in deployment._parameter_openapi_schema.properties.values():
        # The pages would send it for an empty field, and refuse it as "not of type integer".
        field.pop("default", None)
    return deployment


async def fine_tuning_deployment(cron: str) -> RunnerDeployment:
    """Return the deployment ``fine-tune-generator``; without a schedule if `cron` is empty.

    Raises
    ------
    UsageError
        If `cron` is no cron expression.
    """
    from prefect.types.entrypoint import EntrypointType

    from matterloop.flows.fine_tuning import fine_tune_generator

    try:
        deployment = await fine_tune_generator.ato_deployment(
            name="fine-tune-generator",
            description="Let generators learn from what their campaigns measured.",
            cron=cron or None,
            tags=["matterloop"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except ValueError:  # what Prefect raises for a field that is none
        raise _wrong_cron(cron) from None
    # See `_campaigns`.
    deployment._parameter_openapi_schema.properties["campaign"].pop("default", None)
    return deployment


def _wrong_cron(expression: str) -> UsageError:
    return UsageError(
        f"{expression!r} is no cron expression.",
        "five fields: minute, hour, day, month, weekday, such as '0 3 * * *'",
        "correct --fine-tune-cron, or leave it empty for no schedule",
    )


async def _give_up_lost_runs(deployment_ids: list[UUID]) -> None:
    """Mark runs as crashed that seem to run although the process is gone that ran them.

    Only right on a server of our own, where this process is the only one that runs flows.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    busy = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=busy)),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=deployment_ids)),
        )
        for run in runs:
            await client.set_flow_run_state(run.id, Crashed(message=LOST), force=True)

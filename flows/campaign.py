"""The flow ``discovery-campaign``: one flow run per campaign, its stages as tasks.

No ``from __future__ import annotations`` here: Prefect resolves the parameters' types when the flow
is served, and string annotations of pydantic types fail there.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from matterloop.flows.artifacts import publish_cycle
from matterloop.flows.form import CampaignForm, spec_of
from matterloop.flows.settings import FlowSettings
from matterloop.loop.driving import drive
from matterloop.loop.errors import MatterloopError, WaitingForPersonError
from matterloop.loop.open_campaign import OpenCampaign, StageReport, enter
from matterloop.loop.report import write_report
from matterloop.loop.stages import STAGES
from matterloop.loop.workplace import campaign_folder, open_ledger, report_path


class Watcher:
    """Who looks on while a campaign runs in this process; the command line shows progress bars."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Hear that `done` of `total` are through."""

    def stage(self, cycle: int, report: StageReport) -> None:
        """Hear what a stage did."""


watcher: ContextVar[Watcher] = ContextVar("watcher")


@task(
    name="stage",
    task_run_name="cycle {cycle} · {stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_stage(campaign: Any, stage: str, cycle: int) -> Any:
    """Run one stage; an error raised on purpose becomes a failed state without a traceback."""
    try:
        report = STAGES[stage](campaign, cycle)
    except WaitingForPersonError as error:
        return Completed(name="Waiting", message=str(error), data=error)
    except MatterloopError as error:
        return Failed(message=str(error), data=error)
    get_run_logger().info("cycle %d · %s: %s", cycle, stage, report.summary)
    watcher.get(Watcher()).stage(cycle, report)
    return report


def as_task(campaign: OpenCampaign) -> Callable[[str, int], StageReport]:
    """Return how `drive` executes a stage inside a flow run."""

    def run(stage: str, cycle: int) -> StageReport:
        state = run_stage(campaign, stage, cycle, return_state=True)
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, BaseException):
            raise outcome
        if not isinstance(outcome, StageReport):
            raise MatterloopError(f"The stage {stage!r} ended as {state.name}: {state.message}.")
        return outcome

    return run


@flow(
    name="discovery-campaign",
    flow_run_name="{form.name}",
    description="Generate, screen, select, synthesize, characterize and learn, cycle by cycle.",
    persist_result=False,
)
def discovery_campaign(form: CampaignForm) -> Any:
    """Run a campaign to its end; a campaign of that name in the ledger goes on where it stands."""
    logger = get_run_logger()
    settings = FlowSettings.from_environment()
    try:
        with open_ledger(settings.ledger) as engine:
            spec = spec_of(engine, form)
            campaign_id = enter(engine, spec)
            folder = campaign_folder(settings.folder, spec.name)
            with OpenCampaign(
                engine,
                campaign_id,
                folder,
                workers=settings.workers,
                progress=watcher.get(Watcher()).progress,
            ) as campaign:
                page = report_path(settings.folder, spec.name)

                def after_cycle(cycle: int) -> None:
                    with campaign.view() as session:
                        write_report(session, campaign.id, page, hull=campaign.crew.workshop.hull)
                    publish_cycle(campaign, cycle, page)

                try:
                    drive(campaign, as_task(campaign), after_cycle)
                finally:
                    with campaign.view() as session:
                        write_report(session, campaign.id, page, hull=campaign.crew.workshop.hull)
                logger.info("the report is at %s", page)
    except WaitingForPersonError as error:
        return Completed(name="Waiting", message=str(error), data=error)
    except MatterloopError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"report: {page}", data=str(page))

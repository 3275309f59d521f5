"""The flow ``discovery-campaign``: one flow run per campaign, its stages as tasks.

No ``from __future__ import annotations`` here: Prefect resolves the parameters' types when the flow
is served, and string annotations of pydantic types fail there.
"""

import logging
from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from matterloop.flows import form, lifeline, watching
from matterloop.flows.artifacts import publish_cycle
from matterloop.flows.settings import FlowSettings
from matterloop.loop.driving import drive
from matterloop.loop.errors import MatterloopError, WaitingForPersonError
from matterloop.loop.open_campaign import OpenCampaign, StageReport, enter
from matterloop.loop.report import write_report
from matterloop.loop.stages import STAGES
from matterloop.loop.workplace import campaign_folder, open_ledger, report_path


@task(
    name="stage",
    task_run_name="cycle {cycle} · {stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_stage(campaign: Any, stage: str, cycle: int) -> Any:
    """Run one stage; an error raised on purpose becomes a state, without a traceback."""
    try:
        report = STAGES[stage](campaign, cycle)
    except MatterloopError as error:
        return ended(error)
    get_run_logger().info("cycle %d · %s: %s", cycle, stage, report.summary)
    watching.present().stage(cycle, report)
    return Completed(message=report.summary, data=report)


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
    flow_run_name="{name}",
    description="Generate, screen, select, synthesize, characterize and learn, cycle by cycle.",
    persist_result=False,
)
def discovery_campaign(
    name: form.Name = form.NAME,
    campaign_file: form.Text = form.CAMPAIGN_FILE,
    chemical_system: form.Text = form.CHEMICAL_SYSTEM,
    cycles: form.Count = form.CYCLES,
    experiments: form.Count = form.EXPERIMENTS,
    batch_size: form.Count = form.BATCH_SIZE,
    candidates_per_cycle: form.Count = form.CANDIDATES_PER_CYCLE,
    seed: form.Seed = form.SEED,
) -> Any:
    """Run a campaign to its end; a campaign of that name in the ledger goes on where it stands."""
    logger = get_run_logger()
    changes = form.Changes(
        chemical_system, cycles, experiments, batch_size, candidates_per_cycle, seed
    )
    try:
        settings = FlowSettings.from_environment()
        if settings.server_pid:
            serve_under(settings.server_pid)
        with open_ledger(settings.ledger) as engine:
            spec = form.spec_of(engine, name, campaign_file, changes)
            page = report_path(settings.folder, spec.name)
            with OpenCampaign(
                engine,
                enter(engine, spec),
                campaign_folder(settings.folder, spec.name),
                workers=settings.workers,
                progress=watching.present().progress,
            ) as campaign:

                def report() -> None:
                    with campaign.view() as session:
                        write_report(session, campaign.id, page, hull=campaign.crew.workshop.hull)

                def after_cycle(cycle: int) -> None:
                    report()
                    publish_cycle(campaign, cycle, settings.report_link(spec.name))

                try:
                    drive(campaign, as_task(campaign), after_cycle)
                finally:
                    report()
    except MatterloopError as error:
        if not isinstance(error, WaitingForPersonError):
            logger.error("%s", error)
        return ended(error)
    logger.info("The report is at %s", page)
    return Completed(message=f"Report: {page}", data=str(page))


def serve_under(server: int) -> None:
    """Make this process, which the server started for one flow run, a well-behaved child."""
    lifeline.leave_terminal()
    lifeline.end_with(server)
    # Prefect logs the traceback of every failed state, also of one that was returned on purpose.
    # Of an unexpected error the traceback is logged before, by the flow's engine.
    logging.getLogger("prefect.flow_runs").addFilter(
        lambda record: not record.getMessage().startswith("Engine execution exited")
    )


def ended(error: MatterloopError) -> Any:
    """Return the state of a run that ended by an error raised on purpose."""
    if isinstance(error, WaitingForPersonError):
        return Completed(name="Waiting", message=str(error), data=error)
    return Failed(message=str(error), data=error)

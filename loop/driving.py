"""Running a campaign from wherever it stands to its end, stage by stage."""

from __future__ import annotations

from collections.abc import Callable

from matterloop.loop.budget import spending
from matterloop.loop.campaign_lock import driven
from matterloop.loop.errors import BudgetExhaustedError, MatterloopError, WaitingForPersonError
from matterloop.loop.ledger.models import Campaign
from matterloop.loop.open_campaign import STAGE_ORDER, OpenCampaign, StageReport
from matterloop.loop.stages import STAGES
from matterloop.loop.stages.experiment import experiment_cost

RunStage = Callable[[str, int], StageReport]


def plain_runner(campaign: OpenCampaign) -> RunStage:
    """Call the stages directly, without any workflow engine."""
    return lambda stage, cycle: STAGES[stage](campaign, cycle)


def drive(
    campaign: OpenCampaign,
    run_stage: RunStage,
    after_cycle: Callable[[int], None] | None = None,
) -> None:
    """Run what is missing of a campaign. Whatever interrupts it, calling it again goes on.

    Parameters
    ----------
    campaign
        Opened campaign.
    run_stage
        How a stage is executed: directly, or as a Prefect task.
    after_cycle
        Called with the number of every cycle that was completed in this call.

    Raises
    ------
    WaitingForPersonError
        If a batch, a job or an instrument waits for a person; the state is ``waiting`` then.
    BudgetExhaustedError
        If cycles remain and the budget does not pay for one more experiment; ``stopped``.
    MatterloopError
        Whatever a stage could not deal with; ``failed``.
    """
    if _is_finished(campaign):
        return
    with driven(campaign.folder, lambda: campaign.progress("waiting for a fine-tuning", 0, 1)):
        _drive(campaign, run_stage, after_cycle)


def _drive(
    campaign: OpenCampaign, run_stage: RunStage, after_cycle: Callable[[int], None] | None
) -> None:
    campaign.set_state("running")
    try:
        for number in range(1, campaign.spec.budget.cycles + 1):
            if _run_cycle(campaign, run_stage, number) and after_cycle:
                after_cycle(number)
    except WaitingForPersonError as error:
        campaign.set_state("waiting", str(error))
        raise
    except BudgetExhaustedError as error:
        campaign.set_state("stopped", str(error))
        raise
    except MatterloopError as error:
        campaign.set_state("failed", str(error))
        raise
    campaign.set_state("finished")


def _is_finished(campaign: OpenCampaign) -> bool:
    """Whether the campaign ended with all cycles of its budget; then its record stays as it is."""
    with campaign.view() as session:
        row = session.get_one(Campaign, campaign.id)
        done = [cycle.number for cycle in row.cycles if cycle.finished_at is not None]
        return row.state == "finished" and len(done) >= campaign.spec.budget.cycles


def _run_cycle(campaign: OpenCampaign, run_stage: RunStage, number: int) -> bool:
    """Run the stages that are missing; False if there was nothing to do."""
    cycle = campaign.begin_cycle(number)
    if cycle.finished_at is not None:
        return False
    if cycle.stage == "started":
        with campaign.view() as session:
            spending(session, campaign.id).check(campaign.spec.budget, experiment_cost(campaign))
    for stage in STAGE_ORDER[STAGE_ORDER.index(cycle.stage) + 1 :]:
        run_stage(stage, number)
    return True

"""The flow ``fine-tune-generator``: generators learn outside of their campaigns' cycles.

No ``from __future__ import annotations`` here, see `matterloop.flows.campaign`.
"""

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed

from matterloop.flows import form
from matterloop.flows.campaign import ended, serve_under
from matterloop.flows.settings import FlowSettings
from matterloop.loop.errors import MatterloopError
from matterloop.loop.fine_tuning import fine_tune_campaigns
from matterloop.loop.workplace import open_ledger


@flow(
    name="fine-tune-generator",
    description="Let generators learn from what their campaigns measured since the last time.",
    persist_result=False,
)
def fine_tune_generator(campaign: form.Text = form.LEARNER, force: bool = form.FORCE) -> Any:
    """Fine-tune the generators of campaigns that are not being run."""
    logger = get_run_logger()
    try:
        settings = FlowSettings.from_environment()
        if settings.server_pid:
            serve_under(settings.server_pid)
        with open_ledger(settings.ledger) as engine:
            outcomes = fine_tune_campaigns(
                engine,
                settings.folder,
                name=campaign or None,
                force=force,
                workers=settings.workers,
            )
    except MatterloopError as error:
        logger.error("%s", error)
        return ended(error)
    for outcome in outcomes:
        (logger.error if outcome.failed else logger.info)(
            "%s: %s", outcome.campaign, outcome.summary
        )
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        return Failed(message="; ".join(f"{each.campaign}: {each.summary}" for each in failed))
    told = [f"{each.campaign}: {each.summary}" for each in outcomes]
    return Completed(message="; ".join(told) or "The ledger holds no campaign.")

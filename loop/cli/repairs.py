"""What a person found out about a job or an instrument."""

from __future__ import annotations

import json

from pydantic import ValidationError
from sqlalchemy import Engine, select

from matterloop.loop.errors import UsageError
from matterloop.loop.experiment import Handle, JobState
from matterloop.loop.ledger.columns import utc_now
from matterloop.loop.ledger.engine import writing
from matterloop.loop.ledger.instruments import out_of_service, repaired
from matterloop.loop.ledger.jobs import resolve
from matterloop.loop.ledger.models import JobRow
from matterloop.loop.open_campaign import find


def resolve_job(
    engine: Engine,
    campaign: str,
    job_id: str,
    absent: bool,
    handle: str | None,
    reason: str,
    reviewer: str,
) -> None:
    """Move an unknown job on.

    Raises
    ------
    UsageError
        If it is not unknown, or not exactly one of `absent` and `handle` is given.
    """
    if absent == (handle is not None):
        raise UsageError(
            "Say what was found.", "either --absent or --handle JSON", "look at the instrument"
        )
    campaign_id = find(engine, campaign)
    with writing(engine) as session:
        unknown = {
            job.id: job
            for job in session.scalars(
                select(JobRow).where(
                    JobRow.campaign_id == campaign_id, JobRow.state == JobState.UNKNOWN
                )
            )
        }
        if job_id not in unknown:
            raise UsageError(
                f"{job_id!r} is no job of {campaign!r} whose fate is unknown.",
                f"one of {', '.join(unknown)}" if unknown else "none is",
            )
        job = unknown[job_id]
        resolve(
            session,
            job,
            handle=None if handle is None else _handle(job.instrument, handle),
            reason=reason,
            actor=reviewer,
            now=utc_now(),
        )
    print(f"Entered. Run the campaign {campaign} again to go on.")


def put_back_into_service(
    engine: Engine, campaign: str, instrument: str, reason: str, reviewer: str
) -> None:
    """Enter the repair of an instrument that was set aside.

    Raises
    ------
    UsageError
        If it was not set aside in this campaign.
    """
    campaign_id = find(engine, campaign)
    with writing(engine) as session:
        aside = out_of_service(session, campaign_id)
        if instrument not in aside:
            raise UsageError(
                f"{instrument!r} was not set aside in {campaign!r}.",
                f"one of {', '.join(aside)}" if aside else "no instrument was",
            )
        repaired(session, campaign_id, instrument, reason, reviewer, utc_now())
    print(f"Entered. Run the campaign {campaign} again to go on.")


def _handle(instrument: str, text: str) -> Handle:
    try:
        return Handle(instrument=instrument, data=json.loads(text))
    except (json.JSONDecodeError, ValidationError) as error:
        raise UsageError(
            f"{text!r} is no handle: {error}.", "the instrument's handle as a JSON object"
        ) from None

"""The rule of jobs: what makes an experiment happen once, whatever is killed.

1. A job has a key, unique in SQL, from campaign, cycle, candidate, instrument and purpose.
2. `claim` takes it from ``planned`` to ``submitting`` by a guarded update; only the runner whose
   update hit the row, once it is committed, may call ``submit``.
3. A job found in ``submitting`` whose owner can submit no more (`matterloop.loop.ledger.ownership`)
   is looked up at the instrument: found -> `submitted`; surely absent -> `take_over`, one winner;
   cannot tell -> `mark_unknown`, and only a person moves it on (`resolve`).
4. Every transition is an UPDATE guarded by the state it starts from, and stamps an event in the
   same transaction.

The key that an instrument sees is `submission_key`, which changes with every submission that is
over beyond doubt (its handle ended in a transient failure, or a person vouches for its absence).
So a key is handed in once, and ``find(key)`` never returns an earlier, failed attempt. A
submission that *may* have arrived (``submit`` raised) keeps its key, and goes out again only after
``find`` has said "surely absent".

Times come in as `now`, aware; `actor` is who did it: a runner's `Owner` or a person.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from matterloop.loop.errors import ConflictError, FailureKind, LedgerError
from matterloop.loop.experiment import (
    CharacterizationRequest,
    CharacterizationResult,
    Handle,
    JobState,
    SynthesisRequest,
    SynthesisResult,
)
from matterloop.loop.identifiers import content_hash, job_key
from matterloop.loop.ledger.columns import utc_now
from matterloop.loop.ledger.engine import writing
from matterloop.loop.ledger.models import Cycle, EventRow, JobRow

Request = SynthesisRequest | CharacterizationRequest
Result = SynthesisResult | CharacterizationResult

SETTLED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED})
"""States that nothing leaves."""

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.PLANNED: frozenset({JobState.SUBMITTING, JobState.FAILED, JobState.ABORTED}),
    JobState.SUBMITTING: frozenset(
        {
            JobState.SUBMITTING,
            JobState.RUNNING,
            JobState.PLANNED,
            JobState.FAILED,
            JobState.ABORTED,
            JobState.UNKNOWN,
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.PLANNED, JobState.ABORTED}
    ),
    JobState.UNKNOWN: frozenset({JobState.RUNNING, JobState.PLANNED, JobState.ABORTED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.ABORTED: frozenset(),
}
"""Every transition that exists; the functions below make exactly these."""


class JobMovedError(ConflictError):
    """A job is no longer as its caller saw it, or there is no such transition."""


def plan_job(
    session: Session,
    *,
    campaign_id: str,
    cycle_id: str,
    candidate_id: str,
    instrument: str,
    purpose: str,
    request: Request,
    seed: int,
    cost: float,
    duration_h: float,
    recipe_id: str | None = None,
    sample_id: str | None = None,
    actor: str = "stage",
) -> JobRow:
    """Return the job with this key, entered as ``planned`` if the ledger does not hold it yet.

    Parameters
    ----------
    purpose
        ``synthesize`` or ``characterize``.
    cost, duration_h
        As the instrument declares them; currency of the campaign, hours.
    """
    cycle = session.get(Cycle, cycle_id)
    if cycle is None:
        raise LedgerError(f"The ledger holds no cycle {cycle_id!r}.")
    key = job_key(campaign_id, cycle.number, candidate_id, instrument, purpose)
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    made = session.execute(
        dialect.insert(JobRow)
        .values(
            key=key,
            campaign_id=campaign_id,
            cycle_id=cycle_id,
            candidate_id=candidate_id,
            recipe_id=recipe_id,
            sample_id=sample_id,
            instrument=instrument,
            purpose=purpose,
            request=request.model_dump(mode="json"),
            seed=seed,
            cost=cost,
            duration_h=duration_h,
        )
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(JobRow.id)
    ).scalar_one_or_none()
    job = session.scalars(select(JobRow).where(JobRow.key == key)).one()
    if made is not None:
        _stamp(session, job, None, JobState.PLANNED, actor, utc_now(), {"key": key})
    return job


def submission_key(job: JobRow) -> str:
    """Return the key under which the job is handed to its instrument now."""
    return job.key if job.submission == 0 else content_hash(["job", job.key, job.submission])


def claim(engine: Engine, job_id: str, owner: str, now: datetime) -> bool:
    """Take a planned job whose time has come; commit. Only if True, the caller may submit it."""
    with writing(engine) as session:
        job = session.get(JobRow, job_id)
        if job is None or job.state != JobState.PLANNED:
            return False
        due = or_(JobRow.not_before.is_(None), JobRow.not_before <= now)
        return _move(session, job, JobState.SUBMITTING, owner, now, due, owner=owner, owned_at=now)


def take_over(engine: Engine, job: JobRow, owner: str, now: datetime) -> bool:
    """Take a job in ``submitting`` from an owner that is gone; commit. One caller gets True.

    To be called only after the former owner's right had lapsed and, after that, the instrument
    said "surely absent". `job` is the row as it was seen before both.
    """
    with writing(engine) as session:
        return _move(
            session,
            job,
            JobState.SUBMITTING,
            owner,
            now,
            detail={"taken_from": job.owner},
            owner=owner,
            owned_at=now,
        )


def disown(engine: Engine, job: JobRow, actor: str, now: datetime) -> bool:
    """Give back the right to submit, e.g. when interrupted; the next runner asks the instrument."""
    with writing(engine) as session:
        return _move(
            session, job, JobState.SUBMITTING, actor, now, detail={"disowned": True}, owner=None
        )


def submitted(session: Session, job: JobRow, handle: Handle, actor: str, now: datetime) -> None:
    """Enter the handle of a job that the instrument has: ``submitting`` -> ``running``.

    Parameters
    ----------
    job
        Here and below: the row as the caller saw it when it decided; the transition happens only
        if state, owner and submission are still the same.

    Raises
    ------
    JobMovedError
        Here and below: if they are not, or if there is no such transition.
    """
    _must(session, job, JobState.RUNNING, actor, now, handle=handle.model_dump(mode="json"))


def finish(session: Session, job: JobRow, result: Result, actor: str, now: datetime) -> None:
    """Enter a result: ``running`` -> ``succeeded``. What follows from it goes in `session` too."""
    _must(session, job, JobState.SUCCEEDED, actor, now, result=result.model_dump(mode="json"))


def fail(
    session: Session, job: JobRow, kind: FailureKind, message: str, actor: str, now: datetime
) -> None:
    """End a job without a result: ``aborted`` for that kind, ``failed`` for the others."""
    _must(
        session,
        job,
        JobState.ABORTED if kind is FailureKind.ABORTED else JobState.FAILED,
        actor,
        now,
        detail={"kind": kind.value, "message": message},
        failure_kind=kind.value,
        failure_message=message,
    )


def put_back(
    session: Session,
    job: JobRow,
    message: str,
    actor: str,
    now: datetime,
    *,
    not_before: datetime | None,
) -> None:
    """Plan another attempt after a transient failure.

    From ``running`` the handle has ended, so the next attempt gets a new submission key. From
    ``submitting`` the instrument has just said "surely absent", and the key stays.
    """
    ended = job.state == JobState.RUNNING
    _must(
        session,
        job,
        JobState.PLANNED,
        actor,
        now,
        detail={"kind": FailureKind.TRANSIENT.value, "message": message},
        handle=None,
        owner=None,
        owned_at=None,
        attempts=job.attempts + 1,
        submission=job.submission + (1 if ended else 0),
        not_before=not_before,
        failure_kind=FailureKind.TRANSIENT.value,
        failure_message=message,
    )


def mark_unknown(session: Session, job: JobRow, message: str, actor: str, now: datetime) -> None:
    """Leave to a person a job of which nobody can tell whether it was submitted."""
    _must(
        session,
        job,
        JobState.UNKNOWN,
        actor,
        now,
        detail={"message": message},
        failure_message=message,
    )


def resolve(
    session: Session,
    job: JobRow,
    *,
    handle: Handle | None,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    """Enter what a person found out about an unknown job.

    Parameters
    ----------
    handle
        Of the job at the instrument; None if the person vouches that it never arrived, in which
        case it is planned again under a new submission key.
    """
    if job.state != JobState.UNKNOWN:
        _refuse(job.id, job.state, JobState.RUNNING if handle else JobState.PLANNED)
    detail = {"reason": reason}
    if handle is not None:
        values = {"handle": handle.model_dump(mode="json"), "failure_message": None}
        _must(session, job, JobState.RUNNING, actor, now, detail=detail, **values)
    else:
        _must(
            session,
            job,
            JobState.PLANNED,
            actor,
            now,
            detail=detail,
            owner=None,
            owned_at=None,
            not_before=None,
            submission=job.submission + 1,
            failure_message=None,
        )


def abort(session: Session, job: JobRow, reason: str, actor: str, now: datetime) -> None:
    """Stop a job by a person's will, unless it is being submitted at this moment or is settled.

    A driver that follows the job cancels it at the instrument.
    """
    if job.state == JobState.SUBMITTING:
        _refuse(job.id, job.state, JobState.ABORTED)
    fail(session, job, FailureKind.ABORTED, reason, actor, now)


def _must(
    session: Session,
    job: JobRow,
    after: JobState,
    actor: str,
    now: datetime,
    *,
    detail: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    if not _move(session, job, after, actor, now, detail=detail, **values):
        found = session.scalar(select(JobRow.state).where(JobRow.id == job.id))
        _refuse(job.id, found, after)


def _move(
    session: Session,
    job: JobRow,
    after: JobState,
    actor: str,
    now: datetime,
    *guards: Any,
    detail: dict[str, Any] | None = None,
    **values: Any,
) -> bool:
    """Make one guarded transition and stamp it; False if the row is no longer as it was seen."""
    before = JobState(job.state)
    if after not in TRANSITIONS[before]:
        _refuse(job.id, before.value, after)
    hit = session.execute(
        update(JobRow)
        .where(
            JobRow.id == job.id,
            JobRow.state == before.value,
            JobRow.submission == job.submission,
            JobRow.owner.is_not_distinct_from(job.owner),
            JobRow.owned_at.is_not_distinct_from(job.owned_at),
            *guards,
        )
        .values(state=after.value, updated_at=now, **values)
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if hit is None:
        return False
    moved = session.get(JobRow, job.id, populate_existing=True)
    assert moved is not None
    _stamp(session, moved, before, after, actor, now, detail or {})
    return True


def _refuse(job_id: str, found: str | None, after: JobState) -> NoReturn:
    before = " or ".join(s.value for s, targets in TRANSITIONS.items() if after in targets)
    raise JobMovedError(
        f"Job {job_id} cannot become {after.value}: it is {found or 'not in the ledger'}.",
        f"a job that is {before}",
        "look at its history in job_timeline; another runner or a person may have been faster",
    )


def _stamp(
    session: Session,
    job: JobRow,
    before: JobState | None,
    after: JobState,
    actor: str,
    now: datetime,
    detail: dict[str, Any],
) -> None:
    session.add(
        EventRow(
            campaign_id=job.campaign_id,
            at=now,
            kind="job.state",
            subject_id=job.id,
            before=before.value if before else None,
            after=after.value,
            actor=actor,
            detail={**detail, "submission": job.submission, "attempts": job.attempts},
        )
    )
    session.flush()

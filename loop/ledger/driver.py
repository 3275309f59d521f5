"""Driving jobs through instruments until every one is settled, or waits for a person.

The driver only acts on what the ledger says and writes down what it did before it goes on, so any
number of drivers may work on the same jobs, and each may be killed at any instant. What each
answer of an instrument leads to:

====================  ==============================================================================
``validate``          reasons given -> ``failed`` (policy violation), nothing is sent
``submit``            handle -> ``running``; any doubt (`TransientError`, an unexpected exception)
                      -> ``find`` decides; other typed failures -> the instrument refused: settled
``find``              handle -> ``running``; None from an instrument that ``knows_absence`` ->
                      sent again; None from another, or `CannotTellError` -> ``unknown``
``poll``, ``collect`` typed failures settle the job; `TransientError` of a job that ``poll`` called
                      transiently failed -> planned again, later; a line that is down
                      (`TransientError` otherwise, an unexpected exception) -> asked again
====================  ==============================================================================

An `InstrumentFaultError` also sets the instrument aside until a person enters its repair. A line
that stays down leaves its jobs as they are for a later run; the report says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from matterloop.loop.errors import (
    CannotTellError,
    FailureKind,
    JobFailureError,
    MatterloopError,
    PolicyViolationError,
    TransientError,
    UsageError,
)
from matterloop.loop.experiment import Handle, JobState
from matterloop.loop.ledger import instruments as service
from matterloop.loop.ledger import jobs
from matterloop.loop.ledger.columns import utc_now
from matterloop.loop.ledger.drive import DriveReport, DriverOptions
from matterloop.loop.ledger.engine import reading, writing
from matterloop.loop.ledger.exchange import request_of, why_no_result
from matterloop.loop.ledger.models import JobRow
from matterloop.loop.ledger.ownership import Owner, may_still_submit
from matterloop.loop.protocols import Characterizer, Synthesizer

Store = Callable[[Session, JobRow, jobs.Result | JobFailureError], None]
"""Enters what follows from a settled job (sample, measurements); gets the result, or the failure
that settled it. It runs in the transaction that settles the job: both are kept, or neither."""


@dataclass
class _Line:
    """How well an instrument can be reached."""

    failures: int = 0
    not_before: datetime | None = None
    message: str = ""


@dataclass
class _Run:
    """What one call of `JobDriver.run` knows; nothing of it is needed after a crash."""

    owner: Owner
    store: Store
    set_aside: dict[str, str] = field(default_factory=dict)
    lines: dict[str, _Line] = field(default_factory=dict)
    polled: set[str] = field(default_factory=set)
    held: dict[str, JobRow] = field(default_factory=dict)
    """Jobs whose right to submit this run holds."""


class JobDriver:
    """Runs jobs on instruments.

    Parameters
    ----------
    engine
        The ledger.
    instruments
        By the name that stands in the job.
    options
        See `DriverOptions`.
    now, sleep
        Clock (aware times) and pause; tests hand in their own.
    """

    def __init__(
        self,
        engine: Engine,
        instruments: Mapping[str, Synthesizer | Characterizer],
        options: DriverOptions | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine, self._instruments = engine, instruments
        self._options = options or DriverOptions()
        self._now, self._sleep = now, sleep

    def run(self, job_ids: Sequence[str], store: Store) -> DriveReport:
        """Drive jobs until each is settled, unknown, or belongs to an instrument out of service.

        Raises
        ------
        UsageError
            If a job names an instrument that the driver was not given.
        LedgerError
            If the ledger fails; run again, nothing is lost.
        """
        run = _Run(Owner.here(), store)
        with ExitStack() as stack:
            stack.enter_context(run.owner.at_work())
            stack.callback(self._disown_held, run)
            while True:
                rows = self._look(run, job_ids)
                progressed = [self._advance(run, row) for row in rows]
                if any(progressed):
                    continue
                if all(self._rests(run, row) for row in rows):
                    return self._report(run, rows)
                self._sleep(self._options.poll_interval_s)

    def _look(self, run: _Run, job_ids: Sequence[str]) -> list[JobRow]:
        with reading(self._engine) as session:
            found = {
                row.id: row
                for row in session.scalars(select(JobRow).where(JobRow.id.in_(list(job_ids))))
            }
            run.set_aside = {}
            for campaign_id in {row.campaign_id for row in found.values()}:
                run.set_aside |= service.out_of_service(session, campaign_id)
        rows = [found[job_id] for job_id in job_ids if job_id in found]
        missing = {row.instrument for row in rows} - set(self._instruments)
        if missing or len(found) != len(set(job_ids)):
            raise UsageError(
                f"Jobs name instruments that are not set up: {', '.join(sorted(missing))}."
                if missing
                else "Some of the jobs to be driven are not in the ledger.",
                f"instruments among {', '.join(sorted(self._instruments))}" if missing else "",
            )
        return rows

    def _rests(self, run: _Run, row: JobRow) -> bool:
        """Whether this run can do nothing more for the job."""
        if row.state in jobs.SETTLED or row.state == JobState.UNKNOWN:
            return True
        if self._out_of_reach(run, row.instrument):
            return True
        return row.state == JobState.PLANNED and row.instrument in run.set_aside

    def _report(self, run: _Run, rows: Sequence[JobRow]) -> DriveReport:
        return DriveReport(
            states={row.id: JobState(row.state) for row in rows},
            set_aside=dict(run.set_aside),
            out_of_reach={
                name: line.message
                for name, line in run.lines.items()
                if self._out_of_reach(run, name)
            },
        )

    def _advance(self, run: _Run, row: JobRow) -> bool:
        """Do the next thing for a job; False if there was nothing to do now."""
        if self._rests(run, row):
            if row.state == JobState.ABORTED and row.id in run.polled and row.handle:
                run.polled.discard(row.id)
                with suppress(Exception):  # the ledger's word stands whatever the instrument says
                    self._instruments[row.instrument].cancel(Handle.model_validate(row.handle))
            return False
        line = run.lines.get(row.instrument)
        if line and line.not_before and line.not_before > self._now():
            return False
        try:
            match JobState(row.state):
                case JobState.PLANNED:
                    return self._start(run, row)
                case JobState.SUBMITTING:
                    return self._settle_submission(run, row)
                case _:
                    return self._follow(run, row)
        except jobs.JobMovedError:
            return True  # another runner, or a person, was faster: look again

    def _start(self, run: _Run, row: JobRow) -> bool:
        if row.not_before is not None and row.not_before > self._now():
            return False
        instrument = self._instruments[row.instrument]
        request = request_of(row)
        try:
            complaints = instrument.validate(request)  # type: ignore[arg-type]
            known = row.attempts > 0 and instrument.describe().knows_absence
        except JobFailureError as failure:
            return self._fail(run, row, failure)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            return self._unreached(run, row.instrument, error)
        if complaints:
            said = f"{row.instrument} does not accept the request: {'; '.join(complaints)}."
            return self._fail(run, row, PolicyViolationError(said))
        if not jobs.claim(self._engine, row.id, str(run.owner), self._now()):
            return True
        mine = self._reload(row.id)
        run.held[row.id] = mine
        if known:  # an earlier attempt may have arrived late
            return self._settle_submission(run, mine)
        return self._submit(run, mine)

    def _settle_submission(self, run: _Run, row: JobRow) -> bool:
        """Find out what became of a job in ``submitting``; send it again if it surely is absent."""
        mine = row.owner == str(run.owner)
        if not mine and may_still_submit(
            row.owner,
            row.owned_at,
            now=self._now(),
            lease_s=self._options.lease_s,
            settle_s=self._options.settle_s,
        ):
            return False
        absent = self._is_absent(run, row)
        if absent is None:
            return False
        if not absent:
            return True
        if not jobs.take_over(self._engine, row, str(run.owner), self._now()):
            return True
        taken = self._reload(row.id)
        run.held[row.id] = taken
        return self._submit(run, taken)

    def _is_absent(self, run: _Run, row: JobRow) -> bool | None:
        """Ask the instrument; enter what it says unless that is "surely absent" (True).

        None if it could not be asked.
        """
        instrument = self._instruments[row.instrument]
        key = jobs.submission_key(row)
        try:
            handle = instrument.find(key)
            sure = handle is not None or instrument.describe().knows_absence
        except CannotTellError as error:
            handle, sure, why = None, False, str(error)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._unreached(run, row.instrument, error)
            return None
        else:
            why = "it does not know the key, which proves nothing there"
        run.lines.pop(row.instrument, None)
        if handle is None and sure:
            return True
        with writing(self._engine) as session:
            if handle is not None:
                jobs.submitted(session, row, handle, str(run.owner), self._now())
            else:
                message = f"{row.instrument} cannot tell whether it was given key {key}: {why}"
                jobs.mark_unknown(session, row, message, str(run.owner), self._now())
        run.held.pop(row.id, None)
        return False

    def _submit(self, run: _Run, row: JobRow) -> bool:
        """Hand in a job that this run has claimed or taken over."""
        assert row.owner == str(run.owner)
        assert row.owned_at is not None
        if self._now() - row.owned_at > timedelta(seconds=self._options.lease_s / 2):
            # Held up too long: elsewhere the right may soon count as lapsed. Give it back.
            jobs.disown(self._engine, row, str(run.owner), self._now())
            run.held.pop(row.id, None)
            return True
        instrument = self._instruments[row.instrument]
        try:
            handle = instrument.submit(jobs.submission_key(row), request_of(row))  # type: ignore[arg-type]
        except TransientError as error:
            return self._doubt(run, row, error)
        except JobFailureError as failure:
            return self._fail(run, row, failure)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            return self._doubt(run, row, error)
        with writing(self._engine) as session:
            jobs.submitted(session, row, handle, str(run.owner), self._now())
        run.held.pop(row.id, None)
        return True

    def _doubt(self, run: _Run, row: JobRow, error: Exception) -> bool:
        """Settle a ``submit`` that raised: it may have arrived all the same."""
        absent = self._is_absent(run, row)
        if absent:
            self._retry(run, row, error)
        return absent is not None

    def _follow(self, run: _Run, row: JobRow) -> bool:
        """Poll a running job, and collect it when it is over."""
        instrument = self._instruments[row.instrument]
        run.polled.add(row.id)
        handle = Handle.model_validate(row.handle)
        failed_transiently = False
        try:
            progress = instrument.poll(handle)
            run.lines.pop(row.instrument, None)
            if not progress.finished:
                return False
            failed_transiently = progress.failure is FailureKind.TRANSIENT
            result = instrument.collect(handle)
        except TransientError as error:
            if failed_transiently:
                self._retry(run, row, error)
                return True
            return self._unreached(run, row.instrument, error)
        except JobFailureError as failure:
            return self._fail(run, row, failure)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            return self._unreached(run, row.instrument, error)
        fault = why_no_result(row, result)
        if fault is not None:
            return self._fail(run, row, fault)
        try:
            with writing(self._engine) as session:
                jobs.finish(session, row, result, str(run.owner), self._now())
                run.store(session, _in(session, row), result)
        except JobFailureError as failure:  # the result is not what the instrument promised
            return self._fail(run, row, failure)
        return True

    def _retry(self, run: _Run, row: JobRow, error: Exception) -> None:
        if row.attempts + 1 >= self._options.max_attempts:
            message = f"{_words(error)} ({row.attempts + 1} attempts)"
            self._end(run, row, FailureKind.TRANSIENT, TransientError(message))
            return
        due = self._now() + self._options.backoff(row.attempts + 1)
        with writing(self._engine) as session:
            jobs.put_back(session, row, _words(error), str(run.owner), self._now(), not_before=due)
        run.held.pop(row.id, None)

    def _fail(self, run: _Run, row: JobRow, failure: JobFailureError) -> bool:
        return self._end(run, row, failure.kind, failure)

    def _end(self, run: _Run, row: JobRow, kind: FailureKind, failure: JobFailureError) -> bool:
        actor, now = str(run.owner), self._now()
        with writing(self._engine) as session:
            jobs.fail(session, row, kind, str(failure), actor, now)
            if kind is FailureKind.INSTRUMENT_FAULT:
                service.set_aside(
                    session, row.campaign_id, row.instrument, str(failure), actor, now
                )
            run.store(session, _in(session, row), failure)
        run.held.pop(row.id, None)
        if kind is FailureKind.INSTRUMENT_FAULT:
            run.set_aside[row.instrument] = str(failure)
        return True

    def _unreached(self, run: _Run, instrument: str, error: Exception) -> bool:
        line = run.lines.setdefault(instrument, _Line())
        line.failures += 1
        line.not_before = self._now() + self._options.backoff(line.failures)
        line.message = _words(error)
        return False

    def _out_of_reach(self, run: _Run, instrument: str) -> bool:
        line = run.lines.get(instrument)
        return line is not None and line.failures >= self._options.patience

    def _reload(self, job_id: str) -> JobRow:
        with reading(self._engine) as session:
            return session.get_one(JobRow, job_id)

    def _disown_held(self, run: _Run) -> None:
        for row in run.held.values():
            with suppress(MatterloopError, SQLAlchemyError):
                jobs.disown(self._engine, row, str(run.owner), self._now())


def _in(session: Session, row: JobRow) -> JobRow:
    return session.get_one(JobRow, row.id)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, MatterloopError) else f"{type(error).__name__}: {error}"

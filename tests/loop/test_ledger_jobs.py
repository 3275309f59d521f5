"""The rule of jobs: every transition there is, every one there is not, and races between two."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from ledger_toy_lab import ToyFurnace, plan_syntheses
from sqlalchemy import Engine, func, select

from matterloop.loop.errors import FailureKind
from matterloop.loop.experiment import Handle, JobState, SynthesisResult
from matterloop.loop.ledger import (
    EventRow,
    JobRow,
    abort,
    reading,
    resolve,
    submission_key,
    utc_now,
    writing,
)
from matterloop.loop.ledger.jobs import (
    SETTLED,
    TRANSITIONS,
    JobMovedError,
    claim,
    disown,
    fail,
    finish,
    mark_unknown,
    put_back,
    submitted,
    take_over,
)
from matterloop.loop.ledger.ownership import Owner, may_still_submit

HANDLE = Handle(instrument=ToyFurnace.name, data={"number": 1})
RESULT = SynthesisResult(success=True, phases=(), yield_fraction=1.0, explanation="made")
NOW = utc_now()

TO = {
    JobState.RUNNING: lambda s, j: submitted(s, j, HANDLE, "me", NOW),
    JobState.SUCCEEDED: lambda s, j: finish(s, j, RESULT, "me", NOW),
    JobState.FAILED: lambda s, j: fail(s, j, FailureKind.INFEASIBLE, "melts", "me", NOW),
    JobState.ABORTED: lambda s, j: fail(s, j, FailureKind.ABORTED, "stop", "me", NOW),
    JobState.PLANNED: lambda s, j: put_back(s, j, "busy", "me", NOW, not_before=NOW),
    JobState.UNKNOWN: lambda s, j: mark_unknown(s, j, "no idea", "me", NOW),
}
"""How each state is reached, from wherever that is allowed."""

WAYS = {
    JobState.PLANNED: (),
    JobState.SUBMITTING: (JobState.SUBMITTING,),
    JobState.RUNNING: (JobState.SUBMITTING, JobState.RUNNING),
    JobState.SUCCEEDED: (JobState.SUBMITTING, JobState.RUNNING, JobState.SUCCEEDED),
    JobState.FAILED: (JobState.FAILED,),
    JobState.ABORTED: (JobState.ABORTED,),
    JobState.UNKNOWN: (JobState.SUBMITTING, JobState.UNKNOWN),
}
"""A way from ``planned`` to every state."""


def read(engine: Engine, job_id: str) -> JobRow:
    with reading(engine) as session:
        return session.get_one(JobRow, job_id)


def bring_to(engine: Engine, job_id: str, state: JobState) -> JobRow:
    for step in WAYS[state]:
        if step is JobState.SUBMITTING:
            assert claim(engine, job_id, "me", NOW)
        else:
            with writing(engine) as session:
                TO[step](session, session.get_one(JobRow, job_id))
    job = read(engine, job_id)
    assert job.state == state
    return job


def test_every_transition_that_exists_and_every_one_that_does_not(ledger_engine):
    pairs = [(before, after) for before in JobState for after in TO]
    job_ids = plan_syntheses(ledger_engine, len(pairs))
    for (before, after), job_id in zip(pairs, job_ids, strict=True):
        job = bring_to(ledger_engine, job_id, before)
        if after in TRANSITIONS[before]:
            with writing(ledger_engine) as session:
                TO[after](session, job)
            assert read(ledger_engine, job_id).state == after, (before, after)
        else:
            with pytest.raises(JobMovedError), writing(ledger_engine) as session:
                TO[after](session, job)
            assert read(ledger_engine, job_id).state == before, (before, after)
    # Every transition, and nothing else, left its event.
    with reading(ledger_engine) as session:
        last = {
            job_id: session.scalars(
                select(EventRow.after)
                .where(EventRow.subject_id == job_id)
                .order_by(EventRow.id.desc())
            ).all()
            for job_id in job_ids
        }
    for (before, after), job_id in zip(pairs, job_ids, strict=True):
        moved = after in TRANSITIONS[before]
        assert last[job_id][0] == (after if moved else before)
        assert len(last[job_id]) == 1 + len(WAYS[before]) + moved


def test_settled_states_are_the_ones_that_nothing_leaves():
    assert {state for state, targets in TRANSITIONS.items() if not targets} == SETTLED


def test_planning_a_job_again_finds_it(ledger_engine):
    job_ids = plan_syntheses(ledger_engine, 1)
    job = read(ledger_engine, job_ids[0])
    assert job.key == submission_key(job)
    assert job.handle is None
    with reading(ledger_engine) as session:
        assert session.scalar(select(func.count()).where(JobRow.handle.is_(None))) == 1


def test_of_many_claims_one_wins(ledger_database):
    engine = ledger_database.open()
    job_ids = plan_syntheses(engine, 5)
    with ThreadPoolExecutor(4) as pool:
        for job_id in job_ids:
            won = list(pool.map(lambda i, job=job_id: claim(engine, job, f"r{i}", NOW), range(4)))
            assert sum(won) == 1
            assert read(engine, job_id).owner == f"r{won.index(True)}"


def test_of_many_take_overs_one_wins(ledger_database):
    engine = ledger_database.open()
    (job_id,) = plan_syntheses(engine, 1)
    job = bring_to(engine, job_id, JobState.SUBMITTING)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda i: take_over(engine, job, f"r{i}", NOW), range(4)))
    assert sum(won) == 1
    assert read(engine, job_id).owner == f"r{won.index(True)}"
    assert not disown(engine, job, "me", NOW)  # the former owner has nothing to give back


def test_a_job_is_not_claimed_before_its_time(ledger_engine):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    job = bring_to(ledger_engine, job_id, JobState.RUNNING)
    later = NOW + timedelta(seconds=5)
    with writing(ledger_engine) as session:
        put_back(session, job, "busy", "me", NOW, not_before=later)
    assert not claim(ledger_engine, job_id, "me", NOW)
    assert claim(ledger_engine, job_id, "me", later)


def test_only_an_attempt_that_is_over_beyond_doubt_changes_the_key(ledger_engine):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    first = bring_to(ledger_engine, job_id, JobState.SUBMITTING)
    with writing(ledger_engine) as session:
        put_back(session, first, "line down", "me", NOW, not_before=None)
    again = read(ledger_engine, job_id)
    assert submission_key(again) == submission_key(first)
    assert again.attempts == 1

    running = bring_to(ledger_engine, job_id, JobState.RUNNING)
    with writing(ledger_engine) as session:
        put_back(session, running, "fuse", "me", NOW, not_before=None)
    ended = read(ledger_engine, job_id)
    assert submission_key(ended) != submission_key(first)
    assert (ended.attempts, ended.handle, ended.key) == (2, None, first.key)

    with pytest.raises(JobMovedError), writing(ledger_engine) as session:
        finish(session, running, RESULT, "slow runner", NOW)  # of the attempt before


def test_an_unknown_job_is_moved_by_a_person_only(ledger_engine):
    found_id, absent_id, stopped_id = plan_syntheses(ledger_engine, 3)
    found, absent, stopped = (
        bring_to(ledger_engine, job_id, JobState.UNKNOWN)
        for job_id in (found_id, absent_id, stopped_id)
    )
    with writing(ledger_engine) as session:
        resolve(session, found, handle=HANDLE, reason="on the list", actor="ada", now=NOW)
        resolve(session, absent, handle=None, reason="not there", actor="ada", now=NOW)
        abort(session, stopped, "not worth it", "ada", NOW)
    assert read(ledger_engine, found_id).state == JobState.RUNNING
    assert read(ledger_engine, stopped_id).state == JobState.ABORTED
    planned = read(ledger_engine, absent_id)
    assert planned.state == JobState.PLANNED
    assert submission_key(planned) != submission_key(absent)
    with pytest.raises(JobMovedError), writing(ledger_engine) as session:
        resolve(session, planned, handle=None, reason="again", actor="ada", now=NOW)


def test_a_job_that_is_being_submitted_cannot_be_aborted_by_a_person(ledger_engine):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    job = bring_to(ledger_engine, job_id, JobState.SUBMITTING)
    with (
        pytest.raises(JobMovedError, match="cannot become aborted: it is submitting"),
        writing(ledger_engine) as session,
    ):
        abort(session, job, "stop", "ada", NOW)


class TestOwners:
    """Who may still submit."""

    def ask(self, owner: Owner | None, held_s: float) -> bool:
        return may_still_submit(
            str(owner) if owner else None,
            NOW - timedelta(seconds=held_s),
            now=NOW,
            lease_s=100,
            settle_s=1,
        )

    def test_names_survive_writing_and_fit_the_column(self):
        owner = Owner.here()
        assert Owner.parse(str(owner)) == owner
        assert len(str(replace(owner, host="h" * 40))) <= 120
        assert Owner.parse("somebody") is None

    def test_a_runner_at_work_is_never_overtaken_here(self):
        owner = Owner.here()
        with owner.at_work():
            assert self.ask(owner, held_s=1e6)
        assert not self.ask(owner, held_s=2)

    def test_another_process_lives_until_it_ends(self):
        code = (
            "from matterloop.loop.ledger.ownership import Owner;"
            "print(Owner.here(), flush=True); input()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            owner = Owner.parse(process.stdout.readline().strip())
            assert owner
            assert self.ask(owner, held_s=1e6)
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, still a zombie
            assert not self.ask(owner, held_s=2)
        assert not self.ask(owner, held_s=2)
        assert self.ask(owner, held_s=0.5)  # its last request may be under way

    def test_a_recycled_process_number_is_somebody_else(self):
        parent = Owner.here()
        stranger = replace(parent, pid=os.getppid(), started="1")
        assert not self.ask(stranger, held_s=2)

    def test_another_machine_holds_its_lease(self):
        elsewhere = replace(Owner.here(), machine="another")
        assert self.ask(elsewhere, held_s=99)
        assert not self.ask(elsewhere, held_s=101)

    def test_a_job_that_was_given_back_has_no_owner(self):
        assert not self.ask(None, held_s=0)

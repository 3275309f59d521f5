"""What a driver makes of every answer of an instrument, and that it never sends a key twice."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ledger_toy_lab import ToyFurnace, plan_syntheses, store_sample
from sqlalchemy import Engine, select

from matterloop.loop.errors import (
    AbortedError,
    FailureKind,
    InfeasibleError,
    InstrumentFaultError,
    TransientError,
    UsageError,
)
from matterloop.loop.experiment import Handle, JobState, Progress, SynthesisRequest, SynthesisResult
from matterloop.loop.ledger import (
    Campaign,
    DriveReport,
    DriverOptions,
    JobDriver,
    JobRow,
    SampleRow,
    abort,
    open_engine,
    reading,
    resolve,
    utc_now,
    writing,
)
from matterloop.loop.ledger.instruments import repaired
from matterloop.loop.ledger.jobs import claim
from matterloop.loop.ledger.ownership import Owner


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = utc_now(), 0.0

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.slept += seconds
        assert self.slept < 1e5, "the driver waits for ever"


class Scripted(ToyFurnace):
    """A toy furnace that raises what a script says, call by call; ``submit`` reads two lines."""

    script: list[BaseException | None]

    def _next(self) -> None:
        if self.script and (error := self.script.pop(0)):
            raise error

    def submit(self, key: str, request: SynthesisRequest) -> Handle:
        self._next()
        handle = super().submit(key, request)
        self._next()
        return handle

    def find(self, key: str) -> Handle | None:
        self._next()
        return super().find(key)

    def poll(self, handle: Handle) -> Progress:
        self._next()
        return super().poll(handle)

    def collect(self, handle: Handle) -> SynthesisResult:
        self._next()
        return super().collect(handle)


def scripted(path, *script, **options) -> Scripted:
    furnace = Scripted(path / "furnace.sqlite", **options)
    furnace.script = list(script)
    return furnace


def drive(engine: Engine, furnace: ToyFurnace, job_ids, clock=None, **options) -> DriveReport:
    clock = clock or Clock()
    return JobDriver(
        engine,
        {ToyFurnace.name: furnace},
        DriverOptions(**options),
        now=clock,
        sleep=clock.sleep,
    ).run(job_ids, store_sample)


def read(engine: Engine, job_id: str) -> JobRow:
    with reading(engine) as session:
        return session.get_one(JobRow, job_id)


def samples(engine: Engine) -> list[SampleRow]:
    with reading(engine) as session:
        return list(session.scalars(select(SampleRow)))


def test_jobs_succeed_and_a_second_run_does_nothing(ledger_engine, tmp_path):
    job_ids = plan_syntheses(ledger_engine, 3)
    furnace = scripted(tmp_path, polls=3)
    report = drive(ledger_engine, furnace, job_ids)
    assert set(report.states.values()) == {JobState.SUCCEEDED}
    assert report.unfinished == ()
    assert drive(ledger_engine, furnace, job_ids) == report
    assert len(furnace.log) == len(samples(ledger_engine)) == 3
    assert read(ledger_engine, job_ids[0]).result["success"] is True


def test_a_transient_failure_is_tried_again_later_under_a_new_key(ledger_engine, tmp_path):
    job_ids = plan_syntheses(ledger_engine, 3)
    furnace = scripted(tmp_path, transient_every=2)
    clock = Clock()
    report = drive(ledger_engine, furnace, job_ids, clock, backoff_s=7, max_backoff_s=7)
    assert set(report.states.values()) == {JobState.SUCCEEDED}
    assert clock.slept >= 7
    assert len(furnace.log) == 5  # the second and the fourth blew a fuse
    assert max(Counter(key for key, _ in furnace.log).values()) == 1


def test_attempts_are_limited(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path, transient_every=1)
    drive(ledger_engine, furnace, [job_id], max_attempts=3)
    job = read(ledger_engine, job_id)
    assert (job.state, job.failure_kind) == (JobState.FAILED, FailureKind.TRANSIENT)
    assert job.failure_message == "A fuse blew. (3 attempts)"
    assert len(furnace.log) == 3


def test_a_submission_that_arrived_although_it_raised_is_found(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path, None, TransientError("The line went down."))
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert len(furnace.log) == 1


def test_a_submission_that_did_not_arrive_is_sent_again_under_its_key(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    key = read(ledger_engine, job_id).key
    furnace = scripted(tmp_path, OSError("no route"))
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert furnace.log == [(key, "toy-0")]


@pytest.mark.parametrize("arrived", [True, False])
def test_where_nobody_can_tell_a_person_decides(ledger_engine, tmp_path, arrived):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    script = [None, OSError("no route")] if arrived else [OSError("no route")]
    furnace = scripted(tmp_path, *script, knows_absence=False)
    report = drive(ledger_engine, furnace, [job_id])
    assert report.states[job_id] == JobState.UNKNOWN
    assert report.unfinished == (job_id,)
    assert drive(ledger_engine, furnace, [job_id]) == report  # never sent again by itself
    assert len(furnace.log) == arrived

    handle = Handle(instrument=ToyFurnace.name, data={"number": 1}) if arrived else None
    with writing(ledger_engine) as session:
        resolve(session, read(ledger_engine, job_id), handle=handle, reason="I looked",
                actor="ada", now=utc_now())  # fmt: skip
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert len(furnace.log) == 1


def test_an_infeasible_experiment_is_a_result(ledger_engine, tmp_path):
    job_ids = plan_syntheses(ledger_engine, 2)
    furnace = scripted(tmp_path, None, None, None, None, None, InfeasibleError("It melts."))
    clock, told = Clock(), []
    report = JobDriver(ledger_engine, {ToyFurnace.name: furnace}, now=clock, sleep=clock.sleep).run(
        job_ids, lambda session, job, outcome: told.append((job.id, job.state, outcome))
    )
    assert sorted(report.states.values()) == [JobState.FAILED, JobState.SUCCEEDED]
    kinds = {state: type(outcome) for _, state, outcome in told}
    assert kinds == {JobState.FAILED: InfeasibleError, JobState.SUCCEEDED: SynthesisResult}


def test_a_broken_instrument_is_set_aside_until_it_is_repaired(ledger_engine, tmp_path):
    job_ids = plan_syntheses(ledger_engine, 3)
    furnace = scripted(tmp_path, InstrumentFaultError("The thermocouple is gone."))
    report = drive(ledger_engine, furnace, job_ids)
    assert [report.states[job_id] for job_id in job_ids] == ["failed", "planned", "planned"]
    assert report.set_aside == {ToyFurnace.name: "The thermocouple is gone."}
    assert drive(ledger_engine, furnace, job_ids).unfinished == tuple(job_ids[1:])
    assert furnace.log == []

    with writing(ledger_engine) as session:
        campaign_id = session.scalars(select(Campaign.id)).one()
        repaired(session, campaign_id, ToyFurnace.name, "replaced", "ada", utc_now())
    report = drive(ledger_engine, furnace, job_ids)
    assert [report.states[job_id] for job_id in job_ids] == ["failed", "succeeded", "succeeded"]


def test_what_the_instrument_does_not_accept_is_refused_before_submission(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1, temperature_K=3000)
    furnace = scripted(tmp_path)
    drive(ledger_engine, furnace, [job_id])
    job = read(ledger_engine, job_id)
    assert (job.state, job.failure_kind) == (JobState.FAILED, FailureKind.POLICY_VIOLATION)
    assert "2000 K is the furnace's limit" in job.failure_message
    assert furnace.log == []


@pytest.mark.parametrize("when", [0, 2])
def test_an_instrument_may_report_that_a_person_stopped_the_job(ledger_engine, tmp_path, when):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path, *[None] * when, AbortedError("The red button."))
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.ABORTED


def test_a_job_aborted_in_the_ledger_is_cancelled_at_the_instrument(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace, clock = scripted(tmp_path, polls=10**6), Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        with writing(ledger_engine) as session:
            abort(session, session.get_one(JobRow, job_id), "enough", "ada", clock.now)

    report = JobDriver(ledger_engine, {ToyFurnace.name: furnace}, now=clock, sleep=sleep).run(
        [job_id], store_sample
    )
    assert report.states[job_id] == JobState.ABORTED
    assert furnace.log == [(read(ledger_engine, job_id).key, "cancelled")]


def test_a_line_that_stays_down_leaves_the_job_for_a_later_run(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path, None, None, *[ConnectionError("no route")] * 5)
    report = drive(ledger_engine, furnace, [job_id])
    assert report.states[job_id] == JobState.RUNNING
    assert report.out_of_reach == {ToyFurnace.name: "ConnectionError: no route"}
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert len(furnace.log) == 1


def test_a_store_that_fails_keeps_neither_half(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace, clock = scripted(tmp_path), Clock()

    def broken(session, job, outcome):
        store_sample(session, job, outcome)
        session.flush()
        raise RuntimeError("power cut")

    driver = JobDriver(ledger_engine, {ToyFurnace.name: furnace}, now=clock, sleep=clock.sleep)
    with pytest.raises(RuntimeError, match="power cut"):
        driver.run([job_id], broken)
    assert read(ledger_engine, job_id).state == JobState.RUNNING
    assert samples(ledger_engine) == []
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert len(samples(ledger_engine)) == len(furnace.log) == 1


def test_a_result_that_the_store_refuses_is_a_fault_of_the_instrument(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace, clock = scripted(tmp_path), Clock()

    def refuse(session, job, outcome):
        store_sample(session, job, outcome)
        if isinstance(outcome, SynthesisResult):
            raise InstrumentFaultError("It measures in furlongs.")

    driver = JobDriver(ledger_engine, {ToyFurnace.name: furnace}, now=clock, sleep=clock.sleep)
    report = driver.run([job_id], refuse)
    assert report.set_aside == {ToyFurnace.name: "It measures in furlongs."}
    assert read(ledger_engine, job_id).failure_kind == FailureKind.INSTRUMENT_FAULT
    assert samples(ledger_engine) == []


@pytest.mark.parametrize(
    "nonsense", [{"yield_fraction": float("nan")}, {"details": {"camera": object()}}]
)
def test_a_result_that_cannot_be_kept_is_a_fault_of_the_instrument(
    ledger_engine, tmp_path, monkeypatch, nonsense
):
    """pydantic's `model_copy` and `model_construct` check nothing."""
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path)
    good = furnace.collect
    monkeypatch.setattr(furnace, "collect", lambda handle: good(handle).model_copy(update=nonsense))
    report = drive(ledger_engine, furnace, [job_id])
    assert "gave a result that cannot be kept" in report.set_aside[ToyFurnace.name]
    assert read(ledger_engine, job_id).failure_kind == FailureKind.INSTRUMENT_FAULT
    assert samples(ledger_engine) == []


def test_a_live_owner_about_to_submit_is_waited_for(ledger_engine, tmp_path):
    """The failure that was measured: absent now, but about to be sent by its owner."""
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace, clock = scripted(tmp_path), Clock()
    other = Owner.here()

    class StillWaitingError(Exception):
        pass

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        assert furnace.log == []
        if clock.slept > 3600:
            raise StillWaitingError

    with other.at_work():
        assert claim(ledger_engine, job_id, str(other), clock.now)
        options = DriverOptions(poll_interval_s=300)
        driver = JobDriver(
            ledger_engine, {ToyFurnace.name: furnace}, options, now=clock, sleep=sleep
        )
        with pytest.raises(StillWaitingError):
            driver.run([job_id], store_sample)
    assert drive(ledger_engine, furnace, [job_id], clock).states[job_id] == JobState.SUCCEEDED
    assert len(furnace.log) == 1


def test_an_interrupted_submission_is_given_back(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    furnace = scripted(tmp_path, None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        drive(ledger_engine, furnace, [job_id])
    job = read(ledger_engine, job_id)
    assert (job.state, job.owner) == (JobState.SUBMITTING, None)
    assert drive(ledger_engine, furnace, [job_id]).states[job_id] == JobState.SUCCEEDED
    assert len(furnace.log) == 1


def test_instruments_and_jobs_must_be_known(ledger_engine, tmp_path):
    (job_id,) = plan_syntheses(ledger_engine, 1)
    with pytest.raises(UsageError, match="not set up: toy-furnace"):
        JobDriver(ledger_engine, {}).run([job_id], store_sample)
    with pytest.raises(UsageError, match="not in the ledger"):
        drive(ledger_engine, scripted(tmp_path), [job_id, "nowhere"])


TROUBLES = st.sampled_from([None, None, None, "transient", "crash", "interrupt", "infeasible"])


def trouble(word: str | None) -> BaseException | None:
    match word:
        case "transient":
            return TransientError("busy")
        case "crash":
            return OSError("no route")
        case "interrupt":
            return KeyboardInterrupt()
        case "infeasible":
            return InfeasibleError("It melts.")
    return None


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(words=[None, "transient"], knows_absence=False)  # arrived, and nobody can tell
@example(words=[None, "crash", "crash", "interrupt"], knows_absence=True)
@example(words=["interrupt", None, None, "interrupt"], knows_absence=True)
@given(words=st.lists(TROUBLES, max_size=24), knows_absence=st.booleans())
def test_whatever_goes_wrong_no_key_is_handed_in_twice(
    tmp_path_factory, sqlite_template, words, knows_absence
):
    """Any call of the instrument fails in any way, before or after its effect, runs end midway."""
    folder = tmp_path_factory.mktemp("driver")
    engine = open_engine(shutil.copy(sqlite_template, folder / "ledger.sqlite"))
    job_ids = plan_syntheses(engine, 2)
    furnace = scripted(folder, *map(trouble, words), knows_absence=knows_absence)
    clock, report = Clock(), None
    for _ in range(len(words) + 2):
        try:
            report = drive(engine, furnace, job_ids, clock)
        except KeyboardInterrupt:
            continue
    assert report is not None
    assert max(Counter(key for key, _ in furnace.log).values(), default=1) == 1
    kept = {sample.candidate_id for sample in samples(engine)}
    for job_id, state in report.states.items():
        assert state in (JobState.SUCCEEDED, JobState.FAILED, JobState.UNKNOWN)
        assert (read(engine, job_id).candidate_id in kept) == (state == JobState.SUCCEEDED)
        if knows_absence:
            assert state != JobState.UNKNOWN
    engine.dispose()

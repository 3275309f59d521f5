"""Two runners at once on one ledger and one instrument, killed at random."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from ledger_toy_lab import ToyFurnace, plan_syntheses, store_sample
from sqlalchemy import Engine, func, select

from matterloop.loop.experiment import JobState
from matterloop.loop.ledger import (
    DriverOptions,
    EventRow,
    JobDriver,
    JobRow,
    SampleRow,
    open_engine,
    reading,
)

JOBS = 20
KILLS = 14
OPTIONS = DriverOptions(poll_interval_s=0.01, backoff_s=0.01, settle_s=0.05, max_attempts=50)


def furnace(path: Path) -> ToyFurnace:
    return ToyFurnace(path, latency_s=0.06, polls=2, transient_every=6)


def run(url: str, path: Path, job_ids: list[str], ready: Connection) -> None:
    """What each runner process does."""
    ready.send(True)
    JobDriver(open_engine(url), {ToyFurnace.name: furnace(path)}, OPTIONS).run(
        job_ids, store_sample
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_two_runners_killed_at_random_lose_and_double_nothing(ledger_database, tmp_path, seed):
    job_ids = plan_syntheses(ledger_database.open(), JOBS)
    memory = tmp_path / "furnace.sqlite"
    draw = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "matterloop.loop.ledger", "psycopg"])

    def start() -> BaseProcess:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(ledger_database.url, memory, job_ids, there))
        process.start()
        here.recv()  # the kill timer starts when the runner does
        here.close()
        there.close()
        return process

    runners = [start(), start()]
    for _ in range(KILLS):
        time.sleep(draw.uniform(0.02, 0.25))  # the kill timer
        victim = draw.randrange(2)
        runners[victim].kill()
        runners[victim].join()
        runners[victim] = start()
    for runner in runners:
        runner.join(timeout=60)
    assert [runner.exitcode for runner in runners] == [0, 0]

    assert_done_once(ledger_database.open(), furnace(memory), job_ids)


def assert_done_once(engine: Engine, instrument: ToyFurnace, job_ids: list[str]) -> None:
    with reading(engine) as session:
        jobs = {job.id: job for job in session.scalars(select(JobRow))}
        samples = session.scalars(select(SampleRow)).all()
        events = session.scalars(select(EventRow).order_by(EventRow.at, EventRow.id)).all()
        running = session.scalar(select(func.count()).where(EventRow.after == "running"))
    # Nothing lost: every job ended with one result and one sample.
    assert {jobs[job_id].state for job_id in job_ids} == {JobState.SUCCEEDED}
    assert Counter(sample.candidate_id for sample in samples) == Counter(
        job.candidate_id for job in jobs.values()
    )
    # Nothing doubled: no key was handed in twice, and a target only again after a blown fuse.
    log = instrument.log
    assert max(Counter(key for key, _ in log).values()) == 1
    blown = Counter(target for number, (_, target) in enumerate(log, 1) if number % 6 == 0)
    assert Counter(target for _, target in log) == Counter(
        {f"toy-{i}": 1 + blown[f"toy-{i}"] for i in range(JOBS)}
    )
    assert len(log) == running
    # The story is whole: each event starts where the one before it ended.
    for job_id in job_ids:
        story = [(event.before, event.after) for event in events if event.subject_id == job_id]
        assert story[0] == (None, "planned")
        assert all(now[0] == last[1] for last, now in pairwise(story))
    # The test tested something: runners died in the middle of submissions.
    assert sum("taken_from" in event.detail for event in events) > 0

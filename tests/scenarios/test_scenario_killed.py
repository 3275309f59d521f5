"""Power cuts: a campaign killed at random instants ends as the one that was left alone."""

import random
import sqlite3
import subprocess
import time

import pytest
import yaml
from small_campaign import SPEC, facts, start_runner

from matterloop.loop.open_campaign import find
from matterloop.loop.workplace import open_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 3


@pytest.fixture
def spec_file(tmp_path):
    file = tmp_path / "chlorides.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    return file


def finish(runner):
    assert runner.wait(timeout=280) == 0, runner.stderr.read().decode()
    runner.stderr.close()


def submissions(folder):
    """Count what each instrument was given, from its own logbook."""
    counts = []
    for logbook in (folder / "virtual-lab").glob("*.sqlite"):
        with sqlite3.connect(logbook) as client:
            counts += client.execute("SELECT key, count(*) FROM runs GROUP BY key").fetchall()
        client.close()
    return dict(counts)


def test_killed_campaign_equals_the_uninterrupted_one(tmp_path, spec_file):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    start = time.monotonic()
    finish(start_runner(str(whole / "ledger.sqlite"), spec_file, whole))
    length = time.monotonic() - start

    draw = random.Random(20261120)
    for _ in range(KILLS):
        runner = start_runner(str(torn / "ledger.sqlite"), spec_file, torn)
        try:
            runner.wait(timeout=draw.uniform(0.35, 0.8) * length)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()
        runner.stderr.close()
    finish(start_runner(str(torn / "ledger.sqlite"), spec_file, torn))

    with (
        open_ledger(str(whole / "ledger.sqlite")) as left_alone,
        open_ledger(str(torn / "ledger.sqlite")) as killed,
    ):
        expected = facts(left_alone, find(left_alone, "chlorides"))
        assert facts(killed, find(killed, "chlorides")) == expected
    assert set(submissions(torn).values()) == {1}
    assert len(submissions(torn)) == len(submissions(whole))

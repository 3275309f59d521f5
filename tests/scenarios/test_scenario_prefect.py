"""A user runs a campaign with one command, pulls the plug, and gives the same command again."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small_campaign import SPEC, facts, run, small_spec

from matterloop.loop.open_campaign import find
from matterloop.loop.workplace import open_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 400.0


class Command:
    """``matterloop run chlorides.yaml`` in a process group of its own, as a shell starts it."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "output"
        folder.mkdir(exist_ok=True)
        (folder / "chlorides.yaml").write_text(yaml.safe_dump(SPEC))
        outside = {
            k: v for k, v in os.environ.items() if not k.startswith(("MATTERLOOP", "PREFECT"))
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", "from matterloop.loop.cli import main; main()",
                    "run", "chlorides.yaml", "--folder", ".", "--workers", "1",
                ],
                cwd=folder, env=outside, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def wait_for(self, happened, what):
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"{what} never came:\n{self.log.read_text()}"
            time.sleep(0.1)

    def wait_for_line(self, text):
        def printed():
            assert self.process.poll() is None, self.log.read_text()
            return text in self.log.read_text()

        self.wait_for(printed, text)

    def end(self, how):
        """Send a signal to the group, as a terminal does; return the processes it had started."""
        started = descendants(self.process.pid)
        os.killpg(self.process.pid, how)
        self.process.wait(timeout=60)
        return started


def listed(columns):
    done = subprocess.run(["ps", "-A", "-o", columns], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def descendants(pid):
    parents = {int(child): int(parent) for child, parent in listed("pid=,ppid=")}
    found, frontier = set(), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def alive(pids):
    return pids & {int(pid) for pid, state in listed("pid=,stat=") if not state.startswith("Z")}


def test_stopped_and_killed_it_goes_on_and_ends_as_the_plain_run(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    with open_ledger(str(whole / "ledger.sqlite")) as engine:
        expected = facts(engine, run(engine, small_spec(), whole))

    torn = tmp_path / "torn"
    first = Command(torn)
    first.wait_for_line("cycle 1/2  screen")
    left = first.end(signal.SIGINT)
    assert left
    assert not alive(left)
    assert first.process.returncode == 130
    lines = first.log.read_text().splitlines()
    assert [line for line in lines if line.startswith("matterloop: ")] == [lines[-1]]
    assert "the same command goes on" in lines[-1]

    second = Command(torn)
    second.wait_for_line("cycle 1/2  synthesize")
    left = second.end(signal.SIGKILL)
    second.wait_for(lambda: not alive(left), "the end of what it started")

    last = Command(torn)
    assert last.process.wait(timeout=PATIENCE_S) == 0, last.log.read_text()
    printed = last.log.read_text()
    assert "Traceback" not in printed
    assert "chlorides: finished" in printed
    assert (torn / "chlorides" / "report.html").exists()
    with open_ledger(str(torn / "ledger.sqlite")) as engine:
        assert facts(engine, find(engine, "chlorides")) == expected

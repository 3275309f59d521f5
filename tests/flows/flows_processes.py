"""Starting the command line in a process of its own, and looking at what is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 120.0
"""A loaded machine may be slow; what is waited for comes within seconds on a quiet one."""

SALTS = """
name: salts
search_space: {chemical_system: Na-Cl, max_atoms: 4}
objectives: [{property: density, goal: minimise}]
budget: {cycles: 1}
batch_size: 1
generator: {name: substitution, candidates_per_cycle: 2}
screening: {max_steps: 20}
characterizers: [virtual-pycnometer]
"""


def command_line(*words: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start ``matterloop`` as a shell does, leading a process group of its own."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MATTERLOOP", "PREFECT"))}
    with (cwd / "output").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", "from matterloop.loop.cli import main; main()", *words],
            cwd=cwd,
            env={**outside, "COLUMNS": "80", **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Wait until `happened`, by looking again and again."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain for {what}"
        time.sleep(0.05)


def wait_for_output(process: subprocess.Popen[str], cwd: Path, text: str) -> None:
    """Wait until a process has printed `text`."""

    def happened() -> bool:
        printed = (cwd / "output").read_text()
        assert process.poll() is None or text in printed, printed
        return text in printed

    wait_for(happened, repr(text))


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes that `pid` started, directly or not."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines()}
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those of `pids` that still run."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    running = {int(line.split()[0]) for line in listed.splitlines() if "Z" not in line.split()[1]}
    return pids & running

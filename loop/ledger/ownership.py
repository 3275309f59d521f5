"""Who may call ``submit``, and when that right has surely lapsed.

A runner that finds a job in ``submitting`` must know whether its owner could still call
``submit``: an instrument that says "never seen" proves nothing while the owner is alive and about
to send. An owner is therefore written as machine, process and start time of the process:

- same machine (same host, same boot, same process namespace): the process table tells. A process
  that ended (or is a zombie, or whose number now belongs to a younger process) submits no more. A
  stopped or slow one may, so it is waited for, however long.
- another machine: nobody can tell from here. The right lapses `lease_s` after it was taken; the
  owner honours that by looking at its own clock right before it submits (`JobDriver`).

In both cases `settle_s` must have passed since the right was taken, so that a request that left
the dead process has reached the instrument before the instrument is asked.

The limit of this: an owner on *another* machine that is frozen between looking at its clock and
sending, for longer than the lease, sends late. Only an instrument that refuses a key it has seen
can close that gap; adapters should do so where they can.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from matterloop.loop.identifiers import content_hash, new_id

_AT_WORK: set[str] = set()
"""Nonces of the runners at work in this process."""


@dataclass(frozen=True)
class Owner:
    """One runner; two runners in one process differ in `nonce`.

    Attributes
    ----------
    host
        For people.
    machine
        Hash of host name, boot and process namespace: process ids compare within it only.
    pid, started
        The process, and its start time as the system writes it; empty where it cannot be known.
    """

    host: str
    machine: str
    pid: int
    started: str
    nonce: str

    @classmethod
    def here(cls) -> Self:
        """Name a new runner in this process."""
        pid = os.getpid()
        host = socket.gethostname()[:40]
        return cls(host, _machine(), pid, _start_time(pid) or "", new_id().rpartition("-")[2])

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str` wrote; None for anything else."""
        parts = text.split("/")
        if len(parts) != 5 or not parts[2].isdecimal():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3], parts[4])

    def __str__(self) -> str:
        return "/".join((self.host, self.machine, str(self.pid), self.started, self.nonce))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be alive while this lasts; afterwards this runner submits no more, if the process does.

        The process table knows processes only; this is its counterpart for the runners within one,
        so that a runner that was interrupted does not block its successor in the same process.
        """
        _AT_WORK.add(self.nonce)
        try:
            yield
        finally:
            _AT_WORK.discard(self.nonce)

    @property
    def is_here(self) -> bool:
        """Whether the owner lives where this process can look it up."""
        return self.machine == _machine() and bool(self.started)

    @property
    def is_alive(self) -> bool:
        """Whether the runner still works; only meaningful where `is_here`."""
        if self.pid == os.getpid():
            return self.nonce in _AT_WORK
        return _start_time(self.pid) == self.started


def may_still_submit(
    owner: str | None,
    owned_at: datetime | None,
    *,
    now: datetime,
    lease_s: float,
    settle_s: float,
) -> bool:
    """Tell whether the owner of a job in ``submitting`` could still call ``submit``.

    Call it *before* asking the instrument: in the other order the owner may submit between the
    instrument's answer and its own death.

    Parameters
    ----------
    owner, owned_at
        Columns of the job; no owner means that it gave the job back.
    lease_s, settle_s
        Seconds, see the module.
    """
    if owner is None or owned_at is None:
        return False
    held = now - owned_at
    if held < timedelta(seconds=settle_s):
        return True
    known = Owner.parse(owner)
    if known is not None and known.is_here:
        return known.is_alive
    return held < timedelta(seconds=lease_s)


def _machine() -> str:
    boot, namespace = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return content_hash([socket.gethostname(), boot, namespace])[:12]


def _start_time(pid: int) -> str | None:
    """Return when a running process started, in the system's words; None if none runs."""
    if platform.system() == "Linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # proc(5): the name stands in parentheses and may hold anything; state is field 3, start
        # time in clock ticks since boot field 22
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return None if not shown or shown[0].startswith("Z") else "-".join(shown[1:])

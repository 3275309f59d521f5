"""Processes that end when the one that started them is gone, whatever ended it.

Asking who the parent is works on every POSIX system, and does not mistake the end of the thread
that started the process for the end of its parent, as the kernel's parent-death signal does.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from threading import Thread

INTERVAL_S = 0.3
"""How often a process looks whether its parent still lives."""


def end_with(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send `how` to this process as soon as `parent` is not its parent any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(INTERVAL_S)
        os.kill(os.getpid(), how)

    Thread(target=watch, name="lifeline", daemon=True).start()


def leave_terminal() -> None:
    """Let Ctrl-C at the terminal reach this process's parent only, which sees to this one."""
    with suppress(PermissionError):  # leads a group of its own already
        os.setsid()

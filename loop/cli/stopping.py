"""Ending a long command by Ctrl-C or SIGTERM: one message, an exit code, nothing left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from matterloop.loop.errors import InterruptedByUserError


class _Terminated(KeyboardInterrupt):
    """SIGTERM: treated as Ctrl-C is, but for the exit code."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an error with one message, once everything is cleaned up."""

    def terminate(*_: object) -> None:
        raise _Terminated

    # Prefect takes SIGTERM over while a flow runs, and hands it on to this handler afterwards.
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        raise InterruptedByUserError(signal.SIGTERM) from None
    except KeyboardInterrupt:
        raise InterruptedByUserError(signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)

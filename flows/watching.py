"""Who looks on while a campaign runs in this process.

A module of its own: the flow's module must hold nothing that cannot be pickled.
"""

from __future__ import annotations

from contextvars import ContextVar

from matterloop.loop.open_campaign import StageReport


class Watcher:
    """Hears what happens; the command line shows progress bars."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Hear that `done` of `total` are through."""

    def stage(self, cycle: int, report: StageReport) -> None:
        """Hear what a stage did."""


_present: ContextVar[Watcher] = ContextVar("watcher")


def present() -> Watcher:
    """Return who looks on now; by default someone who does nothing."""
    return _present.get(Watcher())


def look_on(watcher: Watcher) -> None:
    """Let `watcher` hear of everything that this context runs from now on."""
    _present.set(watcher)

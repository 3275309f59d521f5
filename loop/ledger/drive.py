"""What a `JobDriver` is told and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from matterloop.loop.experiment import JobState
from matterloop.loop.ledger.jobs import SETTLED


@dataclass(frozen=True)
class DriverOptions:
    """Knobs of a driver; times in seconds.

    Attributes
    ----------
    poll_interval_s
        Pause when nothing could be done.
    max_attempts
        Transient failures of one job after which it is ``failed``.
    backoff_s, max_backoff_s
        Pause before the second attempt, doubled for each further one up to the maximum.
    lease_s
        How long a runner on another machine is taken to be able to submit (see `ownership`).
    settle_s
        How long a request may be under way after its sender died.
    patience
        Times in a row that an instrument may be out of reach before it is left for a later run.
    """

    poll_interval_s: float = 0.5
    max_attempts: int = 5
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    lease_s: float = 600.0
    settle_s: float = 2.0
    patience: int = 5

    def backoff(self, failures: int) -> timedelta:
        """Return the pause after so many failures in a row."""
        return timedelta(seconds=min(self.backoff_s * 2 ** (failures - 1), self.max_backoff_s))


@dataclass(frozen=True)
class DriveReport:
    """How the jobs stand at the end of a run.

    Attributes
    ----------
    states
        Job id to state.
    set_aside, out_of_reach
        Instrument to the reason why jobs of it were left as they are.
    """

    states: Mapping[str, JobState]
    set_aside: Mapping[str, str]
    out_of_reach: Mapping[str, str]

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Jobs that are not settled: ``unknown`` ones and those left for a later run."""
        return tuple(job for job, state in self.states.items() if state not in SETTLED)

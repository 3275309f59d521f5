"""What a training shows: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matterloop.loop.training import TrainingProgress, Watch

_LINE_EVERY_S = 30.0


@contextmanager
def shown() -> Iterator[Watch]:
    """Show progress on the standard error output."""
    if sys.stderr.isatty():
        with _bars() as watch:
            yield watch
    else:
        yield Lines(lambda text: print(text, file=sys.stderr, flush=True))


class Lines:
    """Says where a training stands: at the end of a phase, and at most every half minute.

    Parameters
    ----------
    say
        Is given each line.
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._pace = _Pace(clock)
        self._said = -float("inf")
        self._phase = ""

    def __call__(self, progress: TrainingProgress) -> None:
        """Take note of progress, and speak if it is time."""
        self._pace.take(progress)
        if progress.phase != self._phase:
            self._phase, self._said = progress.phase, self._clock()
            if not progress.done:
                self._say(f"{progress.phase}: begins")
                return
        over = progress.kept and progress.done == progress.total
        if not over and self._clock() - self._said < _LINE_EVERY_S:
            return
        self._said = self._clock()
        total = f" of {progress.total:,}" if progress.total else ""
        parts = [f"{progress.phase}: {progress.done:,}{total} {progress.unit}"]
        parts += [part for part in (_figures(progress), self._pace.told(progress)) if part]
        self._say("; ".join(parts))


class _Pace:
    """Speed of the phase in progress, since it was first heard of."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._phase = ""
        self._begin = (0.0, 0, 0)

    def take(self, progress: TrainingProgress) -> None:
        """Note where a phase begins."""
        # A phase that goes on after an interruption jumps from 0 to where it stood.
        if progress.phase != self._phase or self._begin[1] == 0:
            self._phase = progress.phase
            self._begin = (self._clock(), progress.done, progress.seen)

    def told(self, progress: TrainingProgress) -> str:
        """Return crystals per second and the time left, as far as they are known."""
        began, done, seen = self._begin
        elapsed = self._clock() - began
        if elapsed <= 0 or progress.done <= done:
            return ""
        parts = []
        if progress.seen > seen:
            parts.append(f"{(progress.seen - seen) / elapsed:.0f} crystals/s")
        if progress.total is not None and progress.done < progress.total:
            left = elapsed / (progress.done - done) * (progress.total - progress.done)
            parts.append(f"{_duration(left)} left")
        return ", ".join(parts)


@contextmanager
def _bars() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[told]}"),
    )
    pace = _Pace(time.monotonic)
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def watch(progress: TrainingProgress) -> None:
            pace.take(progress)
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, unit="", told="")
            told = "; ".join(p for p in (_figures(progress), pace.told(progress)) if p)
            bars.update(
                tasks[progress.phase],
                completed=progress.done,
                total=progress.total,
                unit=progress.unit,
                told=told,
            )

        yield watch


def _figures(progress: TrainingProgress) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.3f}"
        for name, value in progress.figures.items()
        if not math.isnan(value)  # a held-out part that is empty has no loss
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

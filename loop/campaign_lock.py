"""Who may work in a campaign's folder at the same time.

Several runners may drive one campaign: the ledger keeps them apart. A fine-tuning outside of the
cycle may not come between them, because a promoted model would change what a running cycle is made
of. So runners share a lock on the folder, and such a fine-tuning takes it alone. A second lock lets
one process at a time write the weights of a model. The system frees locks of processes that end,
however they end.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DRIVEN, _TRAINED = ".driven.lock", ".trained.lock"


@contextmanager
def driven(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the folder together with other runners.

    Parameters
    ----------
    waiting
        Called once if a fine-tuning has the folder alone, before its end is waited for.
    """
    with _held(folder / _DRIVEN, fcntl.LOCK_SH, waiting):
        yield


@contextmanager
def trained(folder: Path) -> Iterator[None]:
    """Hold the right to train, after those who had it before."""
    with _held(folder / _TRAINED, fcntl.LOCK_EX, lambda: None):
        yield


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Hold the folder alone; give False, and hold nothing, where a runner has it."""
    with _opened(folder / _DRIVEN) as descriptor:
        yield _try(descriptor, fcntl.LOCK_EX)


@contextmanager
def _held(path: Path, kind: int, waiting: Callable[[], object]) -> Iterator[None]:
    with _opened(path) as descriptor:
        if not _try(descriptor, kind):
            waiting()
            fcntl.flock(descriptor, kind)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield file.fileno()


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

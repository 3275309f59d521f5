"""The process at the other end of a pool: loads the model once, then one crystal after another.

Run as ``python -m matterloop.adapters.potentials.worker FD RECIPE``; `FD` is a connected socket.
A thread does nothing but read from that socket. When the parent dies, by whatever signal, the
socket closes and the thread ends the process, even in the middle of a calculation: no orphans.
(The kernel's parent-death signal is no substitute: it fires when the *thread* that started the
process ends.)
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from matterloop.adapters.potentials.engine import EngineRecipe, Task, perform

LARGE_ATOMS = 40


def main(descriptor: int, recipe: EngineRecipe) -> None:
    """Serve tasks until the parent hangs up."""
    connection: Connection = Connection(descriptor)
    tasks: SimpleQueue[Task] = SimpleQueue()
    Thread(target=_read, args=(connection, tasks), daemon=True).start()

    import torch

    torch.set_num_threads(1)
    engine = recipe.build()
    connection.send("ready")
    release_memory = _memory_releaser()
    while True:
        task = tasks.get()
        connection.send(perform(engine, task, recipe))
        if len(task.structure) > LARGE_ATOMS:
            release_memory()


def _memory_releaser() -> Callable[[], object]:
    """Return a function that gives freed memory back to the system, where the C library has one.

    Without it a worker keeps the memory of the largest crystal that it ever computed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return partial(trim, 0) if trim else lambda: None


def _read(connection: Connection, tasks: SimpleQueue[Task]) -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), EngineRecipe.from_json(sys.argv[2]))

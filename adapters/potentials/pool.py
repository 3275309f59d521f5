"""A pool of one-thread processes that survives the death of any of them.

One crystal travels per message: a crystal costs 25 ms at the least, a message 0.3 ms, and a killed
worker loses one crystal only, which is computed once more by its successor. Workers are plain
subprocesses rather than `multiprocessing` ones, so that a user's script needs no
``if __name__ == "__main__"`` and an interrupt at the terminal does not reach them.

Each process runs on one thread, because two processes of one thread do 27 CHGNet single points/s
where one process of two threads does 15, and because sums over one thread are the same bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO, Any

from matterloop.adapters.potentials.engine import EngineRecipe, Task
from matterloop.loop.calculation import CalculationFailure, Relaxation, SinglePoint
from matterloop.loop.errors import PotentialError

Result = SinglePoint | Relaxation | CalculationFailure

START_LIMIT_S = 300.0
"""A worker imports torch and loads the model in 4 s; under load it may take minutes."""
MAX_FAILED_STARTS = 3
"""So many workers in a row that die before they are ready: something is wrong with the machine."""
ATTEMPTS = 2
"""How often a crystal is tried whose worker dies."""


class WorkerPool:
    """Processes that compute crystals; started when first needed.

    Parameters
    ----------
    recipe
        How a worker loads its model.
    workers
        Processes at the most.
    time_limit_s
        A worker that takes longer for one crystal is killed and its crystal given up.
    """

    def __init__(self, recipe: EngineRecipe, workers: int, time_limit_s: float) -> None:
        self._dispatcher = _Dispatcher(recipe, workers, time_limit_s)
        # Closes the workers when the pool is forgotten, and at the end of the interpreter.
        self._finalizer = weakref.finalize(self, self._dispatcher.stop)

    @property
    def running(self) -> bool:
        """Whether workers were started."""
        return self._dispatcher.is_alive()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live now."""
        return [worker.process.pid for worker in list(self._dispatcher.workers)]

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Compute all tasks and yield (index, result) as they come.

        Safe from several threads at once, which then share the workers evenly. An iterator that is
        given up takes back what was not begun.

        Raises
        ------
        PotentialError
            If no worker can be started, or the pool is closed meanwhile.
        """
        batch = _Batch(deque(_Item(index, task) for index, task in enumerate(tasks)))
        left = len(batch.waiting)
        if not left:
            return
        self._dispatcher.submit(batch)
        try:
            while left:
                outcome = batch.results.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                left -= 1
                yield outcome
        finally:
            if left:
                self._dispatcher.withdraw(batch)

    def close(self) -> None:
        """Stop the workers; a second call does nothing."""
        self._finalizer()


@dataclass
class _Item:
    index: int
    task: Task
    attempts: int = 0


@dataclass(eq=False)
class _Batch:
    waiting: deque[_Item]
    results: SimpleQueue[tuple[int, Result] | BaseException] = field(default_factory=SimpleQueue)


class _Worker:
    """One process and what it is busy with."""

    def __init__(self, recipe: EngineRecipe) -> None:
        ours, theirs = socket.socketpair()
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the worker
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "matterloop.adapters.potentials.worker",
                    str(theirs.fileno()),
                    recipe.to_json(),
                ],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                start_new_session=True,
            )
        self.connection: Connection = Connection(ours.detach())
        self.ready = False
        self.job: tuple[_Batch, _Item] | None = None
        self.deadline = time.monotonic() + START_LIMIT_S

    def end(self) -> str:
        """Kill the process and return how it died, with the last line that it wrote."""
        with contextlib.suppress(OSError):
            self.connection.close()
        # A process that closed its socket is about to end; its own exit code says more than ours.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0.2)
        self.process.kill()
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        self.log.close()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}; it said: {lines[-1]}" if lines else how


class _Dispatcher:
    """The thread that owns the workers. All state changes happen in it, or under its lock."""

    def __init__(self, recipe: EngineRecipe, workers: int, time_limit_s: float) -> None:
        self.recipe, self.max_workers, self.time_limit_s = recipe, workers, time_limit_s
        self.workers: list[_Worker] = []
        self._batches: deque[_Batch] = deque()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._stopping = False
        self._failed_starts = 0
        self._wake_read, self._wake_write = os.pipe()

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def submit(self, batch: _Batch) -> None:
        with self._lock:
            if self._stopping:
                raise PotentialError("The pool of worker processes is closed.")
            self._batches.append(batch)
            if self._thread is None:
                self._thread = Thread(target=self._loop, name="potential-pool", daemon=True)
                self._thread.start()
        os.write(self._wake_write, b"x")

    def withdraw(self, batch: _Batch) -> None:
        with self._lock:
            batch.waiting.clear()

    def stop(self) -> None:
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            thread = self._thread
        os.write(self._wake_write, b"x")
        if thread is not None:
            thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _loop(self) -> None:
        try:
            while not self._stopping:
                self._assign()
                self._listen()
        except BaseException as error:  # noqa: BLE001  # handed to those who wait, who raise it
            self._fail_all(error)
        finally:
            for worker in self.workers:
                worker.connection.close()  # the worker ends when its socket closes
            for worker in self.workers:
                worker.process.kill()
                worker.end()
            self.workers.clear()
            self._fail_all(PotentialError("The pool of worker processes was closed."))

    def _assign(self) -> None:
        """Give work to idle workers, and start workers while there is more work than workers."""
        for worker in self.workers:
            if worker.ready and worker.job is None and (job := self._next_item()):
                self._send(worker, *job)
        with self._lock:
            waiting = sum(len(batch.waiting) for batch in self._batches)
        starting = sum(not worker.ready for worker in self.workers)
        for _ in range(min(waiting - starting, self.max_workers - len(self.workers))):
            self.workers.append(_Worker(self.recipe))

    def _next_item(self) -> tuple[_Batch, _Item] | None:
        """Take the next crystal, from each batch in turn."""
        with self._lock:
            while self._batches:
                batch = self._batches[0]
                if batch.waiting:
                    self._batches.rotate(-1)
                    return batch, batch.waiting.popleft()
                self._batches.popleft()
        return None

    def _send(self, worker: _Worker, batch: _Batch, item: _Item) -> None:
        item.attempts += 1
        try:
            worker.job = batch, item
            worker.connection.send(item.task)
        except OSError:
            return  # it died; `_listen` sees its socket closed and tries the crystal again
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            worker.job = None
            batch.results.put(
                (
                    item.index,
                    CalculationFailure(f"The crystal cannot be sent to a process: {error}"),
                )
            )
        worker.deadline = time.monotonic() + self.time_limit_s

    def _listen(self) -> None:
        """Wait for the first thing to happen and deal with it."""
        busy = [worker for worker in self.workers if worker.job or not worker.ready]
        timeout = min((worker.deadline for worker in busy), default=float("inf")) - time.monotonic()
        waitables: list[Any] = [self._wake_read, *(worker.connection for worker in self.workers)]
        happened = wait(waitables, None if timeout == float("inf") else max(0.0, timeout))
        if self._wake_read in happened:
            os.read(self._wake_read, 4096)
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.connection in happened:
                self._receive(worker)
            elif worker.deadline <= now and (worker.job or not worker.ready):
                self._bury(worker, out_of_time=True)

    def _receive(self, worker: _Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker, out_of_time=False)
            return
        if message == "ready":
            worker.ready = True
            self._failed_starts = 0
        elif worker.job:
            batch, item = worker.job
            worker.job = None
            batch.results.put((item.index, message))

    def _bury(self, worker: _Worker, *, out_of_time: bool) -> None:
        """Remove a dead or stuck worker and see to its crystal."""
        self.workers.remove(worker)
        if out_of_time:
            worker.process.kill()
        how = worker.end()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise PotentialError(
                    f"{MAX_FAILED_STARTS} worker processes in a row ended before they were ready"
                    f" ({how}).",
                    remedy="look at the memory that is left, and try the potential alone",
                )
        if not worker.job:
            return
        batch, item = worker.job
        if out_of_time:
            reason = f"The calculation took longer than the limit of {self.time_limit_s:g} s."
        elif item.attempts >= ATTEMPTS:
            reason = f"{ATTEMPTS} worker processes died over this crystal ({how})."
        else:
            with self._lock:
                batch.waiting.appendleft(item)
                if batch not in self._batches:
                    self._batches.appendleft(batch)
            return
        batch.results.put((item.index, CalculationFailure(reason)))

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._stopping = True
            jobs = [worker.job[0] for worker in self.workers if worker.job]
            for batch in {id(batch): batch for batch in [*self._batches, *jobs]}.values():
                batch.results.put(error)
            self._batches.clear()

"""Processes that share the work of a training step: gradients are added over them."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from matterloop.loop.errors import MatterloopError


class WorkerDiedError(MatterloopError):
    """One of the processes that share the work ended by itself."""

    def __init__(self) -> None:
        super().__init__(
            "A process that shared the work of training ended by itself.",
            remedy="most often memory ran out: use fewer workers or smaller batches; the same"
            " command goes on where this one ended",
        )


@dataclass(frozen=True)
class Team:
    """What a worker knows of the others.

    Attributes
    ----------
    rank
        Own number, 0 is the leader.
    size
        Number of workers.
    """

    rank: int = 0
    size: int = 1

    def add_gradients(self, network: nn.Module, count: int) -> int:
        """Add the gradients of all workers in place, everywhere; return the sum of `count`."""
        parameters = [p for p in network.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size == 1:
            return count
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = torch.cat([flat, flat.new_tensor([float(count)])])
        dist.all_reduce(flat)
        place = 0
        for gradient in gradients:
            gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
            place += gradient.numel()
        return int(flat[-1])


@contextmanager
def team(follow: Callable[[Team], None], workers: int) -> Iterator[Team]:
    """Start `workers` - 1 processes that run `follow`; the caller leads. They end with the block.

    `follow` is pickled. A worker that dies makes the leader's next sum fail, and the reverse.

    Raises
    ------
    WorkerDiedError
        If one of the processes ended by itself before the block did.
    """
    if workers <= 1:
        yield Team()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        threads = torch.get_num_threads()
        followers = _started(follow, workers, meeting)
        torch.set_num_threads(1)
        try:
            _wait_for(followers)
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=0, world_size=workers
            )
            yield Team(0, workers)
            for process, _ in followers:
                process.join(60)
        except RuntimeError as error:
            for process, _ in followers:
                process.join(1)  # the connection breaks a moment before the process has ended
            if any(process.exitcode for process, _ in followers):
                raise WorkerDiedError from error
            raise
        finally:
            for process, _ in followers:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(threads)


def _started(
    follow: Callable[[Team], None], workers: int, meeting: str
) -> list[tuple[SpawnProcess, Connection]]:
    """Start the others; each sends a word as soon as it is ready to meet."""
    context = mp.get_context("spawn")
    followers = []
    with _deaf_to_ctrl_c():
        for rank in range(1, workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(follow, rank, workers, meeting, os.getpid(), there),
                daemon=True,
            )
            process.start()
            there.close()
            followers.append((process, here))
    return followers


def _wait_for(followers: Sequence[tuple[SpawnProcess, Connection]]) -> None:
    """Wait until all are there: the meeting itself can neither be interrupted nor fail early."""
    for process, words in followers:
        while not words.poll(0.2):
            if not process.is_alive():
                raise WorkerDiedError
        try:
            words.recv()
        except EOFError:
            raise WorkerDiedError from None


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes inherit that Ctrl-C is for their leader, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(
    follow: Callable[[Team], None],
    rank: int,
    workers: int,
    meeting: str,
    parent: int,
    words: Connection,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if os.getppid() != parent:
        return
    words.send("ready")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    follow(Team(rank, workers))
    dist.destroy_process_group()

"""Processes that share the work of a training step: gradients are added over them."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


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
    """
    if workers <= 1:
        yield Team()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        threads = torch.get_num_threads()
        context = mp.get_context("spawn")
        followers = [
            context.Process(
                target=_work, args=(follow, rank, workers, meeting, os.getpid()), daemon=True
            )
            for rank in range(1, workers)
        ]
        for process in followers:
            process.start()
        torch.set_num_threads(1)
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=0, world_size=workers
            )
            yield Team(0, workers)
            for process in followers:
                process.join(60)
        finally:
            for process in followers:
                process.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(threads)


def _work(
    follow: Callable[[Team], None], rank: int, workers: int, meeting: str, parent: int
) -> None:
    # Ctrl-C reaches the whole group of processes; the leader ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if os.getppid() != parent:
        return
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    follow(Team(rank, workers))
    dist.destroy_process_group()

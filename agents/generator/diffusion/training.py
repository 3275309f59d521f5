"""Training of the geometry network: resumable, deterministic by seed, on a CPU or a GPU.

Every step draws its batch, noise, times and forgotten labels from (seed, step), so a run that was
stopped goes on exactly as it would have.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from matterloop.agents.generator.diffusion.dataset import Block, PackedCrystals
from matterloop.agents.generator.diffusion.losses import losses
from matterloop.agents.generator.diffusion.network import GeometryNetwork, NetworkSettings
from matterloop.agents.generator.diffusion.team import Team, team
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings, learning_rate
from matterloop.loop.errors import MatterloopError
from matterloop.loop.identifiers import derive_seed

__all__ = [
    "Progress",
    "TrainingError",
    "TrainingSettings",
    "TrainingState",
    "frozen",
    "learning_rate",
    "losses",
    "new_network",
    "train_geometry",
]


class TrainingError(MatterloopError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Progress:
    """State of a training, as a callback sees it.

    Attributes
    ----------
    step
        Steps done.
    crystals
        Crystals seen since the beginning.
    losses
        Part of the loss to its value, averaged over the last steps.
    """

    step: int
    crystals: int
    losses: dict[str, float]


@dataclass
class TrainingState:
    """Everything that changes while training."""

    network: GeometryNetwork
    averaged: GeometryNetwork
    optimizer: torch.optim.Optimizer
    step: int = 0
    crystals: int = 0

    @classmethod
    def begin(
        cls,
        network: GeometryNetwork,
        settings: TrainingSettings,
        device: torch.device | str = "cpu",
    ) -> TrainingState:
        """Start from a network, which is copied."""
        live = copy.deepcopy(network).to(device).train().requires_grad_(True)
        averaged = copy.deepcopy(network).to(device).eval()
        averaged.requires_grad_(False)
        matrices = [p for p in live.parameters() if p.ndim >= 2]
        vectors = [p for p in live.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        return cls(live, averaged, optimizer)

    def save(self, path: Path) -> None:
        """Write a checkpoint; a crash leaves the old one or the new one."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for index, parameter in enumerate(self._parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{index}.{name}"] = value
        tensors["progress"] = torch.tensor([self.step, self.crystals])
        partial = path.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of a network of the same settings.

        Raises
        ------
        TrainingError
            If it does not belong to this network.
        """
        try:
            tensors = load_file(path)
            self.step, self.crystals = (int(value) for value in tensors.pop("progress"))
            self.network.load_state_dict(_under("network.", tensors))
            self.averaged.load_state_dict(_under("averaged.", tensors))
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint {path} is damaged or of another network.",
                "a checkpoint of the same network settings",
                "choose another folder, or delete it",
            ) from error
        for index, parameter in enumerate(self._parameters()):
            moments = _under(f"optimizer.{index}.", tensors)
            # A fused optimiser wants its count of steps, too, where the parameter is.
            self.optimizer.state[parameter] = {
                name: value.to(parameter.device) for name, value in moments.items()
            }

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def new_network(settings: NetworkSettings, data: PackedCrystals, *, seed: int) -> GeometryNetwork:
    """Return an untrained network that knows the statistics of the data's lattices."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial-weights"))
        network = GeometryNetwork(settings)
    mean, deviation = data.lattice_statistics()
    network.lattice_mean.copy_(mean)
    network.lattice_deviation.copy_(deviation)
    return network


def train_geometry(
    network: GeometryNetwork,
    data: PackedCrystals,
    settings: TrainingSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    critic: GeometryNetwork | None = None,
    watch: Callable[[Progress, GeometryNetwork], None] | None = None,
    each_step: Callable[[Progress], None] | None = None,
    workers: int = 1,
) -> GeometryNetwork:
    """Train and return the averaged network.

    Parameters
    ----------
    network
        Start; not changed.
    data
        Crystals to learn from.
    seed
        Determines every draw.
    checkpoint
        File to continue from, if it exists, and to write to.
    critic
        Network that judges expected crystals, frozen by a copy; wanted by some penalties.
    watch
        Called with the progress and the averaged network before every checkpoint is written, so
        that whatever is interrupted, no checkpoint stands that it was not called for.
    each_step
        Called after every step; losses are averages since the last checkpoint.
    workers
        Processes that share the batches of a step. On a CPU two processes of one thread each are
        faster than one of two threads, and do not collapse when the machine is busy.

    Raises
    ------
    TrainingError
        If the loss is no longer finite, the data is empty, a critic is wanted and missing, or the
        checkpoint is of another network.
    """
    if not len(data):
        raise TrainingError("There is nothing to train on.", "at least one crystal")
    if settings.penalties.critical and critic is None:
        raise TrainingError(
            "The penalties `stability` and `properties` are on, and there is no critic.",
            "a trained network that judges, or both weights 0",
        )
    run = _Run(network, data, settings, seed, checkpoint, device, frozen(critic))
    with team(run.follow, workers) as members:
        return run.lead(members, watch, each_step)


def frozen(network: GeometryNetwork | None) -> GeometryNetwork | None:
    """Return a copy that takes no gradients; None of None."""
    if network is None:
        return None
    return copy.deepcopy(network).eval().requires_grad_(False)


@dataclass
class _Run:
    """One training, as every worker knows it."""

    network: GeometryNetwork
    data: PackedCrystals
    settings: TrainingSettings
    seed: int
    checkpoint: Path | None
    device: torch.device | str
    critic: GeometryNetwork | None

    def follow(self, members: Team) -> None:
        """Compute gradients beside the leader until the end."""
        state, batches = self._begin()
        while state.step < self.settings.steps:
            self._step(state, batches, members)

    def lead(
        self,
        members: Team,
        watch: Callable[[Progress, GeometryNetwork], None] | None,
        each_step: Callable[[Progress], None] | None,
    ) -> GeometryNetwork:
        """Compute gradients, average weights, write checkpoints."""
        state, batches = self._begin()
        settings = self.settings
        sums: dict[str, float] = {}
        count = 0
        while state.step < settings.steps:
            for parts in self._step(state, batches, members):
                count += 1
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value
            _average(state, settings)
            means = {name: value / count for name, value in sums.items()}
            progress = Progress(state.step, state.crystals, means)
            if each_step is not None:
                each_step(progress)
            if state.step % settings.checkpoint_every == 0 or state.step == settings.steps:
                sums, count = {}, 0
                self._check(state, means)
                if watch is not None:
                    watch(progress, state.averaged)
                if self.checkpoint is not None:
                    state.save(self.checkpoint)
        return state.averaged

    def _begin(self) -> tuple[TrainingState, _Batches]:
        state = TrainingState.begin(self.network, self.settings, self.device)
        if self.critic is not None:
            self.critic.to(self.device)
        if self.checkpoint is not None and self.checkpoint.exists():
            state.load(self.checkpoint)
        return state, _Batches(self.data, self.settings)

    def _step(
        self, state: TrainingState, batches: _Batches, members: Team
    ) -> list[dict[str, float]]:
        """Do one step; return the parts of the loss of this worker's batches."""
        settings = self.settings
        seen, crystals = [], 0
        for batch in range(members.rank, settings.batches_per_step, members.size):
            generator = torch.Generator().manual_seed(
                derive_seed(self.seed, "step", state.step, batch)
            )
            block = batches.draw(generator).to(self.device)
            # Dropout draws from torch's own generators: they are set for this batch alone.
            with torch.random.fork_rng(devices=_gpus(self.device)):
                torch.manual_seed(derive_seed(self.seed, "dropout", state.step, batch))
                parts = losses(state.network, block, settings, generator, critic=self.critic)
            share = len(block) / (batches.mean_size * settings.batches_per_step)
            (torch.stack(list(parts.values())).sum(0).mean() * share).backward()  # type: ignore[no-untyped-call]
            crystals += len(block)
            seen.append({name: float(value.detach().mean()) for name, value in parts.items()})
        state.crystals += members.add_gradients(state.network, crystals)
        _update(state, settings)
        return seen

    def _check(self, state: TrainingState, means: dict[str, float]) -> None:
        """Let no checkpoint be written of what is lost; losses are those of this worker alone."""
        if not all(math.isfinite(value) for value in means.values()) or not all(
            bool(torch.isfinite(parameter).all()) for parameter in state.network.parameters()
        ):
            raise TrainingError(
                f"The loss or a weight is no longer finite at step {state.step}: {means}.",
                "finite labels and a learning rate that the network bears",
                "lower the learning rate, or look for extreme labels and weights",
            )


def _gpus(device: torch.device | str) -> list[torch.device]:
    return [torch.device(device)] if torch.device(device).type == "cuda" else []


def _update(state: TrainingState, settings: TrainingSettings) -> None:
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1


@torch.no_grad()
def _average(state: TrainingState, settings: TrainingSettings) -> None:
    decay = min(settings.ema_decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(
        list(state.averaged.parameters()), list(state.network.parameters()), 1 - decay
    )


class _Batches:
    """Draws batches of one number of atoms each; every unit of weight is equally likely."""

    def __init__(self, data: PackedCrystals, settings: TrainingSettings) -> None:
        self._blocks = list(data.blocks.values())
        self._sizes = [
            max(1, min(settings.max_crystals, settings.pairs_per_batch // size**2))
            for size in data.blocks
        ]
        share = torch.tensor([float(block.weight.sum()) for block in self._blocks])
        self._chance = share / torch.tensor(self._sizes)
        self._chance /= self._chance.sum()
        self.mean_size = float((self._chance * torch.tensor(self._sizes)).sum())

    def draw(self, generator: torch.Generator) -> Block:
        index = int(torch.multinomial(self._chance, 1, generator=generator))
        block = self._blocks[index]
        rows = torch.multinomial(
            block.weight, self._sizes[index], replacement=True, generator=generator
        )
        return block[rows]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }

"""What training of the composition sampler carries from step to step, and writes down."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash


class TrainingState:
    """Network, averaged network, best weights so far, optimiser.

    Attributes
    ----------
    network, averaged
        What is trained, and the exponential moving average of its weights.
    step
        Updates made.
    best_step, stale
        Where the validation was best, and looks since then.
    """

    def __init__(
        self, network: CompositionNetwork, learning_rate: float, weight_decay: float
    ) -> None:
        self.network = network
        self.averaged = copy.deepcopy(network)
        self.averaged.requires_grad_(False)
        self.best = _weights(self.averaged)
        self.step, self.best_step, self.stale, self.best_nll = 0, 0, 0, math.inf
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=learning_rate)

    def set_learning_rate(self, value: float) -> None:
        """Set it for the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = value

    def descend(self, loss: Tensor, gradient_norm: float, ema_decay: float) -> None:
        """Make a step down the gradient; a step that is not finite is left out."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_norm)
        self.step += 1
        if not bool(torch.isfinite(norm)):
            return
        self.optimiser.step()
        decay = min(ema_decay, self.step / (self.step + 9))  # short memory at first
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.network.parameters(), strict=True)
            for average, value in pairs:
                average.lerp_(value, 1 - decay)

    def judge(self, nll: float) -> None:
        """Keep the averaged weights if the validation NLL is the lowest; NaN: keep the last."""
        if math.isnan(nll) or nll < self.best_nll:
            self.best, self.best_step, self.stale = _weights(self.averaged), self.step, 0
            self.best_nll = math.inf if math.isnan(nll) else nll
        else:
            self.stale += 1

    def best_network(self) -> CompositionNetwork:
        """Return a network of its own with the best weights, in evaluation mode."""
        network = copy.deepcopy(self.averaged)
        network.load_state_dict(self.best)
        network.requires_grad_(True)
        return network.eval()

    def save(self, path: Path, mark: str) -> None:
        """Write everything; a file that exists is replaced at once or not at all."""
        from safetensors.torch import save_file

        tensors = {
            **_named("network", self.network.state_dict()),
            **_named("averaged", self.averaged.state_dict()),
            **_named("best", self.best),
        }
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= _named(f"optimiser.{index}", moments)
        facts = {
            "mark": mark,
            "step": self.step,
            "best_step": self.best_step,
            "stale": self.stale,
            "best_nll": None if math.isinf(self.best_nll) else self.best_nll,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"training": json.dumps(facts)})
        partial.replace(path)

    def load(self, path: Path, mark: str) -> None:
        """Go on from a file that `save` wrote.

        Raises
        ------
        UsageError
            If it is no checkpoint, or one of another training.
        """
        tensors, facts = _read(path)
        if facts["mark"] != mark:
            raise UsageError(
                f"{path} is the checkpoint of another training (other data, settings or seed).",
                remedy="name another file, or remove this one to begin anew",
            )
        self.network.load_state_dict(_under("network", tensors))
        self.averaged.load_state_dict(_under("averaged", tensors))
        self.best = _under("best", tensors)
        state = self.optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser", tensors).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.step, self.best_step, self.stale = facts["step"], facts["best_step"], facts["stale"]
        self.best_nll = math.inf if facts["best_nll"] is None else facts["best_nll"]


def fingerprint(
    settings: BaseModel,
    training: BaseModel,
    seed: int,
    data: list[object],
    start: CompositionNetwork | None,
) -> str:
    """Return a hash of all that a training follows from."""
    weights = hashlib.sha256()
    for name, tensor in sorted(start.state_dict().items()) if start else ():
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().numpy().tobytes())
    return content_hash(
        [settings.model_dump(), training.model_dump(), seed, data, weights.hexdigest()]
    )


def _weights(network: CompositionNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.contiguous() for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["training"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is no checkpoint of a composition training: {error}.",
            remedy="name another file, or remove this one to begin anew",
        ) from error

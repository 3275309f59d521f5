"""What a fine-tuning learns from and what it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from matterloop.agents.generator.diffusion.composition.likelihood import log_likelihood
from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.dataset import Example, PackedCrystals
from matterloop.agents.generator.diffusion.losses import losses
from matterloop.agents.generator.diffusion.network import GeometryNetwork
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings
from matterloop.loop.identifiers import derive_seed

_DRAWS = 4
"""Noises per crystal over which a loss is averaged."""


@dataclass(frozen=True)
class FineTuningSets:
    """Examples to learn from and held-out ones, of the campaign and replayed."""

    train: list[Example]
    held_out: list[Example]
    replay: list[Example]
    held_out_replay: list[Example]

    def balanced(self, fraction: float) -> list[Example]:
        """Return what is learned from, replayed crystals with `fraction` of the weight."""
        return _balanced(self.train, self.replay, fraction)

    def balanced_held_out(self, fraction: float) -> list[Example]:
        """Return what is judged by: nothing where no crystal of the campaign is held out.

        With replayed ones alone the fewest steps would seem the best.
        """
        return _balanced(self.held_out, self.held_out_replay, fraction) if self.held_out else []

    def losses(
        self, geometry: GeometryNetwork, composition: CompositionNetwork, seed: int
    ) -> dict[str, dict[str, float] | None]:
        """Return losses of what was learned from, of held-out and of replayed crystals.

        Always with the same noise, every crystal with the same weight; None where there are none.
        """
        named = {
            "learned": self.train,
            "held_out": self.held_out,
            "replay": self.held_out_replay,
        }
        return {
            name: _losses(examples, geometry, composition, seed) if examples else None
            for name, examples in named.items()
        }


@torch.no_grad()
def _losses(
    examples: Sequence[Example],
    geometry: GeometryNetwork,
    composition: CompositionNetwork,
    seed: int,
) -> dict[str, float]:
    """Return the mean denoising loss, and the mean composition NLL in natural units."""
    device = next(geometry.parameters()).device
    settings = TrainingSettings(precision="float32", property_weight=0.0)
    total = 0.0
    for block in PackedCrystals.pack(examples).blocks.values():
        for draw in range(_DRAWS):
            atoms = block.numbers.shape[1]
            generator = torch.Generator().manual_seed(derive_seed(seed, "evaluation", atoms, draw))
            parts = losses(geometry, block.to(device), settings, generator)
            total += float(torch.stack(list(parts.values())).sum())
    known = [
        example.crystal.numbers.tolist()
        for example in examples
        if len(example.crystal.numbers) <= composition.settings.max_atoms
    ]
    result = {"denoising": total / (_DRAWS * len(examples))}
    if known:
        result["composition_nll"] = -float(log_likelihood(composition, known).mean())
    return result


def _balanced(real: Sequence[Example], replay: Sequence[Example], fraction: float) -> list[Example]:
    """Scale weights so that replayed crystals have `fraction` of the sum."""
    sums = [sum(example.weight for example in part) for part in (real, replay)]
    shares = (1 - fraction, fraction) if all(sums) else (1.0, 1.0)
    count = len(real) + len(replay)
    return [
        replace(example, weight=example.weight * share * count / total)
        for part, share, total in zip((real, replay), shares, sums, strict=True)
        for example in part
        if example.weight > 0
    ]

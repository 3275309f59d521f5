"""How the geometry network is trained: settings, and the learning rate that follows from them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from matterloop.agents.generator.diffusion.physics import PenaltyWeights


class TrainingSettings(BaseModel):
    """How the geometry network is trained.

    Attributes
    ----------
    steps
        Optimiser steps, in all.
    warmup_steps
        Steps of linearly rising learning rate.
    decay_fraction
        Last part of the steps, in which the learning rate falls to zero (1 - sqrt; Hägele et al.
        2024, arXiv:2405.18392). Before it the rate is constant, so that a run can be prolonged.
    learning_rate, weight_decay
        Of AdamW.
    pairs_per_batch
        Pairs of atoms in a batch: crystals times atoms squared.
    max_crystals
        Crystals in a batch of small cells, at most.
    batches_per_step
        Batches, each of one number of atoms, whose gradients are added.
    ema_decay
        Of the averaged weights, which are the result.
    clip_norm
        Largest norm of the gradient.
    keep_any_label
        See `LabelTensors.dropped`.
    assign_noise
        Whether noise is assigned to atoms of the same element by the shortest paths.
    velocity_weight, lattice_weight, property_weight
        Parts of the loss.
    penalties
        Physical penalties.
    precision
        ``float32`` or ``bfloat16`` (autocast; parameters stay float32).
    checkpoint_every
        Steps between checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=30_000, ge=1)
    warmup_steps: int = Field(default=500, ge=0)
    decay_fraction: float = Field(default=0.25, ge=0, le=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    pairs_per_batch: int = Field(default=9_000, ge=1)
    max_crystals: int = Field(default=192, ge=1)
    batches_per_step: int = Field(default=2, ge=1)
    ema_decay: float = Field(default=0.9995, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    keep_any_label: float = Field(default=0.5, ge=0, le=1)
    assign_noise: bool = True
    velocity_weight: float = Field(default=10.0, gt=0)
    lattice_weight: float = Field(default=1.0, gt=0)
    property_weight: float = Field(default=0.1, ge=0)
    penalties: PenaltyWeights = PenaltyWeights()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_every: int = Field(default=500, ge=1)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step: warm-up, constant, decay."""
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    begin = settings.steps * (1 - settings.decay_fraction)
    fall = 1.0
    if step > begin:
        fall = 1 - math.sqrt((step - begin) / (settings.steps - begin))
    return settings.learning_rate * rise * fall

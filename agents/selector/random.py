"""Control arm: choose at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from matterloop.agents.selector.task import prepare
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop
from matterloop.loop.selection import Observation, PoolItem, Selection
from matterloop.loop.spec import Constraint, Objective


class RandomSettings(BaseModel):
    """`RandomSelector` has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomSelector:
    """Every candidate has the same chance: the least that selection has to beat."""

    Settings = RandomSettings

    def __init__(self, settings: RandomSettings, workshop: Workshop | None = None) -> None:
        del settings, workshop

    def select(
        self,
        pool: Sequence[PoolItem],
        observations: Sequence[Observation],
        *,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        batch_size: int,
        seed: int,
    ) -> Selection:
        """Draw at most `batch_size` candidates without replacement."""
        task = prepare(
            pool,
            observations,
            objectives=objectives,
            constraints=constraints,
            batch_size=batch_size,
            seed=seed,
            max_components=1,
            describe_items=False,
        )
        n = len(task.candidates)
        order = np.random.default_rng(derive_seed(seed, "random")).permutation(n)
        batch = [int(i) for i in order[:batch_size]]
        reasons = dict.fromkeys(batch, f"Drawn at random, one of {n}.")
        reasons |= {i: "Not drawn." for i in range(n) if i not in reasons}
        return task.selection(batch, acquisition_function="random", values={}, reasons=reasons)

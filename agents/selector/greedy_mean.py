"""Control arm: choose what the surrogate expects to be best, and explore nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from matterloop.agents.selector.evidence import Evidence, decide_cold, gather
from matterloop.agents.selector.features import FloatArray
from matterloop.agents.selector.surrogate import reproducible
from matterloop.agents.selector.task import Task, prepare
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop
from matterloop.loop.selection import Observation, PoolItem, Selection
from matterloop.loop.spec import Constraint, Objective


class GreedyMeanSettings(BaseModel):
    """Settings of `GreedyMeanSelector`, with the meaning that they have for `BayesianSelector`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_components: int = Field(default=8, ge=1, le=64)
    min_observations: int = Field(default=3, ge=2, le=1000)


class GreedyMeanSelector:
    """The same surrogate as `BayesianSelector`, without its regard for uncertainty.

    Candidates are ordered by the sum over the objectives of the utility of the posterior mean,
    each divided by the spread of the observed values; those whose posterior mean breaks a
    constraint come after all others. The difference to `BayesianSelector` is what the acquisition
    function is worth.
    """

    Settings = GreedyMeanSettings

    def __init__(self, settings: GreedyMeanSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings

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
        """Choose the candidates with the best posterior mean.

        Raises
        ------
        UsageError
            If the batch size is below one, no objective is given, or embeddings differ in length.
        """
        settings = self._settings
        task = prepare(
            pool,
            observations,
            objectives=objectives,
            constraints=constraints,
            batch_size=batch_size,
            seed=derive_seed(seed, "greedy-mean"),
            max_components=settings.max_components,
        )
        with reproducible(task.seed):
            evidence = gather(task, min_observations=settings.min_observations)
        if evidence is None:
            return decide_cold(task, min_observations=settings.min_observations)
        utility, holds = _utilities(task, evidence)
        order = np.lexsort((np.arange(len(utility)), -utility, ~holds))
        batch = [int(i) for i in order[:batch_size]]
        reasons = {}
        for i in range(len(task.candidates)):
            place = f"chosen as number {batch.index(i) + 1}" if i in batch else "not chosen"
            bound = "" if holds[i] else ", though a constraint would be broken"
            reasons[i] = f"{evidence.in_words(i)}; {place} by the mean{bound}."
        return task.selection(
            batch,
            acquisition_function="posterior-mean",
            values=dict(enumerate(map(float, utility))),
            reasons=reasons,
            predictions=evidence.predictions,
            surrogate_sha256=evidence.surrogate.sha256,
            details=evidence.details(task),
        )


def _utilities(task: Task, evidence: Evidence) -> tuple[FloatArray, np.ndarray]:
    spreads = evidence.surrogate.spreads
    utility = [
        sum(o.utility(means[o.property].mean) / spreads[o.property] for o in task.objectives)
        for means in evidence.predictions
    ]
    modelled = [c for c in task.constraints if c.property in spreads]
    holds = [
        all(c.holds(means[c.property].mean) for c in modelled) for means in evidence.predictions
    ]
    return np.array(utility, dtype=float), np.array(holds, dtype=bool)

"""Selector by Bayesian optimisation."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from matterloop.agents.selector.acquisition import acquisition, greedy_batch
from matterloop.agents.selector.evidence import decide_cold, gather
from matterloop.agents.selector.surrogate import reproducible
from matterloop.agents.selector.task import prepare
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop
from matterloop.loop.selection import Observation, PoolItem, Selection
from matterloop.loop.spec import Constraint, Objective


class BayesianSettings(BaseModel):
    """Settings of `BayesianSelector`.

    Attributes
    ----------
    max_components
        Principal components of the descriptors that the surrogate sees.
    mc_samples
        Quasi-random posterior samples behind the acquisition function; a power of two.
    min_observations
        Values of every objective needed before a surrogate is fitted; until then batches come from
        `matterloop.agents.selector.cold_start`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_components: int = Field(default=8, ge=1, le=64)
    mc_samples: int = Field(default=128, ge=16, le=4096)
    min_observations: int = Field(default=3, ge=2, le=1000)


class BayesianSelector:
    """Gaussian processes, expected improvement, greedy batches; behind ``protocols.Selector``.

    See `surrogate` for the models, `acquisition` for the functions, `feasibility` for what failed
    syntheses teach, `cold_start` for the first batches.
    """

    Settings = BayesianSettings

    def __init__(self, settings: BayesianSettings, workshop: Workshop | None = None) -> None:
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
        """Choose the batch that promises the largest improvement.

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
            seed=derive_seed(seed, "bayesian"),
            max_components=settings.max_components,
        )
        with reproducible(task.seed):
            evidence = gather(task, min_observations=settings.min_observations)
            if evidence is None:
                return decide_cold(task, min_observations=settings.min_observations)
            acquired = acquisition(task, evidence.surrogate, mc_samples=settings.mc_samples)
            batch, values = greedy_batch(task, acquired, evidence)
        reasons = {}
        for i in range(len(task.candidates)):
            figure = f"{acquired.name} {values[i]:.3g}" if i in values else acquired.name
            place = f"chosen as number {batch.index(i) + 1}" if i in batch else "not chosen"
            reasons[i] = f"{evidence.in_words(i)}; {place} by {figure}."
        return task.selection(
            batch,
            acquisition_function=acquired.name,
            values=values,
            reasons=reasons,
            predictions=evidence.predictions,
            surrogate_sha256=evidence.surrogate.sha256,
            details={
                **evidence.details(task),
                **acquired.details,
                "mc_samples": settings.mc_samples,
            },
        )

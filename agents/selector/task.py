"""What a selector has to decide, cleaned: who may be chosen and what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from matterloop.agents.selector.feature_space import FeatureSpace, feature_space
from matterloop.agents.selector.features import FloatArray, describe
from matterloop.agents.selector.surrogate import TrainingSet
from matterloop.loop.errors import UsageError
from matterloop.loop.selection import Choice, Observation, PoolItem, Prediction, Selection
from matterloop.loop.spec import Constraint, Objective


@dataclass(frozen=True)
class Task:
    """A cleaned selection task.

    Attributes
    ----------
    candidates
        Crystals that may be chosen: each once, none that was already made.
    set_aside
        The others of the pool with the reason.
    observations
        All observations, in the order given.
    space
        Feature space; its points are those of `candidates`, then of `observations`.
    """

    candidates: tuple[PoolItem, ...]
    set_aside: tuple[tuple[str, str], ...]
    observations: tuple[Observation, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    batch_size: int
    seed: int
    space: FeatureSpace

    @property
    def candidate_points(self) -> FloatArray:
        """Coordinates of the candidates, shape (n_candidates, d)."""
        return self.space.points[: len(self.candidates)]

    @property
    def observed_points(self) -> FloatArray:
        """Coordinates of the observations, shape (n_observations, d)."""
        return self.space.points[len(self.candidates) :]

    @property
    def screened(self) -> Mapping[str, FloatArray]:
        """Screening estimates of wanted properties that every crystal has, one per point."""
        items = [*self.candidates, *(observation.item for observation in self.observations)]
        estimates = {
            name: np.array([float(item.screening.get(name, np.nan)) for item in items])
            for name in self.wanted
        }
        return {name: column for name, column in estimates.items() if np.isfinite(column).all()}

    @property
    def inputs(self) -> FloatArray:
        """Points with their screening estimates in further columns, as a surrogate takes them."""
        return np.column_stack([self.space.points, *self.screened.values()])

    @property
    def candidate_inputs(self) -> FloatArray:
        """Inputs of the candidates, shape (n_candidates, d + k)."""
        return self.inputs[: len(self.candidates)]

    @property
    def observed_inputs(self) -> FloatArray:
        """Inputs of the observations, shape (n_observations, d + k)."""
        return self.inputs[len(self.candidates) :]

    @property
    def wanted(self) -> tuple[str, ...]:
        """Properties of objectives and constraints, each once."""
        named = [o.property for o in self.objectives] + [c.property for c in self.constraints]
        return tuple(dict.fromkeys(named))

    def known(self, name: str) -> TrainingSet:
        """Return the finite values observed of a property."""
        rows = [i for i, o in enumerate(self.observations) if isfinite(_value(o, name))]
        chosen = [self.observations[i] for i in rows]
        uncertainty = [_uncertainty(o, name) for o in chosen]
        n_coordinates, screened = self.space.points.shape[1], list(self.screened)
        return TrainingSet(
            self.observed_inputs[rows],
            np.array([_value(o, name) for o in chosen], dtype=float),
            np.array(uncertainty, dtype=float),
            n_coordinates,
            n_coordinates + screened.index(name) if name in screened else None,
        )

    def selection(
        self,
        batch: Sequence[int],
        *,
        acquisition_function: str,
        values: Mapping[int, float],
        reasons: Mapping[int, str],
        predictions: Sequence[Mapping[str, Prediction]] | None = None,
        surrogate_sha256: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> Selection:
        """Put a decision into the form of the ledger: a choice for every crystal of the pool.

        Parameters
        ----------
        batch
            Indices into `candidates`, in order of choice.
        values
            Candidate index to acquisition value.
        reasons
            Candidate index to sentence.
        """
        ranks = {index: rank for rank, index in enumerate(batch, start=1)}
        order = [*batch, *(i for i in range(len(self.candidates)) if i not in ranks)]
        choices = [
            Choice(
                self.candidates[i].candidate_id,
                ranks.get(i),
                values.get(i),
                dict(predictions[i]) if predictions else {},
                reasons[i],
            )
            for i in order
        ]
        choices += [Choice(name, None, None, {}, reason) for name, reason in self.set_aside]
        return Selection(
            tuple(choices), acquisition_function, surrogate_sha256, dict(details or {})
        )


def prepare(
    pool: Sequence[PoolItem],
    observations: Sequence[Observation],
    *,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    batch_size: int,
    seed: int,
    max_components: int,
    describe_items: bool = True,
) -> Task:
    """Clean the input of ``Selector.select``.

    Parameters
    ----------
    max_components
        As in `feature_space`.
    describe_items
        False for a selector that does not look at the crystals; its feature space is empty.

    Raises
    ------
    UsageError
        If the batch size is below one, no objective is given, or embeddings do not fit together.
    """
    if batch_size < 1:
        raise UsageError(f"A batch of {batch_size} was asked for.", "a batch size of at least 1")
    if not objectives:
        raise UsageError("A selector was called without an objective.", "at least one objective")
    made = {observation.item.candidate_id for observation in observations}
    candidates: dict[str, PoolItem] = {}
    set_aside: dict[str, str] = {}
    for item in pool:
        if item.candidate_id in made:
            set_aside[item.candidate_id] = "Not considered: it was already made."
        else:
            candidates.setdefault(item.candidate_id, item)
    items = [*candidates.values(), *(observation.item for observation in observations)]
    if items and describe_items:
        space = feature_space(describe(items), max_components=max_components)
    else:
        space = FeatureSpace(np.zeros((len(items), 1)), 0, 1.0)
    return Task(
        tuple(candidates.values()),
        tuple(set_aside.items()),
        tuple(observations),
        tuple(objectives),
        tuple(constraints),
        batch_size,
        seed,
        space,
    )


def _value(observation: Observation, name: str) -> float:
    return float(observation.values.get(name, np.nan))


def _uncertainty(observation: Observation, name: str) -> float:
    value = float(observation.uncertainties.get(name, np.nan))
    return value if isfinite(value) and value >= 0 else np.nan

"""The first batches, while there is too little measured for a surrogate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matterloop.agents.selector.features import FloatArray
from matterloop.agents.selector.task import Task
from matterloop.loop.identifiers import derive_seed


@dataclass(frozen=True)
class ColdStart:
    """A batch and why.

    Attributes
    ----------
    batch
        Indices of the candidates, in order of choice.
    score
        Value of every candidate at the moment of its choice, or at the first step.
    distance, promise
        The two terms of the score, shape (n_candidates,); 0 to 1, but promise is lower
        by 3 for each broken constraint.
    screened
        Properties whose screening values entered.
    """

    batch: tuple[int, ...]
    score: FloatArray
    distance: FloatArray
    promise: FloatArray
    screened: tuple[str, ...]


def cold_start(task: Task) -> ColdStart:
    """Choose crystals that are far from each other and look good in screening.

    Greedy: next comes the candidate with the largest sum of its distance to what was chosen or made
    (relative to the largest such distance; the farthest-point design of Kennard and Stone,
    Technometrics 11, 137 (1969)) and its promise. Promise is the mean rank, 0 to 1, over the
    objectives whose property was screened; a candidate whose screening values break a constraint
    comes after all that break fewer (promise lower by three). Without screening values only
    distance counts. The seed breaks ties.
    """
    points, n = task.candidate_points, len(task.candidates)
    promise, screened = _promise(task)
    rng = np.random.default_rng(derive_seed(task.seed, "cold-start"))
    tie_break = 1e-9 * rng.random(n)
    if len(task.observations):
        nearest = _distances(points, task.observed_points).min(axis=1)
    else:  # the first is the most typical one: closest to the centre
        from_centre = np.linalg.norm(points - points.mean(axis=0), axis=1) if n else np.zeros(0)
        nearest = from_centre.max(initial=0.0) - from_centre
    score, distance = np.zeros(n), np.zeros(n)
    batch: list[int] = []
    free = np.ones(n, dtype=bool)
    for step in range(min(task.batch_size, n)):
        spread = nearest / max(float(nearest.max()), 1e-12)
        value = spread + promise + tie_break
        fresh = free if step else np.ones(n, dtype=bool)
        pick = int(np.where(free, value, -np.inf).argmax())
        update = fresh if step == 0 else np.arange(n) == pick
        score[update], distance[update] = value[update], spread[update]
        batch.append(pick)
        free[pick] = False
        to_pick = _distances(points, points[pick : pick + 1])[:, 0]
        first_unanchored = step == 0 and not task.observations
        nearest = to_pick if first_unanchored else np.minimum(nearest, to_pick)
    return ColdStart(tuple(batch), score, distance, promise, screened)


def _promise(task: Task) -> tuple[FloatArray, tuple[str, ...]]:
    n = len(task.candidates)
    ranks, screened = [], []
    for objective in task.objectives:
        values = _screening(task, objective.property)
        known = np.isfinite(values)
        if known.sum() < 2:
            continue
        utility = np.array([objective.utility(v) if np.isfinite(v) else np.nan for v in values])
        order = np.full(n, 0.5)
        below = [(utility[known] < u).sum() + 0.5 * (utility[known] == u).sum() for u in utility]
        order[known] = (np.array(below)[known] - 0.5) / max(known.sum() - 1, 1)
        ranks.append(order)
        screened.append(objective.property)
    promise = np.mean(ranks, axis=0) if ranks else np.zeros(n)
    for constraint in task.constraints:
        values = _screening(task, constraint.property)
        broken = np.array([np.isfinite(v) and not constraint.holds(v) for v in values], dtype=bool)
        promise = promise - 3.0 * broken
        if np.isfinite(values).any():
            screened.append(constraint.property)
    return promise, tuple(dict.fromkeys(screened))


def _screening(task: Task, name: str) -> FloatArray:
    return np.array([float(item.screening.get(name, np.nan)) for item in task.candidates])


def _distances(left: FloatArray, right: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(left[:, None, :] - right[None, :, :], axis=2))

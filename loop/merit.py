"""How well a measured crystal serves a campaign, as one figure.

The generator learns more from what serves better. Objectives have different units, so each is
brought to the same scale first: its utility (`Objective.utility`) less the mean over the measured
crystals, in standard deviations, as rewards are for advantage-weighted regression (Peng et al.
2019, arXiv:1910.00177). The merit is the mean over the objectives, less one for every constraint
that is broken. Merits compare within one data set only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from matterloop.loop.selection import Observation
from matterloop.loop.spec import Constraint, Objective

BROKEN_CONSTRAINT = 1.0
"""What a broken constraint takes from the merit: as much as one standard deviation."""


def with_merits(
    dataset: Sequence[Observation],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> list[Observation]:
    """Return the observations with `Observation.merit` filled in, in the same order.

    It stays None for crystals that could not be made, and for those of which no objective was
    measured as a finite number.
    """
    scales = [_scale(dataset, objective) for objective in objectives]
    return [
        replace(observation, merit=_merit(observation, objectives, scales, constraints))
        for observation in dataset
    ]


def _merit(
    observation: Observation,
    objectives: Sequence[Objective],
    scales: Sequence[tuple[float, float]],
    constraints: Sequence[Constraint],
) -> float | None:
    if not observation.feasible:
        return None
    parts = [
        (utility - mean) / deviation
        for objective, (mean, deviation) in zip(objectives, scales, strict=True)
        if (utility := _utility(observation, objective)) is not None
    ]
    if not parts:
        return None
    broken = sum(
        not constraint.holds(observation.values[constraint.property])
        for constraint in constraints
        if constraint.property in observation.values
    )
    return statistics.fmean(parts) - BROKEN_CONSTRAINT * broken


def _scale(dataset: Sequence[Observation], objective: Objective) -> tuple[float, float]:
    """Return mean and standard deviation of the utilities; 1 where they do not differ."""
    found = [
        utility
        for observation in dataset
        if observation.feasible and (utility := _utility(observation, objective)) is not None
    ]
    if not found:
        return 0.0, 1.0
    mean, deviation = statistics.fmean(found), statistics.pstdev(found)
    # Equal values differ by rounding; dividing by that would make rounding a merit.
    return mean, deviation if deviation > 1e-9 * max(1.0, abs(mean)) else 1.0


def _utility(observation: Observation, objective: Objective) -> float | None:
    value = observation.values.get(objective.property)
    return None if value is None or not math.isfinite(value) else objective.utility(value)

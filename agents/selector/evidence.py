"""What the experiments so far say about every candidate: surrogate, feasibility, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matterloop.agents.selector.cold_start import ColdStart, cold_start
from matterloop.agents.selector.feasibility import Feasibility, fit_feasibility
from matterloop.agents.selector.features import FloatArray
from matterloop.agents.selector.surrogate import Surrogate, fit_surrogate
from matterloop.agents.selector.task import Task
from matterloop.loop.experiment import UNITS
from matterloop.loop.selection import Prediction, Selection


@dataclass(frozen=True)
class Evidence:
    """Models fitted to a task, and what they say of its candidates.

    Attributes
    ----------
    predictions
        Per candidate: property to posterior.
    log_feasible
        Natural logarithm of the chance of a successful synthesis, shape (n_candidates,).
    unmodelled
        Properties of constraints with too few observations; these constraints are not applied.
    """

    surrogate: Surrogate
    feasibility: Feasibility
    predictions: Sequence[Mapping[str, Prediction]]
    log_feasible: FloatArray
    unmodelled: tuple[str, ...]

    def details(self, task: Task) -> dict[str, object]:
        """Return the models' figures for the decision row."""
        return {
            "surrogate": dict(self.surrogate.details),
            "dimensions": int(task.space.points.shape[1]),
            "principal_components": task.space.n_components,
            "explained_variance": round(task.space.explained_variance, 6),
            "feasibility_model": {
                "informed": self.feasibility.informed,
                "successes": self.feasibility.successes,
                "failures": self.feasibility.failures,
            },
            "constraints_without_model": list(self.unmodelled),
        }

    def in_words(self, index: int) -> str:
        """Say what is expected of a candidate, with units."""
        parts = [
            f"{name.replace('_', ' ')} {p.mean:.4g} ± {p.std:.2g} {UNITS.get(name, '')}".rstrip()
            for name, p in self.predictions[index].items()
        ]
        if self.feasibility.informed:
            parts.append(f"chance of synthesis {np.exp(self.log_feasible[index]):.0%}")
        return "Expected " + ", ".join(parts)


def gather(task: Task, *, min_observations: int) -> Evidence | None:
    """Fit the models, or return None while an objective lacks `min_observations` values."""
    known = {name: task.known(name) for name in task.wanted}
    enough = {name: data for name, data in known.items() if len(data.values) >= min_observations}
    if not task.candidates or any(o.property not in enough for o in task.objectives):
        return None
    surrogate = fit_surrogate(enough)
    made = np.array([observation.feasible for observation in task.observations], dtype=bool)
    feasibility = fit_feasibility(task.observed_points, made)
    return Evidence(
        surrogate,
        feasibility,
        surrogate.predict(task.candidate_inputs),
        feasibility.log_probability(task.candidate_points),
        tuple(name for name in known if name not in enough),
    )


def decide_cold(task: Task, *, min_observations: int) -> Selection:
    """Decide without a surrogate, see `cold_start`."""
    start: ColdStart = cold_start(task)
    counts = {o.property: len(task.known(o.property).values) for o in task.objectives}
    reasons = {}
    for i in range(len(task.candidates)):
        verb = "Chosen" if i in start.batch else "Not chosen"
        screened = (
            f", promise {start.promise[i]:.2f} from screened {' and '.join(start.screened)}"
            if start.screened
            else ""
        )
        reasons[i] = (
            f"{verb} to start with: distance {start.distance[i]:.2f} of 1 from what was made or"
            f" chosen{screened}."
        )
    return task.selection(
        start.batch,
        acquisition_function="cold-start",
        values=dict(enumerate(map(float, start.score))),
        reasons=reasons,
        details={
            "observations": counts,
            "needed": min_observations,
            "screened": list(start.screened),
            "dimensions": int(task.space.points.shape[1]),
        },
    )

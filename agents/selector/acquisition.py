"""Acquisition functions over a discrete pool, and the greedy choice of a batch.

One objective: expected improvement, qLogNoisyExpectedImprovement; several: expected hypervolume
improvement, qLogNoisyExpectedHypervolumeImprovement (Ament et al., NeurIPS 2023; Daulton et al.,
NeurIPS 2021). Both are noisy: the incumbent is what the model believes of the crystals already
made, not the luckiest measurement. Both are incremental: they count what a candidate adds to those
chosen before it. The joint value of qLogExpectedImprovement does not do: next to one candidate that
surely improves, all others look alike within its smoothing, and the batch is filled by accident.

Objectives act on posterior samples of the measured property itself: for a target value,
-|x - target| is applied to the samples, because the property is smooth where the transformed value
has a kink. Constraints are outcome constraints on modelled properties, the chance of a successful
synthesis is a factor (its logarithm a summand).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from matterloop.agents.selector.evidence import Evidence
from matterloop.agents.selector.features import FloatArray
from matterloop.agents.selector.surrogate import Surrogate, numerics
from matterloop.agents.selector.task import Task
from matterloop.loop.spec import Constraint, Goal, Objective

UNLIKELY = 0.01
"""Probability of keeping the constraints below which a candidate is a last resort."""

CHUNK = 512
"""Candidates evaluated at once: bounds memory at some 100 MB."""


@dataclass(frozen=True)
class Acquisition:
    """An acquisition function ready for use.

    Attributes
    ----------
    name
        As it enters the ledger.
    function
        BoTorch acquisition function, on the logarithmic scale.
    details
        JSON-serialisable: incumbent or reference point, in the properties' units.
    """

    name: str
    function: Any
    details: dict[str, Any]


def acquisition(task: Task, surrogate: Surrogate, *, mc_samples: int) -> Acquisition:
    """Build the acquisition function that fits the number of objectives.

    Utilities are shifted and scaled to the spread of the observed values, so that the smoothing
    constants of BoTorch, made for values around one, mean the same in GPa and in eV/atom.

    The hypervolume is counted from the bound where a constraint limits an objective's property
    (whatever keeps the bound may be worth its price in the other objectives), and from the worst
    of the Pareto front elsewhere (`infer_reference_point`).

    With constraints the heavy-tailed ("fat") smoothing is off. It gives gradients to an optimiser
    far from the feasible region, which a discrete pool does not need, and lets a candidate that
    breaks a bound by ten standard deviations win once nothing feasible promises much.
    """
    observed = _complete(task, surrogate)
    believed = surrogate.predict(observed)
    holds = np.array(
        [all(c.holds(m[c.property].mean) for c in _modelled(task, surrogate)) for m in believed],
        dtype=bool,
    )
    utility = np.array(
        [[o.utility(m[o.property].mean) for o in task.objectives] for m in believed], dtype=float
    )
    centre = utility.mean(axis=0)
    spread = np.array([surrogate.spreads[o.property] for o in task.objectives])
    for i, objective in enumerate(task.objectives):
        if (worst := _worst_allowed(objective, task.constraints)) is not None:
            spread[i] = max(spread[i], 0.5 * (utility[:, i].max() - worst))
    scale = np.array([surrogate.scales[o.property] for o in task.objectives])
    means = np.array([surrogate.centres[o.property] for o in task.objectives])
    sampler = SobolQMCNormalSampler(torch.Size([mc_samples]), seed=task.seed % 2**31)
    constraints = _constraint_functions(task, surrogate) or None
    columns = [surrogate.properties.index(o.property) for o in task.objectives]
    normalised = torch.as_tensor((utility - centre) / spread)
    kept = torch.as_tensor(holds)

    def transform(samples: Tensor, X: Tensor | None = None) -> Tensor:  # noqa: ARG001
        values = [
            (_utility(o, samples[..., column] * scale[i] + means[i]) - centre[i]) / spread[i]
            for i, (o, column) in enumerate(zip(task.objectives, columns, strict=True))
        ]
        return torch.stack(values, dim=-1)

    if len(task.objectives) == 1:
        with numerics():
            function: Any = qLogNoisyExpectedImprovement(
                surrogate.model,
                X_baseline=torch.as_tensor(observed),
                sampler=sampler,
                objective=GenericMCObjective(lambda s, X=None: transform(s, X)[..., 0]),
                constraints=constraints,
                prune_baseline=True,
                incremental=True,
                fat=not constraints,
            )
        best = float(utility[holds, 0].max()) if holds.any() else None
        return Acquisition("qLogNEI", function, {"best_utility": best})
    good = normalised[kept] if holds.any() else normalised
    front = good[is_non_dominated(good)]
    # Of a single point BoTorch infers a reference close below it, and no crystal that gives up
    # more than that in one objective for another would count. Then all that was made sets it.
    reference = infer_reference_point(front if len(front) > 1 else good)
    for i, objective in enumerate(task.objectives):
        if (worst := _worst_allowed(objective, task.constraints)) is not None:
            reference[i] = (worst - centre[i]) / spread[i]
    with numerics():
        function = qLogNoisyExpectedHypervolumeImprovement(
            surrogate.model,
            ref_point=reference,
            X_baseline=torch.as_tensor(observed),
            sampler=sampler,
            objective=GenericMCMultiOutputObjective(transform),
            constraints=constraints,
            prune_baseline=True,
            fat=not constraints,
        )
    back = reference.numpy() * spread + centre
    named = {o.property: float(v) for o, v in zip(task.objectives, back, strict=True)}
    return Acquisition("qLogNEHVI", function, {"reference_utility": named})


def greedy_batch(
    task: Task, acquired: Acquisition, evidence: Evidence
) -> tuple[list[int], dict[int, float]]:
    """Choose one candidate after the other, each given those before (sequential greedy).

    Greedy choice reaches at least 1 - 1/e of the best batch's value for submodular acquisition
    functions (Wilson et al., NeurIPS 2018). Candidates that keep the constraints with a
    probability below `UNLIKELY` come after all others: where nothing promises an improvement, the
    logarithms differ by smoothing only, and would rank them by accident.

    Returns
    -------
    batch, values
        Indices in order of choice; acquisition values of all candidates, of batch members at the
        moment of their choice, of the others at the first step.
    """
    points = torch.as_tensor(task.candidate_inputs)
    function = acquired.function
    free = torch.ones(len(points), dtype=torch.bool)
    likely = torch.as_tensor(_likely(task, evidence))
    batch: list[int] = []
    values: dict[int, float] = {}
    for step in range(min(task.batch_size, len(points))):
        with torch.no_grad(), numerics():
            parts = [function(part.unsqueeze(-2)) for part in torch.split(points, CHUNK)]
        value = torch.cat(parts) + torch.as_tensor(evidence.log_feasible)
        value = torch.nan_to_num(value, nan=-torch.inf)
        eligible = free & likely if (free & likely).any() else free
        pick = int(torch.where(eligible, value, -torch.inf).argmax())
        if not eligible[pick]:  # all that is left has no finite value
            pick = int(eligible.nonzero()[0, 0])
        if step == 0:
            values = {i: float(v) for i, v in enumerate(value) if torch.isfinite(v)}
        values[pick] = float(torch.nan_to_num(value[pick], neginf=-1e6))
        free[pick] = False
        batch.append(pick)
        with numerics():
            function.set_X_pending(points[batch])
    return batch, values


def _complete(task: Task, surrogate: Surrogate) -> FloatArray:
    """Return the distinct points at which every objective was observed, or all points observed."""
    rows = [
        i
        for i, o in enumerate(task.observations)
        if all(np.isfinite(o.values.get(g.property, np.nan)) for g in task.objectives)
    ]
    if rows:
        return np.asarray(np.unique(task.observed_inputs[rows], axis=0))
    sets = [task.known(name).inputs for name in surrogate.properties]
    return np.asarray(np.unique(np.concatenate(sets), axis=0))


def _worst_allowed(objective: Objective, constraints: Sequence[Constraint]) -> float | None:
    """Return the lowest utility that the bounds on an objective's own property admit, if any."""
    mine = [c for c in constraints if c.property == objective.property]
    if objective.goal is Goal.MINIMISE:
        bounds = [c.at_most for c in mine if c.at_most is not None]
        return -min(bounds) if bounds else None
    if objective.goal is Goal.MAXIMISE:
        bounds = [c.at_least for c in mine if c.at_least is not None]
        return max(bounds) if bounds else None
    return None


def _likely(task: Task, evidence: Evidence) -> NDArray[np.bool_]:
    """Whether each candidate keeps the modelled constraints with a fair probability."""
    likely = np.ones(len(task.candidates), dtype=bool)
    for constraint in _modelled(task, evidence.surrogate):
        posterior = [means[constraint.property] for means in evidence.predictions]
        mean = np.array([p.mean for p in posterior])
        std = np.maximum([p.std for p in posterior], 1e-12)
        above, below = constraint.at_least, constraint.at_most
        low = norm.cdf((above - mean) / std) if above is not None else 0.0
        high = norm.cdf((below - mean) / std) if below is not None else 1.0
        likely &= high - low >= UNLIKELY
    return likely


def _modelled(task: Task, surrogate: Surrogate) -> list[Constraint]:
    return [c for c in task.constraints if c.property in surrogate.properties]


def _constraint_functions(task: Task, surrogate: Surrogate) -> list[Callable[[Tensor], Tensor]]:
    """Return callables that are negative where a bound holds, in units of the observed spread."""
    functions: list[Callable[[Tensor], Tensor]] = []
    for constraint in _modelled(task, surrogate):
        column = surrogate.properties.index(constraint.property)
        centre = surrogate.centres[constraint.property]
        scale = surrogate.scales[constraint.property]
        spread = surrogate.spreads[constraint.property]
        for bound, sign in ((constraint.at_most, 1.0), (constraint.at_least, -1.0)):
            if bound is not None:
                unit = sign * scale / spread
                functions.append(_bound(column, (bound - centre) / scale, unit))
    return functions


def _bound(column: int, bound: float, unit: float) -> Callable[[Tensor], Tensor]:
    return lambda samples: (samples[..., column] - bound) * unit


def _utility(objective: Objective, samples: Tensor) -> Tensor:
    if objective.goal is Goal.MAXIMISE:
        return samples
    if objective.goal is Goal.MINIMISE:
        return -samples
    assert objective.target is not None
    return -(samples - objective.target).abs()

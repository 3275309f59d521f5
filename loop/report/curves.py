"""Best so far against the number of experiments, and the ranking of what was found.

One objective: the best value of the property among experiments that keep the constraints. Several:
the hypervolume that the Pareto front dominates, as a share of the box between a reference point
and an ideal point; both are the same for all arms and printed beside the curve. The reference
point lies a tenth of the observed range below the worst observed utility, so that the end points
of the front count as well (the margin of BoTorch's ``infer_reference_point``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matterloop.loop.pareto import best_first, dominates
from matterloop.loop.report.outcomes import Outcome, distinct
from matterloop.loop.spec import Goal, Objective

MARGIN = 0.1
"""Of the observed range, between the worst observation and the reference point."""


@dataclass(frozen=True)
class Box:
    """Corners of the space of utilities in which hypervolume is measured.

    Both in utilities (larger is better), one per objective, in the properties' units.
    """

    reference: tuple[float, ...]
    ideal: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """Progress of one arm.

    Attributes
    ----------
    best
        After experiment 1, 2, ...: the best value (property's unit; for a target the distance from
        it), or the share of the box that is dominated (0 to 1). None before the first success.
    labels
        Reduced formula of each experiment, in the same order.
    improved
        Whether that experiment raised the curve.
    """

    arm: str
    best: tuple[float | None, ...]
    labels: tuple[str, ...]
    improved: tuple[bool, ...]


def best_so_far(
    outcomes: Mapping[str, Sequence[Outcome]], objectives: Sequence[Objective]
) -> tuple[tuple[Curve, ...], Box | None]:
    """Return one curve per arm, and the box if there are several objectives and any success."""
    if len(objectives) == 1:
        return tuple(_single(arm, found, objectives[0]) for arm, found in outcomes.items()), None
    box = box_of([o.utilities for o in _counting(outcomes) if o.utilities is not None])
    return tuple(_several(arm, found, box) for arm, found in outcomes.items()), box


def box_of(utilities: Sequence[Sequence[float]]) -> Box | None:
    """Return the box spanned by these utilities and the margin, or None for none at all."""
    if not utilities:
        return None
    reference, ideal = [], []
    for column in zip(*utilities, strict=True):
        worst, best = min(column), max(column)
        margin = MARGIN * (best - worst) or MARGIN * abs(worst) or 1.0
        reference.append(worst - margin)
        ideal.append(best)
    return Box(tuple(reference), tuple(ideal))


def dominated_share(utilities: Sequence[Sequence[float]], box: Box) -> float:
    """Return the share of `box` that these points dominate, 0 to 1 (BoTorch, exact)."""
    import torch
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from botorch.utils.multi_objective.pareto import is_non_dominated

    if not utilities:
        return 0.0
    low = torch.tensor(box.reference, dtype=torch.float64)
    width = torch.tensor(box.ideal, dtype=torch.float64) - low
    points = (torch.tensor(utilities, dtype=torch.float64) - low) / width
    front = points[is_non_dominated(points)]
    return float(Hypervolume(ref_point=torch.zeros_like(low)).compute(front))


def pareto_ids(outcomes: Sequence[Outcome]) -> set[str]:
    """Return candidate ids of those that no other one beats in all objectives."""
    points = [(o.candidate.id, o.utilities) for o in outcomes if o.counts and o.utilities]
    return {
        identifier
        for identifier, mine in points
        if not any(dominates(other, mine) for _, other in points)
    }


def ranked(outcomes: Mapping[str, Sequence[Outcome]]) -> list[tuple[Outcome, list[str]]]:
    """Return experiments that were measured, best first, with the arms that chose them.

    Those that keep the constraints come first, by Pareto front and within a front by the sum of
    utilities scaled to the observed range; then those that break a constraint, likewise.
    """
    found = [pair for pair in distinct(outcomes).values() if pair[0].utilities is not None]
    good = [pair for pair in found if pair[0].counts]
    rest = [pair for pair in found if not pair[0].counts]
    return [*_by_front(good), *_by_front(rest)]


def display_value(objective: Objective, utility: float) -> float:
    """Undo `Objective.utility` for the eye: the value, or the distance from the target."""
    return utility if objective.goal is Goal.MAXIMISE else -utility


def _counting(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    return [outcome for outcome, _ in distinct(outcomes).values() if outcome.counts]


def _single(arm: str, outcomes: Sequence[Outcome], objective: Objective) -> Curve:
    best: float | None = None
    heights: list[float | None] = []
    improved = []
    for outcome in outcomes:
        better = False
        if outcome.counts and outcome.utilities is not None:
            better = best is None or outcome.utilities[0] > best
            best = outcome.utilities[0] if better else best
        improved.append(better)
        heights.append(None if best is None else display_value(objective, best))
    return Curve(arm, tuple(heights), _labels(outcomes), tuple(improved))


def _several(arm: str, outcomes: Sequence[Outcome], box: Box | None) -> Curve:
    points: list[Sequence[float]] = []
    share: float | None = None
    heights: list[float | None] = []
    improved = []
    for outcome in outcomes:
        before = share
        if outcome.counts and outcome.utilities is not None and box is not None:
            points.append(outcome.utilities)
            share = dominated_share(points, box)
        improved.append(share is not None and (before is None or share > before))
        heights.append(share)
    return Curve(arm, tuple(heights), _labels(outcomes), tuple(improved))


def _labels(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return tuple(outcome.candidate.crystal.reduced_formula for outcome in outcomes)


def _by_front(
    found: list[tuple[Outcome, list[str]]],
) -> list[tuple[Outcome, list[str]]]:
    pairs = {pair[0].candidate.id: pair for pair in found}
    order = best_first({i: o.utilities for i, (o, _) in pairs.items() if o.utilities is not None})
    return [pairs[identifier] for identifier in order]

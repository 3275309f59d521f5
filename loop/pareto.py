"""Which of several candidates are best, when there is more than one objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether `left` is nowhere worse than `right` and somewhere better; larger is better."""
    pairs = list(zip(left, right, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto_fronts(utilities: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Return the number of each candidate's front: 1, 2 for the front that is left without 1, ...

    Parameters
    ----------
    utilities
        Candidate to one figure per objective, larger is better.
    """
    left, fronts, number = dict(utilities), {}, 0
    while left:
        number += 1
        front = [
            i for i, mine in left.items() if not any(dominates(o, mine) for o in left.values())
        ]
        fronts.update(dict.fromkeys(front, number))
        left = {i: mine for i, mine in left.items() if i not in fronts}
    return fronts


def best_first(utilities: Mapping[str, Sequence[float]]) -> list[str]:
    """Order candidates by front, and within a front by the sum of utilities over their range."""
    spans = [
        (min(column), max(column) - min(column) or 1.0)
        for column in zip(*utilities.values(), strict=True)
    ]
    scores = {
        identifier: sum((u - low) / width for u, (low, width) in zip(mine, spans, strict=True))
        for identifier, mine in utilities.items()
    }
    fronts = pareto_fronts(utilities)
    return sorted(utilities, key=lambda i: (fronts[i], -scores[i], i))

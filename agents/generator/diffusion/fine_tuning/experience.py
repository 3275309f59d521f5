"""What a campaign measured, as crystals with labels and weights to learn from.

The weights are those of reward-weighted regression: imitate what was done, in proportion to an
exponential of its reward (Peters and Schaal 2007, ICML, doi:10.1145/1273496.1273590; for diffusion
models Lee et al. 2023, arXiv:2302.12192). The reward is the merit that the campaign gives a crystal
(`matterloop.loop.merit`), or else how near the hull it lies. Crystals that could not be made stay
in with a small weight: beside the others they say less often, never the opposite. Raising the loss
of bad examples without bound is no likelihood of anything, and is not done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matterloop.agents.generator.diffusion.conditioning import (
    CONTINUOUS_LABELS,
    LABELS,
    SYNTHESIS_METHODS,
    Labels,
)
from matterloop.agents.generator.diffusion.fine_tuning.settings import FineTuningSettings
from matterloop.agents.generator.diffusion.representation import (
    CrystalArrays,
    RepresentationError,
    to_arrays,
)
from matterloop.loop.dataset import LabelledStructure, with_geometry_labels
from matterloop.loop.errors import FineTuningRefusedError
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.selection import Observation

CONDITIONS = ("temperature", "pressure", "method")
_FROM_SCREENING = ("formation_energy", "energy_above_hull")
_FEWEST_TO_HOLD_OUT = 8
"""Compositions from which on some are held out: with fewer, each is needed for learning."""


@dataclass(frozen=True)
class Lesson:
    """One crystal of a campaign.

    Attributes
    ----------
    crystal
        As the networks see it.
    formula
        Reduced.
    labels
        Measured properties, geometry, and for crystals that were made the conditions of synthesis.
    weight
        Of the loss; the best crystal has 1.
    made
        Whether the synthesis succeeded.
    """

    crystal: CrystalArrays
    formula: str
    labels: Labels
    weight: float
    made: bool


def lessons(dataset: Sequence[Observation], settings: FineTuningSettings) -> list[Lesson]:
    """Turn observations into examples, in the same order, without those that do not fit.

    Raises
    ------
    FineTuningRefusedError
        For no observations, numbers that are not finite, no crystal that was made, weights that are
        all zero, and too few different compositions among those that were made.
    """
    if not dataset:
        raise FineTuningRefusedError(
            "There is nothing to fine-tune on.", "at least two measured crystals"
        )
    for observation in dataset:
        _check_numbers(observation)
    weights = _weights(dataset, settings)
    found = []
    for observation, weight in zip(dataset, weights, strict=True):
        structure = observation.item.structure
        try:
            crystal = to_arrays(structure)
        except RepresentationError:
            continue
        formula = str(structure.composition.reduced_formula)
        found.append(Lesson(crystal, formula, _labels(observation), weight, observation.feasible))
    useful = [lesson for lesson in found if lesson.made and lesson.weight > 0]
    if not useful:
        raise FineTuningRefusedError(
            f"None of the {len(dataset)} crystals was made and counts: all weights are zero.",
            "at least one synthesis that succeeded, with a weight above zero",
            "raise reward_temperature if the weights are too small, or wait for more experiments",
        )
    formulas = sorted({lesson.formula for lesson in useful})
    if len(formulas) < settings.min_compositions:
        raise FineTuningRefusedError(
            f"The crystals that were made have {len(formulas)} different composition"
            f"{'' if len(formulas) == 1 else 's'} ({', '.join(formulas)}).",
            f"{settings.min_compositions} or more: a generator that learns from one composition"
            " forgets the others",
            "wait for more experiments",
        )
    return found


def hold_out(
    found: Sequence[Lesson], share: float, fewest: int, seed: int
) -> tuple[list[Lesson], list[Lesson]]:
    """Divide examples into those to learn from and held-out ones; no composition is in both.

    Parameters
    ----------
    share
        Of the compositions, to be held out; none where there are too few.
    fewest
        Different compositions of made crystals that must stay.
    """
    formulas = sorted({lesson.formula for lesson in found})
    formulas.sort(key=lambda formula: derive_seed(seed, "held-out", formula))
    made = {lesson.formula for lesson in found if lesson.made and lesson.weight > 0}
    wanted = round(share * len(formulas)) if len(formulas) >= _FEWEST_TO_HOLD_OUT else 0
    held: set[str] = set()
    for formula in formulas:
        if len(held) < wanted and len(made - held - {formula}) >= fewest:
            held.add(formula)
    return (
        [lesson for lesson in found if lesson.formula not in held],
        [lesson for lesson in found if lesson.formula in held],
    )


def known_labels(found: Sequence[Lesson], before: Sequence[str]) -> tuple[str, ...]:
    """Name the labels that a generator knows after learning: those before, and new ones.

    A new label must stand at two crystals at least: one alone says nothing about its effect.
    """
    counts = Counter(name for lesson in found if lesson.weight > 0 for name in lesson.labels)
    return tuple(name for name in LABELS if name in before or counts[name] >= 2)


def effective_number(weights: Sequence[float]) -> float:
    """Return how many equally weighted examples say as much (Kish's effective sample size)."""
    total = sum(weights)
    return total**2 / sum(weight**2 for weight in weights) if total else 0.0


def _weights(dataset: Sequence[Observation], settings: FineTuningSettings) -> list[float]:
    """Return exp(reward / temperature) of crystals that were made, relative to the best.

    Where merits are known, a crystal without one counts as an average one, whose merit is 0.
    """
    merits = [o.merit for o in dataset if o.feasible and o.merit is not None]
    found = []
    for observation in dataset:
        above_hull = _energy_above_hull(observation)
        if not observation.feasible:
            found.append(settings.failed_weight)
        elif merits:
            behind = max(merits) - (observation.merit or 0.0)
            found.append(math.exp(-behind / settings.reward_temperature))
        elif above_hull is not None:
            found.append(math.exp(-max(0.0, above_hull) / settings.energy_temperature_eV))
        else:
            found.append(1.0)
    return found


def _energy_above_hull(observation: Observation) -> float | None:
    for source in (observation.values, observation.item.screening):
        if "energy_above_hull" in source:
            return float(source["energy_above_hull"])
    return None


def _labels(observation: Observation) -> dict[str, float | str]:
    """Collect what is known of a crystal under the names of `LABELS`.

    What was measured comes before what follows from the geometry and what screening estimated. The
    conditions of a failed synthesis are left out: they are not such that the crystal forms.
    """
    labels: dict[str, float | str] = {
        name: float(observation.item.screening[name])
        for name in _FROM_SCREENING
        if name in observation.item.screening
    }
    bare = LabelledStructure(observation.item.structure, labels)
    labels = dict(with_geometry_labels(bare).labels)
    labels |= {
        name: float(value)
        for name, value in observation.values.items()
        if name in CONTINUOUS_LABELS
    }
    if observation.feasible:
        for name in CONDITIONS:
            if name in observation.conditions:
                labels[name] = observation.conditions[name]
        if "method" in labels and labels["method"] not in SYNTHESIS_METHODS:
            labels["method"] = "other"
    return labels


def _check_numbers(observation: Observation) -> None:
    """Refuse what is not finite: one such number would spoil every weight of the networks."""
    structure = observation.item.structure
    named: dict[str, float | str | None] = {
        "merit": observation.merit,
        **{name: observation.item.screening.get(name) for name in _FROM_SCREENING},
        **observation.conditions,
        **observation.values,
    }
    wrong = [
        f"{name} is {value}"
        for name, value in named.items()
        if isinstance(value, int | float) and not math.isfinite(value)
    ]
    if not (
        np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()
    ):
        wrong.append("its cell or coordinates are not finite")
    if wrong:
        raise FineTuningRefusedError(
            f"The crystal {observation.item.candidate_id} cannot be learned from:"
            f" {', '.join(wrong)}.",
            "finite numbers",
            "correct the instrument that gave them",
        )

"""What a selector sees and what it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pymatgen.core import Structure


@dataclass(frozen=True)
class PoolItem:
    """A crystal that could be made next, or one that was.

    Attributes
    ----------
    candidate_id
        Primary key in the ledger.
    structure
        Relaxed crystal.
    embedding
        Descriptor from the potential, shape (n_features,), or None.
    screening
        Property to cheap-fidelity value, in the property's ledger unit.
    """

    candidate_id: str
    structure: Structure
    embedding: NDArray[np.float64] | None = None
    screening: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What an experiment told about a crystal.

    Attributes
    ----------
    item
        The crystal.
    values
        Property to measured value; empty where the synthesis failed.
    uncertainties
        Property to one standard deviation; a property may be missing.
    feasible
        Whether the crystal could be made.
    conditions
        How it was made, or tried: ``temperature`` in K, ``pressure`` in GPa, ``method``; empty
        where nothing is known.
    merit
        How well it serves the campaign's aims, see `matterloop.loop.merit`; None where unknown.
    """

    item: PoolItem
    values: Mapping[str, float]
    uncertainties: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = True
    conditions: Mapping[str, float | str] = field(default_factory=dict)
    merit: float | None = None


@dataclass(frozen=True)
class Prediction:
    """Posterior of one property, in its ledger unit."""

    mean: float
    std: float


@dataclass(frozen=True)
class Choice:
    """A selector's opinion on one candidate of the pool.

    Attributes
    ----------
    rank
        Position in the batch, from 1; None for candidates that were considered and not chosen.
    acquisition_value
        Value of the acquisition function, for batch members at the moment of their choice.
    predictions
        Property to posterior; empty for selectors without a surrogate.
    reason
        One sentence for the scientist.
    """

    candidate_id: str
    rank: int | None
    acquisition_value: float | None
    predictions: Mapping[str, Prediction]
    reason: str


@dataclass(frozen=True)
class Selection:
    """A batch, and the opinion on every candidate that was in the pool.

    Attributes
    ----------
    acquisition_function
        Its name, e.g. ``qLogNEHVI``.
    surrogate_sha256
        Hash of the fitted surrogate's state; None without one.
    details
        JSON-serialisable: kernel, length scales, reference point, fit quality.
    """

    choices: tuple[Choice, ...]
    acquisition_function: str
    surrogate_sha256: str | None
    details: Mapping[str, Any] = field(default_factory=dict)


def evidence_sha256(dataset: Sequence[Observation]) -> str:
    """Hash what a generator learns from: crystals, figures, conditions, in whatever order.

    The ledger's ids are no content: a campaign that is run again has the same hash.
    """
    from matterloop.loop.dataset import LabelledStructure, dataset_sha256

    return dataset_sha256(
        LabelledStructure(
            observation.item.structure,
            {
                "made": "yes" if observation.feasible else "no",
                "merit": repr(observation.merit),
                **{f"measured {name}": repr(v) for name, v in observation.values.items()},
                **{f"screened {name}": repr(v) for name, v in observation.item.screening.items()},
                **{f"condition {name}": repr(v) for name, v in observation.conditions.items()},
            },
        )
        for observation in dataset
    )

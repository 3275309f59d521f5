"""What a generator is asked for and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.spec import SearchSpace


@dataclass(frozen=True)
class ModelRef:
    """Which model produced a number or a structure.

    Attributes
    ----------
    kind
        ``generator`` or ``potential``.
    name, version
        As the plugin calls itself.
    sha256
        Hash of the weights or tables that determine its output, 64 hexadecimal digits.
    config
        JSON-serialisable settings that complete the hash.
    metrics
        JSON-serialisable figures of its training: losses, cost.
    """

    kind: str
    name: str
    version: str
    sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """What the generated crystals should obey or approach.

    Attributes
    ----------
    search_space
        Hard: elements, formulas, numbers of atoms.
    targets
        Soft: property name to the value wished for, in the property's ledger unit, or to a word
        (``crystal_system``: ``cubic``).
    temperature_K, pressure_GPa
        Conditions of synthesis.
    """

    search_space: SearchSpace
    targets: Mapping[str, float | str] = field(default_factory=dict)
    temperature_K: float = 298.15
    pressure_GPa: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A crystal that a generator proposes.

    Attributes
    ----------
    structure
        Ordered, periodic pymatgen structure.
    origin
        JSON-serialisable account of how it came about (template, substitution, probability, ...).
    seed
        Seed of the draw that gave it.
    """

    structure: Structure
    origin: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Verdict:
    """Outcome of one check of the critic on one candidate.

    Attributes
    ----------
    check
        ``valid``, ``unique``, ``novel``, ``stable`` or a critic's own word.
    passed
        Whether the check was passed. Only checks in `decisive` refuse a candidate.
    reason
        One sentence with figures and units, also when passed.
    decisive
        Whether failing this check refuses the candidate; False for flags.
    """

    check: str
    passed: bool
    reason: str
    decisive: bool = True

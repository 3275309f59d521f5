"""Everything that is to be said about a set of generated crystals."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.calculation import PotentialIdentity, RelaxOptions
from matterloop.loop.chemistry.matching import MatchTolerances
from matterloop.loop.chemistry.metrics import THRESHOLDS_EV_PER_ATOM, Rate, SampleFlags, sun_metrics
from matterloop.loop.evaluation.coverage import (
    Coverage,
    DistributionDistances,
    coverage,
    distribution_distances,
)
from matterloop.loop.evaluation.energies import Energy, Watch, raw_energies, relaxed_energies
from matterloop.loop.evaluation.fingerprints import fingerprints
from matterloop.loop.evaluation.novelty import (
    KnownSet,
    NoveltyBasis,
    formula_novelty,
    novelty,
    uniqueness,
)
from matterloop.loop.evaluation.records import Records
from matterloop.loop.evaluation.samples import Sample
from matterloop.loop.evaluation.validity import INVALID, Validity, validity

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import Potential

_REASONS_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """The figures of one state of the samples, raw or relaxed; see `DEFINITIONS`.

    Attributes
    ----------
    rates
        Name to rate; None where it was not computed, for which `why_not` has the reason.
    median_above_hull, mean_above_hull
        eV/atom, of the samples that have one; None if none has.
    """

    rates: Mapping[str, Rate | None]
    median_above_hull: float | None = None
    mean_above_hull: float | None = None


@dataclass(frozen=True)
class RelaxationSummary:
    """How the relaxations went.

    Attributes
    ----------
    attempted
        Structurally valid samples; others are not relaxed.
    failed, unconverged
        Refused by the potential or its guards; not converged within the steps.
    mean_displacement_A, median_displacement_A, median_volume_change, cpu_s
        Of those that did not fail; None if all did.
    reasons
        Why relaxations failed, the most frequent reasons first.
    """

    attempted: int
    failed: int
    unconverged: int
    mean_displacement_A: float | None = None
    median_displacement_A: float | None = None
    median_volume_change: float | None = None
    cpu_s: float = 0.0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What is known of a set of samples.

    Attributes
    ----------
    samples, readable
        All samples, and those that are crystals.
    problems
        What was wrong with the others, the most frequent first.
    raw, relaxed
        Figures of the samples as they are and after relaxation.
    basis
        What novelty was judged by; None if by nothing.
    potential, hull_sha256, hull_entries
        Whose energies these are and which hull they are held against.
    held_out
        Number of held-out crystals.
    coverage, distributions, valid_distributions
        Raw samples against the held-out crystals, the last for valid samples only.
    why_not
        What was not computed, and why.
    """

    samples: int
    readable: int
    problems: Mapping[str, int]
    raw: Row
    relaxed: Row | None = None
    relaxation: RelaxationSummary | None = None
    basis: NoveltyBasis | None = None
    potential: PotentialIdentity | None = None
    hull_sha256: str | None = None
    hull_entries: int | None = None
    held_out: int = 0
    coverage: Coverage | None = None
    distributions: DistributionDistances | None = None
    valid_distributions: DistributionDistances | None = None
    why_not: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Yardsticks:
    """What samples are measured by; whatever is left out is not computed.

    Attributes
    ----------
    known
        Known crystals, for novelty.
    held_out
        Crystals that the generator has not seen, for coverage and distributions.
    potential, hull
        For energies; both or none.
    relax
        Whether samples are relaxed.
    options
        How far.
    """

    known: KnownSet | None = None
    held_out: Sequence[Structure] = ()
    potential: Potential | None = None
    hull: ReferenceHull | None = None
    relax: bool = True
    options: RelaxOptions = field(default_factory=RelaxOptions)


def evaluate(
    samples: Sequence[Sample],
    yardsticks: Yardsticks,
    folder: Path,
    *,
    tolerances: MatchTolerances | None = None,
    workers: int = 1,
    watch: Watch | None = None,
) -> Evaluation:
    """Judge samples.

    Parameters
    ----------
    folder
        Keeps energies, relaxed crystals and fingerprints as they come; the same call with the same
        folder computes only what is missing.
    workers
        Processes for fingerprints, see `matterloop.loop.evaluation.fingerprints.fingerprints`; the
        potential has its own number.
    """
    structures = [sample.structure for sample in samples]
    judged = [INVALID if s is None else validity(s) for s in structures]
    crystals = [s if v.structural else None for s, v in zip(structures, judged, strict=True)]
    energies = relaxations = None
    potential, hull = yardsticks.potential, yardsticks.hull
    if potential is not None and hull is not None:
        records = Records(folder / "energies.jsonl")
        energies = raw_energies(crystals, potential, hull, records, watch)
        if yardsticks.relax:
            records = Records(folder / "relaxations.jsonl")
            relaxations = relaxed_energies(
                crystals, potential, hull, records, yardsticks.options, watch
            )
    raw = _row(crystals, judged, energies, yardsticks.known, tolerances)
    relaxed = None
    if relaxations is not None:
        after = [energy.structure for energy in relaxations]
        judged_after = [INVALID if s is None else validity(s) for s in after]
        valid = [s if v.structural else None for s, v in zip(after, judged_after, strict=True)]
        relaxed = _row(valid, judged_after, relaxations, yardsticks.known, tolerances)
    held_out = list(yardsticks.held_out)
    covered = None
    if held_out:
        records = Records(folder / "fingerprints.jsonl")
        real = fingerprints(held_out, records, workers=workers, watch=watch)
        made = fingerprints(crystals, records, workers=workers, watch=watch)
        covered = coverage(made, real)
    return Evaluation(
        samples=len(samples),
        readable=sum(s is not None for s in structures),
        problems=_by_frequency(sample.problem for sample in samples if sample.problem),
        raw=raw,
        relaxed=relaxed,
        relaxation=_summary(crystals, relaxations) if relaxations is not None else None,
        basis=yardsticks.known.basis if yardsticks.known is not None else None,
        potential=potential.identity if energies is not None and potential else None,
        hull_sha256=hull.sha256 if energies is not None and hull else None,
        hull_entries=len(hull.entries) if energies is not None and hull else None,
        held_out=len(held_out),
        coverage=covered,
        distributions=distribution_distances([s for s in structures if s is not None], held_out),
        valid_distributions=distribution_distances(
            [
                s
                for s, v in zip(structures, judged, strict=True)
                if s is not None and v.structural and v.compositional
            ],
            held_out,
        ),
        why_not=_why_not(yardsticks, energies is not None, relaxations is not None),
    )


def _row(
    crystals: Sequence[Structure | None],
    judged: Sequence[Validity],
    energies: Sequence[Energy] | None,
    known: KnownSet | None,
    tolerances: MatchTolerances | None,
) -> Row:
    """Count; `crystals` holds those that are structurally valid."""
    n = len(crystals)

    def rate(flags: Sequence[bool]) -> Rate:
        return Rate(sum(flags), n)

    unique = uniqueness(crystals, tolerances)
    novel = novelty(crystals, known) if known is not None else None
    rates: dict[str, Rate | None] = {
        "structurally_valid": rate([v.structural for v in judged]),
        "compositionally_valid": rate([v.compositional for v in judged]),
        "valid": rate([v.structural and v.compositional for v in judged]),
        "physically_valid": rate([v.physical for v in judged]),
        "neutral": rate([v.neutral for v in judged]),
        "unique": rate(unique),
        "novel": rate(novel) if novel is not None else None,
        "novel_formula": rate(formula_novelty(crystals, known)) if known is not None else None,
        "unique_novel": (
            rate([u and v for u, v in zip(unique, novel, strict=True)])
            if novel is not None
            else None
        ),
    }
    above = [energy.above_hull_eV_per_atom for energy in energies] if energies else [None] * n
    thin = [energy.thin for energy in energies] if energies else [False] * n
    structural = [v.structural for v in judged]
    everything = [v.structural and v.compositional and v.physical for v in judged]
    doubtful = [a and b for a, b in zip(structural, thin, strict=True)]
    for prefix, valid in (("", structural), ("valid_", everything), ("thin_", doubtful)):
        flags = [
            SampleFlags(ok, u, novel[i] if novel is not None else False, above[i])
            for i, (ok, u) in enumerate(zip(valid, unique, strict=True))
        ]
        counted = sun_metrics(flags)
        for limit in THRESHOLDS_EV_PER_ATOM:
            if not prefix:
                rates[f"stable_{limit:g}"] = counted.stable[limit] if energies else None
            computed = energies is not None and novel is not None
            rates[f"{prefix}sun_{limit:g}"] = counted.sun[limit] if computed else None
    rates["thin"] = rate(thin) if energies else None
    rates["with_energy_above_hull"] = rate([e is not None for e in above]) if energies else None
    values = [value for value in above if value is not None]
    return Row(
        rates,
        median_above_hull=statistics.median(values) if values else None,
        mean_above_hull=statistics.fmean(values) if values else None,
    )


def _summary(
    crystals: Sequence[Structure | None], relaxations: Sequence[Energy]
) -> RelaxationSummary:
    attempted = [e for c, e in zip(crystals, relaxations, strict=True) if c is not None]
    done = [energy for energy in attempted if energy.structure is not None]
    shifts = [e.displacement_A for e in done if e.displacement_A is not None]
    volumes = [e.volume_change for e in done if e.volume_change is not None]
    return RelaxationSummary(
        attempted=len(attempted),
        failed=len(attempted) - len(done),
        unconverged=sum(not energy.converged for energy in done),
        mean_displacement_A=statistics.fmean(shifts) if shifts else None,
        median_displacement_A=statistics.median(shifts) if shifts else None,
        median_volume_change=statistics.median(volumes) if volumes else None,
        cpu_s=sum(energy.cpu_s or 0.0 for energy in done),
        reasons=_by_frequency(e.reason for e in attempted if e.structure is None),
    )


def _why_not(yardsticks: Yardsticks, energies: bool, relaxations: bool) -> dict[str, str]:
    reasons = {}
    if yardsticks.known is None:
        reasons["novelty"] = "not computed: neither reference structures nor a formula index"
        reasons["sun"] = "not computed: no novelty"
    if not yardsticks.held_out:
        reasons["coverage"] = reasons["distributions"] = "not computed: no held-out crystals"
    if not energies:
        reasons["stability"] = reasons["sun"] = "not computed: no potential with its hull"
    if not relaxations:
        reasons["relaxed"] = "not computed: relaxation was not asked for"
    return reasons


def _by_frequency(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common(_REASONS_SHOWN))

"""Valid, unique, novel, stable: how good a generator is.

Definitions follow MatterGen (Zeni et al., Nature 639, 624 (2025)): of the samples of a generator a
crystal is *stable* if its relaxed energy lies at most 0.1 eV/atom above the reference hull,
*unique* if it matches no other sample of the same run, *novel* if it matches no known crystal;
S.U.N. are those that are all three. The stricter threshold of 0 eV/atom (on or below the hull) is
reported beside it, and validity (see `matterloop.loop.chemistry.validity`) is demanded too.

Every rate has the number of *all samples* as its denominator, whatever was refused on the way. So
a generator that makes few good crystals and much rubbish cannot look better by being screened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from matterloop.loop.errors import UsageError

STABLE_EV_PER_ATOM = 0.1
"""Energy above hull up to which a crystal counts as stable."""
THRESHOLDS_EV_PER_ATOM = (0.0, STABLE_EV_PER_ATOM)


@dataclass(frozen=True)
class SampleFlags:
    """What is known about one sample of a generator.

    Attributes
    ----------
    valid, unique, novel
        Outcome of the checks; False where a check was not reached because an earlier one refused.
    energy_above_hull_eV_per_atom
        Of the relaxed crystal; None where it was not computed, which counts as not stable.
    """

    valid: bool
    unique: bool
    novel: bool
    energy_above_hull_eV_per_atom: float | None = None


@dataclass(frozen=True)
class Rate:
    """A count among all samples."""

    count: int
    samples: int

    @property
    def fraction(self) -> float:
        """Count over samples, 0 to 1; 0 if there are no samples."""
        return self.count / self.samples if self.samples else 0.0

    def __str__(self) -> str:
        return f"{self.count}/{self.samples} ({self.fraction:.1%})"


@dataclass(frozen=True)
class SunMetrics:
    """Rates of one set of samples, each with all samples as denominator.

    Attributes
    ----------
    valid, unique, novel
        Each by itself.
    valid_unique_novel
        All three at once.
    evaluated
        Samples with an energy above hull.
    stable, sun
        Threshold in eV/atom to the rate of valid samples at or below it, and of those that are
        unique and novel as well.
    """

    samples: int
    valid: Rate
    unique: Rate
    novel: Rate
    valid_unique_novel: Rate
    evaluated: Rate
    stable: dict[float, Rate]
    sun: dict[float, Rate]

    def as_row(self) -> dict[str, float]:
        """Return the fractions under names that fit a table, e.g. ``sun_0.1``."""
        row = {
            name: getattr(self, name).fraction
            for name in ("valid", "unique", "novel", "valid_unique_novel", "evaluated")
        }
        row |= {f"stable_{limit:g}": rate.fraction for limit, rate in self.stable.items()}
        row |= {f"sun_{limit:g}": rate.fraction for limit, rate in self.sun.items()}
        return row


def sun_metrics(
    samples: Iterable[SampleFlags], thresholds: Iterable[float] = THRESHOLDS_EV_PER_ATOM
) -> SunMetrics:
    """Count S.U.N. samples.

    Parameters
    ----------
    thresholds
        Energies above hull in eV/atom up to which, inclusive, a crystal counts as stable.

    Raises
    ------
    UsageError
        If an energy is not a finite number.
    """
    flags = list(samples)
    for flag in flags:
        energy = flag.energy_above_hull_eV_per_atom
        if energy is not None and not isfinite(energy):
            raise UsageError(
                f"A sample has the energy above hull {energy}.", "a finite number or None"
            )

    def rate(count: int) -> Rate:
        return Rate(count, len(flags))

    limits = tuple(thresholds)
    good = [flag for flag in flags if flag.valid and flag.unique and flag.novel]
    return SunMetrics(
        samples=len(flags),
        valid=rate(sum(flag.valid for flag in flags)),
        unique=rate(sum(flag.unique for flag in flags)),
        novel=rate(sum(flag.novel for flag in flags)),
        valid_unique_novel=rate(len(good)),
        evaluated=rate(sum(flag.energy_above_hull_eV_per_atom is not None for flag in flags)),
        stable={
            limit: rate(sum(flag.valid and _stable(flag, limit) for flag in flags))
            for limit in limits
        },
        sun={limit: rate(sum(_stable(flag, limit) for flag in good)) for limit in limits},
    )


def _stable(flag: SampleFlags, limit: float) -> bool:
    energy = flag.energy_above_hull_eV_per_atom
    return energy is not None and energy <= limit

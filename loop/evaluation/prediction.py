"""Structure prediction: whether a generator finds held-out crystals from their compositions.

Match rate and RMSE after CDVAE and DiffCSP (Jiao et al., NeurIPS 2023, arXiv:2309.04475):
pymatgen's ``StructureMatcher`` with stol 0.5, ltol 0.3, angle_tol 10; the RMSE is its root mean
square distance of matched sites over (V/N)^(1/3), averaged over the matched crystals. *At k*: any
of k crystals matches, the best RMSE counts. All held-out crystals are the denominator of every
rate. CDVAE's code also asks whether the composition is valid, which here is given and not asked.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matterloop.loop.chemistry.matching import MatchTolerances
from matterloop.loop.chemistry.metrics import Rate
from matterloop.loop.elements import element_counts, reduced_counts
from matterloop.loop.errors import PluginFailedError, UsageError
from matterloop.loop.evaluation.energies import Watch
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.evaluation.samples import structure_key
from matterloop.loop.evaluation.validity import is_structurally_valid
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.plugins import calling

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    from matterloop.loop.protocols import StructurePredictor

PREDICTION_TOLERANCES = MatchTolerances(ltol=0.3, stol=0.5, angle_tol=10.0)
_AT_ONCE = 32
"""Held-out crystals per call of the generator: its seed, and what a kill loses."""


@dataclass(frozen=True)
class Prediction:
    """What came of one held-out crystal.

    Attributes
    ----------
    rms
        One entry per sample: normalised RMS distance, or None where it does not match.
    obeyed
        Whether all samples have the composition that was asked for.
    """

    rms: tuple[float | None, ...]
    obeyed: bool = True

    def best(self, k: int) -> float | None:
        """Return the best RMS distance among the first `k` samples, None if none matches."""
        return min((value for value in self.rms[:k] if value is not None), default=None)


@dataclass(frozen=True)
class PredictionScore:
    """Match rate and RMSE at some number of samples.

    Attributes
    ----------
    k
        Samples for each held-out crystal.
    matched
        Held-out crystals of which one of the first `k` samples matches.
    rmse
        Mean of the best normalised RMS distances of the matched ones; None if there are none.
    """

    k: int
    matched: Rate
    rmse: float | None


def score(predictions: Sequence[Prediction], k: int) -> PredictionScore:
    """Sum up predictions with `k` samples each."""
    best = [value for p in predictions if (value := p.best(k)) is not None]
    return PredictionScore(
        k, Rate(len(best), len(predictions)), statistics.fmean(best) if best else None
    )


def rms_distance(
    predicted: Structure, real: Structure, matcher: StructureMatcher | None = None
) -> float | None:
    """Return the normalised RMS distance of two crystals, None if they do not match."""
    matcher = matcher or PREDICTION_TOLERANCES.matcher()
    if not is_structurally_valid(predicted):
        return None  # it cannot match, and the matcher may not end on a collapsed cell
    if _formula(predicted) != _formula(real):
        return None
    try:
        found = matcher.get_rms_dist(predicted, real)
    except Exception:  # noqa: BLE001  # an absurd cell may break the reduction: no match
        return None
    return None if found is None else float(found[0])


def predict_held_out(
    generator: StructurePredictor,
    held_out: Sequence[Structure],
    samples: int,
    *,
    seed: int,
    records: Records,
    name: str,
    version: Any = None,
    watch: Watch | None = None,
) -> list[Prediction]:
    """Let a generator predict held-out crystals from their compositions alone.

    Parameters
    ----------
    samples
        Crystals to generate for each.
    records
        Keeps the outcome, so that a run that was ended goes on.
    name, version
        The generator's name, and what else its output depends on (JSON-serialisable).

    Raises
    ------
    UsageError
        If `samples` is not positive.
    PluginFailedError
        If the generator fails or gives back another number of lists.
    """
    if samples < 1:
        raise UsageError(f"{samples} samples per composition were asked for.", "at least 1")
    matcher = PREDICTION_TOLERANCES.matcher()
    predictions: list[Prediction] = []
    for start in range(0, len(held_out), _AT_ONCE):
        chunk = held_out[start : start + _AT_ONCE]
        own = derive_seed(seed, "predict", start)
        contents = [structure_key(structure) for structure in chunk]
        key = record_key("prediction", name, version, contents, samples, own)
        row = records.get(key)
        if row is None:
            compositions = [sorted(int(z) for z in structure.atomic_numbers) for structure in chunk]
            with calling("generators", name):
                made = generator.predict(compositions, samples, seed=own)
            if len(made) != len(chunk):
                reason = f"predict gave {len(made)} lists for {len(chunk)} compositions"
                raise PluginFailedError("matterloop.generators", name, reason)
            row = {"predictions": [_row(m, s, matcher) for m, s in zip(made, chunk, strict=True)]}
            records.put(key, row)
        predictions += [
            Prediction(tuple(one["rms"][:samples]), one["obeyed"]) for one in row["predictions"]
        ]
        if watch:
            watch("predictions", len(predictions), len(held_out))
    return predictions


def _row(made: Iterable[Structure], real: Structure, matcher: StructureMatcher) -> dict[str, Any]:
    crystals = list(made)
    asked = element_counts(real)
    return {
        "rms": [rms_distance(crystal, real, matcher) for crystal in crystals],
        "obeyed": all(element_counts(crystal) == asked for crystal in crystals),
    }


def _formula(structure: Structure) -> dict[str, int]:
    return reduced_counts(element_counts(structure))

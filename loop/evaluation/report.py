"""An evaluation as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.chemistry.metrics import Rate
from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.definitions import DEFINITIONS
from matterloop.loop.evaluation.evaluation import Evaluation, Row
from matterloop.loop.evaluation.prediction import Prediction, PredictionScore, score
from matterloop.loop.workplace import writable_folder

if TYPE_CHECKING:
    from rich.table import Table

_NOT_COMPUTED = "not computed"
_LABELS: Mapping[str, str] = {
    "structurally_valid": "structurally valid",
    "compositionally_valid": "compositionally valid (SMACT)",
    "valid": "valid (both)",
    "physically_valid": "physically valid (stricter)",
    "neutral": "neutral (SMACT, icsd24)",
    "unique": "unique",
    "novel": "novel",
    "novel_formula": "novel formula",
    "unique_novel": "unique and novel",
    "stable_0": "stable (<= 0 eV/atom)",
    "stable_0.1": "metastable (<= 0.1 eV/atom)",
    "sun_0": "S.U.N. (<= 0)",
    "sun_0.1": "S.U.N. (<= 0.1)",
    "valid_sun_0": "S.U.N. and valid (<= 0)",
    "valid_sun_0.1": "S.U.N. and valid (<= 0.1)",
    "thin": "hull is thin there",
    "thin_sun_0": "S.U.N. where the hull is thin (<= 0)",
    "thin_sun_0.1": "S.U.N. where the hull is thin (<= 0.1)",
    "with_energy_above_hull": "has an energy above hull",
}


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation and its definitions as JSON."""
    return {**_plain(evaluation), "definitions": dict(DEFINITIONS)}


def prediction_json(predictions: Sequence[Prediction], ks: Iterable[int]) -> dict[str, Any]:
    """Return scores of structure prediction at several numbers of samples, with definitions."""
    names = ("match_rate, rmse", "denominator")
    return {
        "held_out": len(predictions),
        "samples": max((len(p.rms) for p in predictions), default=0),
        "compositions_obeyed": sum(p.obeyed for p in predictions),
        "scores": [_plain(score(predictions, k)) for k in ks],
        "definitions": {name: DEFINITIONS[name] for name in names},
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report; a reader never sees half of it.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    writable_folder(path.resolve().parent)
    part = path.with_name(f".{path.name}.part")
    try:
        text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"Cannot write {str(path)!r}: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Lay out the rates of raw and relaxed samples."""
    from rich.table import Table

    table = Table(
        "",
        title=f"{evaluation.samples} samples",
        box=None,
        pad_edge=False,
        title_justify="left",
    )
    rows: dict[str, Row] = {"raw": evaluation.raw}
    if evaluation.relaxed is not None:
        rows["relaxed"] = evaluation.relaxed
    for name in rows:
        table.add_column(name, justify="right")
    bound = evaluation.basis is not None and evaluation.basis.kind == "formulas"
    for name, label in _LABELS.items():
        if (bound and name in ("novel", "unique_novel")) or (bound and "sun" in name):
            label += ", at least"
        table.add_row(label, *(_cell(row.rates.get(name)) for row in rows.values()))
    medians = [row.median_above_hull for row in rows.values()]
    if any(value is not None for value in medians):
        table.add_row("median energy above hull, eV/atom", *map(_figure, medians))
    return table


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Say in lines what does not fit into the table, and what was not computed."""
    notes = []
    if evaluation.problems:
        told = "; ".join(f"{n} x {reason}" for reason, n in evaluation.problems.items())
        notes.append(f"No crystal: {evaluation.samples - evaluation.readable} samples ({told}).")
    if evaluation.basis is not None:
        basis = evaluation.basis
        what = "crystals" if basis.kind == "structures" else "formulas (a lower bound)"
        notes.append(f"Novelty against {basis.size:,} {what} of {basis.source}.")
    if evaluation.potential is not None:
        notes.append(
            f"Energies of {evaluation.potential}; hull {(evaluation.hull_sha256 or '')[:8]} with"
            f" {evaluation.hull_entries:,} entries."
        )
    if (relaxation := evaluation.relaxation) is not None:
        notes.append(
            f"Relaxations: {relaxation.attempted}, of which {relaxation.failed} failed and"
            f" {relaxation.unconverged} did not converge; RMS displacement"
            f" {_figure(relaxation.mean_displacement_A)} A (median"
            f" {_figure(relaxation.median_displacement_A)}), median volume change"
            f" {_figure(relaxation.median_volume_change)}; {relaxation.cpu_s:.0f} CPU-s."
        )
    if (covered := evaluation.coverage) is not None:
        notes.append(
            f"Coverage of {evaluation.held_out} held-out crystals: recall {covered.recall},"
            f" precision {covered.precision}."
        )
    if (near := evaluation.distributions) is not None:
        notes.append(
            f"Wasserstein distances: density {near.density_g_cm3:.3f} g/cm^3, elements"
            f" {near.n_elements:.3f}, atoms {near.n_atoms:.2f}."
        )
    told_once: dict[str, list[str]] = {}
    for what, why in evaluation.why_not.items():
        told_once.setdefault(why, []).append(what)
    notes += [f"{', '.join(what).capitalize()} {why}." for why, what in told_once.items()]
    return notes


def prediction_table(scores: Sequence[PredictionScore]) -> Table:
    """Lay out match rates and RMSE."""
    from rich.table import Table

    table = Table("samples", "match rate", "RMSE / (V/N)^(1/3)", box=None, pad_edge=False)
    for each in scores:
        table.add_row(
            f"best of {each.k}" if each.k > 1 else "1", str(each.matched), _figure(each.rmse)
        )
    return table


def _cell(rate: Rate | None) -> str:
    return _NOT_COMPUTED if rate is None else f"{rate.count} ({rate.fraction:.1%})"


def _figure(value: float | None) -> str:
    return _NOT_COMPUTED if value is None else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """Turn values into what JSON knows; a rate gets its fraction."""
    if isinstance(value, Rate):
        return {
            "count": value.count,
            "samples": value.samples,
            "fraction": round(value.fraction, 6),
        }
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value

"""Whether guidance works, and what it costs: ``python benchmarks/generator_guidance.py``.

Crystals are asked for a band gap, a density, a low energy above hull or a crystal system, with
rising guidance scale. Judges: the model's own property head; a regressor that shares nothing with
the generator (gradient boosting on descriptors, trained on the training part, its error on the test
part is reported); the crystal itself where that suffices (density, spglib); CHGNet for energies of
some unrelaxed crystals. Two settings: guidance of both networks, and a fixed formula and number of
atoms, where the composition network has nothing to say. Only the label of the series acts: the
generator's standing wish for a low energy above hull is off. Prints tables, writes JSON and a plot.
Samples and judgements are kept in the work folder: the same command goes on where it ended.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from circumstances import Circumstances
from guidance_report import UNITS, plot_guidance, print_guidance
from independent_regressor import Regressor, fit, mark, read_table
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.generator import DiffusionGenerator, DiffusionSettings
from matterloop.loop.candidate import Conditions
from matterloop.loop.dataset import LabelledStructure, with_geometry_labels
from matterloop.loop.elements import SYMBOLS
from matterloop.loop.evaluation.energies import raw_energies
from matterloop.loop.evaluation.novelty import uniqueness
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.evaluation.report import write_json
from matterloop.loop.evaluation.validity import validity
from matterloop.loop.hull import ReferenceHull
from matterloop.loop.ledger.structures import structure_content
from matterloop.loop.plugins import build
from matterloop.loop.spec import SearchSpace

PACKAGES = ("matterloop", "torch", "scikit-learn", "pymatgen", "spglib", "smact", "chgnet", "numpy")
SCALES = "0,0.5,1,2,3,4"
SYMPREC_A = 0.1
REGRESSED = ("band_gap",)


@dataclass(frozen=True)
class Series:
    """One wish, asked for with rising scale.

    Attributes
    ----------
    label, target
        What is asked for.
    formula, atoms
        The only composition allowed; None and 0 for any.
    """

    label: str
    target: float | str
    formula: str | None = None
    atoms: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        unit = UNITS.get(self.label, "") if not isinstance(self.target, str) else ""
        wish = f"{self.label} = {self.target} {unit}".strip()
        return f"{wish}, {self.formula} with {self.atoms} atoms" if self.formula else wish

    def conditions(self, max_atoms: int) -> Conditions:
        """Return what the generator is asked."""
        if self.formula:
            space = SearchSpace(
                formulas=(self.formula,), min_atoms=self.atoms, max_atoms=self.atoms
            )
        else:
            space = SearchSpace(elements=tuple(sorted(SYMBOLS)), max_atoms=max_atoms)
        return Conditions(space, targets={self.label: self.target})


def main(
    n: Annotated[int, typer.Option(help="Crystals per point.", min=2)] = 200,
    scales: Annotated[str, typer.Option(help="Guidance scales.")] = SCALES,
    band_gaps: Annotated[str, typer.Option(help="Targets, eV.")] = "1.4",
    densities: Annotated[str, typer.Option(help="Targets, g/cm^3.")] = "4,8",
    above_hull: Annotated[str, typer.Option(help="Targets, eV/atom.")] = "0",
    crystal_systems: Annotated[str, typer.Option(help="Targets, words.")] = "cubic",
    fixed: Annotated[str, typer.Option(help="Formula and atoms; empty: none.")] = "SiO2:12",
    fixed_densities: Annotated[str, typer.Option(help="Its targets, g/cm^3.")] = "2,4.2",
    weights: Annotated[Path | None, typer.Option(help="Folder; default: shipped.")] = None,
    steps: Annotated[int, typer.Option(help="Euler steps.")] = 25,
    max_atoms: Annotated[int, typer.Option()] = 20,
    energies: Annotated[
        int, typer.Option(help="Crystals per point of the hull series that CHGNet judges.")
    ] = 50,
    data: Annotated[
        Path, typer.Option(help="Table that the regressor learns from, as MP-20 has it.")
    ] = Path("../shared/data/mp_le20.csv.gz"),
    seed: Annotated[int, typer.Option()] = 0,
    workers: Annotated[int, typer.Option()] = os.cpu_count() or 1,
    work: Annotated[Path | None, typer.Option(help="Default: beside --out.")] = None,
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/generator_guidance.json"),
) -> None:
    """Sweep the guidance scale and report."""
    if not data.is_file():
        typer.echo(
            f"There is no {data}: the independent regressor learns from a table of Materials"
            " Project crystals (columns material_id, cif, band_gap, ...). Name one with --data.",
            err=True,
        )
        raise typer.Exit(2)
    work = work or out.with_name(f"{out.stem}-work")
    circumstances = Circumstances(workers, PACKAGES)
    generator = DiffusionGenerator(
        DiffusionSettings(weights=weights, steps=steps, energy_above_hull=None)
    )
    series = _series(band_gaps, densities, above_hull, crystal_systems, fixed, fixed_densities)
    at = sorted({0.0, *map(float, scales.split(","))})
    samples = Samples(generator, n, seed, max_atoms, Records(work / "samples.jsonl"))
    judges = Judges(data, seed, workers, work)
    points = []
    for one in series:
        for scale in at:
            rows = samples.draw(one, scale)
            point = _point(one, scale, judges.judged(rows))
            if one.label == "energy_above_hull" and energies:
                point["chgnet_unrelaxed"] = judges.energies(rows[:energies], float(one.target))
            points.append(point)
            print(f"{one.name}, scale {scale:g}: {len(rows)} crystals", flush=True)
    model = generator.describe()
    result = {
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256,
                  "config": dict(model.config)},
        "seed": seed,
        "n_per_point": n,
        "scales": at,
        "symprec_A": SYMPREC_A,
        "regressors": judges.errors(),
        "points": points,
        **circumstances.facts(),
    }  # fmt: skip
    write_json(out, result)
    print_guidance(result)
    plot_guidance(result, out.with_suffix(".png"))
    print(f"\n{circumstances}; report: {out}")


class Samples:
    """Draws crystals, or reads those of an earlier run; unguided ones serve every wish."""

    def __init__(
        self, generator: DiffusionGenerator, n: int, seed: int, max_atoms: int, records: Records
    ) -> None:
        self._generator, self._records = generator, records
        self._n, self._seed, self._max_atoms = n, seed, max_atoms
        self._model = generator.describe().sha256

    def draw(self, series: Series, scale: float) -> list[dict[str, Any]]:
        """Return rows with ``key``, ``structure``, ``predicted``, ``tries``."""
        wish = [series.label, series.target] if scale else None
        space = [series.formula, series.atoms, self._max_atoms]
        keys = [
            record_key("sample", self._model, self._seed, space, wish, scale, place)
            for place in range(self._n)
        ]
        first = next((i for i, key in enumerate(keys) if key not in self._records), self._n)
        stream = self._generator.stream(
            self._n,
            series.conditions(self._max_atoms),
            guidance_scale=scale,
            seed=self._seed,
            start=first,
        )
        for candidate, key in zip(stream, keys[first:], strict=False):
            row = {
                "structure": structure_content(candidate.structure),
                "predicted": dict(candidate.origin["predicted"]),
                "tries": candidate.origin["geometries_drawn"],
            }
            self._records.put(key, row)
        return [row for key in keys if (row := self._records.get(key)) is not None]


class Judges:
    """Everything that looks at a crystal; a crystal is looked at once."""

    def __init__(self, data: Path, seed: int, workers: int, work: Path) -> None:
        self._data, self._seed, self._workers, self._work = data, seed, workers, work
        self._records = Records(work / "judged.jsonl")
        self._mark = mark(data, seed)
        self._regressors: list[Regressor] = []

    def judged(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows with everything that was found."""
        keys = [record_key("judged", row["key"], self._mark, SYMPREC_A) for row in rows]
        for row, key in zip(rows, keys, strict=True):
            if key not in self._records:
                self._records.put(key, self._judge(_structure(row)))
        structures = [_structure(row) for row in rows]
        found = [
            {**row, **(self._records.get(key) or {})} for row, key in zip(rows, keys, strict=True)
        ]
        valid = [s if r["structural"] else None for s, r in zip(structures, found, strict=True)]
        return [{**row, "unique": new} for row, new in zip(found, uniqueness(valid), strict=True)]

    def errors(self) -> dict[str, Any]:
        """Return label to the regressor's error on the test part."""
        key = record_key("errors", self._mark)
        if key not in self._records:
            self._records.put(key, {one.label: dict(one.error) for one in self._fitted()})
        return {name: v for name, v in (self._records.get(key) or {}).items() if name != "key"}

    def energies(self, rows: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
        """Energies above hull of unrelaxed crystals; those that the potential refuses count out."""
        potential = build("potentials", "chgnet", {"workers": self._workers}, None)
        try:
            valid = [s if validity(s := _structure(row)).structural else None for row in rows]
            found = raw_energies(
                valid,
                potential,
                ReferenceHull.shipped(potential.identity),
                Records(self._work / "energies.jsonl"),
            )
        finally:
            potential.close()
        values = [e.above_hull_eV_per_atom for e in found if e.above_hull_eV_per_atom is not None]
        return {**_spread(values, target), "asked": len(rows)}

    def _judge(self, structure: Structure) -> dict[str, Any]:
        seen = validity(structure)
        row: dict[str, Any] = {
            "density": float(structure.density),
            "structural": bool(seen.structural),
            "physical": bool(seen.physical),
            "compositional": bool(seen.compositional),
            "crystal_system": None,
            "regressed": {},
        }
        if seen.structural:
            labels = with_geometry_labels(LabelledStructure(structure), symprec_A=SYMPREC_A).labels
            row["crystal_system"] = labels.get("crystal_system")
            row["regressed"] = {one.label: one.values([structure])[0] for one in self._fitted()}
        return row

    def _fitted(self) -> list[Regressor]:
        if not self._regressors:
            table = read_table(self._data, self._work / "descriptors.npz", self._workers)
            self._regressors = [fit(table, label, self._seed) for label in REGRESSED]
        return self._regressors


def _series(
    band_gaps: str, densities: str, above_hull: str, systems: str, fixed: str, fixed_densities: str
) -> list[Series]:
    def numbers(text: str) -> list[float]:
        return [float(value) for value in text.split(",") if value.strip()]

    series = [Series("band_gap", value) for value in numbers(band_gaps)]
    series += [Series("density", value) for value in numbers(densities)]
    series += [Series("energy_above_hull", value) for value in numbers(above_hull)]
    series += [
        Series("crystal_system", word.strip()) for word in systems.split(",") if word.strip()
    ]
    if fixed:
        formula, _, atoms = fixed.partition(":")
        series += [
            Series("density", value, formula, int(atoms)) for value in numbers(fixed_densities)
        ]
    return series


def _structure(row: Mapping[str, Any]) -> Structure:
    content = row["structure"]
    return Structure(Lattice(content["lattice"]), content["species"], content["coords"])


def _point(series: Series, scale: float, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up one point. Shares are of all crystals, statistics of those that have a value."""
    label, target = series.label, series.target
    point: dict[str, Any] = {"series": series.name, "label": label, "target": target,
                             "formula": series.formula, "scale": scale, "n": len(rows)}  # fmt: skip
    if isinstance(target, str):
        point["found"] = _share(row[label] == target for row in rows)
    else:
        judges = {
            "own_head": [row["predicted"].get(label) for row in rows if row["structural"]],
            "independent": [row["regressed"].get(label) for row in rows],
            "exact": [row["density"] for row in rows if label == "density" and row["structural"]],
        }
        for judge, values in judges.items():
            known = [value for value in values if value is not None]
            if known:
                point[judge] = _spread(known, target)
    return point | {
        "structurally_valid": _share(row["structural"] for row in rows),
        "physically_valid": _share(row["physical"] for row in rows),
        "compositionally_valid": _share(row["compositional"] for row in rows),
        "unique": _share(row["unique"] for row in rows),
        "kept_at_first_try": _share(row["tries"] == 1 for row in rows),
    }


def _share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return sum(values) / max(len(values), 1)


def _spread(values: Sequence[float], target: float) -> dict[str, Any]:
    if not values:
        return {"n": 0}
    quartiles = (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "standard_error": statistics.stdev(values) / len(values) ** 0.5
        if len(values) > 1
        else None,
        "median": statistics.median(values),
        "quartiles": [quartiles[0], quartiles[2]],
        "mean_absolute_deviation": statistics.fmean(abs(value - target) for value in values),
    }


if __name__ == "__main__":
    typer.run(main)

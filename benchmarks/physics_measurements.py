"""What `generator_physics.py` measures of crystals, and how large the penalties are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.dataset import PackedCrystals
from matterloop.agents.generator.diffusion.drawing import DrawingSettings, draw_crystals
from matterloop.agents.generator.diffusion.heads import predicted_properties
from matterloop.agents.generator.diffusion.losses import losses
from matterloop.agents.generator.diffusion.network import PROPERTIES, GeometryNetwork
from matterloop.agents.generator.diffusion.physics import CLOSEST, PenaltyWeights
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings
from matterloop.loop.chemistry.validity import closest_pair
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.evaluation.prediction import rms_distance
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.evaluation.validity import validity
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.ledger.structures import structure_content

PENALTIES = tuple(PenaltyWeights.model_fields)
_AT_ONCE = 32
_ROWS = 64


def magnitudes(
    network: GeometryNetwork,
    critic: GeometryNetwork,
    data: PackedCrystals,
    settings: TrainingSettings,
    *,
    batches: int,
    seed: int,
) -> dict[str, float]:
    """Return the mean of each penalty at weight 1, and of the ``rest`` of the loss.

    Means over crystals: a batch's number of atoms is drawn by how many crystals have it.
    """
    blocks = list(data.blocks.values())
    chance = torch.tensor([float(len(block)) for block in blocks])
    sums = dict.fromkeys((*PENALTIES, "rest"), 0.0)
    for batch in range(batches):
        own = derive_seed(seed, "magnitude", batch)
        draw = torch.Generator().manual_seed(own)
        block = blocks[int(torch.multinomial(chance, 1, generator=draw))]
        block = block[torch.randint(len(block), (_ROWS,), generator=draw)]
        for name in PENALTIES:
            one = settings.model_copy(update={"penalties": PenaltyWeights(**{name: 1.0})})
            with torch.no_grad():
                # The same seed: every penalty sees the same noise and times.
                parts = losses(
                    network, block, one, torch.Generator().manual_seed(own), critic=critic
                )
            sums[name] += float(parts.pop("penalties").mean()) / batches
        sums["rest"] += float(torch.stack(list(parts.values())).sum(0).mean()) / batches
    return sums


def weights_for(measured: Mapping[str, float], share: float) -> dict[str, float]:
    """Return weights with which each penalty alone is `share` of the loss, to two digits."""
    wanted = share / (1 - share) * measured["rest"]
    return {
        name: float(f"{wanted / measured[name]:.2g}") if measured[name] > 0 else 0.0
        for name in PENALTIES
    }


@dataclass(frozen=True)
class Task:
    """Crystals to draw, the same for every arm.

    Attributes
    ----------
    name
        ``held-out`` or ``de-novo``.
    compositions
        Atomic numbers of all atoms.
    real
        The crystals to be found, with their labels; empty for de novo.
    seed
        Of the noise.
    """

    name: str
    compositions: Sequence[Sequence[int]]
    real: Sequence[LabelledStructure]
    seed: int


def drawn(
    task: Task,
    geometry: GeometryNetwork,
    base: GeometryNetwork,
    sha256: str,
    drawing: DrawingSettings,
    records: Records,
) -> list[dict[str, Any]]:
    """Draw all crystals of a task without any wish and look at them; one row for each.

    Parameters
    ----------
    base
        Network whose heads judge all arms alike.
    sha256
        Of the weights.
    """
    rows: list[dict[str, Any]] = []
    for first in range(0, len(task.compositions), _AT_ONCE):
        compositions = [list(map(int, c)) for c in task.compositions[first : first + _AT_ONCE]]
        real = task.real[first : first + _AT_ONCE]
        labels = [structure_content(item.structure) for item in real]
        key = record_key(
            task.name, sha256, drawing.model_dump(), compositions, labels, task.seed, first
        )
        if key not in records:
            places = range(first, first + len(compositions))
            crystals = draw_crystals(
                geometry,
                compositions,
                drawing,
                seeds=[derive_seed(task.seed, task.name, place) for place in places],
            )
            judged = predicted_properties(base, [crystal.structure for crystal in crystals])
            found = [
                {
                    **looked_at(crystal.structure),
                    "own": crystal.predicted,
                    "base": by_base,
                    "tries": crystal.tries,
                }
                for crystal, by_base in zip(crystals, judged, strict=True)
            ]
            for row, item in zip(found, real, strict=False):
                row |= compared(structure_of(row), item)
            records.put(key, {"rows": found})
        rows += (records.get(key) or {})["rows"]
    return rows


def looked_at(structure: Structure) -> dict[str, Any]:
    """Return content, validity and closest approach of a crystal."""
    seen = validity(structure)
    closest = closest_pair(structure) if seen.structural else None
    return {
        "structure": structure_content(structure),
        "structural": bool(seen.structural),
        "physical": bool(seen.physical),
        "close": not seen.structural or (closest is not None and bool(closest[2] < CLOSEST)),
    }


def compared(structure: Structure, real: LabelledStructure) -> dict[str, Any]:
    """Return how far a crystal is from the one that was to be found."""
    ratio = structure.volume / len(structure) / (real.structure.volume / len(real.structure))
    return {
        "rms": rms_distance(structure, real.structure),
        "log_volume": math.log(max(ratio, 1e-6)),
        "labels": {name: real.labels.get(name) for name in PROPERTIES},
    }


def structure_of(row: Mapping[str, Any]) -> Structure:
    """Return the crystal of a row."""
    content = row["structure"]
    return Structure(Lattice(content["lattice"]), content["species"], content["coords"])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up the rows of one task; every share is of all of them."""
    found: dict[str, Any] = {
        "n": len(rows),
        "close": share(row["close"] for row in rows),
        "structurally_valid": share(row["structural"] for row in rows),
        "physically_valid": share(row["physical"] for row in rows),
        "mean_tries": statistics.fmean(row["tries"] for row in rows),
        "above_hull_own_head": middle(row["own"]["energy_above_hull"] for row in rows),
        "above_hull_base_head": middle(
            row["base"]["energy_above_hull"] for row in rows if row["base"]
        ),
    }
    if "rms" in rows[0]:
        found |= matching([row["rms"] for row in rows])
        found["median_volume_error"] = middle(abs(row["log_volume"]) for row in rows)
        found["mean_log_volume"] = statistics.fmean(row["log_volume"] for row in rows)
        for judge in ("own", "base"):
            found[f"property_mae_{judge}_head"] = {
                name: average(
                    abs(row[judge][name] - row["labels"][name])
                    for row in rows
                    if row[judge] and row["labels"][name] is not None
                )
                for name in PROPERTIES
            }
    return found


def matching(rms: Sequence[float | None]) -> dict[str, Any]:
    """Return match rate and RMSE."""
    return {
        "match_rate": share(value is not None for value in rms),
        "rmse": average(value for value in rms if value is not None),
    }


def paired(
    rows: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float | None],
) -> dict[str, float] | None:
    """Return mean difference and its standard error over crystals of the same noise."""
    gaps = [
        mine - theirs
        for row, other in zip(rows, others, strict=True)
        if (mine := value(row)) is not None and (theirs := value(other)) is not None
    ]
    if len(gaps) < 2:
        return None
    return {
        "mean": statistics.fmean(gaps),
        "standard_error": statistics.stdev(gaps) / len(gaps) ** 0.5,
        "n": len(gaps),
    }


def share(flags: Iterable[bool]) -> float | None:
    """Return the share of True; None of nothing."""
    return average(float(flag) for flag in flags)


def average(values: Iterable[float]) -> float | None:
    """Return the mean; None of nothing."""
    known = list(values)
    return statistics.fmean(known) if known else None


def middle(values: Iterable[float]) -> float | None:
    """Return the median; None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None

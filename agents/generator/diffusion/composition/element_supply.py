"""What the elements cost and how scarce they are, as a bias of the composition sampler.

The figures stand in ``data/element_supply.csv``, with the source of every column.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from matterloop.loop.errors import UsageError

_LARGEST_SCORE = 3.0
"""Standard deviations; beyond it an element is simply out of reach (plutonium, radium)."""


@dataclass(frozen=True)
class ElementSupply:
    """One row of the table; None where the sources are silent.

    Attributes
    ----------
    price_usd_per_kg, price_year
        Nominal price in the form that its source quotes, and its year.
    crustal_abundance_ppm
        Mass per mass of the continental crust; 0 for elements that are made.
    hhi_production, hhi_reserves
        Herfindahl-Hirschman index of countries, 0 (spread) to 10000 (all in one).
    """

    symbol: str
    atomic_number: int
    price_usd_per_kg: float | None
    price_year: int | None
    crustal_abundance_ppm: float | None
    hhi_production: float | None
    hhi_reserves: float | None


@dataclass(frozen=True)
class SupplyScores:
    """Standardised over the elements of the table: mean 0, deviation 1, large is bad.

    Attributes
    ----------
    cost
        (101,) by atomic number, of the logarithm of the price.
    scarcity
        (101,) mean of what is known of: rarity in the crust (logarithm), concentration of
        production, concentration of reserves.
    cost_missing, scarcity_missing
        (101,) True where no figure is known and the median stands in.
    """

    cost: Tensor
    scarcity: Tensor
    cost_missing: Tensor
    scarcity_missing: Tensor


@lru_cache(maxsize=1)
def element_supply() -> Mapping[str, ElementSupply]:
    """Read the table: element symbol to row, hydrogen to fermium."""
    text = files(__package__).joinpath("data/element_supply.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    table = {}
    for number, row in enumerate(csv.DictReader(lines), start=1):
        year = row["price_year"]
        table[row["symbol"]] = ElementSupply(
            symbol=row["symbol"],
            atomic_number=number,
            price_usd_per_kg=_figure(row["price_usd_per_kg"]),
            price_year=int(year) if year else None,
            crustal_abundance_ppm=_figure(row["crustal_abundance_ppm"]),
            hhi_production=_figure(row["hhi_production"]),
            hhi_reserves=_figure(row["hhi_reserves"]),
        )
    return table


@lru_cache(maxsize=1)
def supply_scores() -> SupplyScores:
    """Score every element by cost and by scarcity."""
    rows = list(element_supply().values())
    abundance = np.array([_or_nan(row.crustal_abundance_ppm) for row in rows])
    # An element that is made rather than mined counts as the rarest that is mined.
    abundance[abundance == 0] = np.nanmin(abundance[abundance > 0])
    cost = _standardised(np.log10([_or_nan(row.price_usd_per_kg) for row in rows]))
    parts = np.stack(
        [
            _standardised(-np.log10(abundance)),
            _standardised(np.array([_or_nan(row.hhi_production) for row in rows])),
            _standardised(np.array([_or_nan(row.hhi_reserves) for row in rows])),
        ]
    )
    known = ~np.isnan(parts)
    total = np.where(known, parts, 0).sum(0)
    n_known = known.sum(0)
    scarcity = _standardised(np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan))
    return SupplyScores(*(_by_number(part) for part in (cost, scarcity)), *_gaps(cost, scarcity))


def supply_bias(cost_weight: float = 0.0, supply_weight: float = 0.0) -> Tensor:
    """Return (101,) what is added to the logit of choosing each element.

    -weight * score (`SupplyScores`), so that at weight 1 an element that is one standard deviation
    dearer than another is drawn e times less often in its place.

    Raises
    ------
    UsageError
        For weights that are negative or no numbers.
    """
    for name, weight in (("cost_weight", cost_weight), ("supply_weight", supply_weight)):
        if not (np.isfinite(weight) and weight >= 0):
            raise UsageError(f"{name} is {weight:g}.", "0 (no influence) or more")
    scores = supply_scores()
    return -(cost_weight * scores.cost + supply_weight * scores.scarcity)


def _figure(text: str) -> float | None:
    return float(text) if text else None


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _standardised(values: np.ndarray) -> np.ndarray:
    scores = (values - np.nanmean(values)) / np.nanstd(values)
    clipped: np.ndarray = np.clip(scores, -_LARGEST_SCORE, _LARGEST_SCORE)
    return clipped


def _by_number(scores: np.ndarray) -> Tensor:
    filled = np.where(np.isnan(scores), np.nanmedian(scores), scores)
    return torch.from_numpy(np.concatenate([[0.0], filled])).float()


def _gaps(*columns: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.concatenate([[False], np.isnan(column)])) for column in columns]

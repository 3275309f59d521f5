"""Cost and supply of the elements."""

from __future__ import annotations

import csv
import math
from importlib.resources import files

import pytest
import torch

from matterloop.agents.generator.diffusion.composition import (
    CompositionConstraint,
    CompositionNetwork,
    CompositionSettings,
    SamplingOptions,
    element_supply,
    sample_compositions,
    supply_bias,
    supply_scores,
)
from matterloop.loop.elements import SYMBOLS
from matterloop.loop.errors import UsageError


def test_the_table_names_the_first_hundred_elements_in_order() -> None:
    from pymatgen.core import Element

    table = element_supply()
    assert list(table) == [Element.from_Z(number).symbol for number in range(1, 101)]
    assert set(table) <= SYMBOLS
    assert [row.atomic_number for row in table.values()] == list(range(1, 101))


def test_figures_are_positive_and_priced_in_a_year() -> None:
    for row in element_supply().values():
        assert (row.price_usd_per_kg is None) == (row.price_year is None)
        assert row.price_usd_per_kg is None or row.price_usd_per_kg > 0
        assert row.crustal_abundance_ppm is None or 0 <= row.crustal_abundance_ppm < 1e6
        for index in (row.hhi_production, row.hhi_reserves):
            assert index is None or 0 < index <= 10_000


def test_the_crust_is_mostly_accounted_for() -> None:
    # Parts per million of a mass must add up to nearly a million.
    known = [row.crustal_abundance_ppm or 0 for row in element_supply().values()]
    assert 0.97e6 < sum(known) < 1.03e6


def test_the_file_names_a_source_for_every_column() -> None:
    text = files("matterloop.agents.generator.diffusion.composition").joinpath(
        "data/element_supply.csv"
    )
    lines = text.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(line for line in lines if line.startswith("#"))
    columns = next(csv.reader([line for line in lines if not line.startswith("#")][:1]))
    for column in columns[1:]:
        assert column in comment


def test_scores_are_standardised_and_gaps_are_flagged() -> None:
    scores = supply_scores()
    for score, missing in (
        (scores.cost, scores.cost_missing),
        (scores.scarcity, scores.scarcity_missing),
    ):
        known = score[1:][~missing[1:]]
        assert abs(float(known.mean())) < 0.1
        assert abs(float(known.std()) - 1) < 0.1
        if bool(missing.any()):
            assert torch.allclose(score[missing], known.quantile(0.5), atol=1e-5)
    assert not scores.cost_missing[26]
    assert scores.cost_missing[89]  # nobody sells actinium by the kilogram


def test_the_dear_and_the_scarce_score_high() -> None:
    cost, scarcity = supply_scores().cost, supply_scores().scarcity
    assert cost[79] > cost[47] > cost[29] > cost[26]  # Au, Ag, Cu, Fe
    assert scarcity[77] > scarcity[29] > scarcity[8]  # Ir, Cu, O
    assert scarcity[43] > 1.5  # technetium is made


def test_bias_is_weight_times_score() -> None:
    scores = supply_scores()
    expected = -(0.5 * scores.cost + 2 * scores.scarcity)
    assert torch.allclose(supply_bias(0.5, 2), expected)
    assert not supply_bias().any()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_make_no_sense_are_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="cost_weight"):
        supply_bias(weight)
    with pytest.raises(UsageError, match="supply_weight"):
        supply_bias(0, weight)


def test_cost_weight_makes_gold_rarer_than_copper() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CompositionNetwork(CompositionSettings(width=16, depth=1))
    network.seen_elements[1:] = True
    coinage = CompositionConstraint.system("Cu", "Au")

    def share_of_gold(weight: float) -> float:
        drawn = sample_compositions(
            network,
            400,
            coinage,
            generator=torch.Generator().manual_seed(1),
            options=SamplingOptions(cost_weight=weight),
        )
        return sum(79 in composition for composition in drawn) / len(drawn)

    free, frugal = share_of_gold(0), share_of_gold(3)
    assert free > 0.3
    assert frugal < 0.5 * free

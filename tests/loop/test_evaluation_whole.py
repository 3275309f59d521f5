"""A whole evaluation: small sets of which every figure is known, with the real potential."""

import json
from collections.abc import Iterator

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import ChgnetPotential
from matterloop.loop.calculation import PotentialIdentity, RelaxOptions
from matterloop.loop.candidate import ModelRef
from matterloop.loop.evaluation.definitions import DEFINITIONS
from matterloop.loop.evaluation.evaluation import Evaluation, Yardsticks, evaluate
from matterloop.loop.evaluation.held_out import read_held_out
from matterloop.loop.evaluation.novelty import (
    FormulaIndex,
    ReferenceStructures,
)
from matterloop.loop.evaluation.report import evaluation_json, evaluation_notes, write_json
from matterloop.loop.evaluation.samples import Sample, read_samples, samples_of
from matterloop.loop.hull import ReferenceHull
from matterloop.loop.structure_files import Facts, FileFormat, StructureFolder


def salt(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def overlapping() -> Structure:
    return Structure(Lattice.cubic(8), ["He", "He"], [[0, 0, 0], [0, 0, 0.01]])


def count(evaluation: Evaluation, name: str, row: str = "raw") -> int | None:
    rate = getattr(evaluation, row).rates[name]
    if rate is not None:
        assert rate.samples == evaluation.samples
    return None if rate is None else rate.count


class NeverAgain:
    """Has an identity, but must not be asked for anything."""

    def __init__(self, identity: PotentialIdentity) -> None:
        self.identity = identity

    def single_points(self, structures: list[Structure]) -> list[object]:
        raise AssertionError(f"{len(structures)} energies were asked for a second time")

    def relax(self, structures: list[Structure], options: RelaxOptions) -> Iterator[object]:
        assert not structures, "relaxed a second time"
        return iter(())


def test_every_rate_has_all_samples_as_denominator(tmp_path):
    crystals = [salt(), salt(5.7), overlapping(), salt(4.9, "Ca", "Cl")]
    samples = [*samples_of(crystals, asked=6), Sample("x.cif", None, "no CIF")]
    known = FormulaIndex({"MgO": [1], "CaCl": [4]}, "by hand")
    found = evaluate(samples, Yardsticks(known), tmp_path)
    assert (found.samples, found.readable) == (7, 4)
    assert found.problems == {"not delivered": 2, "no CIF": 1}
    expected = {
        "structurally_valid": 3,
        "compositionally_valid": 4,  # an element passes, as CDVAE has it
        "valid": 3,
        "neutral": 3,
        "unique": 2,
        "novel": 3,
        "novel_formula": 2,
        "unique_novel": 2,
        "stable_0.1": None,
        "sun_0": None,
    }
    assert {name: count(found, name) for name in expected} == expected
    assert found.relaxed is None
    assert "lower bound" in " ".join(evaluation_notes(found))


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_what_generate_wrote_is_read_whatever_its_format(tmp_path, file_format):
    facts = Facts(0, ModelRef("generator", "toy", "1", "ab" * 32))
    with StructureFolder.open(tmp_path, {"format": file_format}, n=2) as folder:
        for draw, a in enumerate((5.6, 5.7)):
            folder.add(draw, salt(a), facts)
    volumes = [sample.structure.volume for sample in read_samples(tmp_path)]
    assert volumes == pytest.approx([5.6**3 / 4, 5.7**3 / 4])


def test_held_out_crystals_without_finite_places_are_passed_over(tmp_path):
    text = salt(5.6).to(fmt="cif")
    (tmp_path / "whole.cif").write_text(text)
    (tmp_path / "odd.cif").write_text(text.replace(" 0.5", " nan"))
    assert len(read_samples(tmp_path)) == 2
    assert len(read_held_out(tmp_path)) == 1


def test_without_yardsticks_nothing_is_claimed(tmp_path):
    found = evaluate(samples_of([salt()]), Yardsticks(), tmp_path)
    assert count(found, "novel") is None
    assert set(found.why_not) == {
        "novelty", "sun", "coverage", "distributions", "stability", "relaxed",
    }  # fmt: skip
    assert all(reason.startswith("not computed") for reason in found.why_not.values())


def test_energies_relaxations_and_going_on(tmp_path):
    reference = tmp_path / "known"
    reference.mkdir()
    salt().to(filename=str(reference / "salt.cif"))
    samples = samples_of([salt(6.0), overlapping()])
    hull: ReferenceHull
    with ChgnetPotential() as potential:
        hull = ReferenceHull.shipped(potential.identity)
        yardsticks = Yardsticks(ReferenceStructures(reference), [salt()], potential, hull)
        found = evaluate(samples, yardsticks, tmp_path)
        identity = potential.identity
    assert found.raw.mean_above_hull is not None
    assert count(found, "stable_0.1") == (found.raw.mean_above_hull <= 0.1)
    # Rock salt relaxes to the hull's own phase: stable, known.
    assert count(found, "stable_0.1", "relaxed") == 1
    assert count(found, "sun_0.1", "relaxed") == 0
    assert found.relaxed is not None
    assert found.relaxed.mean_above_hull == pytest.approx(0, abs=0.01)
    assert found.raw.mean_above_hull > found.relaxed.mean_above_hull
    assert found.relaxation is not None
    assert (found.relaxation.attempted, found.relaxation.failed) == (1, 0)
    assert found.relaxation.mean_displacement_A == pytest.approx(0, abs=0.01)
    assert found.relaxation.median_volume_change == pytest.approx((5.69 / 6.0) ** 3 - 1, abs=0.02)
    assert found.coverage is not None
    assert found.coverage.recall.count == 1
    assert (found.coverage.precision.count, found.coverage.precision.samples) == (1, 2)
    assert (found.potential, found.hull_sha256) == (identity, hull.sha256)

    again = Yardsticks(yardsticks.known, yardsticks.held_out, NeverAgain(identity), hull)
    assert evaluate(samples, again, tmp_path) == found


def test_what_is_stable_only_for_want_of_phases_is_told(tmp_path):
    samples, known = samples_of([salt()]), FormulaIndex({"MgO": [1]}, "by hand")
    with ChgnetPotential() as potential:
        full = ReferenceHull.shipped(potential.identity)
        elements = [entry for e in ("Na", "Cl") for entry in full.for_elements([e]).entries]
        bare = ReferenceHull(potential.identity, elements)
        rates = [
            evaluate(samples, Yardsticks(known, (), potential, hull, relax=False), tmp_path)
            for hull in (full, bare)
        ]
    assert [count(found, "sun_0.1") for found in rates] == [1, 1]
    assert [count(found, "thin_sun_0.1") for found in rates] == [0, 1]
    assert count(rates[1], "thin_sun_0") == 1


def test_a_potential_that_refuses_counts_against(tmp_path):
    samples = samples_of([salt(5.0, "At", "Fr"), salt()])
    with ChgnetPotential() as potential:
        hull = ReferenceHull.shipped(potential.identity)
        found = evaluate(samples, Yardsticks(potential=potential, hull=hull, relax=True), tmp_path)
    assert found.relaxation is not None
    assert (found.relaxation.attempted, found.relaxation.failed) == (2, 1)
    assert "not trained on At" in next(iter(found.relaxation.reasons))
    assert count(found, "structurally_valid") == 2
    assert count(found, "structurally_valid", "relaxed") == 1
    assert count(found, "with_energy_above_hull") == 1


def test_report_names_definitions_and_is_json(tmp_path):
    found = evaluate(samples_of([salt(), salt()]), Yardsticks(), tmp_path)
    write_json(tmp_path / "r.json", evaluation_json(found))
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["raw"]["rates"]["unique"] == {"count": 1, "samples": 2, "fraction": 0.5}
    assert report["definitions"] == dict(DEFINITIONS)
    explained = {name for names in DEFINITIONS for name in names.split(", ")}
    assert set(report["raw"]["rates"]) <= explained

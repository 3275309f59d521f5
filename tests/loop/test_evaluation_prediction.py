"""Structure prediction: match rates and RMSE of crystals whose distance is known."""

from collections.abc import Sequence

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.errors import PluginFailedError, UsageError
from matterloop.loop.evaluation.prediction import (
    Prediction,
    predict_held_out,
    rms_distance,
    score,
)
from matterloop.loop.evaluation.records import Records
from matterloop.loop.protocols import StructurePredictor


def rutile() -> Structure:
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )


def salt() -> Structure:
    return Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


class Recalling:
    """A predictor that knows the answers, but errs on every other sample."""

    def __init__(self, answers: Sequence[Structure]) -> None:
        self.answers, self.calls = list(answers), 0

    def predict(
        self, compositions: Sequence[Sequence[int]], samples: int, *, seed: int
    ) -> list[list[Structure]]:
        self.calls += 1
        return [[self._one(list(c), i) for i in range(samples)] for c in compositions]

    def _one(self, numbers: list[int], sample: int) -> Structure:
        answer = next(a for a in self.answers if sorted(a.atomic_numbers) == numbers)
        if sample % 2:
            return answer.copy()
        wrong = np.random.default_rng(sample).random((len(numbers), 3)) * 0.01
        return Structure(answer.lattice, answer.species, wrong)  # all atoms in one corner


def test_distance_of_a_crystal_to_itself_and_to_a_moved_one():
    assert rms_distance(rutile(), rutile()) == pytest.approx(0, abs=1e-6)
    crystal = salt()
    moved = crystal.copy()
    moved.translate_sites([1], [0.05, 0, 0])
    # Two sites moved apart by d: each lies d/2 from where it should be, once centred.
    expected = 0.05 * 3.4 / 2 / (crystal.volume / 2) ** (1 / 3)
    assert rms_distance(moved, crystal) == pytest.approx(expected, rel=1e-3)


def test_what_cannot_match():
    other = salt().copy()
    other.replace(0, "K")
    assert rms_distance(other, salt()) is None
    collapsed = Structure(salt().lattice, ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
    assert rms_distance(collapsed, salt()) is None


def test_scores_count_all_held_out_crystals():
    predictions = [
        Prediction((None, 0.2, 0.1)),
        Prediction((0.3, 0.4, None)),
        Prediction((None, None, None)),
        Prediction(()),  # nothing came back
    ]
    one, three = score(predictions, 1), score(predictions, 3)
    assert (one.matched.count, one.matched.samples, one.rmse) == (1, 4, 0.3)
    assert (three.matched.count, three.matched.samples) == (2, 4)
    assert three.rmse == pytest.approx(0.2)
    assert score([Prediction((None,))], 1).rmse is None


def test_predictions_are_matched_and_kept(tmp_path):
    held_out = [rutile(), salt()]
    generator = Recalling(held_out)
    assert isinstance(generator, StructurePredictor)

    def run() -> list[Prediction]:
        records = Records(tmp_path / "p.jsonl")
        return predict_held_out(generator, held_out, 2, seed=1, records=records, name="recalling")

    predictions = run()
    assert score(predictions, 1).matched.count == 0
    assert score(predictions, 2).matched.count == 2
    assert all(p.obeyed for p in predictions)
    assert run() == predictions
    assert generator.calls == 1


def test_a_generator_that_ignores_the_composition_is_found_out(tmp_path):
    class Ignoring(Recalling):
        def _one(self, numbers: list[int], sample: int) -> Structure:
            return rutile()

    records = Records(tmp_path / "p.jsonl")
    found = predict_held_out(Ignoring([]), [salt()], 1, seed=1, records=records, name="ignoring")
    assert found == [Prediction((None,), obeyed=False)]


def test_a_generator_that_loses_compositions_fails(tmp_path):
    class Losing(Recalling):
        def predict(self, compositions, samples, *, seed):
            return []

    records = Records(tmp_path / "p.jsonl")
    with pytest.raises(PluginFailedError, match="0 lists for 1"):
        predict_held_out(Losing([]), [salt()], 1, seed=1, records=records, name="losing")
    with pytest.raises(UsageError, match="at least 1"):
        predict_held_out(Losing([]), [salt()], 0, seed=1, records=records, name="losing")

"""Descriptors of crystals, checked by hand, and the space that they span."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymatgen.core import Lattice, Structure

from matterloop.agents.selector.feature_space import feature_space
from matterloop.agents.selector.features import (
    composition_feature_names,
    composition_features,
    describe,
    structure_features,
)
from matterloop.loop.errors import UsageError
from matterloop.loop.selection import PoolItem

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
FLUORITE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.463), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]
)


def test_composition_statistics_of_calcium_fluoride():
    named = dict(zip(composition_feature_names(), composition_features(FLUORITE), strict=True))
    assert named["mean_Z"] == pytest.approx((20 + 2 * 9) / 3)
    assert named["min_X"] == pytest.approx(1.00)
    assert named["max_X"] == pytest.approx(3.98)
    assert named["std_X"] == pytest.approx(2.98 * np.sqrt(2) / 3)
    assert named["mean_atomic_mass"] == pytest.approx((40.078 + 2 * 18.998) / 3, abs=1e-3)
    assert named["max_group"] == 17
    assert named["mean_row"] == pytest.approx((4 + 2 + 2) / 3)
    assert named["n_elements"] == 2
    assert named["mixing_entropy"] == pytest.approx(-np.log(1 / 3) / 3 - 2 * np.log(2 / 3) / 3)


def test_structure_figures_of_rock_salt():
    density, volume, nearest, spread, coordination = structure_features(ROCK_SALT)
    assert density == pytest.approx(2.16, abs=0.02)
    assert volume == pytest.approx(5.64**3 / 8)
    assert nearest == pytest.approx(2.82)
    assert spread == pytest.approx(0, abs=1e-9)
    assert coordination == pytest.approx(6)
    # Calcium has eight fluorines, fluorine four calciums (and six F at 1.155 of that distance).
    assert structure_features(FLUORITE)[4] == pytest.approx((8 + 2 * (4 + 6)) / 3)


def test_elements_without_data_give_finite_features():
    argon = Structure(Lattice.cubic(5.3), ["Ar"], [[0, 0, 0]])
    assert np.isfinite(composition_features(argon)).all()
    assert np.isfinite(structure_features(argon)).all()


def test_missing_descriptors_are_marked_not_invented():
    items = [
        PoolItem("a", ROCK_SALT, np.array([1.0, np.inf]), {"density": 2.2}),
        PoolItem("b", FLUORITE, None, {"energy": float("nan")}),
    ]
    blocks = describe(items)
    assert blocks["embedding"].shape == (2, 2)
    assert np.isnan(blocks["embedding"]).tolist() == [[False, True], [True, True]]
    assert np.isnan(blocks["screening"]).tolist() == [[False, True], [True, True]]


def test_embeddings_of_different_potentials_are_refused():
    items = [PoolItem("a", ROCK_SALT, np.ones(3)), PoolItem("b", FLUORITE, np.ones(4))]
    with pytest.raises(UsageError, match="different lengths"):
        describe(items)


@given(
    arrays(float, st.tuples(st.integers(1, 12), st.integers(0, 6)), elements=st.floats(-1e6, 1e6)),
    st.integers(1, 5),
)
def test_points_lie_in_the_unit_cube_and_repeat_exactly(block, kept):
    n = len(block)
    blocks = {"structure": block, "embedding": np.full((n, 3), np.nan), "screening": block[:, :1]}
    if not block.shape[1]:
        blocks["structure"] = np.ones((n, 1))
    space = feature_space(blocks, max_components=kept)
    assert space.points.shape[0] == n
    assert space.points.shape[1] >= 1
    assert space.points.min() >= 0
    assert space.points.max() <= 1
    assert 0 <= space.explained_variance <= 1 + 1e-12
    assert (feature_space(blocks, max_components=kept).points == space.points).all()


def test_components_keep_distances_when_nothing_is_cut_off():
    rng = np.random.default_rng(0)
    block = rng.normal(size=(20, 4))
    empty = np.empty((20, 0))
    blocks = {"structure": block, "embedding": empty, "screening": empty}
    points = feature_space(blocks, max_components=4).points
    standard = (block - block.mean(0)) / block.std(0)
    near = np.linalg.norm(points[0] - points[1]) / np.linalg.norm(points[2] - points[3])
    far = np.linalg.norm(standard[0] - standard[1]) / np.linalg.norm(standard[2] - standard[3])
    assert near == pytest.approx(far)

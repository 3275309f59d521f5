"""S.U.N. rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.chemistry.metrics import Rate, SampleFlags, sun_metrics
from matterloop.loop.errors import UsageError


def test_every_rate_is_over_all_samples():
    samples = [
        SampleFlags(True, True, True, -0.02),
        SampleFlags(True, True, True, 0.05),
        SampleFlags(True, True, True, 0.1),
        SampleFlags(True, True, True, None),
        SampleFlags(True, False, True, 0.0),
        SampleFlags(True, True, False, 0.0),
        SampleFlags(False, True, True, -1.0),
        SampleFlags(False, False, False),
    ]
    metrics = sun_metrics(samples)
    assert metrics.samples == 8
    assert metrics.valid == Rate(6, 8)
    assert metrics.unique == Rate(6, 8)
    assert metrics.novel == Rate(6, 8)
    assert metrics.valid_unique_novel == Rate(4, 8)
    assert metrics.evaluated == Rate(6, 8)
    assert metrics.stable == {0.0: Rate(3, 8), 0.1: Rate(5, 8)}
    assert metrics.sun == {0.0: Rate(1, 8), 0.1: Rate(3, 8)}
    assert metrics.as_row()["sun_0.1"] == 3 / 8
    assert str(metrics.sun[0.0]) == "1/8 (12.5%)"


def test_no_samples_give_zero_and_not_an_error():
    metrics = sun_metrics([])
    assert metrics.samples == 0
    assert set(metrics.as_row().values()) == {0.0}


def test_an_energy_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match="nan"):
        sun_metrics([SampleFlags(True, True, True, float("nan"))])


flags = st.builds(
    SampleFlags,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(-1, 1, allow_nan=False),
)


@given(st.lists(flags), st.floats(-0.5, 0.5))
def test_sun_is_part_of_stable_and_grows_with_the_threshold(samples, limit):
    metrics = sun_metrics(samples, (limit, limit + 0.1))
    low, high = limit, limit + 0.1
    assert metrics.sun[low].count <= metrics.sun[high].count
    for threshold in (low, high):
        assert metrics.sun[threshold].count <= metrics.stable[threshold].count
        assert metrics.sun[threshold].count <= metrics.valid_unique_novel.count
    assert {rate.samples for rate in (metrics.valid, metrics.evaluated, metrics.sun[low])} == {
        len(samples)
    }


@given(st.lists(flags, min_size=1))
def test_refused_samples_only_dilute(samples):
    before = sun_metrics(samples)
    after = sun_metrics([*samples, SampleFlags(False, False, False)])
    assert after.sun[0.1].count == before.sun[0.1].count
    assert after.sun[0.1].fraction <= before.sun[0.1].fraction

"""Fronts of several objectives."""

from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.pareto import best_first, dominates, pareto_fronts

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12).map(
    lambda found: {f"c{i}": point for i, point in enumerate(found)}
)


@given(points)
def test_nothing_on_a_front_is_beaten_from_there_and_each_later_front_is_beaten(utilities):
    fronts = pareto_fronts(utilities)
    assert fronts.keys() == utilities.keys()
    for name, front in fronts.items():
        rivals = [o for o in utilities if dominates(utilities[o], utilities[name])]
        assert all(fronts[rival] < front for rival in rivals)
        assert front == 1 or front - 1 in {fronts[rival] for rival in rivals}


def test_within_a_front_balanced_candidates_come_before_lopsided_ones():
    utilities = {"left": (10.0, 0.0), "middle": (8.0, 80.0), "right": (0.0, 100.0), "bad": (0, 0)}
    assert best_first(utilities) == ["middle", "left", "right", "bad"]
    assert best_first({}) == []

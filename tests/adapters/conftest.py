import pytest
from virtual_lab_bench import Bench, ChgnetPotential, small_hull


@pytest.fixture(scope="session")
def session_bench(tmp_path_factory):
    with ChgnetPotential(ChgnetPotential.Settings(workers=2)) as potential:
        folder = tmp_path_factory.mktemp("bench")
        yield Bench(folder, potential, given_hull=small_hull(potential))


@pytest.fixture
def bench(session_bench, tmp_path):
    """A workshop with a folder of its own, the session's potential and hull."""
    return session_bench.at(tmp_path)

"""The pool loses nothing when workers are killed, and leaves nothing behind when it is."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.chgnet import ChgnetPotential
from matterloop.adapters.potentials.engine import EngineRecipe, Task
from matterloop.adapters.potentials.pool import WorkerPool
from matterloop.loop.calculation import CalculationFailure, RelaxOptions, SinglePoint
from matterloop.loop.errors import PotentialError


def crystal(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, limit_s: float = 60.0) -> bool:
    """Poll, because the end of a foreign process can be observed in no other way."""
    end = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.02)
    return True


def test_killed_workers_cost_no_crystal():
    crystals = [crystal(3.6 + 0.01 * i) for i in range(40)]
    with ChgnetPotential(ChgnetPotential.Settings(workers=2)) as potential:
        undisturbed = [x.energy_eV_per_atom for x in potential.single_points(crystals)]
        results = {}
        killed = set()
        for index, result in potential.iter_single_points(crystals):
            results[index] = result
            if len(results) in (5, 20):
                victim = potential.worker_pids[0]
                killed.add(victim)
                os.kill(victim, signal.SIGKILL)
        assert len(killed) == 2
        assert sorted(results) == list(range(40))
        assert [results[i].energy_eV_per_atom for i in range(40)] == undisturbed
        assert not killed & set(potential.worker_pids)


def deadly(how: str) -> object:
    """Engine factory: dies, hangs or answers according to the crystal."""

    class Deadly:
        def evaluate(self, structure):
            if structure.lattice.a > 5:
                if how == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait(600)
            import numpy as np

            return SinglePoint(-structure.lattice.a, np.zeros((2, 3)), np.zeros((3, 3)))

    if how == "stillborn":
        raise RuntimeError("no weights on this machine")
    return Deadly()


def deadly_pool(monkeypatch, how: str, time_limit_s: float = 60.0, workers: int = 1) -> WorkerPool:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    recipe = EngineRecipe(factory=f"{__name__}:deadly", arguments={"how": how})
    return WorkerPool(recipe, workers, time_limit_s)


@pytest.mark.parametrize(
    ("how", "limit_s", "reason"),
    [("die", 60.0, "2 worker processes died over this crystal (signal 9"), ("hang", 2.0, "2 s")],
)
def test_a_crystal_that_kills_or_hangs_its_worker_is_given_up(monkeypatch, how, limit_s, reason):
    pool = deadly_pool(monkeypatch, how, limit_s)
    results = dict(pool.run([Task(crystal(4)), Task(crystal(6)), Task(crystal(4.5))]))
    pool.close()
    assert isinstance(results[1], CalculationFailure)
    assert reason in results[1].reason
    assert [results[i].energy_eV_per_atom for i in (0, 2)] == [-4, -4.5]


def test_a_machine_that_cannot_start_workers_is_an_error_that_says_why(monkeypatch):
    pool = deadly_pool(monkeypatch, "stillborn")
    with pytest.raises(PotentialError, match="no weights on this machine"):
        list(pool.run([Task(crystal(4))]))
    pool.close()


def test_an_iterator_given_up_leaves_the_pool_usable():
    with ChgnetPotential(ChgnetPotential.Settings(workers=1)) as potential:
        many = potential.iter_single_points([crystal(3.6 + 0.002 * i) for i in range(200)])
        first = next(many)
        many.close()
        begin = time.monotonic()
        again = potential.single_points([crystal(3.6 + 0.002 * first[0])])
        assert again[0].energy_eV_per_atom == first[1].energy_eV_per_atom
        assert time.monotonic() - begin < 3, "the crystals taken back were computed all the same"


def test_two_threads_and_a_call_within_an_iteration_share_the_workers():
    options = RelaxOptions(max_steps=5)
    crystals = [crystal(3.7 + 0.02 * i) for i in range(6)]
    with ChgnetPotential(ChgnetPotential.Settings(workers=2)) as potential:
        alone = {i: x.energy_eV_per_atom for i, x in potential.relax(crystals, options)}
        found: list[dict[int, float]] = []

        def visit() -> None:
            energies = {}
            for index, result in potential.relax(crystals, options):
                potential.single_points(crystals[:3])
                energies[index] = result.energy_eV_per_atom
            found.append(energies)

        threads = [threading.Thread(target=visit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [alone, alone]


def test_closing_ends_the_workers_and_using_again_starts_new_ones():
    potential = ChgnetPotential(ChgnetPotential.Settings(workers=1))
    crystals = [crystal(3.9), crystal(4.0), crystal(4.1)]
    before = potential.single_points(crystals)
    (pid,) = potential.worker_pids
    potential.close()
    potential.close()
    assert gone(pid)
    after = potential.single_points(crystals)
    assert [x.energy_eV_per_atom for x in after] == [x.energy_eV_per_atom for x in before]
    potential.close()


def test_no_orphans_when_the_parent_is_killed():
    code = """
import sys
from matterloop.adapters.potentials.chgnet import ChgnetPotential
from pymatgen.core import Lattice, Structure
crystals = [Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]) * (3, 3, 3)] * 1000
potential = ChgnetPotential(ChgnetPotential.Settings(workers=2))
for index, _ in potential.iter_single_points(crystals):
    if index >= 2:
        print(*potential.worker_pids, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        parent.kill()
    assert wait_until(lambda: all(gone(pid) for pid in pids))

"""The life of a run, as a driver that may die at any moment sees it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from virtual_lab_bench import LI2S, NACL, characterization, rock_salt, synthesis

from matterloop.adapters.virtual_lab.furnace import VirtualFurnace
from matterloop.adapters.virtual_lab.press import VirtualPress
from matterloop.adapters.virtual_lab.pycnometer import VirtualPycnometer
from matterloop.loop import plugins
from matterloop.loop.errors import (
    AbortedError,
    FailureKind,
    InfeasibleError,
    InstrumentFaultError,
    PolicyViolationError,
    PotentialError,
    SpecError,
    TransientError,
    UsageError,
)
from matterloop.loop.experiment import Handle, Phase
from matterloop.loop.hull import ReferenceHull

KEYS = [f"job-{n}" for n in range(3)]
SALTS = {f"salt-{n}": rock_salt("Na", "Cl", 5.3 + 0.02 * n).perturb(0.1, seed=n) for n in range(8)}


def press(bench) -> VirtualPress:
    return VirtualPress(VirtualPress.Settings(points=5), bench)


def request(n: int):
    return characterization(rock_salt("Na", "Cl", 5.5 + 0.05 * n), "bulk_modulus", seed=n)


def dormant(instrument):
    """Close an instrument: what is submitted to it waits in the logbook."""
    instrument.close()
    return instrument


def test_a_run_goes_from_submission_to_collection(bench):
    furnace = VirtualFurnace(VirtualFurnace.Settings(), bench)
    assert furnace.find("key") is None
    handle = furnace.submit("key", synthesis(NACL))
    assert furnace.find("key") == handle
    assert furnace.drain(timeout_s=60)
    progress = furnace.poll(Handle.model_validate_json(handle.model_dump_json()))
    assert progress.finished
    assert progress.failure is None
    assert furnace.collect(handle) == furnace.collect(handle)
    furnace.cancel(handle)
    assert furnace.collect(handle).success, "cancelling what is over changes nothing"


def test_an_open_run_cannot_be_collected_but_cancelled(bench):
    meter = dormant(VirtualPycnometer(VirtualPycnometer.Settings(), bench))
    handle = meter.submit("key", characterization(NACL, "density"))
    assert not meter.poll(handle).finished
    assert not meter.drain(), "a closed instrument does no work"
    with pytest.raises(UsageError, match="not finished"):
        meter.collect(handle)
    meter.cancel(handle)
    assert meter.poll(handle).failure is FailureKind.ABORTED
    with pytest.raises(AbortedError):
        meter.collect(handle)
    assert meter.drain(timeout_s=0)


def test_what_was_submitted_before_a_restart_is_done_after_it(bench):
    before = dormant(VirtualPycnometer(VirtualPycnometer.Settings(), bench))
    handle = before.submit("key", characterization(NACL, "density"))
    after = VirtualPycnometer(VirtualPycnometer.Settings(), bench)
    assert after.find("key") == handle
    after.poll(handle)
    assert after.drain(timeout_s=60)
    assert after.collect(handle).measurements[0].property == "density"


def test_a_second_submission_is_a_second_run_and_shows(bench):
    meter = VirtualPycnometer(VirtualPycnometer.Settings(), bench)
    first, second = (meter.submit("key", characterization(NACL, "density")) for _ in range(2))
    assert first != second
    assert meter.submissions() == {"key": 2}
    assert meter.find("key") == first
    assert meter.drain(timeout_s=60)
    assert meter.collect(first) == meter.collect(second)


def test_an_invalid_request_is_refused_and_leaves_no_trace(bench):
    furnace = VirtualFurnace(VirtualFurnace.Settings(), bench)
    with pytest.raises(PolicyViolationError, match="5000 K; the furnace does 300 K to 1800 K"):
        furnace.submit("key", synthesis(NACL, temperature_K=5000))
    assert furnace.find("key") is None


@pytest.mark.parametrize("data", [{}, {"run": 7, "key": "a"}, {"run": "1"}, {"run": 1, "key": "b"}])
def test_a_foreign_handle_is_refused(bench, data):
    meter = dormant(VirtualPycnometer(VirtualPycnometer.Settings(), bench))
    meter.submit("a", characterization(NACL, "density"))
    with pytest.raises(UsageError, match="knows no run"):
        meter.poll(Handle(instrument=meter.name, data=data))
    with pytest.raises(UsageError, match="knows no run"):
        meter.poll(Handle(instrument="another", data={"run": 1, "key": "a"}))


def test_a_failure_keeps_its_type_and_words(bench):
    meter = VirtualPycnometer(VirtualPycnometer.Settings(), bench)
    asked = characterization(NACL, "density").model_copy(
        update={"phases": (Phase(formula="Li2S", fraction=0.75), Phase(formula="S", fraction=0.25))}
    )
    handle = meter.submit("key", asked)
    assert meter.drain(timeout_s=60)
    assert meter.poll(handle).failure is FailureKind.INFEASIBLE
    with pytest.raises(InfeasibleError, match=r"75% Li2S \+ 25% S.*structure of its main phase"):
        meter.collect(handle)


def test_results_do_not_depend_on_order_company_or_stations(bench, session_bench, tmp_path):
    def results(folder: Path, keys: list[str], workers: int):
        workshop = type(bench)(folder, bench.potential, workers, bench.hull)
        instrument = press(workshop)
        handles = {key: instrument.submit(key, request(KEYS.index(key))) for key in keys}
        assert instrument.drain(timeout_s=120)
        return {key: instrument.collect(handle) for key, handle in sorted(handles.items())}

    together = results(tmp_path / "a", KEYS, workers=2)
    backwards = results(tmp_path / "b", KEYS[::-1], workers=1)
    assert together == backwards


def test_plugins_are_built_by_name_and_settings_are_checked(bench):
    names = {
        "synthesizers": ["virtual-furnace"],
        "characterizers": [
            "virtual-calorimeter",
            "virtual-pycnometer",
            "virtual-diffractometer",
            "virtual-press",
        ],
    }
    for group, members in names.items():
        for name in members:
            card = plugins.build(group, name, {"cost": 3.5}, bench).describe()
            assert (card.name, card.cost, card.knows_absence) == (name, 3.5, True)
    with pytest.raises(SpecError, match="window"):
        plugins.build("synthesizers", "virtual-furnace", {"window": {"ceiling": 2}}, bench)


RUNNER = """
import sys
from pathlib import Path
from matterloop.adapters.potentials.chgnet import ChgnetPotential
from matterloop.adapters.virtual_lab.furnace import VirtualFurnace
from matterloop.loop.hull import ReferenceHull
from test_virtual_lab_life_cycle import SALTS
from virtual_lab_bench import Bench, synthesis

hull = ReferenceHull.load(Path(sys.argv[2]))
bench = Bench(Path(sys.argv[1]), ChgnetPotential(), 1, hull)
furnace = VirtualFurnace(VirtualFurnace.Settings(), bench)
handles = [furnace.submit(key, synthesis(salt)) for key, salt in SALTS.items()]
while not furnace.poll(handles[0]).finished:
    pass
print("first run done", flush=True)
furnace.drain()
print("all runs done", flush=True)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_nothing(bench, tmp_path):
    hull_file = tmp_path / "hull.csv.gz"
    bench.hull.save(hull_file, {"sources": [], "licence": "MIT", "settings": {}})
    hull = ReferenceHull.load(hull_file)
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path / "killed"), str(hull_file)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "first run done\n"
    os.kill(runner.pid, signal.SIGKILL)
    rest, _ = runner.communicate(timeout=60)
    assert rest == "", "it was killed before the end"

    def furnace(folder: str) -> VirtualFurnace:
        workshop = type(bench)(tmp_path / folder, bench.potential, bench.workers, hull)
        return VirtualFurnace(VirtualFurnace.Settings(), workshop)

    survivor = furnace("killed")
    handles = [survivor.find(key) for key in SALTS]
    assert None not in handles
    assert survivor.find("never submitted") is None
    assert not all(survivor.poll(handle).finished for handle in handles)
    assert survivor.drain(timeout_s=120)
    assert survivor.submissions() == dict.fromkeys(SALTS, 1)

    undisturbed = furnace("undisturbed")
    again = [undisturbed.submit(key, synthesis(salt)) for key, salt in SALTS.items()]
    assert undisturbed.drain(timeout_s=120)
    for handle, other in zip(handles, again, strict=True):
        assert survivor.collect(handle) == undisturbed.collect(other)


def test_two_instruments_on_one_folder_share_the_work(bench):
    one, two = (VirtualPress(VirtualPress.Settings(), bench) for _ in range(2))
    keys = [f"shared-{n}" for n in range(6)]
    handles = [
        (one, two)[n % 2].submit(key, characterization(LI2S, "bulk_modulus", seed=n))
        for n, key in enumerate(keys)
    ]
    assert one.drain(timeout_s=120)
    assert two.submissions() == dict.fromkeys(keys, 1)
    assert [one.collect(h) for h in handles] == [two.collect(h) for h in handles]


class Unplugged:
    """A potential whose workers are gone: faults cannot be had from a healthy one."""

    def __init__(self, identity, error):
        self.identity, self.error, self.calls = identity, error, 0

    def relax(self, structures, options):
        self.calls += 1
        raise self.error


def unplugged(bench, error) -> VirtualFurnace:
    potential = Unplugged(bench.potential.identity, error)
    workshop = type(bench)(bench.folder, potential, 1, bench.hull)
    return VirtualFurnace(VirtualFurnace.Settings(), workshop)


def test_a_lost_calculation_is_tried_again_and_then_called_transient(bench):
    furnace = unplugged(bench, PotentialError("The pool of worker processes was closed."))
    handle = furnace.submit("key", synthesis(NACL))
    assert furnace.drain(timeout_s=60)
    assert furnace.poll(handle).failure is FailureKind.TRANSIENT
    with pytest.raises(TransientError, match="pool of worker processes was closed"):
        furnace.collect(handle)


def test_a_defect_of_the_instrument_is_an_instrument_fault(bench):
    furnace = unplugged(bench, ZeroDivisionError("a bug"))
    handle = furnace.submit("key", synthesis(NACL))
    assert furnace.drain(timeout_s=60)
    with pytest.raises(InstrumentFaultError, match="broke down: ZeroDivisionError: a bug"):
        furnace.collect(handle)

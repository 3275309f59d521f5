"""The logbook keeps every submission, and gives each run to one living worker at a time."""

import subprocess
import sys
from dataclasses import replace

import pytest

from matterloop.adapters.virtual_lab.logbook import Logbook, Worker
from matterloop.loop.errors import FailureKind, InfeasibleError, InstrumentFaultError


def dead_worker() -> Worker:
    """Return the identity of a process that lived on this host and has ended."""
    code = (
        "from matterloop.adapters.virtual_lab.logbook import Worker; print(Worker.me().to_json())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return Worker.from_json(answer.stdout)


def test_every_submission_is_a_run_and_duplicates_show(tmp_path):
    book = Logbook(tmp_path / "lab" / "a.sqlite")
    runs = [book.add(key, f'"{n}"') for n, key in enumerate(["a", "b", "a"])]
    assert len(set(runs)) == 3
    assert book.submissions() == {"a": 2, "b": 1}
    assert book.first("a").run == runs[0]
    assert book.first("c") is None


def test_a_run_is_leased_once_in_order_of_submission(tmp_path):
    book = Logbook(tmp_path / "a.sqlite")
    runs = [book.add(key, "1") for key in "abc"]
    one, two = Worker.me(), Worker.me()
    leased = [book.claim(worker).run for worker in (one, two, one)]
    assert leased == runs
    assert book.claim(two) is None
    book.release(runs[1], one)
    assert book.read(runs[1]).state == "running", "only the holder may give a lease back"
    book.release(runs[1], two)
    again = book.claim(one)
    assert (again.run, again.attempts) == (runs[1], 2)


def test_the_lease_of_a_dead_process_ends_at_once(tmp_path):
    book = Logbook(tmp_path / "a.sqlite")
    run = book.add("a", "1")
    dead = dead_worker()
    assert dead.is_gone()
    assert not Worker.me().is_gone()
    assert book.claim(dead).run == run
    assert book.claim(Worker.me()).run == run


def test_a_later_process_with_the_same_number_is_not_taken_for_the_holder(tmp_path):
    me = Worker.me()
    assert replace(me, born=str(int(me.born or 0) - 1)).is_gone()


def test_a_worker_on_another_host_keeps_its_lease_until_it_expires(tmp_path):
    afar = replace(dead_worker(), host="another-host")
    assert not afar.is_gone()
    lasting = Logbook(tmp_path / "a.sqlite")
    run = lasting.add("a", "1")
    assert lasting.claim(afar).run == run
    assert lasting.claim(Worker.me()) is None

    expired = Logbook(tmp_path / "b.sqlite", lease_s=-1.0)
    run = expired.add("a", "1")
    assert expired.claim(afar).run == run
    assert expired.claim(Worker.me()).run == run


def test_renewal_prolongs_only_the_workers_own_leases(tmp_path):
    path = tmp_path / "a.sqlite"
    book, hasty = Logbook(path), Logbook(path, lease_s=-1.0)
    mine, other = replace(Worker.me(), host="here"), replace(Worker.me(), host="there")
    runs = [book.add(key, "1") for key in "ab"]
    assert [book.claim(other).run, hasty.claim(mine).run] == runs
    book.renew(mine)
    assert book.claim(Worker.me()) is None
    hasty.renew(other)
    assert book.claim(Worker.me()).run == runs[0]


def test_the_first_ending_of_a_run_stands(tmp_path):
    book = Logbook(tmp_path / "a.sqlite")
    cancelled, finished, failed = (book.add(key, "1") for key in "abc")
    assert book.cancel(cancelled)
    assert not book.finish(cancelled, '"late"')
    assert book.read(cancelled).state == "cancelled"
    assert book.finish(finished, '"first"')
    assert not book.fail(finished, InfeasibleError("no"))
    assert not book.cancel(finished)
    assert book.read(finished).result == '"first"'
    assert book.fail(failed, InfeasibleError("came", "expected", "remedy"))
    assert book.read(failed).failure_kind is FailureKind.INFEASIBLE
    assert book.read(failed).failure == ("came", "expected", "remedy")
    assert book.open_runs() == 0
    assert book.claim(Worker.me()) is None


def test_processes_that_open_a_new_logbook_at_once_lose_nothing(tmp_path):
    path = tmp_path / "lab" / "a.sqlite"
    code = (
        "import sys; from pathlib import Path\n"
        "from matterloop.adapters.virtual_lab.logbook import Logbook\n"
        "book = Logbook(Path(sys.argv[1]))\n"
        "for n in range(20): book.add(f'{sys.argv[2]}-{n}', '1')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(4)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 0]
    submissions = Logbook(path).submissions()
    assert submissions == {f"{p}-{n}": 1 for p in range(4) for n in range(20)}


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(InstrumentFaultError, match=r"logbook .* cannot be used.*writable"):
        Logbook(in_the_way / "a.sqlite").add("a", "1")

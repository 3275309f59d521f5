"""What all virtual instruments share: the life of a run, from submission to collection.

`submit` writes the request into the logbook and returns. The physics is computed by *stations*:
threads of this process, as many as ``workshop.workers``, each of which leases one run after the
other, asks the workshop's potential (whose process pool does the work) and writes the result.
Stations start when there is something to do, on `submit` and on every `poll` of an open run, and
end when nothing is left; `VirtualInstrument.close` ends them early. `poll` never computes.

A process that dies loses nothing but time: the next `poll` of an open run, in any process that
opens the same folder, lets its stations lease it again (`logbook`). A result depends on the
request only, never on which station computed it, when, or beside what.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from matterloop.adapters.virtual_lab.logbook import OPEN_STATES, Logbook, Run, Worker
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import (
    AbortedError,
    FailureKind,
    InfeasibleError,
    InstrumentFaultError,
    JobFailureError,
    PolicyViolationError,
    PotentialError,
    TransientError,
    UsageError,
)
from matterloop.loop.experiment import Handle, InstrumentCard, Progress
from matterloop.loop.hull import HullDistance
from matterloop.loop.protocols import Workshop

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT", bound=BaseModel)

MAX_ATTEMPTS = 3
"""How often a run is tried whose calculation was lost on the way."""

_FAILURES: dict[FailureKind, type[JobFailureError]] = {
    kind.kind: kind
    for kind in (
        AbortedError,
        InfeasibleError,
        InstrumentFaultError,
        PolicyViolationError,
        TransientError,
    )
}


class InstrumentSettings(BaseModel):
    """Settings of every virtual instrument; the defaults are the instrument's own.

    Attributes
    ----------
    cost
        Of one run, in the campaign's currency.
    duration_h
        Laboratory time that one run stands for, hours.
    elements
        Elements that may enter; None for all that the potential and the hull know.
    max_atoms
        Atoms in the cell at the most.
    fmax_eV_per_A, max_steps
        Of the relaxations that the instrument asks for.
    max_residual_force_eV_per_A
        A relaxation that ran out of steps still counts as relaxed below this force. The energy left
        in soft modes at 0.2 eV/A is of the order of 1 meV/atom.
    lease_s
        Seconds after which another process may compute a run whose worker fell silent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cost: float = Field(default=10.0, ge=0)
    duration_h: float = Field(default=1.0, ge=0)
    elements: tuple[str, ...] | None = None
    max_atoms: int = Field(default=200, ge=1)
    fmax_eV_per_A: float = Field(default=0.05, gt=0)
    max_steps: int = Field(default=300, ge=1)
    max_residual_force_eV_per_A: float = Field(default=0.2, gt=0)
    lease_s: float = Field(default=600.0, gt=0)


class VirtualInstrument(ABC, Generic[RequestT, ResultT]):
    """Base of the virtual instruments; a subclass brings its card, its limits and its physics."""

    name: ClassVar[str]
    request_model: type[RequestT]
    result_model: type[ResultT]

    def __init__(self, settings: InstrumentSettings, workshop: Workshop) -> None:
        self._common = settings
        self._workshop = workshop
        self._logbook = Logbook(
            workshop.folder / "virtual-lab" / f"{self.name}.sqlite", settings.lease_s
        )
        self._worker = Worker.me()
        self._stations: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._renewed = time.monotonic()

    @abstractmethod
    def describe(self) -> InstrumentCard:
        """Capabilities, limits, cost, units."""

    @abstractmethod
    def validate(self, request: RequestT) -> list[str]:
        """Return what speaks against the request, with figures; empty if nothing does."""

    @abstractmethod
    def _perform(self, request: RequestT) -> ResultT:
        """Compute a run. Depends on `request` only; raises a `JobFailureError` if it fails."""

    def submit(self, key: str, request: RequestT) -> Handle:
        """Enter a run into the logbook and return without waiting for it.

        Raises
        ------
        PolicyViolationError
            If `validate` speaks against the request; nothing is entered then.
        """
        problems = self.validate(request)
        if problems:
            raise PolicyViolationError(
                f"{self.name} refuses the request: {'; '.join(problems)}.",
                "a request within the limits on the instrument's card",
            )
        run = self._logbook.add(key, request.model_dump_json())
        self._start_stations()
        return self._handle(run, key)

    def find(self, key: str) -> Handle | None:
        """Return the handle of a key's first run, or None if it was surely never submitted."""
        run = self._logbook.first(key)
        return self._handle(run.run, key) if run else None

    def poll(self, handle: Handle) -> Progress:
        """Look at a run without waiting; if nobody computes it, a station of this process will."""
        run = self._read(handle)
        if run.state in OPEN_STATES:
            self._start_stations()
            self._renew_lease()
            waiting = "waits for a free station" if run.state == "accepted" else "is being done"
            return Progress(finished=False, message=f"run {run.run} {waiting}")
        failure = FailureKind.ABORTED if run.state == "cancelled" else run.failure_kind
        return Progress(finished=True, message=f"run {run.run} {run.state}", failure=failure)

    def collect(self, handle: Handle) -> ResultT:
        """Return the result of a finished run.

        Raises
        ------
        JobFailureError
            The subclass that says why the run failed.
        UsageError
            If the run is not finished; `poll` tells.
        """
        run = self._read(handle)
        if run.state in OPEN_STATES:
            raise UsageError(
                f"Run {run.run} of {self.name} is not finished.", "a call after `poll` says so"
            )
        if run.state == "cancelled":
            raise AbortedError(f"Run {run.run} of {self.name} was cancelled.")
        if run.failure_kind is not None:
            raise _FAILURES[run.failure_kind](*(run.failure or (f"Run {run.run} failed.", "", "")))
        return self.result_model.model_validate_json(run.result or "")

    def cancel(self, handle: Handle) -> None:
        """Stop a run; nothing happens if it is over."""
        self._logbook.cancel(self._read(handle).run)

    def submissions(self) -> dict[str, int]:
        """Return how often each key was submitted; 1 for every key, if all went well."""
        return self._logbook.submissions()

    def drain(self, timeout_s: float = float("inf")) -> bool:
        """Wait until no run is open; False if `timeout_s` ran out or the instrument was closed."""
        deadline = time.monotonic() + timeout_s
        while self._logbook.open_runs():
            self._start_stations()
            pause = min(0.5, deadline - time.monotonic())
            if pause <= 0:
                return False
            with self._lock:
                station = next(iter(self._stations), None)
            if station is not None:
                station.join(pause)
            elif self._closing.wait(pause):  # otherwise another process is at it
                return False
        return True

    def close(self, wait_s: float = 10.0) -> None:
        """Let the stations end after the run each is at, and wait for them for a while.

        Open runs stay in the logbook. A station that is still at work afterwards loses its run back
        to the logbook as soon as the potential is closed.
        """
        self._closing.set()
        deadline = time.monotonic() + wait_s
        with self._lock:
            stations = list(self._stations)
        for station in stations:
            station.join(max(0.0, deadline - time.monotonic()))

    def _relax(self, structure: Structure) -> Relaxation:
        """Relax a crystal fully with the workshop's potential.

        Raises
        ------
        InfeasibleError
            If the potential's guards refuse it, or its forces do not vanish within the steps.
        """
        return self._relax_as(structure, self._relax_options())

    def _relax_as(self, structure: Structure, options: RelaxOptions) -> Relaxation:
        formula = structure.composition.reduced_formula
        for _, result in self._workshop.potential.relax([structure], options):
            if isinstance(result, CalculationFailure):
                raise InfeasibleError(f"{formula} cannot be relaxed: {result.reason}")
            limit = self._common.max_residual_force_eV_per_A
            if not result.converged and result.max_force_eV_per_A > limit:
                raise InfeasibleError(
                    f"{formula} does not come to rest: after {result.steps} steps the largest force"
                    f" is {result.max_force_eV_per_A:.3g} eV/A, above {limit:g} eV/A."
                )
            return result
        raise InstrumentFaultError(
            f"The potential {self._workshop.potential.identity} returned nothing for {formula}."
        )

    def _relax_options(self) -> RelaxOptions:
        return RelaxOptions(
            fmax_eV_per_A=self._common.fmax_eV_per_A, max_steps=self._common.max_steps
        )

    def _distance(self, structure: Structure, energy_eV_per_atom: float) -> HullDistance:
        """Compare an energy of the workshop's potential with the reference hull."""
        return self._workshop.hull.distance(
            element_counts(structure),
            energy_eV_per_atom,
            identity=self._workshop.potential.identity,
        )

    def _origin(self) -> dict[str, Any]:
        """Provenance of every energy: potential and hull."""
        identity = self._workshop.potential.identity
        return {
            "potential": {
                "name": identity.name,
                "sha256": identity.sha256,
                "correction_scheme": identity.correction_scheme,
            },
            "hull_sha256": self._workshop.hull.sha256,
        }

    def _limits(self, structure: Structure, *, needs_hull: bool) -> list[str]:
        """Return which of the declared limits a crystal breaks."""
        problems = []
        formula = structure.composition.reduced_formula
        if not structure.is_ordered:
            return [f"{formula} is disordered; the instrument takes ordered crystals only"]
        if len(structure) > self._common.max_atoms:
            problems.append(
                f"the cell of {formula} has {len(structure)} atoms, more than"
                f" {self._common.max_atoms}"
            )
        present = set(element_counts(structure))
        if self._common.elements is not None and present - set(self._common.elements):
            problems.append(
                f"{formula} holds {', '.join(sorted(present - set(self._common.elements)))};"
                f" allowed are {', '.join(self._common.elements)}"
            )
        if needs_hull and present - self._workshop.hull.elements:
            problems.append(
                "the reference hull has no elemental reference for"
                f" {', '.join(sorted(present - self._workshop.hull.elements))}, which {formula}"
                " holds"
            )
        return problems

    def _handle(self, run: int, key: str) -> Handle:
        return Handle(instrument=self.name, data={"run": run, "key": key})

    def _read(self, handle: Handle) -> Run:
        number = handle.data.get("run")
        run = self._logbook.read(number) if isinstance(number, int) else None
        if handle.instrument != self.name or run is None or run.key != handle.data.get("key"):
            raise UsageError(
                f"The logbook of {self.name} in {self._logbook.path.parent} knows no run"
                f" {handle.data} of {handle.instrument}.",
                "a handle that `submit` or `find` of this instrument returned",
                "check that the campaign's folder is the one in which the run was submitted",
            )
        return run

    def _start_stations(self) -> None:
        with self._lock:
            while len(self._stations) < self._workshop.workers and not self._closing.is_set():
                run = self._logbook.claim(self._worker)
                if run is None:
                    return
                station = threading.Thread(
                    target=self._work, args=(run,), name=f"{self.name}-station", daemon=True
                )
                self._stations.add(station)
                station.start()

    def _renew_lease(self) -> None:
        """Prolong the leases of this process, now and then, while somebody still asks."""
        with self._lock:
            if self._stations and time.monotonic() > self._renewed + self._logbook.lease_s / 4:
                self._renewed = time.monotonic()
                self._logbook.renew(self._worker)

    def _work(self, run: Run | None) -> None:
        """Do one run after the other until none is free or something breaks."""
        try:
            while run is not None and self._do(run):
                with self._lock:  # so that no submission slips in between looking and leaving
                    run = None if self._closing.is_set() else self._logbook.claim(self._worker)
                    if run is None:
                        self._stations.discard(threading.current_thread())
        except InstrumentFaultError:
            pass  # the logbook is out of reach: whoever polls hears of it, and the lease ends
        finally:
            with self._lock:
                self._stations.discard(threading.current_thread())

    def _do(self, run: Run) -> bool:
        """Compute one run and write down what came of it; False if the station should end."""
        try:
            request = self.request_model.model_validate_json(run.request)
            result = self._perform(request).model_dump_json()
        except JobFailureError as error:
            self._logbook.fail(run.run, error)
        except (PotentialError, OSError) as error:
            # Processes or files are gone, not the crystal's fault, and it happens when the program
            # is stopped: the run goes back, and the next `poll` tries again.
            if run.attempts < MAX_ATTEMPTS or self._closing.is_set():
                self._logbook.release(run.run, self._worker)
            else:
                self._logbook.fail(run.run, TransientError(f"{self.name} had no luck: {error}"))
            return False
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            reason = f"{self.name} broke down: {type(error).__name__}: {error}."
            self._logbook.fail(run.run, InstrumentFaultError(reason))
        else:
            self._logbook.finish(run.run, result)
        return True

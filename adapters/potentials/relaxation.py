"""Relaxing positions and cell with ASE's optimisers, under guards.

The first optimiser is BFGS (LBFGS for large cells, where diagonalising BFGS's Hessian costs more
than it saves): per crystal of ten atoms 1.9 CPU-s with CHGNet, against 3.1 with FIRE. FIRE follows
where the first diverges (from the start again) or does not converge (from the lowest point that was
reached). The cell moves by Frechet's derivative of the matrix exponential, whose gradient is
consistent with the energy (ASE's ``FrechetCellFilter``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from pymatgen.core import Lattice, Structure

from matterloop.adapters.potentials.guards import max_force
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions, SinglePoint

if TYPE_CHECKING:
    from matterloop.adapters.potentials.engine import Engine
    from matterloop.adapters.potentials.guards import Guards

LBFGS_ABOVE_ATOMS = 60
"""BFGS diagonalises a matrix of 3 n + 9 rows at every step: 0.1 s at 60 atoms on one core."""
FIRST_SHARE = 0.6
"""Share of the steps that the first optimiser may use before FIRE takes over."""
MAX_RISE_ON_THE_WAY_EV_PER_ATOM = 1.0
"""Quasi-Newton steps may climb for a moment; an optimiser that climbs this far has diverged."""
MAX_RISE_AT_THE_END_EV_PER_ATOM = 0.02
"""An optimiser that converges this far above its start went to another place than the nearest
minimum."""


def relax(
    engine: Engine,
    structure: Structure,
    options: RelaxOptions,
    guards: Guards,
    time_limit_s: float = 900.0,
) -> Relaxation | CalculationFailure:
    """Relax one crystal.

    Reaching the step limit is no failure: the result says ``converged=False``. A failure is a
    crystal or an answer that breaks a guard with both optimisers, or the time limit.
    """
    if reason := guards.refuse_crystal(structure):
        return CalculationFailure(reason)
    cpu = time.process_time()
    run = _Run(engine, structure, options, guards, time.monotonic() + time_limit_s, time_limit_s)
    try:
        converged, optimizer = run.with_fallback()
    except _RefusedError as refusal:
        return CalculationFailure(str(refusal))
    return run.result(converged, optimizer, time.process_time() - cpu)


class _RefusedError(Exception):
    """A guard tripped; the message is the reason."""


class _OutOfTimeError(_RefusedError):
    """The time limit was reached."""


@dataclass
class _Lowest:
    enthalpy: float
    positions: Any
    cell: Any


class _Run:
    """One relaxation: the atoms, the best state so far, the steps and the time left."""

    def __init__(
        self,
        engine: Engine,
        structure: Structure,
        options: RelaxOptions,
        guards: Guards,
        deadline: float,
        time_limit_s: float,
    ) -> None:
        self.start, self.options, self.guards = structure, options, guards
        self.deadline, self.time_limit_s = deadline, time_limit_s
        self.steps = 0
        self.lowest: _Lowest | None = None
        self.first_enthalpy: float | None = None
        self.atoms = Atoms(
            numbers=[site.specie.Z for site in structure],
            positions=structure.cart_coords,
            cell=structure.lattice.matrix,
            pbc=True,
        )
        self.calculator = _EngineCalculator(engine, structure, guards)
        self.atoms.calc = self.calculator

    def with_fallback(self) -> tuple[bool, str]:
        """Run the first optimiser, then FIRE if needed; return (converged, optimiser's name)."""
        first = LBFGS if len(self.atoms) > LBFGS_ABOVE_ATOMS else BFGS
        try:
            if self._optimize(first, max(1, round(self.options.max_steps * FIRST_SHARE))):
                return True, first.__name__
            self._go_to(self.lowest)
        except _OutOfTimeError:
            raise
        except _RefusedError:
            if self.lowest is None:  # the crystal as given is refused; nothing to fall back on
                raise
            self._go_to(None)
        left = self.options.max_steps - self.steps
        if left <= 0:
            self._answer()
            return False, first.__name__
        converged = self._optimize(FIRE, left)
        if not converged:
            self._go_to(self.lowest)
        return converged, "FIRE"

    def _optimize(self, optimizer: Any, max_steps: int) -> bool:
        """Return whether the optimiser converged; it raises `_RefusedError` where it diverged."""
        target: Any = self.atoms
        if self.options.relax_cell:
            target = FrechetCellFilter(
                self.atoms, scalar_pressure=self.options.pressure_GPa * units.GPa
            )
        converged = False
        before = self.steps
        try:
            with np.errstate(all="ignore"), optimizer(target, logfile=None) as driver:
                for state in driver.irun(fmax=self.options.fmax_eV_per_A, steps=max_steps):
                    converged = bool(state)
                    self.steps = before + driver.nsteps
                    self._look(converged)
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise _RefusedError(f"The optimiser {optimizer.__name__} failed: {error}") from None
        return converged

    def _look(self, converged: bool) -> None:
        """Check the state after a step and remember the lowest."""
        if time.monotonic() > self.deadline:
            raise _OutOfTimeError(
                f"The relaxation took longer than the limit of {self.time_limit_s:g} s"
                f" ({self.steps} steps done)."
            )
        if reason := self.guards.refuse_volume_change(self._volume_change()):
            raise _RefusedError(reason)
        enthalpy = self._enthalpy()
        if self.first_enthalpy is None:
            self.first_enthalpy = enthalpy
        rise = enthalpy - self.first_enthalpy
        limit = MAX_RISE_AT_THE_END_EV_PER_ATOM if converged else MAX_RISE_ON_THE_WAY_EV_PER_ATOM
        if rise > limit:
            raise _RefusedError(
                f"Relaxation raised the energy by {rise:.3g} eV/atom, more than the limit of"
                f" {limit:g} eV/atom."
            )
        if self.lowest is None or enthalpy < self.lowest.enthalpy:
            self.lowest = _Lowest(
                enthalpy, self.atoms.positions.copy(), self.atoms.cell.array.copy()
            )

    def _enthalpy(self) -> float:
        """Energy plus p V, in eV/atom."""
        pressure = self.options.pressure_GPa * units.GPa if self.options.relax_cell else 0.0
        volume = float(self.atoms.get_volume()) / len(self.atoms)
        return self._answer().energy_eV_per_atom + pressure * volume

    def _volume_change(self) -> float:
        return float(self.atoms.get_volume()) / float(self.start.volume) - 1

    def _go_to(self, state: _Lowest | None) -> None:
        """Set the atoms to a remembered state, or back to the start."""
        cell = self.start.lattice.matrix if state is None else state.cell
        self.atoms.set_cell(cell)
        self.atoms.set_positions(self.start.cart_coords if state is None else state.positions)

    def _answer(self) -> SinglePoint:
        """Return the potential's answer at the atoms' present place."""
        self.atoms.get_potential_energy()
        answer = self.calculator.answer
        assert answer is not None
        return answer

    def result(
        self, converged: bool, optimizer: str, cpu_s: float
    ) -> Relaxation | CalculationFailure:
        try:
            answer = self._answer()
        except _RefusedError as refusal:
            return CalculationFailure(str(refusal))
        relaxed = crystal_of(self.atoms, self.start)
        shift = relaxed.frac_coords - self.start.frac_coords
        shift -= shift.mean(axis=0)
        displacement = relaxed.lattice.get_cartesian_coords(shift - np.round(shift))
        return Relaxation(
            structure=relaxed,
            energy_eV_per_atom=answer.energy_eV_per_atom,
            converged=converged,
            steps=self.steps,
            optimizer=optimizer,
            max_force_eV_per_A=max_force(answer),
            rms_displacement_A=float(np.sqrt((displacement**2).sum(axis=1).mean())),
            volume_change=self._volume_change(),
            cpu_s=cpu_s,
            embedding=answer.embedding,
        )


def crystal_of(atoms: Atoms, template: Structure) -> Structure:
    """Return the crystal at the atoms' place, with the template's species and site properties."""
    return Structure(
        Lattice(atoms.cell.array),
        template.species,
        atoms.cell.scaled_positions(atoms.positions),
        site_properties=template.site_properties,
    )


class _EngineCalculator(Calculator):  # type: ignore[misc]
    """An engine under guards, in ASE's form."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, engine: Engine, template: Structure, guards: Guards) -> None:
        super().__init__()
        self.engine, self.template, self.guards = engine, template, guards
        self.answer: SinglePoint | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = None,
        system_changes: Any = all_changes,
    ) -> None:
        super().calculate(atoms, properties or ["energy"], system_changes)
        structure = crystal_of(self.atoms, self.template)
        if reason := self.guards.refuse_crystal(structure):
            raise _RefusedError(f"During relaxation: {reason}")
        try:
            answer = self.engine.evaluate(structure)
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise _RefusedError(f"The potential cannot evaluate the crystal: {error}") from None
        if reason := self.guards.refuse_answer(answer):
            raise _RefusedError(reason)
        self.answer = answer
        energy = answer.energy_eV_per_atom * len(structure)
        stress = answer.stress_GPa * units.GPa
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": answer.forces_eV_per_A,
            "stress": np.array(
                [
                    stress[0, 0],
                    stress[1, 1],
                    stress[2, 2],
                    (stress[1, 2] + stress[2, 1]) / 2,
                    (stress[0, 2] + stress[2, 0]) / 2,
                    (stress[0, 1] + stress[1, 0]) / 2,
                ]
            ),
        }

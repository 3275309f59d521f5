"""What a pool or a relaxation needs of a potential: one crystal in, one answer out."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from matterloop.adapters.potentials.guards import Guards
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions, SinglePoint

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Engine(Protocol):
    """A loaded model."""

    def evaluate(self, structure: Structure) -> SinglePoint:
        """Compute one crystal; ArithmeticError, ValueError or RuntimeError if it cannot."""
        ...


@dataclass(frozen=True)
class EngineRecipe:
    """How another process builds the same engine.

    Attributes
    ----------
    factory
        ``module:function``; called with `arguments`, returns an `Engine`.
    arguments
        JSON-serialisable keyword arguments.
    guards
        Limits of input and output.
    time_limit_s
        Wall-clock seconds that a relaxation checks between its steps.
    """

    factory: str
    arguments: dict[str, str] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    time_limit_s: float = 900.0

    def build(self) -> Engine:
        """Import the factory and load the model."""
        module, _, function = self.factory.partition(":")
        return cast("Engine", getattr(importlib.import_module(module), function)(**self.arguments))

    def to_json(self) -> str:
        """Write the recipe for a command line."""
        return json.dumps(
            {
                "factory": self.factory,
                "arguments": self.arguments,
                "guards": self.guards.model_dump(),
                "time_limit_s": self.time_limit_s,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> EngineRecipe:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "guards": Guards(**values["guards"])})


@dataclass(frozen=True)
class Task:
    """One crystal to compute: a single point, or a relaxation where options are given."""

    structure: Structure
    relax: RelaxOptions | None = None


def perform(
    engine: Engine, task: Task, recipe: EngineRecipe
) -> SinglePoint | Relaxation | CalculationFailure:
    """Do one task under the recipe's guards; what goes wrong is returned, not raised."""
    from matterloop.adapters.potentials.relaxation import relax

    if task.relax is not None:
        return relax(engine, task.structure, task.relax, recipe.guards, recipe.time_limit_s)
    return single_point(engine, task.structure, recipe.guards)


def single_point(
    engine: Engine, structure: Structure, guards: Guards
) -> SinglePoint | CalculationFailure:
    """Evaluate one crystal under guards."""
    if reason := guards.refuse_crystal(structure):
        return CalculationFailure(reason)
    try:
        answer = engine.evaluate(structure)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        return CalculationFailure(f"The potential cannot evaluate the crystal: {error}")
    reason = guards.refuse_answer(answer)
    return CalculationFailure(reason) if reason else answer

"""The seams: what generators, potentials, instruments and selectors promise.

Agents and adapters never import each other; they meet here. Optional abilities are protocols of
their own (`FineTunable`), so that a plugin author implements what the thing can do and no more.
A plugin class is built as ``Class(settings, workshop)``: `settings` is the mapping that stands
beside its name in the campaign file, `workshop` (see `Workshop`) holds what the campaign shares.
A plugin class has a ``Settings`` attribute, a pydantic model that checks the mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel
    from pymatgen.core import Structure

    from matterloop.loop.calculation import (
        CalculationFailure,
        PotentialIdentity,
        Relaxation,
        RelaxOptions,
        SinglePoint,
    )
    from matterloop.loop.candidate import Candidate, Conditions, ModelRef, Verdict
    from matterloop.loop.experiment import (
        CharacterizationRequest,
        CharacterizationResult,
        Handle,
        InstrumentCard,
        Progress,
        Recipe,
        SynthesisRequest,
        SynthesisResult,
    )
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.selection import Observation, PoolItem, Selection
    from matterloop.loop.spec import CampaignSpec, Constraint, Objective
    from matterloop.loop.training import TrainingRequest


class Workshop(Protocol):
    """What every plugin of one campaign shares.

    Attributes
    ----------
    folder
        Writable folder of the campaign; an instrument keeps its own records in a subfolder.
    potential
        The campaign's interatomic potential.
    hull
        Reference hull that belongs to this potential.
    workers
        Processes that may run at once.
    """

    @property
    def folder(self) -> Path:
        """See the class."""
        ...

    @property
    def potential(self) -> Potential:
        """See the class."""
        ...

    @property
    def hull(self) -> ReferenceHull:
        """See the class."""
        ...

    @property
    def workers(self) -> int:
        """See the class."""
        ...


class Generator(Protocol):
    """Proposes crystals."""

    def describe(self) -> ModelRef:
        """Name the model and everything that determines its output."""
        ...

    def sample(
        self, n: int, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[Candidate]:
        """Return at most `n` crystals inside ``conditions.search_space``; deterministic by seed.

        Fewer than `n` come back only when the search space holds no more.
        """
        ...


@runtime_checkable
class StreamingGenerator(Protocol):
    """A generator that hands over each crystal as soon as it is ready, and can go on later."""

    def stream(
        self,
        n: int,
        conditions: Conditions,
        *,
        guidance_scale: float,
        seed: int,
        start: int = 0,
    ) -> Iterator[Candidate]:
        """Yield crystals number `start`, `start` + 1, ..., `n` - 1 in this order.

        Crystal number k depends on the conditions, the guidance scale, the seed and k alone, not
        on `n` or `start`: who stops and goes on gets what one run would have given. Fewer than
        asked come only when the search space holds no more.
        """
        ...


@runtime_checkable
class Guidable(Protocol):
    """A generator that takes soft wishes; one that is not ignores ``conditions.targets``."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names that ``conditions.targets`` may hold."""
        ...


@runtime_checkable
class TrajectoryGenerator(Protocol):
    """A generator that can show how a crystal appears."""

    def trajectory(
        self, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[tuple[float, Structure]]:
        """Return (time, crystal) from noise at time 0 to the crystal at time 1, ascending.

        All have the same sites in the same order; the last one is crystal number 0 of `stream`.
        """
        ...


@runtime_checkable
class StructurePredictor(Protocol):
    """A generator that finds crystals of a given composition."""

    def predict(
        self, compositions: Sequence[Sequence[int]], samples: int, *, seed: int
    ) -> list[list[Structure]]:
        """Return `samples` crystals for every composition, in order; deterministic by seed.

        Parameters
        ----------
        compositions
            Atomic numbers of all atoms in the cell: the crystals hold exactly these atoms.
        """
        ...


@runtime_checkable
class RemembersTraining(Protocol):
    """A generator that can say which formulas it learned from, without its training data."""

    def training_formulas(self) -> bytes | None:
        """Return what `matterloop.loop.evaluation.novelty.formula_index` wrote, None if lost."""
        ...


class TrainableGenerator(Protocol):
    """A generator's class that can be trained from nothing.

    Attributes
    ----------
    Training
        Model of what can be chosen; all fields have defaults.
    """

    Training: ClassVar[type[BaseModel]]

    @classmethod
    def train(cls, request: TrainingRequest, settings: BaseModel) -> ModelRef:
        """Train, write the weights into ``request.folder``, and name what came out.

        Deterministic by the request's seed and data. Whatever is killed, the same call goes on
        where it ended; a call with another request for the same folder raises a `ConflictError`.
        """
        ...


@runtime_checkable
class FineTunable(Protocol):
    """A generator that learns from a campaign."""

    def fine_tune(self, dataset: Sequence[Observation], *, seed: int, folder: Path) -> ModelRef:
        """Train a challenger on what was measured, write its weights under `folder`.

        Called again after a kill with the same arguments, it goes on, or names what is finished.

        Raises
        ------
        FineTuningRefusedError
            If nothing can be learned from `dataset`; nothing was written then.
        """
        ...


@runtime_checkable
class Reloadable(Protocol):
    """A generator that can be had with the weights that its `fine_tune` wrote."""

    def with_weights(self, folder: Path) -> Generator:
        """Return a generator of the same settings with the weights in `folder`."""
        ...


class Potential(Protocol):
    """An interatomic potential. Results come in the order of the input, one per crystal."""

    @property
    def identity(self) -> PotentialIdentity:
        """See the class."""
        ...

    def single_points(
        self, structures: Sequence[Structure]
    ) -> list[SinglePoint | CalculationFailure]:
        """Energy, forces, stress and embedding of every crystal."""
        ...

    def relax(
        self, structures: Sequence[Structure], options: RelaxOptions
    ) -> Iterator[tuple[int, Relaxation | CalculationFailure]]:
        """Relax every crystal; yield (index, result) as they come, in any order."""
        ...

    def close(self) -> None:
        """Stop worker processes."""
        ...


class Critic(Protocol):
    """Screens candidates before anything is spent on them."""

    def judge(
        self, candidates: Sequence[Structure], known: Sequence[Structure]
    ) -> list[list[Verdict]]:
        """Return the verdicts on every candidate, in order; `known` are earlier candidates."""
        ...


class Selector(Protocol):
    """Decides what to make next."""

    def select(
        self,
        pool: Sequence[PoolItem],
        observations: Sequence[Observation],
        *,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        batch_size: int,
        seed: int,
    ) -> Selection:
        """Choose at most `batch_size` of `pool`; deterministic by seed and order of the input."""
        ...


class Planner(Protocol):
    """Turns a candidate into a recipe."""

    def plan(self, structure: Structure, spec: CampaignSpec) -> Recipe:
        """Return a recipe within the campaign's conditions."""
        ...


class Trainer(Protocol):
    """Decides after each cycle whether and how the generator learns."""

    def due(self, spec: CampaignSpec, cycle: int, new_measurements: int) -> bool:
        """Whether a fine-tuning belongs after this cycle."""
        ...

    def train(
        self, generator: Generator, dataset: Sequence[Observation], *, seed: int, folder: Path
    ) -> ModelRef | None:
        """Return a challenger, or None where the generator has nothing that can be trained."""
        ...


class Policy(Protocol):
    """Reviews a batch in place of a person, or holds it until a person did."""

    def review(self, choice: dict[str, Any]) -> tuple[str, str] | None:
        """Return (``approved`` or ``vetoed``, reason), or None to wait for a person."""
        ...


class Instrument(Protocol):
    """What synthesizers and characterizers have in common: the life of a job.

    Only the transaction that entered the job as ``submitting`` may call `submit`. `submit` need not
    be idempotent; `find` is how a restarted runner learns what became of a key.
    """

    def describe(self) -> InstrumentCard:
        """Capabilities, limits, cost, units."""
        ...

    def find(self, key: str) -> Handle | None:
        """Return the handle of a submitted key, or None if it is surely absent.

        Raises
        ------
        CannotTellError
            If the instrument cannot know.
        """
        ...

    def poll(self, handle: Handle) -> Progress:
        """Look at a job without waiting."""
        ...

    def cancel(self, handle: Handle) -> None:
        """Stop a job; no error if it is over."""
        ...


class Synthesizer(Instrument, Protocol):
    """An instrument that makes samples."""

    def validate(self, request: SynthesisRequest) -> list[str]:
        """Return what speaks against the request, empty if nothing does."""
        ...

    def submit(self, key: str, request: SynthesisRequest) -> Handle:
        """Hand in a job and return without waiting for it."""
        ...

    def collect(self, handle: Handle) -> SynthesisResult:
        """Return the result of a finished job; raise a `JobFailureError` subclass if it failed."""
        ...


class Characterizer(Instrument, Protocol):
    """An instrument that measures samples."""

    def validate(self, request: CharacterizationRequest) -> list[str]:
        """Return what speaks against the request, empty if nothing does."""
        ...

    def submit(self, key: str, request: CharacterizationRequest) -> Handle:
        """Hand in a job and return without waiting for it."""
        ...

    def collect(self, handle: Handle) -> CharacterizationResult:
        """Return the result of a finished job; raise a `JobFailureError` subclass if it failed."""
        ...

"""CHGNet, the default potential: its weights come with its wheel, so that it needs no network.

Energies are total energies in eV/atom. Those of 0.2.0 and 0.3.0 contain the Materials Project's
MP2020 corrections, because MPtrj, which they learned, does; r2SCAN energies contain none.
CHGNet gives stress in GPa with ASE's sign, positive under tension; the embedding is the crystal
feature, shape (64,), of the same forward pass. Reference: Deng et al., Nature Machine Intelligence
5, 1031 (2023), doi:10.1038/s42256-023-00716-3; r2SCAN weights: Huang et al., npj Computational
Materials (2025), "Cross-functional transferability in foundation machine learning interatomic
potentials".
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import RLock, current_thread, main_thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from matterloop.adapters.potentials.engine import Engine, EngineRecipe, Task, perform
from matterloop.adapters.potentials.guards import Guards
from matterloop.adapters.potentials.pool import WorkerPool
from matterloop.loop.calculation import (
    CalculationFailure,
    PotentialIdentity,
    Relaxation,
    RelaxOptions,
    SinglePoint,
)
from matterloop.loop.errors import PotentialError

if TYPE_CHECKING:
    from pymatgen.core import Structure

Version = Literal["0.3.0", "0.2.0", "r2scan"]
CORRECTIONS: dict[str, str] = {"0.3.0": "MP2020", "0.2.0": "MP2020", "r2scan": "none"}
"""Which corrections the energies that each version learned contain."""
UNSEEN = frozenset({84, 85, 86, 87, 88})
"""Po, At, Rn, Fr, Ra: among the 94 elements of the model but in none of its training data."""
GB_PER_EDGE = 8.6e-5
"""Memory for energy, forces and stress per bond and per angle of the graph; within 2 % of the peak
measured on NaCl, MgO and diamond of 8 to 216 atoms."""
IN_PROCESS_CRYSTALS = 2
"""So few crystals are computed in this process, unless workers are up already: it takes no longer
than to start a worker."""


class HasWorkers(Protocol):
    """The part of a workshop that a potential needs."""

    @property
    def workers(self) -> int:
        """Processes that may run at once."""
        ...


class ChgnetPotential:
    """CHGNet behind the `Potential` protocol, in a pool of one-thread processes.

    Parameters
    ----------
    settings
        See `Settings`; the defaults if left out.
    workshop
        Says how many processes may run; without one, as many as there are cores.
    """

    class Settings(BaseModel):
        """Settings of the potential.

        Attributes
        ----------
        version
            Weights: 0.3.0 (PBE, MP2020 corrections), 0.2.0 (older), r2scan.
        workers
            Processes at the most; the campaign's number if left out.
        time_limit_s
            Wall-clock seconds for one crystal. Far above what a crystal needs, because what it
            cuts off depends on the machine's load and not on the seed.
        max_memory_GB
            Crystals that would need more are refused. Dense crystals need most, because CHGNet
            counts the angles between bonds up to 3 Angstrom: 512 atoms of NaCl need 3 GB, 64 atoms
            of diamond 5 GB, 512 atoms of MgO 17 GB and more.
        guards
            Limits of input and output.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        version: Version = "0.3.0"
        workers: int | None = Field(None, ge=1)
        time_limit_s: float = Field(900.0, gt=0)
        max_memory_GB: float = Field(6.0, gt=0)
        guards: Guards = Guards()

    def __init__(
        self, settings: Settings | None = None, workshop: HasWorkers | None = None
    ) -> None:
        self.settings = settings or self.Settings()
        self.workers = self.settings.workers or (workshop.workers if workshop else _cores())
        self._recipe = EngineRecipe(
            factory=f"{__name__}:load_engine",
            arguments={
                "version": self.settings.version,
                "max_memory_GB": str(self.settings.max_memory_GB),
            },
            guards=self.settings.guards,
            time_limit_s=self.settings.time_limit_s,
        )
        self._pool: WorkerPool | None = None
        self._engine: Engine | None = None
        self._lock = RLock()

    @cached_property
    def identity(self) -> PotentialIdentity:
        """Name, hash of the weights file and correction scheme."""
        return identify(self.settings.version)

    def single_points(
        self, structures: Sequence[Structure]
    ) -> list[SinglePoint | CalculationFailure]:
        """Energy, forces, stress and embedding of every crystal, in the order of the input."""
        results: list[Any] = [None] * len(structures)
        for index, result in self._run([Task(structure) for structure in structures]):
            results[index] = result
        return results

    def iter_single_points(
        self, structures: Sequence[Structure]
    ) -> Iterator[tuple[int, SinglePoint | CalculationFailure]]:
        """As `single_points`, but yield (index, result) as they come, for long lists."""
        for index, result in self._run([Task(structure) for structure in structures]):
            assert not isinstance(result, Relaxation)
            yield index, result

    def relax(
        self, structures: Sequence[Structure], options: RelaxOptions | None = None
    ) -> Iterator[tuple[int, Relaxation | CalculationFailure]]:
        """Relax every crystal; yield (index, result) as they come, in any order."""
        options = options or RelaxOptions()
        for index, result in self._run([Task(structure, options) for structure in structures]):
            assert not isinstance(result, SinglePoint)
            yield index, result

    def close(self) -> None:
        """Stop the worker processes. They start again if the potential is used again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live now."""
        return self._pool.worker_pids if self._pool else []

    def _run(
        self, tasks: Sequence[Task]
    ) -> Iterator[tuple[int, SinglePoint | Relaxation | CalculationFailure]]:
        if len(tasks) <= IN_PROCESS_CRYSTALS and not self._pool_pays():
            for index, task in enumerate(tasks):
                yield index, self._in_process(task)
            return
        with self._lock:
            if self._pool is None:
                # Workers watch the time themselves; the pool kills the one that hangs.
                hang_limit_s = 1.5 * self.settings.time_limit_s + 10
                self._pool = WorkerPool(self._recipe, self.workers, hang_limit_s)
            pool = self._pool
        yield from pool.run(tasks)

    def _pool_pays(self) -> bool:
        """Whether even few crystals go to the pool: it runs, or other threads may come with more.

        Instruments ask from threads of their own, one crystal at a time; computed in this process
        they would wait for each other.
        """
        running = self._pool is not None and self._pool.running
        return running or (self.workers > 1 and current_thread() is not main_thread())

    def _in_process(self, task: Task) -> SinglePoint | Relaxation | CalculationFailure:
        """Compute here, on one thread as a worker would."""
        import torch

        with self._lock:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                if self._engine is None:
                    self._engine = self._recipe.build()
                return perform(self._engine, task, self._recipe)
            finally:
                torch.set_num_threads(threads)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process may use all there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def weights_file(version: str) -> Path:
    """Return the weights file in the installed chgnet package, without importing it.

    Raises
    ------
    PotentialError
        If chgnet is not installed or does not hold that version.
    """
    spec = find_spec("chgnet")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        found = sorted((Path(folder) / "pretrained" / version).glob("*.pth.tar"))
        if found:
            return found[0]
    raise PotentialError(
        f"The weights of CHGNet {version} are not installed.",
        f"the package chgnet with one of {', '.join(get_args(Version))}",
        "install chgnet 0.4.2 or newer",
    )


def identify(version: str) -> PotentialIdentity:
    """Return the identity of a version: its energies meet in a hull only with their own kind."""
    digest = hashlib.sha256(weights_file(version).read_bytes()).hexdigest()
    return PotentialIdentity(f"chgnet-{version}", digest, CORRECTIONS[version])


def load_engine(version: str = "0.3.0", max_memory_GB: str = "6") -> ChgnetEngine:
    """Load the weights of a version; an engine of its own for each process."""
    return ChgnetEngine(version, float(max_memory_GB))


class ChgnetEngine:
    """The loaded model, on the CPU."""

    def __init__(self, version: str, max_memory_GB: float) -> None:
        self._max_memory_GB = max_memory_GB
        from chgnet.model.model import CHGNet

        with contextlib.redirect_stdout(io.StringIO()):  # it announces its number of parameters
            self._model = CHGNet.from_file(
                str(weights_file(version)), mlp_out_bias=version == "0.2.0", version=version
            ).to("cpu")
        self._model.eval()

    def evaluate(self, structure: Structure) -> SinglePoint:
        """Compute one crystal.

        Raises
        ------
        ValueError
            If it holds an element that CHGNet never saw, or an atom without a neighbour in reach,
            or would need too much memory.
        """
        if unknown := sorted(
            {site.specie.symbol for site in structure if not 1 <= site.specie.Z <= 94}
            | {site.specie.symbol for site in structure if site.specie.Z in UNSEEN}
        ):
            raise ValueError(f"CHGNet was not trained on {', '.join(unknown)}")
        with warnings.catch_warnings():
            # torch says so of chgnet's `torch.tensor(volumes)`, once per process.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
            graph = self._model.graph_converter(structure)
            memory_GB = GB_PER_EDGE * (len(graph.atom_graph) + len(graph.bond_graph))
            if memory_GB > self._max_memory_GB:
                raise ValueError(
                    f"it would need {memory_GB:.1f} GB of memory, more than the limit of"
                    f" {self._max_memory_GB:g} GB"
                )
            answer = self._model.predict_graph(graph, task="efs", return_crystal_feas=True)
        return SinglePoint(
            energy_eV_per_atom=float(answer["e"]),
            forces_eV_per_A=np.asarray(answer["f"], dtype=np.float64),
            stress_GPa=np.asarray(answer["s"], dtype=np.float64),
            embedding=np.asarray(answer["crystal_fea"], dtype=np.float64),
        )

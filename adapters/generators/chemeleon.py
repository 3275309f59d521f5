"""Chemeleon-DNG behind our protocol: de novo generation, and structure prediction for a formula.

Park, Onwuli, Walsh, Nature Communications 16, 4379 (2025), doi:10.1038/s41467-025-59636-y; package
``chemeleon-dng`` (MIT licence). It is a DiffCSP network with 256 predictor-corrector steps (two
passes each) and knows no soft conditions, so targets and the guidance scale do not reach it.

It runs in a process of its own, where its draws from global random states disturb nobody; with the
setting `interpreter` in an environment of its own. Its checkpoints are pickles, of which only
tensors and its own classes are read unless `trust_checkpoint` allows more.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field

from matterloop.adapters.generators import chemeleon_worker
from matterloop.adapters.generators.cell_sizes import cell_of_formula, cell_size_weights
from matterloop.adapters.generators.foreign import run_foreign
from matterloop.adapters.generators.rejection import Draft, check_request, crystal, gather
from matterloop.loop.candidate import Candidate, Conditions, ModelRef
from matterloop.loop.errors import PluginFailedError, UsageError
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.spec import SearchSpace

Task = Literal["csp", "dng"]
RANDOM = "random"
DOWNLOAD = "download"
RANDOM_WEIGHTS = "random-weights"
"""What origin and version say where nothing was trained."""


class ChemeleonSettings(BaseModel):
    """Settings of `ChemeleonGenerator`.

    Attributes
    ----------
    weights
        ``download`` fetches the published checkpoints once, with the library's own downloader; a
        path names a checkpoint (``.ckpt``) or the folder ``ckpts`` that holds the published ones;
        ``random`` is the untrained architecture, for tests and timing. There is no default.
    dataset
        Which of the published checkpoints: trained on Alexandria and MP-20, or on MP-20 alone.
    task
        ``csp`` predicts structures of the search space's formulas, ``dng`` invents compositions;
        None takes ``csp`` where the search space names formulas, else ``dng``.
    mask_elements
        Whether ``dng`` may only propose allowed elements (their logits are masked, which is our
        addition); without it nearly every crystal lies outside a narrow search space.
    batch_size
        Crystals per pass; part of what determines the draws.
    rounds
        How often it is asked for what was outside the search space.
    random_timesteps, random_weights_seed
        For ``weights: random`` only; trained weights bring their number of steps along.
    interpreter
        Python that has ``chemeleon-dng``; None for this one.
    device
        ``cpu``, ``cuda``, ``cuda:1``, ...
    threads
        Of torch on a CPU; more than one may cost bit-equal repetition.
    timeout_s
        Seconds that one round may take.
    download_folder
        Where ``download`` keeps the checkpoints; None for ``~/.cache/matterloop/chemeleon``.
    trust_checkpoint
        Load whatever a checkpoint's pickle holds, which may run code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str | None = None
    dataset: Literal["alex_mp_20", "mp_20"] = "alex_mp_20"
    task: Task | None = None
    mask_elements: bool = True
    batch_size: int = Field(default=32, ge=1, le=4096)
    rounds: int = Field(default=4, ge=1, le=100)
    random_timesteps: int = Field(default=256, ge=2, le=10_000)
    random_weights_seed: int = Field(default=0, ge=0, lt=2**63)
    interpreter: Path | None = None
    device: str = "cpu"
    threads: int = Field(default=1, ge=1, le=256)
    timeout_s: float = Field(default=6 * 3600.0, gt=0)
    download_folder: Path | None = None
    trust_checkpoint: bool = False


class ChemeleonGenerator:
    """Chemeleon-DNG behind `matterloop.loop.protocols.Generator`.

    Raises
    ------
    UsageError
        If no weights are named, or the interpreter has no Chemeleon-DNG.
    """

    Settings = ChemeleonSettings

    def __init__(self, settings: ChemeleonSettings, workshop: object = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings
        if settings.weights is None:
            raise UsageError(
                "The generator 'chemeleon' has no weights; none come with Matterloop.",
                "the setting `weights`: `download`, or the path of a checkpoint or of a folder"
                f" that holds {self._published('csp')} and {self._published('dng')}",
                "write `weights: download` into the generator's settings; that fetches the"
                " published ones once (figshare.com, article 29196176)",
            )
        self._library_version = str(self._ask({"what": "version"}, timeout_s=60))

    @property
    def untrained(self) -> bool:
        """Whether the weights are random; such crystals mean nothing."""
        return self._settings.weights == RANDOM

    def describe(self) -> ModelRef:
        """Name library and weights; the hash covers the checkpoints and all that shapes a draw."""
        apart = {"weights", "interpreter", "download_folder", "timeout_s", "random_timesteps"}
        config = {
            **self._settings.model_dump(mode="json", exclude=apart | {"random_weights_seed"}),
            "weights": RANDOM_WEIGHTS if self.untrained else dict(self._hashes),
            "library": f"chemeleon-dng {self._library_version}",
        }
        version = self._library_version
        if self.untrained:
            version += f"+{RANDOM_WEIGHTS}"
            config["timesteps"] = self._settings.random_timesteps
            config["weights_seed"] = self._settings.random_weights_seed
        return ModelRef("generator", "chemeleon", version, content_hash(config), config)

    def sample(
        self, n: int, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[Candidate]:
        """Draw crystals; fewer than `n` only where `rounds` did not yield enough.

        Neither ``conditions.targets`` nor `guidance_scale` has an effect: the library has no soft
        conditions. The origin names the targets that were passed over.

        Raises
        ------
        UsageError
            If the request or the weights do not fit, with what to do.
        GeneratorTimeoutError, PluginFailedError
            If the library's process takes too long or fails.
        """
        check_request(n, guidance_scale)
        space = conditions.search_space
        task = self._task(space)
        origin: dict[str, Any] = {
            "method": "chemeleon",
            "task": task,
            "weights": RANDOM_WEIGHTS if self.untrained else self._settings.weights,
        }
        if conditions.targets:
            origin["targets_passed_over"] = sorted(conditions.targets)

        def draw(round_: int, count: int) -> list[Draft]:
            choose = np.random.default_rng(derive_seed(seed, "chemeleon", "cells", round_))
            cells = (_formula_cells if task == "csp" else _blank_cells)(space, count, choose)
            size = self._settings.batch_size
            batches = [
                {
                    "seed": derive_seed(seed, "chemeleon", "batch", round_, start),
                    "num_atoms": [len(cell) for cell in cells[start : start + size]],
                    "numbers": [z for cell in cells[start : start + size] for z in cell]
                    if task == "csp"
                    else None,
                }
                for start in range(0, count, size)
            ]
            return [
                Draft(crystal(each["numbers"], each["cell"], each["fractional"]), {"round": round_})
                for each in self._run(task, space, batches)
            ]

        return gather(n, space, draw, rounds=self._settings.rounds, seed=seed, origin=origin)

    def _run(
        self, task: Task, space: SearchSpace, batches: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        settings = self._settings
        masked = task == "dng" and settings.mask_elements
        drawn = self._ask(
            {
                "what": "sample",
                "task": task,
                "checkpoint": None if self.untrained else str(self._checkpoint(task)),
                "trust": settings.trust_checkpoint,
                "timesteps": settings.random_timesteps,
                "weights_seed": settings.random_weights_seed,
                "device": settings.device,
                "threads": settings.threads,
                "elements": [atomic_numbers[e] for e in space.allowed_elements] if masked else None,
                "batches": batches,
            },
            timeout_s=settings.timeout_s,
        )
        return list(drawn)

    def _task(self, space: SearchSpace) -> Task:
        task = self._settings.task or ("csp" if space.formulas else "dng")
        if task == "csp" and not space.formulas:
            raise UsageError(
                "Chemeleon's task `csp` needs to know the formulas.",
                "a search space that names `formulas`",
                "name formulas in the search space, or set the generator's `task: dng`",
            )
        return task

    def _published(self, task: Task) -> str:
        return f"chemeleon_{task}_{self._settings.dataset}_v0.0.2.ckpt"

    def _checkpoint(self, task: Task) -> Path:
        """Return the file that holds the weights for a task, downloaded if need be."""
        path = self._weights_path
        if path.is_file():
            return path
        if (path / self._published(task)).is_file():
            return path / self._published(task)
        raise UsageError(
            f"There are no weights of Chemeleon at {path}.",
            f"a checkpoint, or a folder that holds {self._published(task)}",
            "correct the generator's setting `weights`; `weights: download` fetches the published"
            " ones",
        )

    @cached_property
    def _weights_path(self) -> Path:
        settings = self._settings
        if settings.weights != DOWNLOAD:
            return Path(str(settings.weights)).expanduser().absolute()
        folder = settings.download_folder or Path("~/.cache/matterloop/chemeleon")
        folder = folder.expanduser().absolute()
        if not (folder / "ckpts").is_dir():
            self._ask({"what": "download", "folder": str(folder)}, timeout_s=settings.timeout_s)
        return folder / "ckpts"

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Name of each checkpoint that may be used to its SHA-256."""
        path = self._weights_path
        wanted: tuple[Task, ...] = (self._settings.task,) if self._settings.task else ("csp", "dng")
        present = [task for task in wanted if (path / self._published(task)).is_file()]
        files = {self._checkpoint(task) for task in present or wanted[:1]}
        hashes = {}
        for file in sorted(files):
            with file.open("rb") as stream:
                hashes[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return hashes

    def _ask(self, request: Mapping[str, Any], *, timeout_s: float) -> Any:
        """Run the worker for one request and return its result."""
        with tempfile.TemporaryDirectory(prefix="matterloop-chemeleon-") as name:
            folder = Path(name)
            (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
            run_foreign(
                [
                    str(self._settings.interpreter or sys.executable),
                    str(Path(chemeleon_worker.__file__).absolute()),
                    str(folder / "request.json"),
                    str(folder / "response.json"),
                ],
                name="chemeleon",
                folder=folder,
                timeout_s=timeout_s,
                threads=self._settings.threads,
            )
            try:
                outcome = json.loads((folder / "response.json").read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise PluginFailedError(
                    "matterloop.generators", "chemeleon", f"its process left no answer: {error}"
                ) from error
        if "refused" in outcome:
            raise UsageError(*outcome["refused"])
        return outcome["result"]


def _formula_cells(space: SearchSpace, count: int, choose: np.random.Generator) -> list[list[int]]:
    """Choose a formula uniformly, then its number of units; return atomic numbers per cell."""
    formulas = space.formulas or ()
    cells = []
    for index in choose.integers(len(formulas), size=count):
        cell = cell_of_formula(formulas[int(index)], space, choose)
        cells.append([atomic_numbers[e] for e, amount in cell.items() for _ in range(amount)])
    return cells


def _blank_cells(space: SearchSpace, count: int, choose: np.random.Generator) -> list[list[int]]:
    """Choose numbers of atoms as MP-20 has them, within the search space; 0 is no element yet."""
    fewest = max(space.min_atoms, space.min_elements, len(space.required_elements))
    sizes = list(range(fewest, space.max_atoms + 1))
    return [[0] * int(a) for a in choose.choice(sizes, size=count, p=cell_size_weights(sizes))]

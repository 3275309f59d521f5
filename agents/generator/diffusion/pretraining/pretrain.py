"""Training from nothing to a folder of weights: phases that are done once and never again.

=============  =====================================================================================
prepare        read, split, represent, augment; tensors in ``training/packed.safetensors``
composition    the composition network
geometry       the geometry network; averaged weights of some steps are kept as candidates
finishing      if the settings say so: a short second training with penalties, the first one's
               averaged network as start and as frozen critic; its candidates are kept, too
selection      samples of every candidate are judged, the best one is taken
weights        the folder that `weights.read` reads
=============  =====================================================================================

Everything in progress lies in the subfolder ``training``. Whatever is killed, the same call goes
on: finished phases are skipped, the one in progress continues from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.composition.training import (
    CompositionProgress,
    train_composition,
)
from matterloop.agents.generator.diffusion.network import GeometryNetwork
from matterloop.agents.generator.diffusion.pretraining.card import training_card
from matterloop.agents.generator.diffusion.pretraining.packing import (
    PackedData,
    composition_examples,
    pack_structures,
)
from matterloop.agents.generator.diffusion.pretraining.record import (
    TrainingRecord,
    finite,
    write_json,
)
from matterloop.agents.generator.diffusion.pretraining.selection import (
    NetworkJudge,
    PackedReference,
    candidate_steps,
    sample_compositions,
    score,
    validation_loss,
)
from matterloop.agents.generator.diffusion.pretraining.settings import (
    PretrainingSettings,
)
from matterloop.agents.generator.diffusion.training import (
    Progress,
    TrainingError,
    TrainingSettings,
    new_network,
    train_geometry,
)
from matterloop.agents.generator.diffusion.weights import (
    CARD_FILE,
    FORMULAS_FILE,
    Weights,
    read,
    write,
)
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.sources import ReadingReport
from matterloop.loop.training import TrainingProgress, TrainingRequest

_PACKED_FILE, _COMPOSITION_FILE = "packed.safetensors", "composition.safetensors"
_READING_TOLD_EVERY = 50
_TOLD_OF_DATA = ("train", "validation", "test", "left_out", "unreadable")


def pretrain(request: TrainingRequest, settings: PretrainingSettings) -> Weights:
    """Train both networks and write the folder of weights.

    Raises
    ------
    UsageError
        If the data give nothing to train on.
    ConflictError
        If the folder holds another training.
    TrainingError
        If a loss is no longer finite.
    """
    device = device_of(request.device)
    asked = {
        "generator": "diffusion",
        "data": request.data.describe(),
        "limit": request.data.limit,
        "seed": request.seed,
        "settings": settings.model_dump(mode="json"),
        "stability": request.stability_name if request.stability else "own head",
    }
    with TrainingRecord.open(request.folder, asked) as record:
        if record.finished("weights") is not None and (request.folder / CARD_FILE).is_file():
            return read(request.folder)
        return _Pretraining(request, settings, device, record, content_hash(asked)).run()


class _Pretraining:
    """One training in progress."""

    def __init__(
        self,
        request: TrainingRequest,
        settings: PretrainingSettings,
        device: str,
        record: TrainingRecord,
        mark: str,
    ) -> None:
        self.request, self.settings, self.device = request, settings, device
        self.record, self.mark = record, mark
        # Processes share the work of a CPU; a GPU has one master.
        self.workers = 1 if device == "cuda" else request.workers
        self.folder = record.folder

    def run(self) -> Weights:
        """Do what is not done yet."""
        data = self.prepare()
        composition = self.composition(data)
        empty = new_network(self.settings.network, data.everything, seed=self.request.seed)
        first = self.geometry("geometry", self.settings.geometry, empty, data, None)
        if self.settings.finishing is not None:
            self.geometry("finishing", self.settings.finishing, first, data, first)
        chosen, selection = self.select(data, composition, first)
        return self.finish(data, chosen, composition, selection)

    def prepare(self) -> PackedData:
        """Read and pack the data, or read what was packed."""
        path = self.folder / _PACKED_FILE
        data = PackedData.load(path, self.mark)
        if data is not None:
            return data
        request, report = self.request, ReadingReport()
        self._tell("reading data", 0, request.data.limit, unit="crystals")
        with self.record.metered("prepare"):
            items = request.data.read(report, processes=request.workers)
            packing = pack_structures(
                items,
                self.settings.data,
                max_atoms=self.settings.composition_network.max_atoms,
                source=", ".join(source.name for source in request.data.sources),
                seed=request.seed,
                processes=request.workers,
            )
            for step in packing:
                if isinstance(step, PackedData):
                    data = step
                elif step % _READING_TOLD_EVERY == 0:
                    self._tell("reading data", step, request.data.limit, unit="crystals")
        assert data is not None
        data.save(path, self.mark)
        facts = {**data.facts, "unreadable": len(report.unreadable)}
        self.record.finish("prepare", facts)
        told = {name.replace("_", " "): facts[name] for name in _TOLD_OF_DATA}
        read = facts["read"]
        self._tell("reading data", read, read, unit="crystals", figures=told, kept=True)
        return data

    def composition(self, data: PackedData) -> CompositionNetwork:
        """Train the composition network, or read it."""
        path = self.folder / _COMPOSITION_FILE
        settings = self.settings
        if self.record.finished("composition") is not None:
            network = CompositionNetwork(settings.composition_network)
            _load(network, path)
            return network.eval()
        figures: dict[str, float] = {}
        self._tell("composition", 0, settings.composition.steps)
        with self.record.metered("composition") as meter:

            def callback(progress: CompositionProgress) -> None:
                meter.note()
                figures.update(
                    nll=progress.training_nll,
                    validation_nll=progress.validation_nll,
                    unconditional_nll=progress.unconditional_nll,
                    conditional_nll=progress.conditional_nll,
                    best_step=float(progress.best_step),
                    steps=float(progress.step),
                )
                self.record.note_losses("composition", progress.step, figures)
                shown = {"nll": progress.training_nll, "held-out": progress.validation_nll}
                self._tell(
                    "composition",
                    progress.step,
                    settings.composition.steps,
                    figures=shown,
                    seen=progress.step * settings.composition.batch_size,
                    kept=True,
                )

            network = train_composition(
                composition_examples(data.train),
                settings.composition_network,
                settings.composition,
                seed=derive_seed(self.request.seed, "composition"),
                validation=composition_examples(data.validation),
                checkpoint=self.folder / "composition.checkpoint",
                callback=callback,
            )
        _save(network, path)
        self.record.finish("composition", figures)
        return network

    def geometry(
        self,
        phase: str,
        settings: TrainingSettings,
        start: GeometryNetwork,
        data: PackedData,
        critic: GeometryNetwork | None,
    ) -> GeometryNetwork:
        """Train the geometry network in one phase, or read the end of it."""
        wanted = candidate_steps(settings, self.settings.selection)
        if self.record.finished(phase) is not None:
            return self._candidate(phase, settings.steps)
        self._tell(phase, 0, settings.steps)
        with ExitStack() as stack:
            meter = stack.enter_context(self.record.metered(phase, self.workers))

            def watch(progress: Progress, averaged: GeometryNetwork) -> None:
                if progress.step in wanted:
                    _save(averaged, self._path(phase, progress.step))
                self.record.note_losses(phase, progress.step, progress.losses)
                meter.note()
                self._progress(phase, settings, progress, kept=True)

            network = train_geometry(
                start,
                data.everything,
                settings,
                seed=derive_seed(self.request.seed, phase),
                checkpoint=self.folder / f"{phase}.checkpoint",
                device=self.device,
                critic=critic,
                watch=watch,
                each_step=lambda progress: self._progress(phase, settings, progress),
                workers=self.workers,
            )
        if not self._path(phase, settings.steps).exists():
            _save(network, self._path(phase, settings.steps))
        self.record.finish(phase, {"steps": settings.steps})
        return network.cpu()

    def select(
        self, data: PackedData, composition: CompositionNetwork, judge: GeometryNetwork
    ) -> tuple[GeometryNetwork, dict[str, Any]]:
        """Judge samples of every candidate; return the best one and all figures."""
        settings, request = self.settings.selection, self.request
        candidates = [("geometry", step) for step in candidate_steps(
            self.settings.geometry, settings)]  # fmt: skip
        if self.settings.finishing is not None:
            steps = candidate_steps(self.settings.finishing, settings)
            candidates += [("finishing", step) for step in steps]
        path = self.folder / "selection.json"
        scores: dict[str, dict[str, Any]] = _read_json(path)
        known = PackedReference(data.train, "training part")
        stable = request.stability or NetworkJudge(judge.to(self.device).eval())
        compositions = sample_compositions(composition, settings, request.seed)
        with self.record.metered("selection") as meter:
            for place, (phase, step) in enumerate(candidates):
                name = f"{phase}-{step}"
                if name in scores:
                    continue
                self._tell("selection", place, len(candidates), unit="candidates")
                network = self._candidate(phase, step).to(self.device)
                found = score(
                    network,
                    compositions,
                    settings,
                    known=known,
                    judge=stable,
                    seed=request.seed,
                )
                loss = (
                    validation_loss(network, data.validation, self.settings.geometry, request.seed)
                    if len(data.validation)
                    else {}
                )
                scores[name] = {"phase": phase, "step": step, **found.as_json(), "loss": loss}
                write_json(path, finite(scores))
                meter.note()
                shown = {"valid x unique x novel x stable": found.all_four}
                self._tell(
                    "selection",
                    place + 1,
                    len(candidates),
                    unit="candidates",
                    figures=shown,
                    kept=True,
                )
        names = [f"{phase}-{step}" for phase, step in candidates]
        # Of equal ones the one that was trained longest.
        best = max(range(len(names)), key=lambda row: (scores[names[row]]["all_four"], row))
        selection = {
            "chosen": names[best],
            "candidates": {name: scores[name] for name in names},
            "judge_of_stability": request.stability_name if request.stability else "own head",
        }
        return self._candidate(*candidates[best]), selection

    def finish(
        self,
        data: PackedData,
        geometry: GeometryNetwork,
        composition: CompositionNetwork,
        selection: Mapping[str, Any],
    ) -> Weights:
        """Write weights, index of formulas and card."""
        folder = self.request.folder
        (folder / FORMULAS_FILE).write_bytes(data.formulas)
        card = training_card(
            self.request, self.settings, self.record, data, selection, self.device, self.workers
        )
        weights = write(folder, geometry, composition, card)
        self.record.finish("weights", {"sha256": weights.sha256})
        return weights

    def _candidate(self, phase: str, step: int) -> GeometryNetwork:
        network = GeometryNetwork(self.settings.network)
        _load(network, self._path(phase, step))
        return network.eval().requires_grad_(False)

    def _path(self, phase: str, step: int) -> Path:
        folder = self.folder / "candidates"
        folder.mkdir(exist_ok=True)
        return folder / f"{phase}-{step:08d}.safetensors"

    def _progress(
        self, phase: str, settings: TrainingSettings, progress: Progress, *, kept: bool = False
    ) -> None:
        seen, losses = progress.crystals, progress.losses
        self._tell(phase, progress.step, settings.steps, seen=seen, figures=losses, kept=kept)

    def _tell(
        self,
        phase: str,
        done: int,
        total: int | None,
        *,
        unit: str = "steps",
        seen: int = 0,
        figures: Mapping[str, float] | None = None,
        kept: bool = False,
    ) -> None:
        self.request.watch(
            TrainingProgress(phase, done, total, unit, seen, dict(figures or {}), kept)
        )


def device_of(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``cpu``, ``cuda`` or ``auto``.

    Raises
    ------
    UsageError
        If it is another word, or there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"There is no device {name!r}.", "cpu, cuda or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("Training was to run on 'cuda', and torch sees no GPU.", "cpu or auto")
    return name


def _save(network: torch.nn.Module, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, partial)
    partial.replace(path)


def _load(network: torch.nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error}.",
            "weights that this training wrote",
            "train in another folder",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}

"""The generator plugin ``diffusion``: compositions first, then a geometry for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from matterloop.agents.generator.diffusion.composition.constraints import CompositionConstraint
from matterloop.agents.generator.diffusion.composition.sampler import (
    SamplingOptions,
    draw_compositions,
)
from matterloop.agents.generator.diffusion.conditioning import LABELS, Labels, LabelTensors
from matterloop.agents.generator.diffusion.drawing import DrawingSettings, Drawn, draw_crystals
from matterloop.agents.generator.diffusion.fine_tuning.settings import FineTuningSettings
from matterloop.agents.generator.diffusion.fine_tuning.tuning import fine_tune, tuned_metrics
from matterloop.agents.generator.diffusion.pretraining.settings import PretrainingSettings
from matterloop.agents.generator.diffusion.representation import (
    MAX_ATOMIC_NUMBER,
    to_structures,
)
from matterloop.agents.generator.diffusion.sampler import SamplerSettings, sample_geometry
from matterloop.agents.generator.diffusion.weights import (
    FORMULAS_FILE,
    Weights,
    load_shipped,
    read,
    shipped_folder,
)
from matterloop.loop.candidate import Candidate, Conditions, ModelRef
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.protocols import Workshop
from matterloop.loop.selection import Observation
from matterloop.loop.training import TrainingRequest

_FIRST_CHUNK, _LARGEST_CHUNK = 16, 128
MAX_GUIDANCE_SCALE = 100
"""Far beyond what is of use; larger ones overflow."""


class DiffusionSettings(BaseModel):
    """Settings of `DiffusionGenerator`.

    Attributes
    ----------
    weights
        Folder of weights; None for those that come with the package.
    device
        ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    threads
        Of torch, while crystals are drawn. One is right beside other processes: several threads
        wait for each other at every operation and get many times slower when a core is busy.
    steps
        Euler steps of the geometry.
    annealing
        See `SamplerSettings`.
    churn
        Noise on the way; see `SamplerSettings`. More than 0 explores.
    tries, proposals
        See `DrawingSettings`.
    energy_above_hull
        Soft target in eV/atom where the conditions name none; None for no such wish. Like all
        targets it counts only with a guidance scale above 0.
    composition_temperature
        Below 1 the likely compositions become likelier.
    plausible_only
        Whether compositions that are neither charge-neutral nor alloys are drawn again; formulas
        that the search space names are not questioned.
    cost_weight, supply_weight
        How strongly dear and scarce elements are avoided.
    fine_tuning
        How the generator learns from a campaign; see `FineTuningSettings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1, le=256)
    steps: int = Field(default=25, ge=1, le=1000)
    annealing: float = Field(default=5.0, ge=0, le=50)
    churn: float = Field(default=0.0, ge=0, le=1)
    tries: int = Field(default=4, ge=1, le=100)
    proposals: int = Field(default=1, ge=1, le=100)
    energy_above_hull: float | None = Field(default=0.0, ge=0)
    composition_temperature: float = Field(default=1.0, gt=0, le=10)
    plausible_only: bool = True
    cost_weight: float = Field(default=0.0, ge=0, le=100)
    supply_weight: float = Field(default=0.0, ge=0, le=100)
    fine_tuning: FineTuningSettings = FineTuningSettings()

    @property
    def drawing(self) -> DrawingSettings:
        """Settings of the geometries."""
        return DrawingSettings(
            sampler=SamplerSettings(steps=self.steps, annealing=self.annealing, churn=self.churn),
            tries=self.tries,
            proposals=self.proposals,
        )


class DiffusionGenerator:
    """Conditional diffusion for crystals, factorised into composition and geometry.

    Hard conditions (chemical system, elements, formulas, numbers of atoms) are masks of the
    composition sampler and hold for every crystal. Soft ones (`target_names`) guide both networks.
    Behind `Generator`, `StreamingGenerator`, `Guidable`, `TrajectoryGenerator`,
    `StructurePredictor`, `FineTunable` and `Reloadable` of `matterloop.loop.protocols`.
    """

    Settings = DiffusionSettings
    Training = PretrainingSettings

    def __init__(self, settings: DiffusionSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self.settings = settings
        weights = load_shipped() if settings.weights is None else read(settings.weights)
        self.weights: Weights = weights.to(_device(settings.device))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Labels that the networks were trained with."""
        known = self.weights.card.get("labels", LABELS)
        return tuple(name for name in LABELS if name in known)

    def describe(self) -> ModelRef:
        """Name the model; the hash covers both networks and all settings of the draws."""
        where = {"weights", "device", "threads"}
        config = self.settings.model_dump(mode="json", exclude={*where, "fine_tuning"})
        return ModelRef(
            kind="generator",
            name="diffusion",
            version=str(self.weights.card.get("version", "unnamed")),
            sha256=content_hash([self.weights.sha256, config]),
            config={**config, "weights_sha256": self.weights.sha256},
        )

    def sample(
        self, n: int, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[Candidate]:
        """Draw `n` crystals; see `stream`.

        Raises
        ------
        UsageError
            If a number is negative, a target is unknown, or no composition obeys the search space.
        """
        return list(self.stream(n, conditions, guidance_scale=guidance_scale, seed=seed))

    def stream(
        self,
        n: int,
        conditions: Conditions,
        *,
        guidance_scale: float,
        seed: int,
        start: int = 0,
    ) -> Iterator[Candidate]:
        """Yield crystals number `start` to `n` - 1, drawn in the chunks of `chunks`."""
        if n < 0 or start < 0 or not 0 <= guidance_scale <= MAX_GUIDANCE_SCALE:
            raise UsageError(
                f"The generator was asked for n = {n} from {start} with guidance scale"
                f" {guidance_scale}.",
                f"none of them below zero, and a guidance scale of {MAX_GUIDANCE_SCALE} at the"
                " most; above 5 or so crystals get worse",
            )
        labels = self._labels(conditions)
        constraint = CompositionConstraint.from_search_space(conditions.search_space)
        for first, last in chunks(n):
            if last <= start:
                continue
            with _threads(self.settings.threads):
                compositions, drawn = self._compositions(
                    first, last - first, constraint, labels, guidance_scale, seed
                )
                crystals = draw_crystals(
                    self.weights.geometry,
                    compositions,
                    self.settings.drawing,
                    labels=labels,
                    guidance_scale=guidance_scale,
                    seeds=[derive_seed(seed, "crystal", place) for place in range(first, last)],
                )
            for place in range(max(start, first), min(n, last)):
                crystal = crystals[place - first]
                origin = _origin(crystal, labels, guidance_scale, place, drawn)
                yield Candidate(crystal.structure, origin, seed)

    def predict(
        self, compositions: Sequence[Sequence[int]], samples: int, *, seed: int
    ) -> list[list[Structure]]:
        """Return `samples` crystals for every composition (atomic numbers of all its atoms).

        Raises
        ------
        UsageError
            For an empty composition or atomic numbers that do not exist.
        """
        for composition in compositions:
            if not composition or not all(1 <= z <= MAX_ATOMIC_NUMBER for z in composition):
                raise UsageError(
                    f"The composition {list(composition)} cannot be predicted.",
                    f"one atomic number or more, each from 1 to {MAX_ATOMIC_NUMBER}",
                )
        rows = [tuple(composition) for composition in compositions for _ in range(samples)]
        seeds = [
            derive_seed(seed, "predict", index, sample)
            for index in range(len(compositions))
            for sample in range(samples)
        ]
        with _threads(self.settings.threads):
            drawn = draw_crystals(self.weights.geometry, rows, self.settings.drawing, seeds=seeds)
        return [
            [crystal.structure for crystal in drawn[index * samples : (index + 1) * samples]]
            for index in range(len(compositions))
        ]

    def trajectory(
        self, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[tuple[float, Structure]]:
        """Return (time, crystal) from noise to crystal number 0 of `stream`."""
        [candidate] = self.stream(1, conditions, guidance_scale=guidance_scale, seed=seed)
        noise_seed = int(candidate.origin["noise_seed"])
        labels = self._labels(conditions)
        device = next(self.weights.geometry.parameters()).device
        numbers = torch.tensor([list(candidate.structure.atomic_numbers)], device=device)
        frames: list[tuple[float, Structure]] = []

        def watch(time: float, fractional: torch.Tensor, cell: torch.Tensor) -> None:
            frames.append((time, to_structures(numbers, fractional, cell)[0]))

        with _threads(self.settings.threads):
            sample_geometry(
                self.weights.geometry,
                numbers,
                self.settings.drawing.sampler,
                labels=LabelTensors.encode([labels]),
                guidance_scale=guidance_scale,
                seeds=[noise_seed],
                watch=watch,
            )
        return frames

    def fine_tune(self, dataset: Sequence[Observation], *, seed: int, folder: Path) -> ModelRef:
        """Train a challenger on what was measured; see `fine_tuning.fine_tune`."""
        weights = fine_tune(
            self.weights,
            dataset,
            self.settings.fine_tuning,
            self.settings.drawing.model_copy(update={"proposals": 1}),
            seed=seed,
            folder=folder,
            formulas=self.training_formulas(),
        )
        return replace(self.with_weights(folder).describe(), metrics=tuned_metrics(weights))

    def with_weights(self, folder: Path) -> DiffusionGenerator:
        """Return a generator of the same settings with the weights in `folder`.

        Raises
        ------
        WeightsError
            If they are missing or were changed.
        """
        return DiffusionGenerator(self.settings.model_copy(update={"weights": folder}))

    def training_formulas(self) -> bytes | None:
        """Return the index of formulas that the weights were trained on, None if it is lost."""
        path = (self.settings.weights or shipped_folder()) / FORMULAS_FILE
        return path.read_bytes() if path.is_file() else None

    @classmethod
    def train(cls, request: TrainingRequest, settings: BaseModel) -> ModelRef:
        """Train both networks from nothing; see `pretraining.pretrain`."""
        from matterloop.agents.generator.diffusion.pretraining.pretrain import pretrain

        pretrain(request, PretrainingSettings.model_validate(settings))
        return cls(DiffusionSettings(weights=request.folder)).describe()

    def _labels(self, conditions: Conditions) -> Labels:
        """Collect what is asked for; conditions of synthesis only where they were learned."""
        known = self.target_names
        unknown = sorted(set(conditions.targets) - set(known))
        if unknown:
            raise UsageError(
                f"The generator cannot be asked for {', '.join(unknown)}.",
                f"one of {', '.join(known)}",
            )
        labels: dict[str, float | str] = dict(conditions.targets)
        wishes = {
            "energy_above_hull": self.settings.energy_above_hull,
            "temperature": conditions.temperature_K,
            "pressure": conditions.pressure_GPa,
        }
        for name, value in wishes.items():
            if name in known and name not in labels and value is not None:
                labels[name] = value
        LabelTensors.encode([labels])  # complains about words that do not exist
        return labels

    def _compositions(
        self,
        first: int,
        count: int,
        constraint: CompositionConstraint,
        labels: Labels,
        guidance_scale: float,
        seed: int,
    ) -> tuple[list[tuple[int, ...]], int]:
        settings = self.settings
        draws = draw_compositions(
            self.weights.composition,
            count,
            constraint,
            labels,
            generator=torch.Generator().manual_seed(derive_seed(seed, "composition", first)),
            options=SamplingOptions(
                guidance_scale=guidance_scale,
                temperature=settings.composition_temperature,
                cost_weight=settings.cost_weight,
                supply_weight=settings.supply_weight,
                plausible_only=settings.plausible_only,
            ),
        )
        return draws.compositions, draws.drawn


def chunks(n: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the crystals that are drawn together, up to number `n`.

    Small at first, so that few are cheap, larger later, so that many are fast. Where a crystal
    belongs does not depend on `n`: the same crystal comes out whatever else is asked for.
    """
    first, size = 0, _FIRST_CHUNK
    while first < n:
        yield first, first + size
        first += size
        size = min(first, _LARGEST_CHUNK)


def _origin(
    drawn: Drawn, labels: Labels, guidance_scale: float, place: int, compositions_drawn: int
) -> Mapping[str, Any]:
    return {
        "method": "diffusion",
        "draw": place,
        "noise_seed": drawn.seed,
        "geometries_drawn": drawn.tries,
        "compositions_drawn_for_chunk": compositions_drawn,
        "asked_for": dict(labels) if guidance_scale else {},
        "predicted": drawn.predicted,
    }


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "The generator was set to device 'cuda', and torch sees no GPU.",
            "`device: cpu` or `device: auto`",
        )
    return torch.device(name)

"""Fine-tuning: the generator learns from what a campaign measured, beside what it knows.

Both networks go on from the parent's weights with a small learning rate. Every step sees crystals
of the campaign, weighted by their reward (`experience`), and crystals that the parent replays
(`replay`). Labels that the parent never saw, such as the temperature of synthesis, begin as if they
were not given, so that the first step starts where the parent stands.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.composition.training import (
    CompositionExample,
    train_composition,
)
from matterloop.agents.generator.diffusion.conditioning import LABELS
from matterloop.agents.generator.diffusion.dataset import Example, PackedCrystals
from matterloop.agents.generator.diffusion.drawing import DrawingSettings
from matterloop.agents.generator.diffusion.fine_tuning.experience import (
    Lesson,
    effective_number,
    hold_out,
    known_labels,
    lessons,
)
from matterloop.agents.generator.diffusion.fine_tuning.new_labels import (
    composition_start,
    geometry_start,
)
from matterloop.agents.generator.diffusion.fine_tuning.replay import chosen_replay, drawn_replay
from matterloop.agents.generator.diffusion.fine_tuning.settings import FineTuningSettings
from matterloop.agents.generator.diffusion.fine_tuning.training_sets import FineTuningSets
from matterloop.agents.generator.diffusion.training import TrainingError, train_geometry
from matterloop.agents.generator.diffusion.weights import (
    CARD_FILE,
    FORMULAS_FILE,
    Weights,
    read,
    write,
)
from matterloop.loop.errors import FineTuningRefusedError, UsageError
from matterloop.loop.evaluation.novelty import (
    formula_entry,
    formula_index_of,
    read_formula_index,
)
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.selection import Observation, evidence_sha256

_FORMAT = 1
_CAMPAIGN = ", campaign"


def fine_tune(
    parent: Weights,
    dataset: Sequence[Observation],
    settings: FineTuningSettings,
    drawing: DrawingSettings,
    *,
    seed: int,
    folder: Path,
    formulas: bytes | None = None,
) -> Weights:
    """Train a challenger and write its weights into `folder`; the parent is not changed.

    The same arguments give the same weights. A call that was interrupted goes on from the
    checkpoints in `folder`; one that is repeated reads what is there.

    Parameters
    ----------
    drawing
        How replayed crystals are drawn.
    seed
        Everything random follows from it.
    formulas
        Index of formulas that the parent learned from (`matterloop.loop.evaluation.novelty`);
        the challenger's lies beside its weights and holds the campaign's, too.

    Raises
    ------
    FineTuningRefusedError
        If the data teach nothing (see `experience.lessons`), or training diverges. No weights are
        written.
    UsageError
        If `folder` holds the weights of another fine-tuning.
    """
    found = lessons(dataset, settings)
    digest = evidence_sha256(dataset)
    mark = content_hash(
        [
            _FORMAT,
            parent.sha256,
            settings.model_dump(mode="json"),
            drawing.model_dump(),
            seed,
            digest,
        ]
    )
    if (folder / CARD_FILE).exists():
        return _finished(folder, mark)
    clock = time.perf_counter(), time.process_time()
    known = tuple(parent.card.get("labels", LABELS))
    train, held_out = hold_out(found, settings.validation_share, settings.min_compositions, seed)
    names = known_labels(train, known)
    replay = _replay(parent, settings, drawing, known, seed)
    n_held = round(settings.validation_share * len(replay))
    sets = FineTuningSets(
        _examples(train, names), _examples(held_out, names), replay[n_held:], replay[:n_held]
    )
    work = _workplace(folder, mark)
    geometry = geometry_start(parent.geometry, [name for name in names if name not in known])
    composition = composition_start(parent.composition, names)
    before = sets.losses(geometry, composition, seed)
    try:
        geometry = train_geometry(
            geometry,
            PackedCrystals.pack(sets.balanced(settings.replay_fraction)),
            settings.geometry_training,
            seed=derive_seed(seed, "geometry"),
            checkpoint=work / "geometry.safetensors",
            device=next(geometry.parameters()).device,
        )
        composition = _train_composition(composition, sets, settings, seed, work)
        _check_finite(geometry, composition)
    except (TrainingError, FineTuningRefusedError) as error:
        shutil.rmtree(work)
        with suppress(OSError):
            folder.rmdir()
        raise FineTuningRefusedError(
            f"Fine-tuning on {len(train)} crystals failed, nothing of it was kept: {error.came}",
            "a training that converges",
            "lower the learning rates of the generator's fine_tuning",
        ) from error
    after = sets.losses(geometry.eval(), composition, seed)
    card = {
        "version": f"{parent.card.get('version', 'unnamed')}-{mark[:8]}",
        "parent": parent.sha256,
        "labels": list(names),
        "licence": parent.card.get("licence", ""),
        "attribution": parent.card.get("attribution", ""),
        "seed": seed,
        "data": {
            "candidates": [observation.item.candidate_id for observation in dataset],
            "sha256": digest,
            "parent_data": parent.card.get("data"),
        },
        "metrics": {
            "before": before,
            "after": after,
            **_numbers(train, sets),
            "held_out": len(held_out),
            "left_out": len(dataset) - len(found),
        },
        "cost": {
            "wall_s": round(time.perf_counter() - clock[0], 1),
            "cpu_s": round(time.process_time() - clock[1], 1),
            "device": str(next(geometry.parameters()).device),
            "threads": torch.get_num_threads(),
        },
        "fine_tuning": {"mark": mark, "settings": settings.model_dump(mode="json")},
    }
    if formulas is not None:
        (folder / FORMULAS_FILE).write_bytes(_with_campaign(formulas, dataset))
    written = write(folder, geometry, composition, card)
    shutil.rmtree(work)
    return written


def _numbers(train: Sequence[Lesson], sets: FineTuningSets) -> dict[str, float]:
    """Count what was learned from."""
    return {
        "crystals": len(train),
        "made": sum(lesson.made for lesson in train),
        "compositions": len({lesson.formula for lesson in train}),
        "effective_crystals": effective_number([example.weight for example in sets.train]),
        "replayed": len(sets.replay),
    }


def _with_campaign(formulas: bytes, dataset: Sequence[Observation]) -> bytes:
    """Add the crystals of a campaign to an index of formulas."""
    index = read_formula_index(formulas)
    entries = {(formula, n) for formula, units in index.units.items() for n in units}
    for observation in dataset:
        with suppress(UsageError):  # no crystal that could be learned from
            entries.add(formula_entry(observation.item.structure))
    source = index.source if index.source.endswith(_CAMPAIGN) else index.source + _CAMPAIGN
    return formula_index_of(entries, source)


def _finished(folder: Path, mark: str) -> Weights:
    weights = read(folder)
    if weights.card.get("fine_tuning", {}).get("mark") != mark:
        raise UsageError(
            f"{folder} holds the weights of another training.",
            "an empty folder, or the one in which this fine-tuning was begun",
            "move it away, and run the same command again",
        )
    return weights


def _workplace(folder: Path, mark: str) -> Path:
    """Return the folder of the checkpoints; those of another fine-tuning are thrown away."""
    work = folder / "unfinished"
    begun = work / "begun.json"
    if not begun.is_file() or json.loads(begun.read_text(encoding="utf-8")) != mark:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        partial = begun.with_suffix(".partial")
        partial.write_text(json.dumps(mark), encoding="utf-8")
        partial.replace(begun)
    return work


def _replay(
    parent: Weights,
    settings: FineTuningSettings,
    drawing: DrawingSettings,
    labels: Sequence[str],
    seed: int,
) -> list[Example]:
    if not settings.replay_fraction:
        return []
    if settings.replay_structures:
        return chosen_replay(
            settings.replay_structures, settings.replay_crystals, labels, seed=seed
        )
    return drawn_replay(parent, settings.replay_crystals, drawing, labels, seed=seed)


def _train_composition(
    network: CompositionNetwork,
    sets: FineTuningSets,
    settings: FineTuningSettings,
    seed: int,
    work: Path,
) -> CompositionNetwork:
    most = network.settings.max_atoms
    fraction = settings.replay_fraction
    examples = _compositions(sets.balanced(fraction), most)
    if len({tuple(sorted(example.numbers)) for example in examples}) < 2:
        return network
    return train_composition(
        examples,
        training=settings.composition_training,
        seed=derive_seed(seed, "composition"),
        validation=_compositions(sets.balanced_held_out(fraction), most),
        start=network,
        checkpoint=work / "composition.safetensors",
    )


def _examples(found: Sequence[Lesson], names: Sequence[str]) -> list[Example]:
    return [
        Example(
            lesson.crystal,
            {name: value for name, value in lesson.labels.items() if name in names},
            lesson.weight,
        )
        for lesson in found
    ]


def _compositions(examples: Sequence[Example], most: int) -> list[CompositionExample]:
    return [
        CompositionExample(e.crystal.numbers.tolist(), e.labels, e.weight)
        for e in examples
        if len(e.crystal.numbers) <= most
    ]


def _check_finite(*networks: nn.Module) -> None:
    for network in networks:
        if not all(bool(torch.isfinite(value).all()) for value in network.parameters()):
            raise FineTuningRefusedError("Weights are no longer finite.")


def tuned_metrics(weights: Weights) -> dict[str, Any]:
    """Return the figures of a fine-tuning from the card of its weights."""
    return {**weights.card.get("metrics", {}), "cost": weights.card.get("cost", {})}

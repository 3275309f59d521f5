"""The card of trained weights: data, licence, settings, figures, cost, software."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matterloop.agents.generator.diffusion.pretraining.packing import PackedData
from matterloop.agents.generator.diffusion.pretraining.record import (
    TrainingRecord,
    finite,
    machine,
    software,
)
from matterloop.agents.generator.diffusion.pretraining.settings import PretrainingSettings
from matterloop.loop.training import TrainingRequest


def training_card(
    request: TrainingRequest,
    settings: PretrainingSettings,
    record: TrainingRecord,
    data: PackedData,
    selection: Mapping[str, Any],
    device: str,
    workers: int,
) -> dict[str, Any]:
    """Return what `matterloop.agents.generator.diffusion.weights.write` adds the hashes to."""
    split = settings.data.model_dump(mode="json", include={"test", "validation", "split_seed"})
    card = {
        "version": settings.version,
        "parent": None,
        "seed": request.seed,
        "labels": list(data.facts["labels"]),
        "data": {
            "sources": request.data.describe(),
            "limit": request.data.limit,
            **(record.finished("prepare") or data.facts),
            "split": {"by": "hash of the reduced formula", **split},
        },
        "licence": settings.data.licence,
        "attribution": settings.data.attribution,
        "settings": settings.model_dump(mode="json"),
        "metrics": {
            "composition": record.finished("composition"),
            "selection": dict(selection),
        },
        "cost": {
            **record.cost(),
            "machine": machine(device),
            "device": device,
            "workers": workers,
        },
        "software": software(),
    }
    return dict(finite(card))

"""What the geometry network is trained to make small."""

from __future__ import annotations

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.conditioning import CONTINUOUS_LABELS
from matterloop.agents.generator.diffusion.dataset import Block
from matterloop.agents.generator.diffusion.network import (
    PROPERTIES,
    GeometryNetwork,
    property_scale,
)
from matterloop.agents.generator.diffusion.path import assign_noise, interpolate, noise
from matterloop.agents.generator.diffusion.physics import Geometry, penalties
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings


def losses(
    network: GeometryNetwork,
    block: Block,
    settings: TrainingSettings,
    generator: torch.Generator,
    *,
    critic: GeometryNetwork | None = None,
) -> dict[str, Tensor]:
    """Return the weighted parts of the loss of each crystal of a block, (crystals,) each."""
    device = block.numbers.device
    batch, atoms = block.numbers.shape
    labels = block.labels.dropped(settings.keep_any_label, generator)
    time = torch.rand(batch, generator=generator)
    start, lattice_noise = noise(batch, atoms, generator)
    if settings.assign_noise and atoms > 1:
        start = torch.from_numpy(
            assign_noise(block.numbers.cpu().numpy(), block.fractional.cpu().numpy(), start.numpy())
        )
    lattice = network.standardise(block.lattice)
    point = interpolate(
        block.fractional, lattice, (start.to(device), lattice_noise.to(device)), time.to(device)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        prediction = network(block.numbers, point.fractional, point.lattice, point.time, labels)
    parts = {
        "velocity": settings.velocity_weight
        * ((prediction.velocity - point.velocity) ** 2).mean((1, 2)),
        "lattice": settings.lattice_weight * ((prediction.lattice - lattice) ** 2).mean(1),
    }
    if settings.property_weight:
        parts["properties"] = settings.property_weight * _property_loss(
            prediction.properties, block, labels.continuous
        )
    if settings.penalties.any:
        parts["penalties"] = penalties(
            network,
            critic,
            settings.penalties,
            numbers=block.numbers,
            noisy=point.fractional,
            time=point.time,
            prediction=prediction,
            true=Geometry(block.fractional, network.to_cell(lattice, block.numbers)),
        )
    return parts


def _property_loss(predicted: Tensor, block: Block, shown: Tensor) -> Tensor:
    """Huber loss of the properties that are known and were not shown to the network."""
    columns = [list(CONTINUOUS_LABELS).index(name) for name in PROPERTIES]
    truth = property_scale(block.labels.continuous[:, columns])
    counts = ~torch.isnan(truth) & torch.isnan(shown[:, columns])
    error = torch.nn.functional.smooth_l1_loss(predicted, torch.nan_to_num(truth), reduction="none")
    return (error * counts).sum(1)

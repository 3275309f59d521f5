"""Networks in files: safetensors, with the settings in JSON beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from matterloop.agents.generator.diffusion.composition.network import (
    CompositionNetwork,
    CompositionSettings,
)
from matterloop.loop.errors import UsageError


def save_network(network: CompositionNetwork, path: Path) -> None:
    """Write the weights to `path`, and the settings beside it with the suffix ``.json``."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path)
    path.with_suffix(".json").write_text(network.settings.model_dump_json(indent=2) + "\n")


def load_network(path: Path) -> CompositionNetwork:
    """Read what `save_network` wrote, in evaluation mode.

    Raises
    ------
    UsageError
        If a file is missing, or is no network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = path.with_suffix(".json").read_text()
        network = network_from(CompositionSettings.model_validate_json(card), load_file(path))
    except (OSError, ValidationError, SafetensorError, RuntimeError) as error:
        raise UsageError(
            f"{path} cannot be read as a composition network: {error}.",
            "safetensors as save_network writes them, with the settings beside in JSON",
        ) from error
    return network


def network_from(
    settings: CompositionSettings, tensors: dict[str, torch.Tensor]
) -> CompositionNetwork:
    """Build a network from its settings and weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
        network = CompositionNetwork(settings)
    network.load_state_dict(tensors)
    return network.eval()

"""What the network's property heads see in finished crystals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pymatgen.core import Structure

from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.network import (
    PROPERTIES,
    GeometryNetwork,
    property_values,
)
from matterloop.agents.generator.diffusion.representation import RepresentationError, to_arrays


@torch.no_grad()
def predicted_properties(
    network: GeometryNetwork, structures: Sequence[Structure]
) -> list[dict[str, float] | None]:
    """Return property (`PROPERTIES`, eV/atom and eV) to value; None where no cell can be reduced.

    The network looks at the finished crystal (time 1) without labels.
    """
    device = next(network.parameters()).device
    result: list[dict[str, float] | None] = []
    for structure in structures:
        try:
            crystal = to_arrays(structure)
        except RepresentationError:
            result.append(None)
            continue
        lattice = torch.as_tensor(crystal.lattice, dtype=torch.float32, device=device)[None]
        seen = network(
            torch.as_tensor(crystal.numbers, dtype=torch.long, device=device)[None],
            torch.as_tensor(crystal.fractional, dtype=torch.float32, device=device)[None],
            network.standardise(lattice),
            torch.ones(1, device=device),
            LabelTensors.null(1).to(device),
        ).properties
        result.append(dict(zip(PROPERTIES, property_values(seen)[0].tolist(), strict=True)))
    return result

r"""From noise to crystals: Euler steps along the learned velocity.

Departures from the plain ordinary differential equation, all optional:

- *annealing* (FlowMM, Miller et al. 2024): late coordinate velocities are multiplied by
  :math:`1 + s\,t`, which pulls atoms onto their sites;
- *churn*: noise is added to the coordinates on the way, for exploration. Not all of what Karras et
  al. (2022, arXiv:2206.00364) call so: time is not set back, so the noise is not accounted for;
- *collisions* are resolved on the way, see `collisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from matterloop.agents.generator.diffusion.collisions import CollisionSettings, keep_apart
from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.guidance import guided
from matterloop.agents.generator.diffusion.network import GeometryNetwork
from matterloop.agents.generator.diffusion.path import noise, without_drift

Watch = Callable[[float, Tensor, Tensor], None]
"""Called with (time, fractional, cell in Angstrom) before every step and at the end."""


class SamplerSettings(BaseModel):
    """How crystals are drawn.

    Attributes
    ----------
    steps
        Euler steps.
    annealing
        s of the velocity's factor 1 + s t.
    churn
        Standard deviation of the noise added to the fractional coordinates per unit time, falling
        to zero at the end; 0 is deterministic given the initial noise.
    collisions
        See `CollisionSettings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=25, ge=1, le=1000)
    annealing: float = Field(default=5.0, ge=0, le=50)
    churn: float = Field(default=0.0, ge=0, le=1)
    collisions: CollisionSettings = CollisionSettings()


@torch.no_grad()
def sample_geometry(
    network: GeometryNetwork,
    numbers: Tensor,
    settings: SamplerSettings,
    *,
    labels: LabelTensors | None = None,
    guidance_scale: float = 0.0,
    seeds: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one crystal per row of `numbers`.

    Parameters
    ----------
    numbers
        (batch, atoms) atomic numbers, on the network's device.
    labels
        Soft conditions; None for none.
    guidance_scale
        See `guidance.guided`; 0 ignores the labels.
    seeds
        One per crystal, for its initial noise and churn, so that a crystal does not depend on its
        batch; 0, 1, ... if not given.

    Returns
    -------
    tuple
        (batch, atoms, 3) fractional coordinates in [0, 1) and (batch, 3, 3) cells in Angstrom.
    """
    device = numbers.device
    batch, atoms = numbers.shape
    generators = [
        torch.Generator().manual_seed(seed % 2**63)
        for seed in (seeds if seeds is not None else range(batch))
    ]
    fractional, lattice = (
        torch.cat(parts).to(device)
        for parts in zip(*(noise(1, atoms, generator) for generator in generators), strict=True)
    )
    predict = guided(network, numbers, labels, guidance_scale)
    step = 1.0 / settings.steps
    for index in range(settings.steps):
        moment = index * step
        if watch is not None:
            watch(moment, fractional, network.to_cell(lattice, numbers))
        time = torch.full((batch,), moment, device=device)
        prediction = predict(fractional, lattice, time)
        expected = fractional + (1 - moment) * prediction.velocity
        pull = min(step * (1 + settings.annealing * moment), 1 - moment)
        fractional = fractional + pull * prediction.velocity
        lattice = lattice + step * (prediction.lattice - lattice) / (1 - moment)
        fractional = keep_apart(
            fractional,
            time=moment,
            expected=expected,
            cell=network.to_cell(prediction.lattice, numbers),
            numbers=numbers,
            settings=settings.collisions,
            generators=generators,
        )
        if settings.churn > 0 and index + 1 < settings.steps:
            kick = without_drift(
                torch.stack([torch.randn((atoms, 3), generator=g) for g in generators])
            ).to(device)
            fractional = fractional + settings.churn * (1 - moment - step) * step**0.5 * kick
        fractional = fractional % 1.0
    cell = network.to_cell(lattice, numbers)
    if watch is not None:
        watch(1.0, fractional, cell)
    return fractional, cell

r"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

With scale :math:`g` the prediction is :math:`p_\text{null} + g\,(p_\text{labels} - p_\text{null})`:
0 ignores the labels, 1 is the plain conditional model, more exaggerates. Both predictions come from
one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from matterloop.agents.generator.diffusion.conditioning import LabelTensors
from matterloop.agents.generator.diffusion.network import GeometryNetwork, Prediction

Predictor = Callable[[Tensor, Tensor, Tensor], Prediction]
"""(fractional, lattice, time) -> prediction."""


def guided(
    network: GeometryNetwork,
    numbers: Tensor,
    labels: LabelTensors | None,
    scale: float,
) -> Predictor:
    """Return the network as a function of the state alone, guided towards `labels`."""
    device, batch = numbers.device, len(numbers)
    null = LabelTensors.null(batch).to(device)
    if labels is None or scale == 0:
        return lambda fractional, lattice, time: network(numbers, fractional, lattice, time, null)
    wish = labels.to(device)
    if scale == 1:
        return lambda fractional, lattice, time: network(numbers, fractional, lattice, time, wish)
    both = LabelTensors(
        torch.cat([null.continuous, wish.continuous]),
        torch.cat([null.categorical, wish.categorical]),
    )
    twice = torch.cat([numbers, numbers])

    def predict(fractional: Tensor, lattice: Tensor, time: Tensor) -> Prediction:
        double = network(
            twice,
            torch.cat([fractional, fractional]),
            torch.cat([lattice, lattice]),
            torch.cat([time, time]),
            both,
        )
        return Prediction(
            *(half[:batch] + scale * (half[batch:] - half[:batch]) for half in double)
        )

    return predict

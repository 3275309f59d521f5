"""Labels that a generator never saw: they begin as if they were not given.

An embedding that no training touched would answer to such a label with noise. Saying at first what
the null embedding says, the network starts where its parent stands.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from matterloop.agents.generator.diffusion.composition.network import CompositionNetwork
from matterloop.agents.generator.diffusion.conditioning import (
    CATEGORICAL_LABELS,
    CONTINUOUS_LABELS,
    LABELS,
    LabelEmbedding,
)
from matterloop.agents.generator.diffusion.network import GeometryNetwork


def geometry_start(network: GeometryNetwork, new: Sequence[str]) -> GeometryNetwork:
    """Return a trainable copy in which the labels named `new` have no effect yet."""
    start = copy.deepcopy(network).requires_grad_(True)
    _introduce(start.labels, new)
    return start


def composition_start(network: CompositionNetwork, names: Sequence[str]) -> CompositionNetwork:
    """Return a trainable copy, on the CPU; labels that it never saw have no effect yet."""
    start = copy.deepcopy(network).cpu().requires_grad_(True)
    seen = dict(zip(LABELS, start.seen_labels.tolist(), strict=True))
    _introduce(start.labels, [name for name in names if not seen[name]])
    return start


@torch.no_grad()
def _introduce(embedding: LabelEmbedding, names: Sequence[str]) -> None:
    """Let labels that were never trained say what "not given" says, until training changes it."""
    for name in names:
        if name in CONTINUOUS_LABELS:
            index = list(CONTINUOUS_LABELS).index(name)
            linear = embedding.continuous[index]
            assert isinstance(linear, nn.Linear)
            linear.weight.zero_()
            linear.bias.copy_(embedding.null[index])
        else:
            table = embedding.categorical[list(CATEGORICAL_LABELS).index(name)]
            assert isinstance(table, nn.Embedding)
            table.weight.copy_(table.weight[0].expand_as(table.weight))

r"""Keeping atoms apart while a crystal forms.

Atoms of one element look alike to the network: once two of them head for the same site, nothing
tells them apart and both go there. So the crystal that the network expects,
:math:`x_t + (1 - t)\,v`, is watched for pairs that are nearer than crystals know:

- while the crystal is still rough, one atom of each such pair goes back to a random place, from
  where the network sends it to a site that is free;
- later, such pairs are pushed apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from matterloop.agents.generator.diffusion.path import shortest_way
from matterloop.agents.generator.diffusion.physics import relative_distances

_REINSERT_FROM, _REPEL_FROM = 0.3, 0.7
_JITTER = 0.02


class CollisionSettings(BaseModel):
    """When atoms are kept apart.

    Attributes
    ----------
    reinsert_below
        Times 0.3 to 0.7: pairs nearer than this multiple of the sum of their covalent radii are
        split by a new place for one of them. 0 switches it off.
    repel_below
        From time 0.7 on, after every step, pairs nearer than this are pushed apart. 0 switches it
        off. In crystals of the Materials Project with at most 20 atoms no pair is nearer than 0.65.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reinsert_below: float = Field(default=0.55, ge=0, le=1)
    repel_below: float = Field(default=0.65, ge=0, le=1)


def keep_apart(
    fractional: Tensor,
    *,
    time: float,
    expected: Tensor,
    cell: Tensor,
    numbers: Tensor,
    settings: CollisionSettings,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return (batch, atoms, 3) coordinates after what collisions ask for.

    Parameters
    ----------
    fractional
        (batch, atoms, 3) coordinates after a step that began at `time`.
    expected
        (batch, atoms, 3) coordinates that the network expects in the end.
    cell
        (batch, 3, 3) cells in Angstrom that it expects.
    generators
        One per crystal, for new places.
    """
    atoms = numbers.shape[1]
    rough = _REINSERT_FROM <= time < _REPEL_FROM
    limit = settings.reinsert_below if rough else settings.repel_below
    if atoms == 1 or limit == 0 or time < _REINSERT_FROM:
        return fractional
    itself = torch.eye(atoms, dtype=torch.bool, device=numbers.device)
    ratio = relative_distances(numbers, expected, cell).masked_fill(itself, torch.inf)
    if not bool((ratio < limit).any()):
        return fractional
    if rough:
        return _reinsert(fractional, ratio < limit, generators)
    return fractional + _repulsion(expected, cell, (limit - ratio).clamp_min(0))


def _reinsert(fractional: Tensor, near: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Give the later atom of each near pair a random place."""
    later = torch.tril(near).any(-1)
    result = fractional.clone()
    for row in later.any(-1).nonzero()[:, 0].tolist():
        place = torch.rand(fractional.shape[1:], generator=generators[row]).to(fractional.device)
        result[row] = torch.where(later[row, :, None], place, fractional[row])
    return result


def _repulsion(expected: Tensor, cell: Tensor, shortfall: Tensor) -> Tensor:
    """Return fractional shifts: each atom of a pair moves away by `shortfall` Angstrom.

    Atoms in exactly one place have no direction; a small fixed displacement gives them one.
    """
    atoms = expected.shape[1]
    fixed = torch.randn((atoms, 3), generator=torch.Generator().manual_seed(0))
    moved = expected + _JITTER * fixed.to(expected.device)
    way = shortest_way(moved[:, None, :, :] - moved[:, :, None, :]) @ cell[:, None]
    direction = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    push = -(direction * shortfall[..., None]).sum(2)
    shift: Tensor = push @ torch.linalg.inv(cell)
    return shift

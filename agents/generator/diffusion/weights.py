"""Weights of the generator: safetensors files and a card that says where they come from.

A folder holds ``geometry.safetensors``, ``composition.safetensors`` and ``card.json``. The card has
the settings of both networks, the SHA-256 of both files, data, licence, seeds, metrics and cost.
Weights are read with safetensors only: a pickle can run code, and is never opened.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from matterloop.agents.generator.diffusion.composition.network import (
    CompositionNetwork,
    CompositionSettings,
)
from matterloop.agents.generator.diffusion.network import GeometryNetwork, NetworkSettings
from matterloop.loop.errors import MatterloopError
from matterloop.loop.identifiers import content_hash

GEOMETRY_FILE = "geometry.safetensors"
COMPOSITION_FILE = "composition.safetensors"
CARD_FILE = "card.json"
FORMULAS_FILE = "training-formulas.bin"
_FORMAT = 1


class WeightsError(MatterloopError):
    """Weights cannot be used."""


@dataclass(frozen=True)
class Weights:
    """Both networks, ready for sampling, and their card.

    Attributes
    ----------
    geometry
        Velocities and lattices given a composition.
    composition
        Compositions.
    card
        JSON-serialisable; see `write`.
    sha256
        Hash over both files and both settings.
    """

    geometry: GeometryNetwork
    composition: CompositionNetwork
    card: Mapping[str, Any]
    sha256: str

    def to(self, device: torch.device | str) -> Weights:
        """Return weights whose geometry network lies on a device; these here stay where they are.

        Compositions are drawn on the CPU: their network is small, and the draws are the same.
        """
        if next(self.geometry.parameters()).device == torch.device(device):
            return self
        return replace(self, geometry=copy.deepcopy(self.geometry).to(device))


def write(
    folder: Path,
    geometry: GeometryNetwork,
    composition: CompositionNetwork,
    card: Mapping[str, Any],
) -> Weights:
    """Write weights and card; the card comes last, so that a folder with a card is complete.

    Parameters
    ----------
    card
        Free entries: ``version``, ``data``, ``licence``, ``seed``, ``metrics``, ``cost``,
        ``parent``, ``labels`` (names that training knew). Settings and hashes are added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name, network in ((GEOMETRY_FILE, geometry), (COMPOSITION_FILE, composition)):
        partial = folder / f"{name}.partial"
        save_file(_tensors(network), partial)
        partial.chmod(0o644)  # safetensors leaves files to their owner alone
        hashes[name] = _sha256(partial)
        partial.replace(folder / name)
    full = {
        "format": _FORMAT,
        **card,
        "geometry_settings": geometry.settings.model_dump(mode="json"),
        "composition_settings": composition.settings.model_dump(mode="json"),
        "sha256": hashes,
    }
    partial = folder / f"{CARD_FILE}.partial"
    partial.write_text(json.dumps(full, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(folder / CARD_FILE)
    return read(folder)


def read(folder: Path) -> Weights:
    """Read a folder of weights and check every file against the card.

    Raises
    ------
    WeightsError
        If something is missing, was changed, or does not fit.
    """
    advice = "point `weights` to a folder that `matterloop train generator` wrote"
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        settings = (
            NetworkSettings.model_validate(card["geometry_settings"]),
            CompositionSettings.model_validate(card["composition_settings"]),
        )
        expected = dict(card["sha256"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise WeightsError(
            f"{folder} holds no readable weights: {type(error).__name__}: {error}.",
            f"{CARD_FILE}, {GEOMETRY_FILE} and {COMPOSITION_FILE}",
            advice,
        ) from error
    if card.get("format") != _FORMAT:
        raise WeightsError(
            f"The weights in {folder} are of format {card.get('format')!r}.",
            f"format {_FORMAT}",
            "update Matterloop if they are newer, or train again",
        )
    networks: list[nn.Module] = [GeometryNetwork(settings[0]), CompositionNetwork(settings[1])]
    for name, network in zip((GEOMETRY_FILE, COMPOSITION_FILE), networks, strict=True):
        path = folder / name
        found = _sha256(path) if path.is_file() else "no file"
        if found != expected.get(name):
            raise WeightsError(
                f"{path} is not the file that its card describes (SHA-256 {found}).",
                f"SHA-256 {expected.get(name)}",
                "copy the folder again, or train again",
            )
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"{path} does not fit the settings of its card: {error}.",
                "tensors of a network of these settings",
                advice,
            ) from error
        network.eval().requires_grad_(False)
    geometry, composition = networks
    assert isinstance(geometry, GeometryNetwork)
    assert isinstance(composition, CompositionNetwork)
    sha256 = content_hash([card["geometry_settings"], card["composition_settings"], expected])
    return Weights(geometry, composition, card, sha256)


@lru_cache(maxsize=1)
def load_shipped() -> Weights:
    """Read the weights that come with the package."""
    return read(shipped_folder())


def shipped_folder() -> Path:
    """Return the folder of the weights that come with the package."""
    return Path(str(files("matterloop.agents.generator.diffusion").joinpath("data")))


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

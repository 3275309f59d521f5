"""Real crystals, and tiny networks whose answers are arbitrary but not zero."""

from __future__ import annotations

import torch
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.composition.network import (
    CompositionNetwork,
    CompositionSettings,
)
from matterloop.agents.generator.diffusion.dataset import PackedCrystals, examples_of
from matterloop.agents.generator.diffusion.network import GeometryNetwork, NetworkSettings
from matterloop.loop.dataset import LabelledStructure

TINY = NetworkSettings(width=16, depth=2, harmonics=2, radial=8)

_ROCK_SALTS = {"Mg": 4.21, "Ca": 4.81, "Sr": 5.16, "Ba": 5.54, "Mn": 4.45, "Ni": 4.18, "Cd": 4.70}


def face_centred(a: float) -> Lattice:
    half = a / 2
    return Lattice([[0, half, half], [half, 0, half], [half, half, 0]])


def rock_salt(metal: str = "Mg", a: float = 4.21) -> Structure:
    return Structure(face_centred(a), [metal, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite() -> Structure:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], places)


def silicon() -> Structure:
    return Structure(face_centred(5.431), ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])


def rutile() -> Structure:
    cell = Lattice.tetragonal(4.594, 2.959)
    return Structure.from_spacegroup("P4_2/mnm", cell, ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])


def copper() -> Structure:
    return Structure(face_centred(3.615), ["Cu"], [[0, 0, 0]])


def real_crystals() -> list[Structure]:
    return [rock_salt(), perovskite(), silicon(), rutile(), copper()]


def labelled() -> list[LabelledStructure]:
    """A dozen crystals; labels are made up and mean nothing."""
    crystals = [rock_salt(metal, a) for metal, a in _ROCK_SALTS.items()]
    crystals += [perovskite(), silicon(), rutile(), copper()]
    return [
        LabelledStructure(
            crystal,
            {"band_gap": 0.5 * number, "formation_energy": -0.2 * number, "space_group": "225"},
            "made-up",
            f"crystal-{number}",
        )
        for number, crystal in enumerate(crystals)
    ]


def packed() -> PackedCrystals:
    return PackedCrystals.pack(examples_of(labelled())[0])


def arbitrary(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give all parameters arbitrary values: untrained velocity heads answer zero to everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.3 / max(1, parameter.shape[-1]) ** 0.25))
    return network.eval().requires_grad_(False)


def geometry_network(seed: int = 0) -> GeometryNetwork:
    network = arbitrary(GeometryNetwork(TINY), seed)
    assert isinstance(network, GeometryNetwork)
    network.lattice_deviation.fill_(0.2)
    return network


def composition_network(max_atoms: int = 8) -> CompositionNetwork:
    network = CompositionNetwork(CompositionSettings(width=16, depth=1, max_atoms=max_atoms))
    network.seen_elements[[8, 12, 16, 20, 26]] = True
    network.seen_labels[:] = True
    return network.eval().requires_grad_(False)

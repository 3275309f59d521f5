"""A generator of tiny networks, trained for seconds on rock-salt and caesium-chloride crystals."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from pathlib import Path

from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.composition import (
    CompositionExample,
    CompositionSettings,
    CompositionTraining,
    train_composition,
)
from matterloop.agents.generator.diffusion.dataset import Example, PackedCrystals
from matterloop.agents.generator.diffusion.generator import DiffusionGenerator
from matterloop.agents.generator.diffusion.network import NetworkSettings
from matterloop.agents.generator.diffusion.representation import to_arrays
from matterloop.agents.generator.diffusion.training import (
    TrainingSettings,
    new_network,
    train_geometry,
)
from matterloop.agents.generator.diffusion.weights import CARD_FILE, write

RADII = {"Li": 0.9, "Na": 1.16, "K": 1.52, "F": 1.19, "Cl": 1.67, "Br": 1.82, "S": 1.7}
LABELS = ("formation_energy", "energy_above_hull", "density")


def rock_salt(cation: str, anion: str, strain: float = 1.0) -> Structure:
    """Return the primitive cell, ions touching."""
    edge = 2 * (RADII[cation] + RADII[anion]) * strain
    return Structure(_face_centred(edge), [cation, anion], [[0, 0, 0], [0.5] * 3])


def caesium_chloride(cation: str, anion: str) -> Structure:
    """Return the primitive cell, ions touching."""
    edge = 2 * (RADII[cation] + RADII[anion]) / 3**0.5
    return Structure(Lattice.cubic(edge), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def antifluorite(cation: str, anion: str) -> Structure:
    """Return the primitive cell of M2X."""
    edge = 4 * (RADII[cation] + RADII[anion]) / 3**0.5
    sites = [[0, 0, 0], [0.25] * 3, [0.75] * 3]
    return Structure(_face_centred(edge), [anion, cation, cation], sites)


def _face_centred(edge: float) -> Lattice:
    half = edge / 2
    return Lattice([[0, half, half], [half, 0, half], [half, half, 0]])


@lru_cache(maxsize=1)
def _networks():  # type: ignore[no-untyped-def]
    pairs = list(product(("Li", "Na", "K"), ("F", "Cl", "Br")))
    crystals = (
        [(rock_salt(*pair), 0.0) for pair in pairs]
        + [(caesium_chloride(*pair), 0.2) for pair in pairs]
        + [(antifluorite(cation, "S"), 0.0) for cation in ("Li", "Na", "K")]
    )
    examples = [
        Example(
            to_arrays(crystal),
            {"formation_energy": -2.0, "energy_above_hull": above, "density": crystal.density},
        )
        for crystal, above in crystals
    ]
    packed = PackedCrystals.pack(examples)
    geometry = train_geometry(
        new_network(NetworkSettings(width=32, depth=2), packed, seed=1),
        packed,
        TrainingSettings(
            steps=200, warmup_steps=20, learning_rate=3e-3, precision="float32", max_crystals=24,
            batches_per_step=1, ema_decay=0.98,
        ),
        seed=1,
    )  # fmt: skip
    composition = train_composition(
        [CompositionExample(e.crystal.numbers.tolist(), e.labels) for e in examples],
        CompositionSettings(width=32, depth=1, max_atoms=8, dropout=0.0),
        CompositionTraining(steps=150, batch_size=21, learning_rate=5e-3, evaluate_every=50),
        seed=1,
    )
    return geometry, composition


def tiny_weights(folder: Path) -> Path:
    """Write the weights of the tiny generator into `folder`; trained once per process."""
    if (folder / CARD_FILE).exists():
        return folder
    write(folder, *_networks(), {"version": "tiny", "labels": list(LABELS), "licence": "none"})
    return folder


def tiny_generator(folder: Path, **fine_tuning: object) -> DiffusionGenerator:
    """Return the tiny generator with a fine-tuning of seconds."""
    short = {"steps": 40, "composition_steps": 20, "replay_crystals": 24, "checkpoint_every": 10}
    settings = DiffusionGenerator.Settings(
        weights=tiny_weights(folder), steps=10, fine_tuning={**short, **fine_tuning}
    )
    return DiffusionGenerator(settings)

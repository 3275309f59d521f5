"""How the generator learns from a campaign: the settings that a campaign file may hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from matterloop.agents.generator.diffusion.composition.training import CompositionTraining
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings


class FineTuningSettings(BaseModel):
    """How the generator learns from a campaign. The defaults take about a minute on one core.

    Attributes
    ----------
    steps, learning_rate
        Of the geometry network.
    composition_steps, composition_learning_rate
        Of the composition network.
    replay_fraction
        Share of what is learned from that is replayed.
    replay_crystals
        Crystals that the parent draws for that.
    replay_structures
        Addresses of crystals to replay instead; see `matterloop.loop.sources`.
    reward_temperature
        Standard deviations of merit over which the weight of a crystal falls by a factor e.
    energy_temperature_eV
        Energy above hull per atom over which it does so where no merit is known.
    failed_weight
        Weight of a crystal that could not be made; the best crystal has 1.
    min_compositions
        Different compositions of made crystals without which nothing is learned.
    validation_share
        Share of the compositions that is held out, where there are eight or more, and of the
        replayed crystals.
    checkpoint_every
        Steps between checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=300, ge=1, le=100_000)
    learning_rate: float = Field(default=1e-4, gt=0, le=1e-2)
    composition_steps: int = Field(default=60, ge=1, le=100_000)
    composition_learning_rate: float = Field(default=1e-4, gt=0, le=1e-2)
    replay_fraction: float = Field(default=0.5, ge=0, lt=1)
    replay_crystals: int = Field(default=128, ge=0, le=100_000)
    replay_structures: tuple[str, ...] = ()
    reward_temperature: float = Field(default=1.0, gt=0)
    energy_temperature_eV: float = Field(default=0.1, gt=0)
    failed_weight: float = Field(default=0.05, ge=0, le=1)
    min_compositions: int = Field(default=2, ge=2)
    validation_share: float = Field(default=0.15, ge=0, le=0.5)
    checkpoint_every: int = Field(default=25, ge=1)

    @property
    def geometry_training(self) -> TrainingSettings:
        """Training of the geometry network: small batches, no decay, a short memory."""
        return TrainingSettings(
            steps=self.steps,
            warmup_steps=min(20, self.steps // 10),
            decay_fraction=0.5,
            learning_rate=self.learning_rate,
            weight_decay=0.0,  # it would pull away from the parent
            pairs_per_batch=2_000,
            max_crystals=24,
            batches_per_step=1,
            ema_decay=0.98,
            precision="float32",
            checkpoint_every=self.checkpoint_every,
        )

    @property
    def composition_training(self) -> CompositionTraining:
        """Training of the composition network."""
        return CompositionTraining(
            steps=self.composition_steps,
            batch_size=64,
            learning_rate=self.composition_learning_rate,
            warmup=5,
            weight_decay=0.0,
            ema_decay=0.95,
            evaluate_every=10,
        )

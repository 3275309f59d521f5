"""Trainer that follows the campaign's schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from matterloop.loop.candidate import ModelRef
from matterloop.loop.errors import UsageError
from matterloop.loop.protocols import FineTunable, Generator, Workshop
from matterloop.loop.selection import Observation
from matterloop.loop.spec import CampaignSpec


class ScheduledSettings(BaseModel):
    """Settings of `ScheduledTrainer`.

    Attributes
    ----------
    min_dataset
        Observations with at least one measured value that a fine-tuning needs; with fewer, `train`
        returns None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_dataset: int = Field(default=1, ge=1)


class ScheduledTrainer:
    """Fine-tunes the generator when ``fine_tuning`` of the campaign file says so.

    It trains a challenger; whether that is promoted is decided elsewhere.
    """

    Settings = ScheduledSettings

    def __init__(self, settings: ScheduledSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings

    def due(self, spec: CampaignSpec, cycle: int, new_measurements: int) -> bool:
        """Whether a fine-tuning belongs after this cycle; either rule of the schedule suffices.

        Parameters
        ----------
        cycle
            The cycle that has just ended, counted from 1.
        new_measurements
            Measurements since the last fine-tuning.

        Raises
        ------
        UsageError
            If `cycle` is below one or `new_measurements` below zero.
        """
        if cycle < 1 or new_measurements < 0:
            raise UsageError(
                f"The trainer was asked about cycle {cycle} with {new_measurements} measurements.",
                "a cycle from 1 on, and no negative number of measurements",
            )
        plan = spec.fine_tuning
        by_cycle = plan.every_cycles is not None and cycle % plan.every_cycles == 0
        by_count = (
            plan.after_measurements is not None and new_measurements >= plan.after_measurements
        )
        return by_cycle or by_count

    def train(
        self, generator: Generator, dataset: Sequence[Observation], *, seed: int, folder: Path
    ) -> ModelRef | None:
        """Train a challenger under `folder`.

        Returns
        -------
        ModelRef or None
            None where the generator cannot learn, or too little was measured.
        """
        measured = sum(bool(observation.values) for observation in dataset)
        if not isinstance(generator, FineTunable) or measured < self._settings.min_dataset:
            return None
        return generator.fine_tune(dataset, seed=seed, folder=folder)

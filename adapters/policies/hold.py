"""A policy that decides nothing: every choice waits until a person has reviewed it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class HoldSettings(BaseModel):
    """The policy has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hold:
    """Leaves every choice to a person."""

    Settings = HoldSettings

    def __init__(self, settings: HoldSettings, workshop: object) -> None:
        del settings, workshop  # it needs nothing of either

    def review(self, choice: dict[str, Any]) -> None:
        """Return None: nobody but a person may decide on `choice`."""

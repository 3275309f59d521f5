"""A policy that lets every choice of the selector pass, for campaigns that nobody watches."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from matterloop.loop.elements import parse_formula


class AutoApproveSettings(BaseModel):
    """Settings of the policy.

    Attributes
    ----------
    forbidden_elements
        A candidate that holds one of these is vetoed: a safety net below the search space's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forbidden_elements: tuple[str, ...] = Field(default=())


class AutoApprove:
    """Approves, unless the formula holds a forbidden element."""

    Settings = AutoApproveSettings

    def __init__(self, settings: AutoApproveSettings, workshop: object) -> None:
        self._forbidden = frozenset(settings.forbidden_elements)
        del workshop  # a policy needs nothing of it

    def review(self, choice: dict[str, Any]) -> tuple[str, str]:
        """Return the verdict and the reason.

        `choice` must name the ``formula`` only where elements are forbidden.
        """
        if self._forbidden:
            held = self._forbidden & parse_formula(choice["formula"]).keys()
            if held:
                return "vetoed", f"{choice['formula']} holds {', '.join(sorted(held))}"
        return "approved", "approved automatically, as the campaign asks"

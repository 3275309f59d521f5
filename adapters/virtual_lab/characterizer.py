"""What the virtual characterizers share: limits, the sample's main phase, and declared noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from matterloop.adapters.virtual_lab.instrument import InstrumentSettings, VirtualInstrument
from matterloop.adapters.virtual_lab.phases import crystal
from matterloop.loop.errors import UsageError
from matterloop.loop.experiment import (
    UNITS,
    CharacterizationRequest,
    CharacterizationResult,
    InstrumentCard,
    Measurement,
)
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.protocols import Workshop


class VirtualCharacterizer(VirtualInstrument[CharacterizationRequest, CharacterizationResult]):
    """Base of the virtual characterizers.

    Parameters
    ----------
    settings, workshop
        As for every plugin.
    noise
        Property to one standard deviation of the instrument's Gaussian noise, in the property's
        ledger unit; its keys are the properties that the instrument gives.
    """

    description: ClassVar[str]
    needs_hull: ClassVar[bool] = False
    request_model = CharacterizationRequest
    result_model = CharacterizationResult

    def __init__(
        self, settings: InstrumentSettings, workshop: Workshop, noise: Mapping[str, float]
    ) -> None:
        super().__init__(settings, workshop)
        self._noise = dict(noise)

    def describe(self) -> InstrumentCard:
        """Capabilities, limits, cost, units."""
        return InstrumentCard(
            name=self.name,
            version="1",
            kind="characterizer",
            description=self.description,
            provides={name: UNITS[name] for name in self._noise},
            elements=self._common.elements,
            max_atoms=self._common.max_atoms,
            cost=self._common.cost,
            duration_h=self._common.duration_h,
            knows_absence=True,
            noise=self._noise,
        )

    def validate(self, request: CharacterizationRequest) -> list[str]:
        """Return what speaks against the request, with figures; empty if nothing does."""
        problems = []
        foreign = [name for name in request.properties if name not in self._noise]
        if foreign or not request.properties:
            problems.append(
                f"asked for {', '.join(foreign) or 'no property'}; {self.name} gives"
                f" {', '.join(self._noise)}"
            )
        if not request.phases:
            problems.append("the sample has no phases")
        documents = [phase.structure for phase in request.phases]
        for document in (*documents, request.intended):
            if document is None:
                continue
            try:
                problems += self._limits(crystal(document), needs_hull=self.needs_hull)
            except UsageError as error:
                problems.append(error.came)
        return list(dict.fromkeys(problems))

    def _noisy(self, property_name: str, value: float, seed: int) -> float:
        """Add the declared noise, drawn from the request's seed, for each property by itself."""
        rng = np.random.default_rng(derive_seed(seed, property_name))
        return value + float(rng.normal(0.0, self._noise[property_name]))

    def _measured(
        self,
        request: CharacterizationRequest,
        values: Mapping[str, float],
        *,
        method: str,
        flags: tuple[str, ...] = (),
        provenance: Mapping[str, Any],
    ) -> tuple[Measurement, ...]:
        """Return noisy measurements of the properties that were asked for, in their order."""
        return tuple(
            Measurement(
                property=name,
                value=self._noisy(name, values[name], request.seed),
                unit=UNITS[name],
                uncertainty=self._noise[name],
                method=method,
                fidelity="experiment",
                flags=flags,
                provenance={**provenance, "noise_seed": derive_seed(request.seed, name)},
            )
            for name in dict.fromkeys(request.properties)
        )

"""The plugins that one campaign works with, built from its specification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.errors import SpecError
from matterloop.loop.plugins import build, calling, check_settings, load

if TYPE_CHECKING:
    from matterloop.loop.experiment import InstrumentCard
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import (
        Characterizer,
        Critic,
        Generator,
        Planner,
        Policy,
        Potential,
        Selector,
        Synthesizer,
        Trainer,
    )
    from matterloop.loop.spec import CampaignSpec, PluginChoice, SearchSpace

MAIN_ARM = "main"
"""Name of the arm that the campaign's own selector runs."""


class CampaignWorkshop:
    """What the plugins of a campaign share; see `matterloop.loop.protocols.Workshop`."""

    def __init__(self, spec: CampaignSpec, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.potential: Potential = build(
            "potentials", spec.potential.name, spec.potential.settings, self
        )
        self.hull = _hull(spec, self.potential)


def _hull(spec: CampaignSpec, potential: Potential) -> ReferenceHull:
    from matterloop.loop.hull import ReferenceHull

    whole = (
        ReferenceHull.load(Path(spec.reference_hull))
        if spec.reference_hull
        else ReferenceHull.shipped(potential.identity)
    )
    missing = set(spec.search_space.allowed_elements) - whole.elements
    if missing:
        raise SpecError(
            f"Campaign {spec.name!r}",
            [
                f"search_space: the reference hull knows no elemental phase of"
                f" {', '.join(sorted(missing))}; forbid them or give another reference_hull"
            ],
        )
    return whole


@dataclass(frozen=True)
class Crew:
    """Everybody who takes part in a campaign.

    Attributes
    ----------
    selectors
        Arm name to selector; ``main`` is the campaign's own.
    characterizers
        Instrument name to characterizer, in the order of the campaign file.
    """

    workshop: CampaignWorkshop
    generator: Generator
    critic: Critic
    selectors: dict[str, Selector]
    planner: Planner
    trainer: Trainer
    policy: Policy
    synthesizer: Synthesizer
    characterizers: dict[str, Characterizer]

    @property
    def potential(self) -> Potential:
        """The campaign's potential."""
        return self.workshop.potential

    def close(self) -> None:
        """Stop worker processes and threads."""
        for part in (self.synthesizer, *self.characterizers.values(), self.potential):
            close = getattr(part, "close", None)
            if close:
                close()


def assemble(spec: CampaignSpec, folder: Path, workers: int) -> Crew:
    """Build every plugin that a campaign names.

    Raises
    ------
    PluginNotFoundError, PluginBrokenError, SpecError
        Before anything is written or submitted.
    """
    for group, choice in plugins_of(spec):
        check_settings(load(group, choice.name), f"{group}.{choice.name}", choice.settings)
    workshop = CampaignWorkshop(spec, folder, workers)

    def make(group: str, choice: Any) -> Any:
        return build(group, choice.name, choice.settings, workshop)

    crew = Crew(
        workshop=workshop,
        generator=make("generators", spec.generator),
        critic=make("critics", _critic(spec)),
        selectors={
            MAIN_ARM: make("selectors", spec.selector),
            **{arm.name: make("selectors", arm.selector) for arm in spec.control_arms},
        },
        planner=make("planners", spec.planner),
        trainer=make("trainers", spec.trainer),
        policy=make("policies", spec.approval),
        synthesizer=make("synthesizers", spec.synthesizer),
        characterizers={
            choice.name: make("characterizers", choice) for choice in spec.characterizers
        },
    )
    try:
        _check_abilities(spec, crew)
    except BaseException:
        crew.close()
        raise
    return crew


def _critic(spec: CampaignSpec) -> PluginChoice:
    """Tell the critic what is known already, unless its own settings do."""
    if not spec.reference_structures:
        return spec.critic
    known = {"reference_structures": spec.reference_structures, **spec.critic.settings}
    return spec.critic.model_copy(update={"settings": known})


def plugins_of(spec: CampaignSpec) -> list[tuple[str, PluginChoice]]:
    """Name every plugin of a campaign with its group."""
    return [
        ("generators", spec.generator),
        ("critics", _critic(spec)),
        ("potentials", spec.potential),
        ("selectors", spec.selector),
        *(("selectors", arm.selector) for arm in spec.control_arms),
        ("planners", spec.planner),
        ("trainers", spec.trainer),
        ("policies", spec.approval),
        ("synthesizers", spec.synthesizer),
        *(("characterizers", choice) for choice in spec.characterizers),
    ]


def _check_abilities(spec: CampaignSpec, crew: Crew) -> None:
    """Refuse a campaign whose instruments cannot do what it needs."""
    with calling("synthesizers", spec.synthesizer.name):
        card = crew.synthesizer.describe()
    cards = []
    for name, instrument in crew.characterizers.items():
        with calling("characterizers", name):
            cards.append(instrument.describe())
    measured = {name for each in cards for name in each.provides}
    problems = [
        f"characterizers: none of them measures {wanted!r}, which an objective or constraint"
        f" needs; together they measure {', '.join(sorted(measured))}"
        for wanted in spec.wanted_properties
        if wanted not in measured
    ]
    if not set(card.provides) & set(spec.conditions.methods):
        problems.append(
            f"synthesizer: {spec.synthesizer.name!r} offers {', '.join(card.provides)}, but"
            f" conditions.methods allows only {', '.join(spec.conditions.methods)}"
        )
    if card.temperature_range_K:
        low, high = card.temperature_range_K
        wished_low, wished_high = spec.conditions.temperature_K
        if wished_high < low or wished_low > high:
            problems.append(
                f"conditions.temperature_K: {wished_low:g} to {wished_high:g} K does not meet"
                f" {spec.synthesizer.name!r}, which reaches {low:g} to {high:g} K"
            )
    for each in (card, *cards):
        problems += _beyond(each, spec.search_space)
    if problems:
        raise SpecError(f"Campaign {spec.name!r}", problems)


def _beyond(card: InstrumentCard, space: SearchSpace) -> list[str]:
    """Say which crystals of the search space an instrument does not take."""
    problems = []
    lacking = set(space.allowed_elements) - set(card.elements or space.allowed_elements)
    if lacking:
        problems.append(f"search_space: {card.name!r} does not handle {', '.join(sorted(lacking))}")
    if card.max_atoms is not None and space.max_atoms > card.max_atoms:
        problems.append(
            f"search_space.max_atoms: {space.max_atoms} is more than the {card.max_atoms} atoms"
            f" that {card.name!r} takes"
        )
    return problems

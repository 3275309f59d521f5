"""Stage generate: the generator proposes, the ledger keeps every proposal."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.candidate import Candidate, Conditions
from matterloop.loop.champion import working_generator
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.ledger.models import CandidateRow
from matterloop.loop.ledger.structures import put_structure, structure_content
from matterloop.loop.open_campaign import OpenCampaign, StageReport, enter_model
from matterloop.loop.plugins import calling
from matterloop.loop.protocols import Generator, Guidable
from matterloop.loop.spec import CampaignSpec, Goal

ROUNDS = 5
"""How often the generator is asked again when it repeats earlier proposals."""


def generate(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Fill a cycle with candidates, unless it has some. Exact repetitions are not entered again.

    Raises
    ------
    UsageError
        If the campaign has no candidate yet and the generator finds none.
    """
    with campaign.view() as session:
        cycle_id = campaign.cycle(session, cycle).id
        count = select(CandidateRow.id).where(CandidateRow.cycle_id == cycle_id)
        present = len(session.scalars(count).all())
        earlier = set(
            session.scalars(
                select(CandidateRow.structure_sha256).where(CandidateRow.campaign_id == campaign.id)
            )
        )
    if not present:
        generator = working_generator(campaign)
        with calling("generators", campaign.spec.generator.name):
            model = generator.describe()
        fresh, repeats = _propose(campaign, generator, cycle, earlier)
        if not fresh and not earlier:
            raise UsageError(
                f"The generator {campaign.spec.generator.name!r} finds no crystal in the search"
                f" space of campaign {campaign.name!r}.",
                "a search space that holds crystals it knows how to build",
                "start a campaign under another name with more elements, more atoms per cell or"
                " another generator",
            )

        def enter(session: Session) -> None:
            model_id = enter_model(campaign, session, model)
            for ordinal, candidate in enumerate(fresh):
                session.add(
                    CandidateRow(
                        campaign_id=campaign.id,
                        cycle_id=cycle_id,
                        ordinal=ordinal,
                        model_version_id=model_id,
                        seed=candidate.seed,
                        structure_sha256=put_structure(session, candidate.structure),
                        origin=dict(candidate.origin),
                    )
                )
            campaign.event(
                session, "generate", cycle_id, detail={"entered": len(fresh), "repeats": repeats}
            )
            campaign.stage_done(session, cycle, "generate")

        campaign.once(enter)
        present = len(fresh)
    campaign.progress("candidates generated", present, present)
    return StageReport("generate", f"{present} candidates", {"candidates": present})


def conditions_of(spec: CampaignSpec, generator: Generator) -> Conditions:
    """Say what the generator should aim at: the search space, target values, synthesis range.

    Targets that this generator cannot be asked for are left to the selector.
    """
    askable = generator.target_names if isinstance(generator, Guidable) else ()
    return Conditions(
        search_space=spec.search_space,
        targets={
            objective.property: objective.target
            for objective in spec.objectives
            if objective.goal is Goal.TARGET
            and objective.target is not None
            and objective.property in askable
        },
        temperature_K=sum(spec.conditions.temperature_K) / 2,
        pressure_GPa=sum(spec.conditions.pressure_GPa) / 2,
    )


def _propose(
    campaign: OpenCampaign, generator: Generator, cycle: int, earlier: set[str]
) -> tuple[list[Candidate], int]:
    """Ask until the cycle is full or the generator only repeats itself."""
    wanted = campaign.spec.generator.candidates_per_cycle
    seen, repeats = set(earlier), 0
    fresh: list[Candidate] = []
    for round_ in range(ROUNDS):
        with calling("generators", campaign.spec.generator.name):
            proposals = list(
                generator.sample(
                    # Repetitions are likelier the more was proposed before: ask for more.
                    wanted - len(fresh) + (len(seen) if round_ else 0),
                    conditions_of(campaign.spec, generator),
                    guidance_scale=campaign.spec.generator.guidance_scale,
                    seed=campaign.seed("generate", cycle, round_),
                )
            )
        for candidate in proposals:
            sha256 = content_hash(structure_content(candidate.structure))
            if sha256 in seen:
                repeats += 1
            elif len(fresh) < wanted:
                seen.add(sha256)
                fresh.append(candidate)
        if len(fresh) == wanted or not proposals:
            break
        campaign.progress("candidates generated", len(fresh), wanted)
    return fresh, repeats

"""Making a challenger of the generator from everything that a campaign measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from matterloop.loop.campaign_lock import trained
from matterloop.loop.champion import enter_challenger, file_hashes, working_generator
from matterloop.loop.crew import MAIN_ARM
from matterloop.loop.errors import FineTuningRefusedError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.ledger.models import MeasurementRow, ModelVersion
from matterloop.loop.merit import with_merits
from matterloop.loop.open_campaign import OpenCampaign
from matterloop.loop.plugins import calling
from matterloop.loop.selection import Observation, evidence_sha256
from matterloop.loop.stages.evidence import observations

if TYPE_CHECKING:
    from matterloop.loop.candidate import ModelRef

REFUSED = "learn.refused"
"""Kind of the event that says why nothing was learned."""


@dataclass(frozen=True)
class Learned:
    """What came of a fine-tuning.

    Attributes
    ----------
    summary
        One sentence.
    challenger
        The new model; None if there is none.
    crystals
        Crystals that it learned from.
    enter
        Writes it into the ledger, in the caller's transaction.
    """

    summary: str
    challenger: ModelRef | None
    crystals: int
    enter: Callable[[Session], object]


def learn_from(campaign: OpenCampaign, place: str, seed: int, cycle: int | None) -> Learned:
    """Let the trainer make a challenger from everything that a campaign measured.

    One process at a time; one that comes second finds what the first one wrote.

    Parameters
    ----------
    place
        Beginning of the name of the folder below ``models`` that gets the weights.
    cycle
        The cycle that it closes, if any.
    """
    with campaign.view() as session:
        dataset = evidence_of_all_arms(campaign, session)
        count = count_measurements(session, campaign.id)
    parent = working_generator(campaign)
    with calling("generators", campaign.spec.generator.name):
        described = parent.describe()
    digest = evidence_sha256(dataset)
    # Another parent or other data never meet weights that a champion may need.
    name = f"{place}-{content_hash([described.sha256, digest, seed])[:8]}"
    folder = campaign.folder / "models" / name
    snapshot = {
        "cycle": cycle,
        "measurements": count,
        "candidates": [observation.item.candidate_id for observation in dataset],
        "sha256": digest,
    }
    campaign.progress("fine-tuning the generator", 0, 1)
    try:
        with trained(campaign.folder), calling("trainers", campaign.spec.trainer.name):
            challenger = campaign.crew.trainer.train(parent, dataset, seed=seed, folder=folder)
    except FineTuningRefusedError as error:
        reason = {"reason": str(error), "measurements": count}
        return Learned(
            f"fine-tuning refused: {error.came}",
            None,
            len(dataset),
            lambda session: campaign.event(session, REFUSED, campaign.id, detail=reason),
        )
    campaign.progress("fine-tuning the generator", 1, 1)
    if challenger is None:
        summary = f"the generator {campaign.spec.generator.name!r} has nothing to train"
        return Learned(summary, None, len(dataset), lambda _: None)
    files = file_hashes(folder)
    return Learned(
        f"challenger {challenger.version} trained on {len(dataset)} experiments",
        challenger,
        len(dataset),
        lambda session: enter_challenger(
            campaign, session, challenger, described, folder, files, snapshot
        ),
    )


def evidence_of_all_arms(campaign: OpenCampaign, session: Session) -> list[Observation]:
    """Return everything measured: the generator may learn from all, only selection must not."""
    seen: dict[str, Observation] = {}
    for arm in (MAIN_ARM, *(control.name for control in campaign.spec.control_arms)):
        for observation in observations(session, campaign.id, arm):
            seen.setdefault(observation.item.candidate_id, observation)
    spec = campaign.spec
    return with_merits(list(seen.values()), spec.objectives, spec.constraints)


def new_measurements(session: Session, campaign_id: str) -> int:
    """Count the measurements that the last fine-tuning did not know."""
    learned = session.scalars(
        select(ModelVersion.data_snapshot).where(
            ModelVersion.campaign_id == campaign_id, ModelVersion.parent_id.is_not(None)
        )
    )
    known = max((int(snapshot.get("measurements", 0)) for snapshot in learned), default=0)
    return count_measurements(session, campaign_id) - known


def count_measurements(session: Session, campaign_id: str) -> int:
    """Count what instruments measured; screening does not count."""
    return int(
        session.scalar(
            select(func.count()).where(
                MeasurementRow.campaign_id == campaign_id, MeasurementRow.fidelity == "experiment"
            )
        )
        or 0
    )

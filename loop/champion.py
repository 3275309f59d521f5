"""Which generator proposes: that of the campaign file, or a fine-tuned one that was promoted.

The ledger says which, and where in the campaign's folder its weights lie, with the hash of every
file. A promoted model is used after a restart, too; weights that are lost or changed are no reason
to go on quietly with another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.candidate import ModelRef
from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger.models import ModelVersion
from matterloop.loop.open_campaign import OpenCampaign, enter_model
from matterloop.loop.plugins import calling
from matterloop.loop.protocols import Reloadable

if TYPE_CHECKING:
    from matterloop.loop.protocols import Generator

WEIGHTS_FOLDER, WEIGHTS_FILES = "weights_folder", "weights_files"
"""Keys of ``model_version.config``: folder relative to the campaign's, file name to SHA-256."""


def working_generator(campaign: OpenCampaign) -> Generator:
    """Return the promoted generator of a campaign, or the one of its file where there is none.

    Raises
    ------
    LedgerError
        If the weights of the promoted one are missing or were changed.
    """
    with campaign.view() as session:
        row = promoted(session, campaign.id)
    generator = campaign.crew.generator
    if row is None:
        return generator
    folder = campaign.folder / str(row.config[WEIGHTS_FOLDER])
    found, expected = file_hashes(folder), dict(row.config[WEIGHTS_FILES])
    if found != expected:
        wrong = sorted(name for name in expected if found.get(name) != expected[name])
        wrong += sorted(set(found) - set(expected))
        raise LedgerError(
            f"The weights of generator {row.version}, which campaign {campaign.name!r} promoted,"
            f" are missing or changed in {folder}: {', '.join(wrong)}.",
            "the files whose hashes the ledger holds",
            "restore this folder, and run the same command again",
        )
    if not isinstance(generator, Reloadable):
        raise LedgerError(
            f"The generator {campaign.spec.generator.name!r} cannot load weights, and"
            f" {row.version} was promoted.",
            "a generator that loads the weights that it wrote",
        )
    with calling("generators", campaign.spec.generator.name):
        return generator.with_weights(folder)


def promoted(session: Session, campaign_id: str) -> ModelVersion | None:
    """Return the fine-tuned model that is champion, if there is one."""
    rows = session.scalars(
        select(ModelVersion)
        .where(
            ModelVersion.campaign_id == campaign_id,
            ModelVersion.kind == "generator",
            ModelVersion.state == "champion",
            ModelVersion.parent_id.is_not(None),
        )
        .order_by(ModelVersion.created_at.desc(), ModelVersion.id.desc())
    )
    return next((row for row in rows if WEIGHTS_FOLDER in row.config), None)


def enter_challenger(
    campaign: OpenCampaign,
    session: Session,
    challenger: ModelRef,
    parent: ModelRef,
    folder: Path,
    files: Mapping[str, str],
    snapshot: Mapping[str, Any],
) -> ModelVersion:
    """Enter a fine-tuned model with its parent, its data and where its weights lie.

    It is promoted at once if the campaign says so and the generator can load it.
    """
    parent_id = enter_model(campaign, session, parent)
    row = session.get_one(
        ModelVersion, enter_model(campaign, session, challenger, state="challenger")
    )
    if row.parent_id is not None or row.id == parent_id:
        return row  # entered before, or nothing was changed
    row.parent_id = parent_id
    row.metrics = dict(challenger.metrics)
    row.data_snapshot = dict(snapshot)
    row.config = {
        **challenger.config,
        WEIGHTS_FOLDER: folder.relative_to(campaign.folder).as_posix(),
        WEIGHTS_FILES: dict(files),
    }
    if campaign.spec.fine_tuning.promote == "always" and isinstance(
        campaign.crew.generator, Reloadable
    ):
        _promote(campaign, session, row)
    return row


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the name of every file below `folder` and its SHA-256."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _promote(campaign: OpenCampaign, session: Session, row: ModelVersion) -> None:
    champions = session.scalars(
        select(ModelVersion).where(
            ModelVersion.campaign_id == campaign.id,
            ModelVersion.kind == "generator",
            ModelVersion.state == "champion",
        )
    ).all()
    for champion in champions:
        champion.state = "retired"
    row.state = "champion"
    reason = {"reason": "fine_tuning.promote is 'always'"}
    campaign.event(session, "model.state", row.id, "challenger", "champion", reason)

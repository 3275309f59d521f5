"""Writing the report of a campaign: one HTML file that opens offline, from the ledger alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import new_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from matterloop.loop.hull import ReferenceHull

__all__ = ["write_report"]


def write_report(
    session: Session, campaign_id: str, path: Path, *, hull: ReferenceHull | None = None
) -> Path:
    """Write the report of a campaign as it stands now; any moment of its life will do.

    The same ledger gives the same file. It is written beside its place and then moved there, so a
    reader never sees half of it.

    Parameters
    ----------
    path
        The HTML file; its folder is created.
    hull
        Reference hull whose stable phases are drawn; ignored if it is not the campaign's.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    CampaignNotFoundError
        If the ledger holds no campaign of that id.
    UsageError
        If the file cannot be written.
    """
    from matterloop.loop.budget import spending
    from matterloop.loop.report.page import render
    from matterloop.loop.report.query import read_campaign, read_structures

    record = read_campaign(session, campaign_id)
    hashes = {candidate.best_crystal.sha256 for candidate in record.candidates.values()}
    structures = read_structures(session, hashes)
    html = render(record, structures, spending(session, campaign_id), hull)
    path = Path(path)
    try:
        _write(path, html)
    except OSError as error:
        raise UsageError(
            f"The report cannot be written to {path}: {error.strerror or error}.",
            "a file in a folder that can be written",
            "free the place or name another file",
        ) from error
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{new_id()}.part")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

"""A campaign that is open for work: its rows in the ledger, its specification and its crew."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from matterloop.loop.crew import Crew, assemble
from matterloop.loop.errors import CampaignNotFoundError, ConflictError, LedgerError
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.ledger.columns import utc_now
from matterloop.loop.ledger.engine import is_repetition, reading, writing
from matterloop.loop.ledger.models import Campaign, Cycle, EventRow
from matterloop.loop.spec import CampaignSpec

if TYPE_CHECKING:
    from matterloop.loop.candidate import ModelRef

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

STAGE_ORDER = (
    "started",
    "generate",
    "screen",
    "relax",
    "select",
    "approve",
    "plan",
    "synthesize",
    "characterize",
    "learn",
)
"""Values of ``cycle.stage``, in the order in which a cycle passes through them."""


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class StageReport:
    """What a stage did, in one sentence and in figures."""

    stage: str
    summary: str
    counts: dict[str, int]


class OpenCampaign:
    """A campaign with everything that its stages need. Use it as a context manager.

    Parameters
    ----------
    engine
        Of a ledger that is migrated to the present version.
    campaign_id
        Of an existing row; see `enter`.
    folder
        Of this campaign: instruments' records, report.
    workers
        Processes for the potential.
    progress
        Called as work goes on.
    """

    def __init__(
        self,
        engine: Engine,
        campaign_id: str,
        folder: Path,
        *,
        workers: int = 1,
        progress: ProgressCallback = _silent,
    ) -> None:
        self.engine, self.id, self.folder, self.progress = engine, campaign_id, folder, progress
        with reading(engine) as session:
            row = session.get_one(Campaign, campaign_id)
            self.name, self.spec = row.name, CampaignSpec.model_validate(row.spec)
        self.actor = f"{socket.gethostname()}:{os.getpid()}"
        self.crew: Crew = assemble(self.spec, folder, workers)
        try:
            self._keep_to_one_hull()
        except BaseException:
            self.crew.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.crew.close()

    def _keep_to_one_hull(self) -> None:
        """Record the hull at the first opening; energies above different hulls never mix."""
        hull = self.crew.workshop.hull.sha256
        with self.transaction() as session:
            row = session.get_one(Campaign, self.id)
            if row.hull_sha256 is None:
                row.hull_sha256 = hull
            elif row.hull_sha256 != hull:
                raise ConflictError(
                    f"The campaign {self.name!r} was begun with the reference hull"
                    f" {row.hull_sha256[:12]}, and this is {hull[:12]}.",
                    "one hull for all of a campaign's energies above hull",
                    "go on with the Matterloop version or the reference_hull that it was begun"
                    " with, or start a new campaign under another name",
                )

    def view(self) -> AbstractContextManager[Session]:
        """Open a session that reads one consistent state and never waits for a writer."""
        return reading(self.engine)

    def transaction(self) -> AbstractContextManager[Session]:
        """Open a session whose work is committed as a whole, or not at all; keep it short."""
        return writing(self.engine)

    def once(self, work: Callable[[Session], object]) -> bool:
        """Run `work` in one transaction; False if another runner had entered the same rows.

        Raises
        ------
        LedgerError
            If the ledger refuses the rows for another reason than that they are there already.
        """
        try:
            with self.transaction() as session:
                work(session)
        except IntegrityError as error:
            if not is_repetition(error):
                raise LedgerError(
                    f"The ledger refuses what was to be entered: {error.orig}."
                ) from error
            return False
        return True

    def seed(self, *path: str | int) -> int:
        """Derive the seed of one purpose from the campaign's."""
        return derive_seed(self.spec.seed, *path)

    def cycle(self, session: Session, number: int) -> Cycle:
        """Return the row of a cycle that was begun with `begin_cycle`."""
        return session.scalars(
            select(Cycle).where(Cycle.campaign_id == self.id, Cycle.number == number)
        ).one()

    def begin_cycle(self, number: int) -> Cycle:
        """Return the row of a cycle, entering it first if nobody did."""

        def enter(session: Session) -> None:
            exists = select(Cycle.id).where(Cycle.campaign_id == self.id, Cycle.number == number)
            if session.scalars(exists).first() is None:
                session.add(Cycle(campaign_id=self.id, number=number))

        self.once(enter)
        with self.view() as session:
            return self.cycle(session, number)

    def stage_done(self, session: Session, number: int, stage: str) -> None:
        """Mark a stage as the last one completed in its cycle, unless the cycle is past it.

        A slower runner that ends a stage after a faster one has gone on must not set it back.
        """
        cycle = session.scalars(
            select(Cycle)
            .where(Cycle.campaign_id == self.id, Cycle.number == number)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
        if STAGE_ORDER.index(stage) > STAGE_ORDER.index(cycle.stage):
            self.event(session, "cycle.stage", cycle.id, cycle.stage, stage, {"cycle": number})
            cycle.stage = stage
        if stage == "learn" and cycle.finished_at is None:
            cycle.finished_at = utc_now()

    def event(
        self,
        session: Session,
        kind: str,
        subject_id: str,
        before: str | None = None,
        after: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Append to the campaign's history."""
        session.add(
            EventRow(
                campaign_id=self.id,
                kind=kind,
                subject_id=subject_id,
                before=before,
                after=after,
                actor=self.actor,
                detail=detail or {},
            )
        )

    def set_state(self, state: str, reason: str = "") -> None:
        """Record that the campaign runs, waits, stopped, failed or finished."""
        with self.transaction() as session:
            row = session.get_one(Campaign, self.id)
            if row.state != state:
                self.event(session, "campaign.state", row.id, row.state, state, {"reason": reason})
                row.state = state
            row.finished_at = utc_now() if state == "finished" else None


def enter(engine: Engine, spec: CampaignSpec) -> str:
    """Enter a campaign into the ledger, or find it there under its name, and return its id.

    Raises
    ------
    ConflictError
        If a campaign of that name exists with another specification. Only its budget may change.
    """
    with writing(engine) as session:
        row = session.scalars(select(Campaign).where(Campaign.name == spec.name)).first()
        if row is None:
            row = Campaign(
                name=spec.name,
                spec=spec.model_dump(mode="json"),
                spec_sha256=spec.sha256,
                seed=spec.seed,
                matterloop_version=version("matterloop"),
            )
            session.add(row)
            session.flush()
            _spec_event(session, row.id, "campaign.entered", None, spec.sha256)
        elif row.spec_sha256 != spec.sha256:
            changed = CampaignSpec.model_validate(row.spec).changed_fields(spec)
            fixed = sorted(name for name, kind in changed.items() if kind == "fixed")
            if fixed:
                raise ConflictError(
                    f"The ledger already holds a campaign {spec.name!r} with another"
                    f" {', '.join(fixed)}.",
                    "the same specification; only the budget of a campaign may change",
                    "give this campaign another name, or restore the fields named above",
                )
            _spec_event(session, row.id, "campaign.budget", row.spec_sha256, spec.sha256)
            row.spec, row.spec_sha256 = spec.model_dump(mode="json"), spec.sha256
        return row.id


def find(engine: Engine, name_or_id: str) -> str:
    """Return the id of a campaign by name or id.

    Raises
    ------
    CampaignNotFoundError
        With the names that exist.
    """
    with reading(engine) as session:
        rows = session.execute(select(Campaign.id, Campaign.name).order_by(Campaign.created_at))
        known = {name: identifier for identifier, name in rows}
    if name_or_id in known.values():
        return name_or_id
    if name_or_id not in known:
        raise CampaignNotFoundError(name_or_id, list(known))
    return known[name_or_id]


def enter_model(
    campaign: OpenCampaign, session: Session, model: ModelRef, *, state: str = "champion"
) -> str:
    """Return the id of a model version, entering it first if this campaign never used it."""
    from matterloop.loop.ledger.models import ModelVersion

    row = session.scalars(
        select(ModelVersion).where(
            ModelVersion.campaign_id == campaign.id,
            ModelVersion.kind == model.kind,
            ModelVersion.sha256 == model.sha256,
        )
    ).first()
    if row is None:
        row = ModelVersion(
            campaign_id=campaign.id,
            kind=model.kind,
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            config=dict(model.config),
            state=state,
        )
        session.add(row)
        session.flush()
    return row.id


def _spec_event(
    session: Session, campaign_id: str, kind: str, before: str | None, after: str
) -> None:
    session.add(
        EventRow(
            campaign_id=campaign_id,
            kind=kind,
            subject_id=campaign_id,
            actor=f"{socket.gethostname()}:{os.getpid()}",
            detail={"spec_sha256_before": before, "spec_sha256": after},
        )
    )

"""A real instrument outside the process: a SQLite file that remembers every submission.

Each ``submit`` appends a line to the log, whether or not it saw the key before: the log counts
what a real furnace would have burnt. Also holds what tests need to fill a ledger.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from matterloop.loop.errors import (
    CannotTellError,
    FailureKind,
    JobFailureError,
    TransientError,
)
from matterloop.loop.experiment import (
    Handle,
    InstrumentCard,
    Phase,
    Progress,
    Recipe,
    SynthesisRequest,
    SynthesisResult,
)
from matterloop.loop.ledger import (
    Campaign,
    CandidateRow,
    Cycle,
    JobRow,
    ModelVersion,
    RecipeRow,
    SampleRow,
    StructureRow,
    plan_job,
    writing,
)
from matterloop.loop.ledger.jobs import Result


class ToyFurnace:
    """Makes a sample of anything, after `polls` polls.

    Parameters
    ----------
    path
        The instrument's own memory.
    knows_absence
        Whether ``find`` returning None is a proof.
    latency_s
        Longest time that ``submit`` takes before and after it enters the job.
    transient_every
        Every n-th submission ends in a transient failure.
    """

    name = "toy-furnace"

    def __init__(
        self,
        path: Path,
        *,
        knows_absence: bool = True,
        latency_s: float = 0.0,
        polls: int = 1,
        transient_every: int = 0,
    ) -> None:
        self.path, self.polls = path, polls
        self.knows_absence, self.latency_s = knows_absence, latency_s
        self.transient_every = transient_every
        self._random = random.Random()
        with self._memory() as memory:
            memory.execute(
                "CREATE TABLE IF NOT EXISTS submission"
                " (number INTEGER PRIMARY KEY, key TEXT, target TEXT, polls INTEGER DEFAULT 0)"
            )

    @property
    def log(self) -> list[tuple[str, str]]:
        """(key, target formula) of every submission, in order."""
        with self._memory() as memory:
            return memory.execute("SELECT key, target FROM submission ORDER BY number").fetchall()

    def describe(self) -> InstrumentCard:
        return InstrumentCard(
            name=self.name, version="1", kind="synthesizer", description="toy",
            provides={"solid-state": ""}, cost=1.0, duration_h=1.0,
            knows_absence=self.knows_absence,
        )  # fmt: skip

    def validate(self, request: SynthesisRequest) -> list[str]:
        hot = request.recipe.temperature_K > 2000
        return ["2000 K is the furnace's limit"] if hot else []

    def submit(self, key: str, request: SynthesisRequest) -> Handle:
        self._dawdle()
        with self._memory() as memory:
            number = memory.execute(
                "INSERT INTO submission (key, target) VALUES (?, ?)",
                (key, request.recipe.target_formula),
            ).lastrowid
        self._dawdle()
        return self._handle(number)

    def find(self, key: str) -> Handle | None:
        if not self.knows_absence:
            raise CannotTellError(f"{self.name} keeps no list of keys.")
        with self._memory() as memory:
            row = memory.execute(
                "SELECT MIN(number) FROM submission WHERE key = ?", (key,)
            ).fetchone()
        return None if row[0] is None else self._handle(row[0])

    def poll(self, handle: Handle) -> Progress:
        number = handle.data["number"]
        with self._memory() as memory:
            memory.execute("UPDATE submission SET polls = polls + 1 WHERE number = ?", (number,))
            polls = memory.execute(
                "SELECT polls FROM submission WHERE number = ?", (number,)
            ).fetchone()[0]
        failure = FailureKind.TRANSIENT if self._fails(number) else None
        return Progress(finished=polls >= self.polls, failure=failure)

    def collect(self, handle: Handle) -> SynthesisResult:
        if self._fails(handle.data["number"]):
            raise TransientError("A fuse blew.")
        return SynthesisResult(
            success=True, phases=(Phase(formula="LiCl", fraction=1.0),), yield_fraction=0.9,
            explanation="made", details={"number": handle.data["number"]},
        )  # fmt: skip

    def cancel(self, handle: Handle) -> None:
        with self._memory() as memory:
            memory.execute(
                "UPDATE submission SET target = 'cancelled' WHERE number = ?",
                (handle.data["number"],),
            )

    def _fails(self, number: int) -> bool:
        return bool(self.transient_every) and number % self.transient_every == 0

    def _handle(self, number: int | None) -> Handle:
        return Handle(instrument=self.name, data={"number": number})

    def _dawdle(self) -> None:
        if self.latency_s:
            time.sleep(self._random.uniform(0, self.latency_s))

    @contextmanager
    def _memory(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


def store_sample(session: Session, job: JobRow, outcome: Result | JobFailureError) -> None:
    """Enter the sample that a synthesis gave; nothing for a failure."""
    if isinstance(outcome, SynthesisResult):
        session.add(
            SampleRow(
                candidate_id=job.candidate_id, recipe_id=job.recipe_id, success=outcome.success,
                phases=[phase.model_dump() for phase in outcome.phases],
                yield_fraction=outcome.yield_fraction, explanation=outcome.explanation,
                details=outcome.details,
            )
        )  # fmt: skip


def plan_syntheses(engine: Engine, n: int, *, temperature_K: float = 900.0) -> list[str]:
    """Enter a campaign with `n` candidates, each with a planned synthesis; return the jobs' ids."""
    with writing(engine) as session:
        campaign = Campaign(
            name="toys", spec={}, spec_sha256="0" * 64, seed=1, matterloop_version="0"
        )
        session.add(campaign)
        session.flush()
        cycle = Cycle(campaign_id=campaign.id, number=1)
        model = ModelVersion(
            campaign_id=campaign.id, kind="generator", name="g", version="1", sha256="0" * 64
        )
        crystal = StructureRow(
            sha256="0" * 64, formula="Li1 Cl1", reduced_formula="LiCl", chemical_system="Cl-Li",
            n_atoms=2, volume_A3=34.0, density_g_cm3=2.07, content={},
        )  # fmt: skip
        session.add_all([cycle, model, crystal])
        session.flush()
        return [_plan_synthesis(session, cycle, model, crystal, i, temperature_K) for i in range(n)]


def _plan_synthesis(
    session: Session,
    cycle: Cycle,
    model: ModelVersion,
    crystal: StructureRow,
    ordinal: int,
    temperature_K: float,
) -> str:
    candidate = CandidateRow(
        campaign_id=cycle.campaign_id, cycle_id=cycle.id, ordinal=ordinal,
        model_version_id=model.id, seed=ordinal, structure_sha256=crystal.sha256,
        origin={}, state="relaxed",
    )  # fmt: skip
    session.add(candidate)
    session.flush()
    recipe = Recipe(
        method="solid-state", target_formula=f"toy-{ordinal}", temperature_K=temperature_K, time_h=1
    )
    row = RecipeRow(
        candidate_id=candidate.id, cycle_id=cycle.id, planner="p", method=recipe.method,
        temperature_K=recipe.temperature_K, pressure_GPa=recipe.pressure_GPa, time_h=recipe.time_h,
        atmosphere=recipe.atmosphere, content=recipe.model_dump(mode="json"),
    )  # fmt: skip
    session.add(row)
    session.flush()
    job = plan_job(
        session,
        campaign_id=cycle.campaign_id,
        cycle_id=cycle.id,
        candidate_id=candidate.id,
        instrument=ToyFurnace.name,
        purpose="synthesize",
        request=SynthesisRequest(recipe=recipe, structure={}, seed=ordinal),
        seed=ordinal,
        cost=1.0,
        duration_h=1.0,
        recipe_id=row.id,
    )
    return job.id

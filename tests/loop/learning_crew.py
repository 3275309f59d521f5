"""An open campaign whose generator learns: a toy that writes what it learned into a text file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from report_ledger import antifluorite, rock_salt

from matterloop.agents.trainer.scheduled import ScheduledTrainer
from matterloop.loop.candidate import Candidate, ModelRef
from matterloop.loop.errors import FineTuningRefusedError
from matterloop.loop.identifiers import content_hash

SALT = rock_salt("Li", "Cl", 5.1)
SULFIDE = antifluorite("Li", "S", 5.7)
BASE_EDGE_A = 5.0


class Learner:
    """Proposes a salt whose edge grows with every lesson; refuses less than two crystals."""

    def __init__(self, lessons: int = 0) -> None:
        self.lessons = lessons
        self.calls: list[tuple[int, int, Path]] = []

    def describe(self) -> ModelRef:
        return ModelRef(
            "generator", "learner", f"v{self.lessons}", content_hash(["learner", self.lessons])
        )

    def sample(self, n, conditions, *, guidance_scale, seed):  # type: ignore[no-untyped-def]
        return [Candidate(rock_salt("Li", "Cl", BASE_EDGE_A + self.lessons), {}, seed)]

    def fine_tune(self, dataset, *, seed, folder):  # type: ignore[no-untyped-def]
        self.calls.append((len(dataset), seed, folder))
        if len(dataset) < 2:
            raise FineTuningRefusedError("One crystal teaches nothing.", "two")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lessons.txt").write_text(str(self.lessons + 1))
        from dataclasses import replace

        return replace(self.with_weights(folder).describe(), metrics={"loss": 0.5})

    def with_weights(self, folder):  # type: ignore[no-untyped-def]
        return Learner(int((folder / "lessons.txt").read_text()))


class Stubborn:
    """Cannot learn."""

    describe = Learner().describe


def crew(generator: object) -> SimpleNamespace:
    """Return a crew that can generate and learn, nothing else."""
    return SimpleNamespace(
        workshop=SimpleNamespace(hull=SimpleNamespace(sha256="0" * 64)),
        generator=generator,
        trainer=ScheduledTrainer(ScheduledTrainer.Settings()),
        close=lambda: None,
    )

"""What each arm's experiments gave, in the order in which the arm asked for them.

An *experiment* is a synthesis that came to an end and says something about the material: the job
succeeded (whether or not the wanted crystal formed) or failed as infeasible. Jobs that a broken
instrument, a policy or a person ended say nothing about the material and are listed as failures.
An arm sees only the experiments that it chose; one that two arms chose belongs to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matterloop.loop.errors import FailureKind
from matterloop.loop.report.record import (
    CampaignRecord,
    CandidateRecord,
    DecisionRecord,
    FigureRecord,
    JobRecord,
    SampleRecord,
)
from matterloop.loop.spec import CampaignSpec, Constraint


@dataclass(frozen=True)
class Outcome:
    """One experiment of one arm.

    Attributes
    ----------
    cycle
        In which the arm chose it.
    made
        Whether the wanted crystal is the majority phase of the sample.
    figures
        Property to the figure used; empty unless `made`. Experiment before screening; of several
        figures of an experiment the one with the smallest stated uncertainty.
    utilities
        One per objective, larger is better, in the property's unit; None while not measured.
    broken
        Constraints that its figures break.
    unknown
        Properties of constraints for which there is no figure at all.
    """

    candidate: CandidateRecord
    decision: DecisionRecord
    job: JobRecord
    sample: SampleRecord | None
    made: bool
    figures: Mapping[str, FigureRecord]
    utilities: tuple[float, ...] | None
    broken: tuple[Constraint, ...]
    unknown: tuple[str, ...]

    @property
    def cycle(self) -> int:
        """See the class."""
        return self.decision.cycle

    @property
    def counts(self) -> bool:
        """Whether it may be the best: made, measured on all objectives, constraints kept."""
        return self.utilities is not None and not self.broken and not self.unknown


def outcomes_by_arm(record: CampaignRecord) -> dict[str, tuple[Outcome, ...]]:
    """Return the ended experiments of every arm, ordered by cycle and rank."""
    chosen = sorted(
        (
            (decision, candidate)
            for candidate in record.candidates.values()
            for decision in candidate.decisions
            if not decision.vetoed
        ),
        key=lambda pair: (pair[0].cycle, pair[0].rank, pair[1].id),
    )
    found: dict[str, list[Outcome]] = {arm: [] for arm in record.arms}
    seen: set[tuple[str, str]] = set()
    for decision, candidate in chosen:
        job = _experiment(candidate, decision.cycle)
        if job is not None and (decision.arm, job.id) not in seen:
            seen.add((decision.arm, job.id))
            found[decision.arm].append(_outcome(record.spec, candidate, decision, job))
    return {arm: tuple(outcomes) for arm, outcomes in found.items()}


def is_experiment(job: JobRecord) -> bool:
    """Whether the job is a synthesis that told something about the material."""
    return job.purpose == "synthesize" and (
        job.state == "succeeded"
        or (job.state == "failed" and job.failure_kind == FailureKind.INFEASIBLE)
    )


def distinct(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, tuple[Outcome, list[str]]]:
    """Return every experiment once, by candidate: its first outcome and all arms that chose it."""
    found: dict[str, tuple[Outcome, list[str]]] = {}
    for arm, its_outcomes in outcomes.items():
        for outcome in its_outcomes:
            known = found.setdefault(outcome.candidate.id, (outcome, []))
            if arm not in known[1]:
                known[1].append(arm)
    return found


def _experiment(candidate: CandidateRecord, cycle: int) -> JobRecord | None:
    """Find the experiment that an arm's choice in `cycle` led to, or that had been done before."""
    jobs = [job for job in candidate.jobs if is_experiment(job) and job.cycle <= cycle]
    return max(jobs, key=lambda job: (job.cycle, job.id)) if jobs else None


def _outcome(
    spec: CampaignSpec, candidate: CandidateRecord, decision: DecisionRecord, job: JobRecord
) -> Outcome:
    sample = _sample(candidate, job)
    made = sample is not None and sample.success
    figures = _figures(candidate, sample) if made else {}
    measured = {name for name, figure in figures.items() if figure.fidelity == "experiment"}
    utilities = (
        tuple(o.utility(figures[o.property].value) for o in spec.objectives)
        if all(o.property in measured for o in spec.objectives)
        else None
    )
    limits = spec.constraints
    return Outcome(
        candidate=candidate,
        decision=decision,
        job=job,
        sample=sample,
        made=made,
        figures=figures,
        utilities=utilities,
        broken=tuple(
            limit
            for limit in limits
            if limit.property in figures and not limit.holds(figures[limit.property].value)
        ),
        unknown=tuple(limit.property for limit in limits if limit.property not in figures),
    )


def _sample(candidate: CandidateRecord, job: JobRecord) -> SampleRecord | None:
    for sample in candidate.samples:
        if sample.id == job.sample_id or (job.recipe_id and sample.recipe_id == job.recipe_id):
            return sample
    return None


def _figures(candidate: CandidateRecord, sample: SampleRecord | None) -> dict[str, FigureRecord]:
    assert sample is not None
    of_sample = {job.id for job in candidate.jobs if job.sample_id == sample.id}

    def preference(figure: FigureRecord) -> tuple[bool, float, str]:
        spread = float("inf") if figure.uncertainty is None else figure.uncertainty
        return figure.fidelity != "experiment", spread, figure.id

    usable = [
        figure
        for figure in candidate.figures
        if figure.fidelity == "screening"
        or figure.sample_id == sample.id
        or figure.job_id in of_sample
    ]
    best: dict[str, FigureRecord] = {}
    for figure in sorted(usable, key=preference):
        best.setdefault(figure.property, figure)
    return best

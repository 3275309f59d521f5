"""What did not work, and why: failures are results."""

from __future__ import annotations

from dataclasses import dataclass

from matterloop.loop.report.charts import arm_text
from matterloop.loop.report.lineage import phases_text
from matterloop.loop.report.record import CampaignRecord, CandidateRecord
from matterloop.loop.report.wording import listing


@dataclass(frozen=True)
class Failure:
    """One thing that did not work; `row` is (table, primary key) in the ledger."""

    formula: str
    cycle: int | None
    who: str
    what: str
    why: str
    row: tuple[str, str]


_JOB_WORDS = {
    "infeasible": "cannot be done with this material",
    "transient": "gave up after repeated short troubles",
    "instrument_fault": "instrument fault",
    "policy_violation": "refused by a rule before submission",
    "aborted": "stopped by a person",
}


def failures(record: CampaignRecord) -> tuple[Failure, ...]:
    """Return failed and unclear jobs, wrong products, vetoes and troubles, in order of cycles."""
    found: list[Failure] = []
    for candidate in record.candidates.values():
        found += _vetoes(candidate)
        found += _wrong_products(candidate)
        found += _jobs(candidate)
    found.sort(key=lambda failure: (failure.cycle or 0, failure.row))
    for fault in record.faults:
        about = record.candidates.get(fault.subject)
        reason = fault.detail.get("reason") or ""
        found.append(
            Failure(
                about.crystal.reduced_formula if about else fault.subject,
                about.cycle if about else None,
                _arms(about) if about else "",
                fault.kind.replace(".", " "),
                str(reason),
                ("event", fault.id),
            )
        )
    return tuple(found)


def _vetoes(candidate: CandidateRecord) -> list[Failure]:
    return [
        Failure(
            candidate.crystal.reduced_formula,
            decision.cycle,
            arm_text(decision.arm),
            f"vetoed by {decision.review.reviewer}",
            decision.review.reason,
            ("review", decision.review.id),
        )
        for decision in candidate.decisions
        if decision.review is not None and decision.vetoed
    ]


def _wrong_products(candidate: CandidateRecord) -> list[Failure]:
    cycles = {recipe.id: recipe.cycle for recipe in candidate.recipes}
    return [
        Failure(
            candidate.crystal.reduced_formula,
            cycles.get(sample.recipe_id),
            _arms(candidate),
            "synthesis gave another product",
            "; ".join(filter(None, (sample.explanation, phases_text(sample.phases)))),
            ("sample", sample.id),
        )
        for sample in candidate.samples
        if not sample.success
    ]


def _jobs(candidate: CandidateRecord) -> list[Failure]:
    found = []
    for job in candidate.jobs:
        if job.state not in ("failed", "aborted", "unknown"):
            continue
        purpose = "synthesis" if job.purpose == "synthesize" else "characterization"
        if job.state == "unknown":
            what = f"{purpose}: nobody knows whether it was submitted; waits for a person"
        else:
            kind = job.failure_kind or job.state
            what = f"{purpose}: {_JOB_WORDS.get(kind, kind)}"
        found.append(
            Failure(
                candidate.crystal.reduced_formula,
                job.cycle,
                _arms(candidate),
                f"{what} ({job.instrument})",
                job.failure_message or "",
                ("job", job.id),
            )
        )
    return found


def _arms(candidate: CandidateRecord) -> str:
    return listing(list(dict.fromkeys(arm_text(d.arm) for d in candidate.decisions)))

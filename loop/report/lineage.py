"""How a crystal came about, step by step, with the ids under which the ledger keeps each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matterloop.loop.report.charts import arm_text
from matterloop.loop.report.outcomes import Outcome
from matterloop.loop.report.record import (
    CandidateRecord,
    DecisionRecord,
    FigureRecord,
    JobRecord,
    RecipeRecord,
    SampleRecord,
)
from matterloop.loop.report.wording import (
    bare_text,
    figure_text,
    plain_text,
    property_text,
    space_group_text,
)


@dataclass(frozen=True)
class Step:
    """One step: its title, sentences, and (table, primary key) of the rows it was read from."""

    title: str
    lines: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]


def lineage(outcome: Outcome, units: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps from the generator to the last measurement on the sample."""
    candidate = outcome.candidate
    steps = [_generated(candidate), _judged(candidate), _screened(candidate)]
    steps += [_decided(decision, units) for decision in candidate.decisions]
    steps += [
        _planned(recipe) for recipe in candidate.recipes if recipe.id == outcome.job.recipe_id
    ]
    steps.append(_made(outcome.job, outcome.sample))
    if outcome.sample is not None:
        steps += _measured(candidate, outcome.sample)
    return tuple(step for step in steps if step.lines)


def figure_line(figure: FigureRecord) -> str:
    """Write a measurement as a sentence: value, method, flags, what it was judged against."""
    value = figure_text(figure.value, figure.uncertainty, figure.unit)
    text = f"{property_text(figure.property)} {value}, by {figure.method}"
    if figure.flags:
        text += f" [{', '.join(figure.flags)}]"
    if reason := figure.provenance.get("thin_reason"):
        text += f": {reason}"
    return text


def _generated(candidate: CandidateRecord) -> Step:
    model = candidate.model
    lines = [
        f"{model.kind} {model.name} {model.version} ({model.sha256[:12]}), cycle"
        f" {candidate.cycle}, proposal {candidate.ordinal + 1}, seed {candidate.seed}"
    ]
    lines += [
        f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in candidate.origin.items()
    ]
    crystal = candidate.crystal
    lines.append(
        f"{crystal.formula}, {crystal.n_atoms} atoms, {space_group_text(crystal.space_group)}"
    )
    rows = (
        ("candidate", candidate.id),
        ("model_version", model.id),
        ("structure", crystal.sha256),
    )
    return Step("Generated", tuple(lines), rows)


def _judged(candidate: CandidateRecord) -> Step:
    return Step(
        "Judged by the critic",
        tuple(
            f"{verdict.check.replace('-', ' ')}: {'passed' if verdict.passed else 'not passed'}"
            f"{'' if verdict.decisive or verdict.passed else ' (a flag, not decisive)'}"
            f"; {verdict.reason}"
            for verdict in candidate.verdicts
        ),
        tuple(("verdict", verdict.id) for verdict in candidate.verdicts),
    )


def _screened(candidate: CandidateRecord) -> Step:
    figures = [f for f in candidate.figures if f.fidelity == "screening"]
    rows = [("measurement", figure.id) for figure in figures]
    lines = [figure_line(figure) for figure in figures]
    if candidate.relaxed is not None:
        relaxed = candidate.relaxed
        lines.append(
            f"relaxed crystal: {space_group_text(relaxed.space_group)},"
            f" {plain_text(relaxed.volume_A3 / relaxed.n_atoms)} Å³/atom"
        )
        rows.append(("structure", relaxed.sha256))
    return Step("Relaxed for screening", tuple(lines), tuple(rows))


def _decided(decision: DecisionRecord, units: Mapping[str, str]) -> Step:
    acquisition = (
        ""
        if decision.acquisition_value is None
        else f", {decision.acquisition_function} = {plain_text(decision.acquisition_value)}"
    )
    lines = [
        f"cycle {decision.cycle}, {arm_text(decision.arm)}, selector {decision.selector}: rank"
        f" {decision.rank}{acquisition}, seed {decision.seed}"
    ]
    lines += [
        f"predicted {property_text(name)} {figure_text(mean, std, units.get(name, ''))}"
        for name, (mean, std) in decision.posterior.items()
    ]
    if decision.surrogate_sha256:
        lines.append(f"surrogate {decision.surrogate_sha256[:12]}")
    if decision.reason:
        lines.append(decision.reason)
    rows = [("decision", decision.id)]
    if review := decision.review:
        lines.append(f"{review.verdict} by {review.reviewer}: {review.reason}")
        rows.append(("review", review.id))
    return Step(f"Chosen by the {arm_text(decision.arm)}", tuple(lines), tuple(rows))


def _planned(recipe: RecipeRecord) -> Step:
    lines = [
        f"{recipe.method} at {bare_text(recipe.temperature_K)} K and"
        f" {bare_text(recipe.pressure_GPa)} GPa for {bare_text(recipe.time_h)} h in"
        f" {recipe.atmosphere}, planned by {recipe.planner}"
    ]
    if recipe.precursors:
        amounts = (f"{bare_text(mol)} mol {formula}" for formula, mol in recipe.precursors)
        lines.append(f"precursors: {', '.join(amounts)}")
    return Step("Recipe", tuple(lines), (("recipe", recipe.id),))


def _made(job: JobRecord, sample: SampleRecord | None) -> Step:
    lines = [_job_line(job)]
    rows = [("job", job.id)]
    if sample is not None:
        outcome = "the wanted crystal formed" if sample.success else "another product formed"
        lines.append(f"{outcome}, yield {sample.yield_fraction:.0%}: {sample.explanation}")
        lines.append(phases_text(sample.phases))
        rows.append(("sample", sample.id))
    elif job.failure_message:
        lines.append(job.failure_message)
    return Step("Synthesised", tuple(line for line in lines if line), tuple(rows))


def phases_text(phases: Sequence[tuple[str, float]]) -> str:
    """List the phases of a sample, fractions of atoms."""
    if not phases:
        return ""
    return "phases: " + ", ".join(f"{formula} {share:.0%}" for formula, share in phases)


def _measured(candidate: CandidateRecord, sample: SampleRecord) -> list[Step]:
    jobs = {
        job.id: job
        for job in candidate.jobs
        if job.purpose == "characterize" and job.sample_id == sample.id
    }
    steps = []
    for job in jobs.values():
        figures = [f for f in candidate.figures if f.job_id == job.id]
        lines = [_job_line(job), *(figure_line(figure) for figure in figures)]
        if job.failure_message:
            lines.append(job.failure_message)
        rows = (("job", job.id), *(("measurement", figure.id) for figure in figures))
        steps.append(Step("Characterised", tuple(lines), rows))
    return steps


def _job_line(job: JobRecord) -> str:
    return (
        f"{job.instrument}: {job.state}; cost {bare_text(job.cost)}, {bare_text(job.duration_h)} h"
        f" of laboratory time, seed {job.seed}, key {job.key[:12]}"
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return plain_text(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} → {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)

"""Views for analysts; ``docs/ledger.md`` explains their columns.

Revision 0002, after 0001.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PIVOTED = (
    "energy_above_hull",
    "formation_energy",
    "energy",
    "density",
    "volume_per_atom",
    "bulk_modulus",
    "phase_match",
)

# Of several measurements of one property on one sample the most certain counts, then the newest.
MEASURED_FIGURE = """
CREATE VIEW measured_figure AS
SELECT campaign_id, candidate_id, sample_id, property, value, uncertainty, unit, method, flags
FROM (
    SELECT measurement.*, ROW_NUMBER() OVER (
        PARTITION BY sample_id, property
            ORDER BY uncertainty IS NULL, uncertainty, created_at DESC, id DESC
    ) AS place
    FROM measurement
    WHERE fidelity = 'experiment' AND sample_id IS NOT NULL
) AS ordered
WHERE place = 1
"""

EXPERIMENT = """
CREATE VIEW experiment AS
SELECT
    sample.id AS sample_id,
    campaign.name AS campaign,
    cycle.number AS cycle,
    candidate.id AS candidate_id,
    (
        SELECT {concat} FROM (
            SELECT DISTINCT decision.arm FROM decision
            WHERE decision.candidate_id = candidate.id AND decision.rank IS NOT NULL
            ORDER BY decision.arm
        ) AS chosen
    ) AS arms,
    structure.reduced_formula AS formula,
    structure.chemical_system,
    structure.space_group,
    recipe.method,
    recipe."temperature_K" AS temperature_k,
    sample.success,
    sample.yield_fraction,
    {pivoted},
    sample.explanation,
    sample.created_at AS made_at
FROM sample
JOIN recipe ON recipe.id = sample.recipe_id
JOIN cycle ON cycle.id = recipe.cycle_id
JOIN candidate ON candidate.id = sample.candidate_id
JOIN campaign ON campaign.id = candidate.campaign_id
JOIN structure ON structure.sha256 = COALESCE(candidate.relaxed_sha256, candidate.structure_sha256)
LEFT JOIN (
    SELECT sample_id, {columns} FROM measured_figure GROUP BY sample_id
) AS measured ON measured.sample_id = sample.id
"""

BEST_CANDIDATES = """
CREATE VIEW best_candidates AS
SELECT
    ROW_NUMBER() OVER (
        PARTITION BY campaign ORDER BY energy_above_hull, candidate_id
    ) AS stability_rank,
    experiment.*
FROM experiment
WHERE success AND energy_above_hull IS NOT NULL
"""

# An arm is credited with the newest sample of its candidate made up to the cycle of its choice:
# an experiment that two arms choose is done once.
DISCOVERY_CURVE = """
CREATE VIEW discovery_curve AS
WITH credited AS (
    SELECT
        campaign.id AS campaign_id, campaign.name AS campaign, decision.arm,
        chosen.number AS cycle, decision.rank, decision.candidate_id,
        sample.id AS sample_id, sample.success,
        ROW_NUMBER() OVER (
            PARTITION BY decision.id ORDER BY made.number DESC, sample.id DESC
        ) AS newest
    FROM decision
    JOIN cycle AS chosen ON chosen.id = decision.cycle_id
    JOIN campaign ON campaign.id = decision.campaign_id
    JOIN recipe ON recipe.candidate_id = decision.candidate_id
    JOIN cycle AS made ON made.id = recipe.cycle_id AND made.number <= chosen.number
    JOIN sample ON sample.recipe_id = recipe.id
    WHERE decision.rank IS NOT NULL
),
numbered AS (
    SELECT credited.*, ROW_NUMBER() OVER (
        PARTITION BY campaign_id, arm ORDER BY cycle, rank
    ) AS experiment_number
    FROM credited WHERE newest = 1
),
measured AS (SELECT DISTINCT campaign_id, property, unit FROM measured_figure)
SELECT
    numbered.campaign, numbered.arm, numbered.cycle, numbered.experiment_number,
    numbered.candidate_id, numbered.success,
    measured.property, figure.value, measured.unit,
    SUM(CASE WHEN numbered.success THEN 1 ELSE 0 END) OVER so_far AS successes_so_far,
    MIN(CASE WHEN numbered.success THEN figure.value END) OVER so_far AS lowest_so_far,
    MAX(CASE WHEN numbered.success THEN figure.value END) OVER so_far AS highest_so_far
FROM numbered
JOIN measured ON measured.campaign_id = numbered.campaign_id
LEFT JOIN measured_figure AS figure
    ON figure.sample_id = numbered.sample_id AND figure.property = measured.property
WINDOW so_far AS (
    PARTITION BY numbered.campaign_id, numbered.arm, measured.property
    ORDER BY numbered.experiment_number
)
"""

CANDIDATE_HISTORY = """
CREATE VIEW candidate_history AS
SELECT candidate.id AS candidate_id, candidate.created_at AS at, 'generated' AS what,
    structure.reduced_formula AS subject,
    model_version.name || ' ' || model_version.version AS detail
FROM candidate
JOIN structure ON structure.sha256 = candidate.structure_sha256
JOIN model_version ON model_version.id = candidate.model_version_id
UNION ALL
SELECT candidate_id, created_at, CASE WHEN passed THEN 'passed' ELSE 'not passed' END,
    check_name, reason FROM verdict
UNION ALL
SELECT candidate_id, created_at, CASE WHEN rank IS NULL THEN 'considered' ELSE 'chosen' END,
    arm, reason FROM decision
UNION ALL
SELECT decision.candidate_id, review.created_at, review.verdict, review.reviewer, review.reason
FROM review JOIN decision ON decision.id = review.decision_id
UNION ALL
SELECT candidate_id, created_at, 'recipe', method, planner FROM recipe
UNION ALL
SELECT job.candidate_id, event.at, 'job ' || event.after, job.instrument, event.actor
FROM event JOIN job ON job.id = event.subject_id WHERE event.kind = 'job.state'
UNION ALL
SELECT candidate_id, created_at, CASE WHEN success THEN 'made' ELSE 'not made' END,
    CAST(NULL AS VARCHAR), explanation FROM sample
UNION ALL
SELECT candidate_id, created_at, 'measured', property,
    CAST(value AS VARCHAR) || ' ' || unit || ' (' || fidelity || ', ' || method || ')'
FROM measurement
"""

JOB_TIMELINE = """
CREATE VIEW job_timeline AS
SELECT
    job.id AS job_id, campaign.name AS campaign, cycle.number AS cycle, job.candidate_id,
    job.instrument, job.purpose, job.state, job.attempts, job.failure_kind, job.failure_message,
    job.cost, job.duration_h, job.created_at AS planned_at,
    moments.first_submitting_at, moments.last_running_at, moments.ended_at
FROM job
JOIN campaign ON campaign.id = job.campaign_id
JOIN cycle ON cycle.id = job.cycle_id
LEFT JOIN (
    SELECT subject_id,
        MIN(CASE WHEN after = 'submitting' THEN at END) AS first_submitting_at,
        MAX(CASE WHEN after = 'running' THEN at END) AS last_running_at,
        MAX(CASE WHEN after IN ('succeeded', 'failed', 'aborted') THEN at END) AS ended_at
    FROM event WHERE kind = 'job.state' GROUP BY subject_id
) AS moments ON moments.subject_id = job.id
"""

NAMES = (
    "measured_figure",
    "experiment",
    "best_candidates",
    "discovery_curve",
    "candidate_history",
    "job_timeline",
)


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    concat = (
        "STRING_AGG(chosen.arm, ',' ORDER BY chosen.arm)"
        if postgres
        else "GROUP_CONCAT(chosen.arm, ',')"
    )
    pivoted = ", ".join(f"measured.{name}, measured.{name}_uncertainty" for name in PIVOTED)
    columns = ", ".join(
        f"MAX(CASE WHEN property = '{name}' THEN {source} END) AS {name}{suffix}"
        for name in PIVOTED
        for source, suffix in (("value", ""), ("uncertainty", "_uncertainty"))
    )
    experiment = EXPERIMENT.format(concat=concat, pivoted=pivoted, columns=columns)
    for view in (
        MEASURED_FIGURE,
        experiment,
        BEST_CANDIDATES,
        DISCOVERY_CURVE,
        CANDIDATE_HISTORY,
        JOB_TIMELINE,
    ):
        op.execute(view)


def downgrade() -> None:
    for name in reversed(NAMES):
        op.execute(f"DROP VIEW {name}")

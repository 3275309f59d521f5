"""Tables of the ledger, and the triggers that make `event` append-only.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER event_no_update BEFORE UPDATE ON event
    BEGIN SELECT RAISE(ABORT, 'event is append-only: no row may be changed'); END
    """,
    """
    CREATE TRIGGER event_no_delete BEFORE DELETE ON event
    BEGIN SELECT RAISE(ABORT, 'event is append-only: no row may be deleted'); END
    """,
    # INSERT OR REPLACE deletes without firing the trigger above unless the connection asks for it
    """
    CREATE TRIGGER event_no_replace BEFORE INSERT ON event
    WHEN EXISTS (SELECT 1 FROM event WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'event is append-only: no row may be replaced'); END
    """,
)
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'event is append-only: % is forbidden', TG_OP
            USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER event_no_change BEFORE UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION event_is_append_only()
    """,
    """
    CREATE TRIGGER event_no_truncate BEFORE TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION event_is_append_only()
    """,
)


def upgrade() -> None:
    op.create_table(
        "campaign",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("spec_sha256", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("matterloop_version", sa.String(length=32), nullable=False),
        sa.Column("hull_sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('created', 'running', 'waiting', 'finished', 'stopped', 'failed')",
            name=op.f("ck_campaign_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint("name", name=op.f("uq_campaign_name")),
    )
    op.create_table(
        "structure",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("formula", sa.String(length=200), nullable=False),
        sa.Column("reduced_formula", sa.String(length=200), nullable=False),
        sa.Column("chemical_system", sa.String(length=200), nullable=False),
        sa.Column("n_atoms", sa.Integer(), nullable=False),
        sa.Column("volume_A3", sa.Double(), nullable=False),
        sa.Column("density_g_cm3", sa.Double(), nullable=False),
        sa.Column("space_group", sa.Integer(), nullable=True),
        sa.Column("content", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_structure")),
    )
    op.create_index(
        op.f("ix_structure_chemical_system"), "structure", ["chemical_system"], unique=False
    )
    op.create_index(
        op.f("ix_structure_reduced_formula"), "structure", ["reduced_formula"], unique=False
    )
    op.create_table(
        "cycle",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("number >= 1", name=op.f("ck_cycle_number_positive")),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_cycle_campaign_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycle")),
        sa.UniqueConstraint("campaign_id", "number", name=op.f("uq_cycle_campaign_id_number")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject_id", sa.String(length=80), nullable=False),
        sa.Column("before", sa.String(length=24), nullable=True),
        sa.Column("after", sa.String(length=24), nullable=True),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_event_campaign_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_campaign_id_at"), "event", ["campaign_id", "at"], unique=False)
    op.create_index(op.f("ix_event_subject_id"), "event", ["subject_id"], unique=False)
    op.create_table(
        "model_version",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("data_snapshot", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('generator', 'potential')", name=op.f("ck_model_version_kind_known")
        ),
        sa.CheckConstraint(
            "state IN ('champion', 'challenger', 'retired', 'refused')",
            name=op.f("ck_model_version_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_model_version_campaign_id")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["model_version.id"], name=op.f("fk_model_version_parent_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint(
            "campaign_id", "kind", "sha256", name=op.f("uq_model_version_campaign_id_kind_sha256")
        ),
    )
    op.create_table(
        "candidate",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("cycle_id", sa.String(length=36), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.String(length=36), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("structure_sha256", sa.String(length=64), nullable=False),
        sa.Column("relaxed_sha256", sa.String(length=64), nullable=True),
        sa.Column("origin", JSON, nullable=False),
        sa.Column("embedding", JSON, nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('generated', 'refused', 'accepted', 'unrelaxable', 'relaxed')",
            name=op.f("ck_candidate_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_candidate_campaign_id")
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_candidate_cycle_id")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_candidate_model_version_id")
        ),
        sa.ForeignKeyConstraint(
            ["relaxed_sha256"], ["structure.sha256"], name=op.f("fk_candidate_relaxed_sha256")
        ),
        sa.ForeignKeyConstraint(
            ["structure_sha256"], ["structure.sha256"], name=op.f("fk_candidate_structure_sha256")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidate")),
        sa.UniqueConstraint("cycle_id", "ordinal", name=op.f("uq_candidate_cycle_id_ordinal")),
    )
    op.create_index(
        op.f("ix_candidate_campaign_id_state"), "candidate", ["campaign_id", "state"], unique=False
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("cycle_id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("arm", sa.String(length=32), nullable=False),
        sa.Column("selector", sa.String(length=80), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("acquisition_function", sa.String(length=80), nullable=False),
        sa.Column("acquisition_value", sa.Double(), nullable=True),
        sa.Column("posterior", JSON, nullable=False),
        sa.Column("surrogate_sha256", sa.String(length=64), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_decision_campaign_id")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_decision_candidate_id")
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_decision_cycle_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
        sa.UniqueConstraint(
            "cycle_id", "arm", "candidate_id", name=op.f("uq_decision_cycle_id_arm_candidate_id")
        ),
        sa.UniqueConstraint("cycle_id", "arm", "rank", name=op.f("uq_decision_cycle_id_arm_rank")),
    )
    op.create_table(
        "recipe",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("cycle_id", sa.String(length=36), nullable=False),
        sa.Column("planner", sa.String(length=80), nullable=False),
        sa.Column("method", sa.String(length=40), nullable=False),
        sa.Column("temperature_K", sa.Double(), nullable=False),
        sa.Column("pressure_GPa", sa.Double(), nullable=False),
        sa.Column("time_h", sa.Double(), nullable=False),
        sa.Column("atmosphere", sa.String(length=40), nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_recipe_candidate_id")
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_recipe_cycle_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipe")),
        sa.UniqueConstraint(
            "candidate_id", "cycle_id", name=op.f("uq_recipe_candidate_id_cycle_id")
        ),
    )
    op.create_table(
        "verdict",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("check_name", sa.String(length=32), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("decisive", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_verdict_candidate_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
        sa.UniqueConstraint(
            "candidate_id", "check_name", name=op.f("uq_verdict_candidate_id_check_name")
        ),
    )
    op.create_table(
        "review",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reviewer", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('approved', 'vetoed')", name=op.f("ck_review_verdict_known")
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decision.id"], name=op.f("fk_review_decision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
        sa.UniqueConstraint("decision_id", name=op.f("uq_review_decision_id")),
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("recipe_id", sa.String(length=36), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("product_sha256", sa.String(length=64), nullable=True),
        sa.Column("phases", JSON, nullable=False),
        sa.Column("yield_fraction", sa.Double(), nullable=False),
        sa.Column("explanation", sa.Text(), nullable=False),
        sa.Column("details", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_sample_candidate_id")
        ),
        sa.ForeignKeyConstraint(
            ["product_sha256"], ["structure.sha256"], name=op.f("fk_sample_product_sha256")
        ),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipe.id"], name=op.f("fk_sample_recipe_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample")),
        sa.UniqueConstraint("recipe_id", name=op.f("uq_sample_recipe_id")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("cycle_id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("recipe_id", sa.String(length=36), nullable=True),
        sa.Column("sample_id", sa.String(length=36), nullable=True),
        sa.Column("instrument", sa.String(length=80), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("handle", JSON, nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=120), nullable=True),
        sa.Column("owned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure_kind", sa.String(length=24), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("submission", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("duration_h", sa.Double(), nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "purpose IN ('synthesize', 'characterize')", name=op.f("ck_job_purpose_known")
        ),
        sa.CheckConstraint(
            "state IN ('planned', 'submitting', 'running', 'succeeded', 'failed', 'aborted',"
            " 'unknown')",
            name=op.f("ck_job_state_known"),
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_job_campaign_id")),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_job_candidate_id")
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_job_cycle_id")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipe.id"], name=op.f("fk_job_recipe_id")),
        sa.ForeignKeyConstraint(["sample_id"], ["sample.id"], name=op.f("fk_job_sample_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("key", name=op.f("uq_job_key")),
    )
    op.create_index(op.f("ix_job_campaign_id_state"), "job", ["campaign_id", "state"], unique=False)
    op.create_table(
        "measurement",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("campaign_id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("sample_id", sa.String(length=36), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("property", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("method", sa.String(length=120), nullable=False),
        sa.Column("fidelity", sa.String(length=16), nullable=False),
        sa.Column("flags", JSON, nullable=False),
        sa.Column("provenance", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "fidelity IN ('screening', 'experiment')", name=op.f("ck_measurement_fidelity_known")
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_measurement_campaign_id")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name=op.f("fk_measurement_candidate_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_measurement_job_id")),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["sample.id"], name=op.f("fk_measurement_sample_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
        sa.UniqueConstraint(
            "candidate_id",
            "property",
            "method",
            "fidelity",
            "job_id",
            name=op.f("uq_measurement_candidate_id_property_method_fidelity_job_id"),
        ),
    )
    op.create_index(
        op.f("ix_measurement_campaign_id_property_fidelity"),
        "measurement",
        ["campaign_id", "property", "fidelity"],
        unique=False,
    )
    op.create_index(
        "uq_measurement_screening",
        "measurement",
        ["candidate_id", "property", "method"],
        unique=True,
        sqlite_where=sa.text("job_id IS NULL"),
        postgresql_where=sa.text("job_id IS NULL"),
    )

    postgres = op.get_bind().dialect.name == "postgresql"
    for trigger in POSTGRESQL_TRIGGERS if postgres else SQLITE_TRIGGERS:
        op.execute(trigger)


def downgrade() -> None:
    op.drop_table("measurement")
    op.drop_table("job")
    op.drop_table("sample")
    op.drop_table("review")
    op.drop_table("verdict")
    op.drop_table("recipe")
    op.drop_table("decision")
    op.drop_table("candidate")
    op.drop_table("model_version")
    op.drop_table("event")
    op.drop_table("cycle")
    op.drop_table("structure")
    op.drop_table("campaign")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION event_is_append_only()")

"""Migrations, constraints and triggers of the ledger, on both databases."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger import (
    Base,
    Campaign,
    Cycle,
    EventRow,
    current,
    downgrade,
    reading,
    require_current,
    upgrade,
    writing,
)
from matterloop.loop.ledger.schema import head


def test_upgrade_downgrade_and_upgrade_again(empty_database):
    engine = empty_database.open()
    assert current(engine) is None
    upgrade(engine)
    assert current(engine) == head()
    require_current(engine)
    inspector = inspect(engine)
    assert set(inspector.get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    assert {"experiment", "best_candidates", "discovery_curve"} <= set(inspector.get_view_names())

    downgrade(engine, "base")
    assert current(engine) is None
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    assert inspect(engine).get_view_names() == []

    upgrade(engine)
    upgrade(engine)
    assert current(engine) == head()


def test_migrations_and_models_agree(ledger_engine):
    with ledger_engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_upgrade_keeps_rows_and_foreign_keys_stay_enforced(ledger_engine):
    add_campaign(ledger_engine)
    downgrade(ledger_engine, "0001")
    upgrade(ledger_engine)
    with reading(ledger_engine) as session:
        assert session.scalars(select(Campaign.name)).all() == ["first"]
    with pytest.raises(IntegrityError), writing(ledger_engine) as session:
        session.add(Cycle(campaign_id="nowhere", number=1))


UPGRADE = """
import sys
from matterloop.loop.ledger import open_engine, upgrade
sys.stdin.readline()
upgrade(open_engine(sys.argv[1]))
"""


def test_concurrent_upgrades_take_turns(empty_database):
    engine = empty_database.open()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_database.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    complaints = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], complaints
    assert current(engine) == head()


def test_missing_older_newer_and_foreign_tables_are_refused(empty_database):
    engine = empty_database.open()
    with pytest.raises(LedgerError, match=r"holds no ledger yet.*db upgrade"):
        require_current(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE sample (id INTEGER)"))
    with pytest.raises(LedgerError, match="already holds tables named sample"):
        upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE sample"))

    upgrade(engine, "0001")
    with pytest.raises(LedgerError, match="at the older version 0001"):
        require_current(engine)

    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (require_current, upgrade, lambda e: downgrade(e, "base")):
        with pytest.raises(LedgerError, match="version 9999, which this Matterloop does not know"):
            call(engine)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET actor = 'forger'",
        "DELETE FROM event",
        "INSERT INTO event SELECT * FROM event",
    ],
)
def test_events_are_append_only(ledger_engine, statement):
    campaign_id = add_campaign(ledger_engine)
    with writing(ledger_engine) as session:
        session.add(EventRow(campaign_id=campaign_id, kind="k", subject_id="s", actor="me"))
    with pytest.raises(IntegrityError), ledger_engine.begin() as connection:
        connection.execute(text(statement))
    with reading(ledger_engine) as session:
        assert session.scalars(select(EventRow.actor)).all() == ["me"]


def test_events_cannot_be_replaced_or_truncated(ledger_engine):
    campaign_id = add_campaign(ledger_engine)
    with writing(ledger_engine) as session:
        session.add(EventRow(campaign_id=campaign_id, kind="k", subject_id="s", actor="me"))
    if ledger_engine.dialect.name == "sqlite":
        statement = "INSERT OR REPLACE INTO event SELECT * FROM event"
    else:
        statement = "TRUNCATE event"
    with pytest.raises(IntegrityError, match="append-only"), ledger_engine.begin() as connection:
        connection.execute(text(statement))


def test_times_come_back_aware_and_in_utc(ledger_engine):
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    moment = datetime(2026, 3, 1, 1, 2, 3, 456789, tzinfo=kathmandu)
    add_campaign(ledger_engine, created_at=moment)
    with reading(ledger_engine) as session:
        found = session.scalars(select(Campaign.created_at)).one()
        assert session.scalars(select(Campaign).where(Campaign.created_at == moment)).one()
    assert found == moment
    assert found.utcoffset() == timedelta(0)
    assert found.tzinfo is UTC


def test_naive_times_are_refused(ledger_engine):
    with pytest.raises(StatementError, match="no time zone"):
        add_campaign(ledger_engine, created_at=datetime(2026, 3, 1))


def test_absent_json_is_null_in_sql(ledger_engine):
    campaign_id = add_campaign(ledger_engine)
    with writing(ledger_engine) as session:
        session.add(EventRow(campaign_id=campaign_id, kind="k", subject_id="s", actor="me"))
    with ledger_engine.connect() as connection:
        assert connection.execute(text("SELECT detail FROM event")).scalar() in ({}, "{}")


def test_a_reading_session_cannot_write(ledger_engine):
    with reading(ledger_engine) as session, pytest.raises((LedgerError, DBAPIError)):
        session.execute(text("DELETE FROM campaign"))
    add_campaign(ledger_engine)  # the same connection writes again afterwards


def test_the_scripts_are_found_without_a_checkout(tmp_path):
    """The wheel carries them: nothing of the repository's root is looked for."""
    code = (
        "from matterloop.loop.ledger import open_engine, upgrade, require_current as r;"
        "e = open_engine('ledger.sqlite'); upgrade(e); r(e)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "ledger.sqlite").stat().st_size > 0
    assert not Path(tmp_path / "alembic.ini").exists()


def add_campaign(engine: Engine, **columns: object) -> str:
    with writing(engine) as session:
        campaign = Campaign(
            name="first",
            spec={},
            spec_sha256="0" * 64,
            seed=1,
            matterloop_version="0",
            **columns,
        )
        session.add(campaign)
        session.flush()
        return campaign.id

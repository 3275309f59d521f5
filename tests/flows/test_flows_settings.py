"""Where a served flow finds its ledger: the environment."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from matterloop.flows.settings import FlowSettings
from matterloop.loop.errors import UsageError


@pytest.fixture(autouse=True)
def environment():
    with patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("MATTERLOOP")]:
            del os.environ[name]
        yield os.environ


def test_what_one_process_exports_another_reads(tmp_path):
    settings = FlowSettings(
        "postgresql://ada:secret@host/lab", tmp_path, 3, 4711, "http://127.0.0.1:4200/reports"
    )
    settings.export()
    assert FlowSettings.from_environment() == settings


def test_without_settings_the_ledger_lies_in_the_default_folder():
    settings = FlowSettings.from_environment()
    assert settings.folder == Path("campaigns").resolve()
    assert settings.ledger == f"sqlite:///{settings.folder / 'ledger.sqlite'}"
    assert settings.workers >= 1
    assert settings.server_pid == 0


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_workers_is_named(environment, wrong):
    environment["MATTERLOOP_WORKERS"] = wrong
    with pytest.raises(UsageError, match=f"MATTERLOOP_WORKERS is '{wrong}'"):
        FlowSettings.from_environment()


def test_a_report_is_linked_by_the_server_or_else_as_a_file(tmp_path):
    served = FlowSettings("ledger", tmp_path, 1, reports_url="http://lab:4200/reports")
    assert served.report_link("salts") == "http://lab:4200/reports/salts"
    alone = FlowSettings("ledger", tmp_path, 1)
    assert alone.report_link("salts") == (tmp_path / "salts" / "report.html").as_uri()

"""An engineer writes the README's plugin, installs it, and a campaign uses it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_campaign import SPEC, start_runner

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def named(language, name):
    return next(block for block in blocks(language) if block.startswith(f"# {name}\n"))


def test_the_readmes_campaign_file_is_valid():
    from matterloop.loop.spec_file import parse_spec

    (text,) = blocks("yaml")
    assert parse_spec(text).batch_size == 6


def test_the_readmes_plugin_runs_a_campaign(tmp_path, monkeypatch):
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    (package / "lightest.py").write_text(named("python", "lightest.py"))
    (package / "pyproject.toml").write_text(named("toml", "pyproject.toml"))
    assert len((package / "lightest.py").read_text().strip().splitlines()) <= 25
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", str(site), str(package)],
        check=True,
    )  # fmt: skip

    spec = {**SPEC, "selector": "lightest", "budget": {"cycles": 1}, "control_arms": []}
    (tmp_path / "aim.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setenv("PYTHONPATH", str(site))
    runner = start_runner(str(tmp_path / "ledger.sqlite"), tmp_path / "aim.yaml", tmp_path)
    _, errors = runner.communicate(timeout=280)
    assert runner.returncode == 0, errors.decode()

    from sqlalchemy import select

    from matterloop.loop.ledger.engine import reading
    from matterloop.loop.ledger.models import DecisionRow
    from matterloop.loop.workplace import open_ledger

    with open_ledger(str(tmp_path / "ledger.sqlite")) as engine, reading(engine) as session:
        decisions = session.scalars(select(DecisionRow)).all()
        chosen = [d.acquisition_value for d in decisions if d.rank is not None]
        left = [d.acquisition_value for d in decisions if d.rank is None]
        assert {d.selector for d in decisions} == {"lightest"}
        assert len(chosen) == 2
        assert min(chosen) >= max(left, default=-100.0)

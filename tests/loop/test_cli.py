"""The command line: what each mistake is told, without a traceback."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from matterloop.loop.examples import example_files, recipe_files

SALTS = """
name: salts
search_space: {chemical_system: Na-Cl}
objectives: [{property: density, goal: minimise}]
budget: {cycles: 1}
characterizers: [virtual-pycnometer]
"""


def matterloop(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MATTERLOOP", "PREFECT"))}
    return subprocess.run(
        [sys.executable, "-c", "from matterloop.loop.cli import main; main()", *words],
        cwd=cwd,
        env={**outside, "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr
    assert done.stderr.startswith("matterloop: ")


def test_help_names_the_commands_and_imports_nothing_heavy(tmp_path):
    done = matterloop("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("init", "run", "status", "report", "review", "up", "doctor", "db"):
        assert command in done.stdout
    heavy = ("torch", "prefect", "pymatgen", "sqlalchemy", "numpy")
    code = (
        "import sys; import matterloop.loop.cli, matterloop.loop.spec, matterloop.loop.plugins;"
        f"sys.exit(' '.join(set(sys.modules) & set({heavy!r})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stderr.strip() == ""


def test_init_writes_a_file_that_is_not_overwritten(tmp_path):
    done = matterloop("init", "aim.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "aim.yaml").read_text() == example_files()["li-p-s-cl"].read_text()
    refused(matterloop("init", "aim.yaml", cwd=tmp_path), 2, "exists already")
    refused(matterloop("init", "b.yaml", "--example", "gold", cwd=tmp_path), 2, "li-p-s-cl")


def test_a_recipe_is_written_under_its_own_name(tmp_path):
    done = matterloop("init", "--example", "train-generator", cwd=tmp_path)
    assert "--config train-generator.yaml --out" in done.stdout
    recipe = recipe_files()["train-generator"]
    assert (tmp_path / "train-generator.yaml").read_text() == recipe.read_text()


def test_wrong_campaign_file(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS.replace("cycles: 1", "cycles: some"))
    done = matterloop("run", "aim.yaml", cwd=tmp_path)
    refused(done, 2, "line 5: budget.cycles", "'some'", "whole number")
    assert not (tmp_path / "campaigns").exists()


def test_missing_campaign_file(tmp_path):
    refused(matterloop("run", "aim.yaml", cwd=tmp_path), 2, "Cannot read", "matterloop init")


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ("synthesizer: robot-arm", "synthesizer"),
        ("characterizers: [microscope]", "characterizer"),
        ("potential: gap", "potential"),
        ("generator: {name: oracle}", "generator"),
        ("selector: dice", "selector"),
        ("approval: perhaps", "policy"),
    ],
)
def test_unknown_plugin_is_named_with_what_is_installed(tmp_path, change, noun):
    field = change.partition(":")[0]
    kept = "\n".join(line for line in SALTS.splitlines() if not line.startswith(field))
    (tmp_path / "aim.yaml").write_text(f"{kept}\n{change}\n")
    done = matterloop("run", "aim.yaml", cwd=tmp_path)
    refused(done, 2, f"There is no {noun} named", "one of")


def test_instruments_that_cannot_measure_what_is_wanted(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS.replace("density", "bulk_modulus"))
    done = matterloop("run", "aim.yaml", cwd=tmp_path)
    refused(done, 2, "bulk_modulus", "none of them measures")


def test_unreachable_database_without_its_password(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS)
    url = "postgresql://ada:secret@127.0.0.1:9/ledger"
    done = matterloop("run", "aim.yaml", "--ledger", url, cwd=tmp_path)
    refused(done, 1, "127.0.0.1")
    assert "secret" not in done.stderr


def test_file_that_is_no_database(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS)
    done = matterloop("run", "aim.yaml", "--ledger", "aim.yaml", cwd=tmp_path)
    refused(done, 1, "aim.yaml", "database")
    assert (tmp_path / "aim.yaml").read_text() == SALTS


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS)
    (tmp_path / "file").write_text("in the way")
    done = matterloop("run", "aim.yaml", "--folder", "file/campaigns", cwd=tmp_path)
    refused(done, 2, "Cannot write into the folder", "--folder")


def test_read_only_folder(tmp_path):
    (tmp_path / "aim.yaml").write_text(SALTS)
    # Modes do not bind root, but nobody makes folders in /sys.
    locked = Path("/sys") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        locked.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    done = matterloop("run", "aim.yaml", "--folder", str(locked / "campaigns"), cwd=tmp_path)
    refused(done, 2, "Cannot write into the folder", "choose another one")


def test_status_of_an_empty_and_of_a_missing_ledger(tmp_path):
    refused(matterloop("status", cwd=tmp_path), 1, "ledger.sqlite")
    assert matterloop("db", "upgrade", cwd=tmp_path).returncode == 0
    done = matterloop("status", cwd=tmp_path)
    assert "no campaign yet" in done.stdout
    refused(matterloop("status", "gold", cwd=tmp_path), 2, "no campaign 'gold'")
    refused(matterloop("report", "gold", cwd=tmp_path), 2, "no campaign 'gold'")


def test_unknown_option_shows_the_usage(tmp_path):
    done = matterloop("run", "--speed", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "Traceback" not in done.stderr

"""The commands that run a campaign and write its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from matterloop.loop.cli.stopping import stoppable
from matterloop.loop.plugins import load
from matterloop.loop.spec_file import load_spec
from matterloop.loop.workplace import (
    campaign_folder,
    open_ledger,
    report_path,
    writable_folder,
)

if TYPE_CHECKING:
    from matterloop.loop.open_campaign import StageReport
    from matterloop.loop.spec import CampaignSpec


def run_file(file: Path, ledger: str, folder: Path, workers: int) -> None:
    """Enter the campaign of `file` into the ledger and run it with Prefect in this process.

    Raises
    ------
    InterruptedByUserError
        On Ctrl-C or SIGTERM, after all processes that were started are gone.
    MatterloopError
        What ended the campaign before its end.
    """
    with stoppable():
        _run_file(file, ledger, folder, workers)


def _run_file(file: Path, ledger: str, folder: Path, workers: int) -> None:
    from matterloop.loop.cli.status import print_campaign
    from matterloop.loop.crew import assemble
    from matterloop.loop.open_campaign import enter

    spec = load_spec(file)
    writable_folder(folder)
    with open_ledger(ledger) as engine:
        # A campaign that names a missing plugin or an unfit instrument does not get into the
        # ledger, where its name would be taken.
        assemble(spec, campaign_folder(folder, spec.name), workers).close()
        campaign_id = enter(engine, spec)
    run = load("runners", "prefect")
    print(f"Campaign {spec.name}: {_aim(spec)}", flush=True)
    with StageDisplay(spec.budget.cycles) as display:
        page = run(spec.name, ledger=ledger, folder=folder, workers=workers, looker_on=display)
    with open_ledger(ledger, create=False) as engine:
        print_campaign(engine, campaign_id)
    print(f"\nReport: {page}")


def write_campaign_report(ledger: str, campaign: str, out: Path | None, folder: Path) -> Path:
    """Write a campaign's report from the ledger alone."""
    from matterloop.loop.ledger.engine import reading
    from matterloop.loop.ledger.models import Campaign
    from matterloop.loop.open_campaign import find
    from matterloop.loop.report import write_report

    with open_ledger(ledger, create=False) as engine:
        campaign_id = find(engine, campaign)
        with reading(engine) as session:
            name = session.get_one(Campaign, campaign_id).name
            page = (out or report_path(folder, name)).resolve()
            writable_folder(page.parent)
            return write_report(session, campaign_id, page)


class StageDisplay:
    """Shows progress bars, and one line for each stage that is done."""

    def __init__(self, cycles: int) -> None:
        self._cycles = cycles
        self._console = console = Console(highlight=False)
        self._bars = Progress(
            TextColumn("  {task.description:<26}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Without a terminal there is nothing to redraw, and an empty line would remain.
            disable=not console.is_terminal,
        )
        self._current: tuple[str, TaskID] | None = None

    def __enter__(self) -> StageDisplay:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of what is being done."""
        if self._current is None or self._bars.tasks[-1].description != what:
            self._clear()
            self._current = (what, self._bars.add_task(what, total=total))
        self._bars.update(self._current[1], completed=done, total=total)

    def stage(self, cycle: int, report: StageReport) -> None:
        """Print what a stage did."""
        self._clear()
        line = f"  cycle {cycle}/{self._cycles}  {report.stage:<13} {report.summary}"
        self._console.print(line, soft_wrap=not self._console.is_terminal)
        if not self._console.is_terminal:
            sys.stdout.flush()

    def _clear(self) -> None:
        if self._current is not None:
            self._bars.remove_task(self._current[1])
            self._current = None


def _aim(spec: CampaignSpec) -> str:
    space = spec.search_space
    where = space.chemical_system or ", ".join(space.formulas or space.elements or ())
    goals = [
        f"{objective.property} {objective.target:g} +- {objective.tolerance:g}"
        if objective.target is not None and objective.tolerance is not None
        else f"{objective.goal.value} {objective.property}"
        for objective in spec.objectives
    ]
    return f"{where}; {', '.join(goals)}; {spec.budget.cycles} cycles of {spec.batch_size}"

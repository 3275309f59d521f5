"""``matterloop``: its commands, and how errors reach the user."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from matterloop.loop.cli.evaluating import evaluate
from matterloop.loop.cli.generating import generate
from matterloop.loop.cli.training import train
from matterloop.loop.errors import MatterloopError, UsageError
from matterloop.loop.workplace import DEFAULT_FOLDER, default_ledger

CORES = os.cpu_count() or 1

app = typer.Typer(
    help="Closed-loop materials discovery: generate, select, synthesize, measure, learn.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
db = typer.Typer(help="The ledger's database.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(train, name="train")
app.command()(generate)
app.command()(evaluate)

Folder = Annotated[
    Path,
    typer.Option("--folder", envvar="MATTERLOOP_FOLDER", help="Where campaigns keep their files."),
]
Ledger = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="MATTERLOOP_LEDGER",
        help="Path of a SQLite file or postgresql:// URL. Default: FOLDER/ledger.sqlite.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", envvar="MATTERLOOP_WORKERS", min=1, help="Processes for the potential."
    ),
]
CampaignName = Annotated[str, typer.Argument(help="Name or id of a campaign in the ledger.")]


def main() -> None:
    """Run the command line; a user's mistake gets a message and an exit code, no traceback."""
    try:
        app()
    except MatterloopError as error:
        print(f"matterloop: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def ledger_url(ledger: str | None, folder: Path) -> str:
    """Return the ledger that was named, or the one in `folder`."""
    return ledger or default_ledger(folder.resolve())


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(f"matterloop {version('matterloop')}")
        raise typer.Exit


@app.command()
def init(
    path: Annotated[
        Path | None,
        typer.Argument(help="File to write. Default: campaign.yaml; for a recipe, its own name."),
    ] = None,
    example: Annotated[
        str, typer.Option(help="Example to start from; `list` names them.")
    ] = "li-p-s-cl",
) -> None:
    """Write a campaign file, or the recipe of a training, to start from."""
    from matterloop.loop.examples import example_files, recipe_files

    known = example_files() | recipe_files()
    if example == "list":
        print("\n".join(known))
        return
    if example not in known:
        raise UsageError(f"There is no example {example!r}.", f"one of {', '.join(known)}")
    is_recipe = example in recipe_files()
    path = path or Path(f"{example}.yaml" if is_recipe else "campaign.yaml")
    if path.exists():
        raise UsageError(
            f"{str(path)!r} exists already.", "a new file", "name another one or remove it"
        )
    try:
        path.write_text(known[example].read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {str(path)!r}: {error.strerror}.") from None
    begin = (
        f"train generator --data FILE --config {path} --out FOLDER" if is_recipe else f"run {path}"
    )
    print(f"Wrote {path}. Change it, then: matterloop {begin}")


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Campaign file (YAML).")],
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
    workers: Workers = CORES,
) -> None:
    """Run a campaign to its end, or go on with it where it stands."""
    from matterloop.loop.cli.running import run_file

    run_file(file, ledger_url(ledger, folder), folder.resolve(), workers)


@app.command()
def status(
    campaign: Annotated[str | None, typer.Argument(help="Name or id; all if left out.")] = None,
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
) -> None:
    """Show where campaigns stand."""
    from matterloop.loop.cli.status import print_campaign, print_campaigns
    from matterloop.loop.open_campaign import find
    from matterloop.loop.workplace import open_ledger

    with open_ledger(ledger_url(ledger, folder), create=False) as engine:
        if campaign is None:
            print_campaigns(engine)
        else:
            print_campaign(engine, find(engine, campaign))


@app.command()
def report(
    campaign: CampaignName,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: FOLDER/NAME/report.html.")
    ] = None,
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
) -> None:
    """Write a campaign's report: one HTML file that opens offline."""
    from matterloop.loop.cli.running import write_campaign_report

    url = ledger_url(ledger, folder)
    print(write_campaign_report(url, campaign, out, folder.resolve()))


@app.command()
def review(
    campaign: CampaignName,
    approve: Annotated[
        list[str] | None, typer.Option(help="Candidate id, or `all`. May be repeated.")
    ] = None,
    veto: Annotated[
        list[str] | None, typer.Option(help="Candidate id. May be repeated; needs --reason.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    reviewer: Annotated[str, typer.Option(envvar="USER", help="Who decides.")] = "unnamed",
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
) -> None:
    """See, approve or veto the candidates that wait for a person."""
    from matterloop.loop.cli.reviewing import review_batch
    from matterloop.loop.workplace import open_ledger

    with open_ledger(ledger_url(ledger, folder), create=False) as engine:
        review_batch(engine, campaign, approve or [], veto or [], reviewer, reason)


@app.command()
def resolve(
    campaign: CampaignName,
    job: Annotated[str, typer.Argument(help="Id of a job in the state `unknown`.")],
    reason: Annotated[str, typer.Option(help="What was found at the instrument.")],
    absent: Annotated[
        bool, typer.Option("--absent", help="It never arrived there: it will be sent again.")
    ] = False,
    handle: Annotated[
        str | None, typer.Option(help="It is there: the instrument's handle, as JSON.")
    ] = None,
    reviewer: Annotated[str, typer.Option(envvar="USER", help="Who looked.")] = "unnamed",
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
) -> None:
    """Enter what became of a job of which the program cannot tell whether it was submitted."""
    from matterloop.loop.cli.repairs import resolve_job
    from matterloop.loop.workplace import open_ledger

    with open_ledger(ledger_url(ledger, folder), create=False) as engine:
        resolve_job(engine, campaign, job, absent, handle, reason, reviewer)


@app.command()
def repaired(
    campaign: CampaignName,
    instrument: Annotated[str, typer.Argument(help="Name of an instrument that was set aside.")],
    reason: Annotated[str, typer.Option(help="What was done to it.")],
    reviewer: Annotated[str, typer.Option(envvar="USER", help="Who repaired it.")] = "unnamed",
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
) -> None:
    """Put an instrument back into service that was set aside after a fault."""
    from matterloop.loop.cli.repairs import put_back_into_service
    from matterloop.loop.workplace import open_ledger

    with open_ledger(ledger_url(ledger, folder), create=False) as engine:
        put_back_into_service(engine, campaign, instrument, reason, reviewer)


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 4200,
    folder: Folder = Path(DEFAULT_FOLDER),
    ledger: Ledger = None,
    workers: Workers = CORES,
    fine_tune_cron: Annotated[
        str,
        typer.Option(
            help="When generators learn from new measurements outside of their campaigns' cycles:"
            " a cron expression, UTC; empty for never."
        ),
    ] = "0 3 * * *",
) -> None:
    """Start a Prefect server and serve the flows, to start campaigns from its pages."""
    from matterloop.loop.plugins import load

    def announce(url: str) -> None:
        print(
            f"Matterloop is up: {url}\n"
            "Start a campaign under Deployments > discovery-campaign > Run. Ctrl-C stops it.",
            flush=True,
        )

    load("runners", "prefect-server")(
        ledger=ledger_url(ledger, folder),
        folder=folder.resolve(),
        workers=workers,
        host=host,
        port=port,
        announce=announce,
        fine_tune_cron=fine_tune_cron,
    )


@app.command()
def doctor(folder: Folder = Path(DEFAULT_FOLDER), ledger: Ledger = None) -> None:
    """Check this installation, the ledger and the plugins; exit code 1 if something is wrong."""
    from matterloop.loop.cli.doctor import examine

    if not examine(ledger_url(ledger, folder), folder.resolve()):
        raise typer.Exit(1)


@db.command()
def upgrade(folder: Folder = Path(DEFAULT_FOLDER), ledger: Ledger = None) -> None:
    """Bring the ledger's tables to this version; nothing is lost."""
    from matterloop.loop.ledger.engine import open_engine
    from matterloop.loop.ledger.schema import current
    from matterloop.loop.ledger.schema import upgrade as upgrade_schema

    engine = open_engine(ledger_url(ledger, folder))
    try:
        before = current(engine)
        upgrade_schema(engine)
        after = current(engine)
    finally:
        engine.dispose()
    print(f"The ledger is at {after}." if before == after else f"Upgraded: {before} -> {after}.")

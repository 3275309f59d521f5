"""Where a flow finds the ledger and its folder: the environment, never a flow parameter.

A ledger's URL may hold a password, and parameters are readable by whoever reaches the Prefect API.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from matterloop.loop.errors import UsageError
from matterloop.loop.workplace import DEFAULT_FOLDER, default_ledger, report_path


@dataclass(frozen=True)
class FlowSettings:
    """Settings of the process that runs flows.

    Attributes
    ----------
    ledger
        ``MATTERLOOP_LEDGER``: SQLAlchemy URL or path of a SQLite file.
    folder
        ``MATTERLOOP_FOLDER``: one subfolder per campaign.
    workers
        ``MATTERLOOP_WORKERS``: processes for the potential; default: the cores of this machine.
    server_pid
        ``MATTERLOOP_SERVER_PID``: the process with which a served flow run ends; 0: none.
    reports_url
        ``MATTERLOOP_REPORTS_URL``: where the server shows reports; empty: nowhere.
    """

    ledger: str
    folder: Path
    workers: int
    server_pid: int = 0
    reports_url: str = ""

    @classmethod
    def from_environment(cls) -> FlowSettings:
        """Read the variables named above."""
        folder = Path(os.environ.get("MATTERLOOP_FOLDER", DEFAULT_FOLDER)).resolve()
        workers = os.environ.get("MATTERLOOP_WORKERS", "")
        if workers and not (workers.isdigit() and int(workers) > 0):
            raise UsageError(
                f"MATTERLOOP_WORKERS is {workers!r}.",
                "a whole number from 1",
                "correct or unset it",
            )
        return cls(
            ledger=os.environ.get("MATTERLOOP_LEDGER", default_ledger(folder)),
            folder=folder,
            workers=int(workers) if workers else os.cpu_count() or 1,
            server_pid=int(os.environ.get("MATTERLOOP_SERVER_PID", "0")),
            reports_url=os.environ.get("MATTERLOOP_REPORTS_URL", ""),
        )

    def export(self) -> None:
        """Write the variables named above, for this process and those that it starts."""
        os.environ["MATTERLOOP_LEDGER"] = self.ledger
        os.environ["MATTERLOOP_FOLDER"] = str(self.folder)
        os.environ["MATTERLOOP_WORKERS"] = str(self.workers)
        os.environ["MATTERLOOP_SERVER_PID"] = str(self.server_pid)
        os.environ["MATTERLOOP_REPORTS_URL"] = self.reports_url

    def report_link(self, campaign: str) -> str:
        """Return the address under which a person finds a campaign's report."""
        if self.reports_url:
            return f"{self.reports_url}/{campaign}"
        return report_path(self.folder, campaign).as_uri()

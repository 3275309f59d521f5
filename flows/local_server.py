"""A Prefect server on this machine that ends with the process that started it.

Prefect's own temporary server outlives a killed parent. This one watches its parent, and asks
nobody outside: analytics are off.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from matterloop.flows.lifeline import end_with
from matterloop.loop.errors import MatterloopError
from matterloop.loop.workplace import report_path

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

START_TIMEOUT_S = 120.0
"""A server on SQLite answers after 6-12 s on two cores; ten times that is a failure."""


def quiet_environment(home: Path) -> dict[str, str]:
    """Return the settings under which Prefect keeps its files in `home` and calls nobody."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def server_environment(home: Path, *, user_interface: bool) -> dict[str, str]:
    """Return the settings of a server.

    The newer user interface asks an analytics host from the browser even with analytics off; the
    older one calls nobody. With the default lease store, in memory, a restart would leave the
    slots of concurrency limits taken for ever. The pages find the API where they came from
    themselves, whatever the port, and by whatever name the machine was called.
    """
    return {
        **quiet_environment(home),
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_UI_ENABLED": "true" if user_interface else "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }


class LocalServer:
    """A Prefect server as a child process, for the length of a ``with`` block.

    Parameters
    ----------
    homes
        Folders for its database and logs (``PREFECT_HOME``). The first one that no other server
        uses is taken: two servers on one SQLite file would lock each other out.
    host, port
        Where it listens; port 0 takes a free one.
    reports
        The folder of campaigns. If given, Prefect's pages are served, and reports beside them.

    Attributes
    ----------
    home
        The folder that was taken.

    Raises
    ------
    MatterloopError
        On entering: port or homes are taken, or the server does not start.
    """

    def __init__(
        self,
        homes: Iterable[Path],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        reports: Path | None = None,
    ) -> None:
        self.host, self.port = host, port or _free_port(host)
        self.reports, self._homes = reports, homes
        self.home = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        """Where the API is."""
        return f"{self.url}/api"

    def __enter__(self) -> Self:
        if not _is_free(self.host, self.port):
            raise MatterloopError(
                f"The port {self.port} on {self.host} is taken.",
                "a free port for the Prefect server",
                "choose another one with `--port`, or set PREFECT_API_URL to the server there",
            )
        self._claim_home()
        try:
            self._start()
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _claim_home(self) -> None:
        for home in self._homes:
            self.home = home
            home.mkdir(parents=True, exist_ok=True)
            lock = (home / "lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                self._lock = lock
                return
        raise MatterloopError(
            f"Another Prefect server of Matterloop uses {self.home}.",
            remedy="use its pages, or end it first; or choose another folder with `--folder`",
        )

    def _start(self) -> None:
        assert self._lock is not None
        command = [sys.executable, "-m", __name__, self.host, str(self.port), str(os.getpid())]
        if self.reports is not None:
            command.append(str(self.reports))
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    **server_environment(self.home, user_interface=self.reports is not None),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Held until both processes are gone.
                pass_fds=[self._lock.fileno()],
                # Ctrl-C at the terminal is for the parent, which needs the server to its end.
                start_new_session=True,
            )

    def _wait(self) -> None:
        import httpx

        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.api_url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise MatterloopError(
            "The Prefect server did not start.",
            "an answer on " + self.api_url,
            f"read {self.home / 'server.log'}",
        )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _app(reports: Path | None) -> FastAPI:
    """Make the server's application, with the campaigns' reports under ``/reports/NAME``."""
    from prefect.server.api.server import create_app
    from starlette.responses import FileResponse, PlainTextResponse
    from starlette.routing import Route

    app = create_app()
    if reports is None:
        return app

    def show(request: Request) -> Response:
        name = request.path_params["name"]
        page = report_path(reports, name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not page.is_file():
            return PlainTextResponse(f"No report of a campaign {name!r} yet.", status_code=404)
        return FileResponse(page)

    # Before Prefect's pages, which answer every other address.
    app.router.routes.insert(0, Route("/reports/{name}", show))
    return app


def _serve(host: str, port: int, parent: int, reports: Path | None) -> None:
    import uvicorn

    end_with(parent, signal.SIGTERM)
    uvicorn.run(
        _app(reports),
        host=host,
        port=port,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    _serve(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]) if len(sys.argv) > 4 else None,
    )

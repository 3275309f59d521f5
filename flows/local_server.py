"""A Prefect server on this machine that ends with the process that started it.

Prefect's own temporary server outlives a killed parent. This one asks the kernel to be told when
its parent dies (Linux) and asks nobody outside: analytics are off.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from matterloop.loop.errors import MatterloopError

START_TIMEOUT_S = 120.0
"""A server on SQLite answers after 6-12 s on two cores; ten times that is a failure."""

_PR_SET_PDEATHSIG = 1


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
    slots of concurrency limits taken for ever.
    """
    return {
        **quiet_environment(home),
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
    home
        Folder of its database and logs (``PREFECT_HOME``).
    host, port
        Where it listens; port 0 takes a free one.
    user_interface
        Whether the pages are served, too.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        user_interface: bool = False,
    ) -> None:
        self.home, self.host, self.port = home, host, port or _free_port(host)
        self._user_interface = user_interface
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        """Where the API is."""
        return f"{self.url}/api"

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        if not _is_free(self.host, self.port):
            raise MatterloopError(
                f"The port {self.port} on {self.host} is taken.",
                "a free port for the Prefect server",
                "choose another one with `--port`, or set PREFECT_API_URL to the server there",
            )
        log = (self.home / "server.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.host, str(self.port), str(os.getpid())],
            env={
                **os.environ,
                **server_environment(self.home, user_interface=self._user_interface),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        try:
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
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


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


def _die_with(parent: int) -> None:
    """Ask for SIGTERM when the parent dies; end at once if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


def _serve(host: str, port: int) -> None:
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=host,
        port=port,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    _die_with(int(sys.argv[3]))
    _serve(sys.argv[1], int(sys.argv[2]))

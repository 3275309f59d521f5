"""The private Prefect server: one per home, gone with its parent, reports beside its pages."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from flows_processes import alive, descendants, wait_for

from matterloop.flows.local_server import LocalServer
from matterloop.loop.errors import MatterloopError

HOLDER = """
import sys
from pathlib import Path
from matterloop.flows.local_server import LocalServer
with LocalServer([Path(sys.argv[1])]) as server:
    print(server.api_url, flush=True)
    sys.stdin.read()
"""


def test_it_answers_and_calls_nobody(prefect_server):
    settings = httpx.get(f"{prefect_server.api_url}/admin/settings", timeout=30).json()
    assert settings["server"]["analytics_enabled"] is False
    assert settings["server"]["ui"]["v2_enabled"] is False


def test_reports_are_shown_beside_the_pages(prefect_server, tmp_path_factory):
    folder = prefect_server.reports
    (folder / "salts").mkdir()
    (folder / "salts" / "report.html").write_text("<h1>Salts</h1>")
    page = httpx.get(f"{prefect_server.url}/reports/salts", timeout=30)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == "<h1>Salts</h1>"
    for missing in ("sugars", "..", "%2e%2e", "salts%2freport.html"):
        answer = httpx.get(f"{prefect_server.url}/reports/{missing}", timeout=30)
        assert "Salts" not in answer.text
    assert httpx.get(f"{prefect_server.url}/reports/sugars", timeout=30).status_code == 404


def test_a_taken_port_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(MatterloopError, match=f"port {port} .* is taken.*--port"),
            LocalServer([tmp_path], port=port),
        ):
            pytest.fail("started on a taken port")


def test_a_home_in_use_is_told(prefect_server, tmp_path):
    with (
        pytest.raises(MatterloopError, match="Another Prefect server of Matterloop uses"),
        LocalServer([prefect_server.home]),
    ):
        pytest.fail("started beside another server")


def test_a_killed_parent_takes_its_server_along_and_leaves_the_home_free(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    url = holder.stdout.readline().strip()
    assert httpx.get(f"{url}/health", timeout=30).status_code == 200
    children = descendants(holder.pid)
    assert children

    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    wait_for(lambda: not alive(children), "the server to end")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health", timeout=5)
    with LocalServer([tmp_path]) as successor:
        assert successor.home == tmp_path

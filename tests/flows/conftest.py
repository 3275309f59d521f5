"""One private Prefect server for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from matterloop.flows.local_server import LocalServer, quiet_environment


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server as `matterloop run` starts it."""
    home = tmp_path_factory.mktemp("prefect")
    with (
        patch.dict(os.environ, quiet_environment(home)),
        LocalServer([home / "server"], reports=home) as server,
    ):
        yield server

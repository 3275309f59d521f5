"""The campaign files that come with Matterloop."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def example_files() -> dict[str, Path]:
    """Return the example campaigns by name."""
    folder = Path(str(files("matterloop.examples")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}

"""The files that come with Matterloop: campaigns to start from, recipes of trainings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def example_files() -> dict[str, Path]:
    """Return the example campaigns by name."""
    return {path.stem: path for path in _yaml_files() if not path.stem.startswith("train-")}


def recipe_files() -> dict[str, Path]:
    """Return the example settings of trainings by name."""
    return {path.stem: path for path in _yaml_files() if path.stem.startswith("train-")}


def _yaml_files() -> list[Path]:
    return sorted(Path(str(files("matterloop.examples"))).glob("*.yaml"))

"""Finding plugins by entry point. Nothing is imported until it is asked for by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from matterloop.loop.errors import (
    MatterloopError,
    PluginBrokenError,
    PluginFailedError,
    PluginNotFoundError,
    SpecError,
)

GROUPS = (
    "generators",
    "critics",
    "selectors",
    "planners",
    "trainers",
    "potentials",
    "synthesizers",
    "characterizers",
    "policies",
    "runners",
    "sources",
)


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the plugins of one group (a word of `GROUPS`) by name, without importing them."""
    return {point.name: point for point in entry_points(group=f"matterloop.{group}")}


def load(group: str, name: str) -> Any:
    """Import a plugin.

    Raises
    ------
    PluginNotFoundError
        If nothing of that name is registered.
    PluginBrokenError
        If it is registered but its import fails.
    """
    points = installed(group)
    if name not in points:
        raise PluginNotFoundError(f"matterloop.{group}", name, list(points))
    try:
        return points[name].load()
    except (Exception, SystemExit) as error:
        raise PluginBrokenError(
            f"matterloop.{group}", name, f"{type(error).__name__}: {error}"
        ) from error


def build(group: str, name: str, settings: Mapping[str, Any], workshop: object) -> Any:
    """Import a plugin, check its settings and build it.

    Raises
    ------
    SpecError
        If the settings do not fit the plugin's ``Settings`` model.
    """
    factory = load(group, name)
    checked = check_settings(factory, f"{group}.{name}", settings)
    try:
        return factory(checked, workshop)
    except MatterloopError:
        raise
    except Exception as error:
        raise PluginBrokenError(
            f"matterloop.{group}", name, f"{type(error).__name__}: {error}"
        ) from error


@contextmanager
def calling(group: str, name: str) -> Iterator[None]:
    """Turn whatever a plugin raises while it works into one message that names the plugin.

    Raises
    ------
    PluginFailedError
        If it raised anything but a `MatterloopError`; the plugin's own error is its cause.
    """
    try:
        yield
    except MatterloopError:
        raise
    except Exception as error:
        raise PluginFailedError(
            f"matterloop.{group}", name, f"{type(error).__name__}: {error}"
        ) from error


def check_settings(factory: Any, where: str, settings: Mapping[str, Any]) -> BaseModel:
    """Validate `settings` with the plugin's ``Settings`` model and return the model."""
    model: type[BaseModel] = getattr(factory, "Settings", BaseModel)
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in (where, 'settings', *detail['loc']))}:"
            f" got {detail['input']!r}; {detail['msg']}"
            for detail in error.errors()
        ]
        raise SpecError("The campaign", problems) from None

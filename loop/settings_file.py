"""Reading settings from a YAML file, and saying what is wrong with it in the user's terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from matterloop.loop.errors import UsageError

_Model = TypeVar("_Model", bound=BaseModel)


def load_settings(path: Path | None, model: type[_Model]) -> _Model:
    """Read settings; None and an empty file give the defaults.

    Raises
    ------
    UsageError
        If the file cannot be read, is no YAML, or does not fit the model: every field that is
        wrong, with its value.
    """
    import yaml

    if path is None:
        return model()
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"Cannot read {str(path)!r}: {reason}.", "a YAML file") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(value, Mapping | None):
        raise UsageError(f"{str(path)!r} holds a {type(value).__name__}.", "a mapping of fields")
    try:
        return model.model_validate(dict(value or {}))
    except ValidationError as error:
        problems = "\n".join(f"  - {_told(detail)}" for detail in error.errors())
        raise UsageError(f"{str(path)!r} holds settings that are wrong:\n{problems}") from None


def _told(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "the file"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if isinstance(detail["input"], Mapping):
        return f"{field}: {message}"
    return f"{field}: got {detail['input']!r}; {message}"

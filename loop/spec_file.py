"""Reading a campaign file, and saying what is wrong with it in the user's own terms."""

from __future__ import annotations

from collections.abc import Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from matterloop.loop.errors import SpecError, UsageError
from matterloop.loop.spec import CampaignSpec

_EXPECTED = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field here",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
}


def load_spec(path: Path) -> CampaignSpec:
    """Read a campaign from a YAML file.

    Raises
    ------
    UsageError
        If the file cannot be read.
    SpecError
        If it is not YAML or not a campaign: every problem with its line, value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Cannot read the campaign file {str(path)!r}: {reason}.",
            "a YAML file",
            "`matterloop init` writes one to start from",
        ) from None
    return _resolved(parse_spec(text, source=str(path)), path.resolve().parent)


def parse_spec(text: str, *, source: str = "The text") -> CampaignSpec:
    """Read a campaign from YAML text; see `load_spec`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpecError(source, [f"{where}{error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise SpecError(source, [str(error)]) from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise SpecError(source, [f"holds {found}; a mapping of fields is expected"])
    try:
        return CampaignSpec.model_validate(value)
    except ValidationError as error:
        # A list whose items are all wrong is also reported as too short; once is enough.
        details = [d for d in error.errors() if not (d["type"] == "too_short" and d["input"])]
        raise SpecError(source, [_explain(detail, root) for detail in details]) from None


def dump_spec(spec: CampaignSpec) -> str:
    """Write a campaign as YAML that `parse_spec` reads back to an equal one."""
    value = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _resolved(spec: CampaignSpec, folder: Path) -> CampaignSpec:
    """Make paths in the file absolute; they are relative to the file, wherever it is read from."""
    known = tuple(str(folder / entry) for entry in spec.reference_structures)
    hull = str(folder / spec.reference_hull) if spec.reference_hull else None
    return spec.model_copy(update={"reference_structures": known, "reference_hull": hull})


class _UniqueKeys(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "the name of a field must be a plain word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _explain(detail: Any, root: yaml.Node | None) -> str:
    location = [part for part in detail["loc"] if not str(part).startswith("function-")]
    field = ".".join(str(part) for part in location) or "the campaign"
    line = _line(root, location)
    kind, given = detail["type"], detail["input"]
    message = _EXPECTED.get(kind, str(detail["msg"]).removeprefix("Value error, "))
    if kind == "extra_forbidden":
        allowed = _fields_beside(location)
        near = get_close_matches(str(location[-1]), allowed, n=1)
        message += f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"
    where = f"line {line}: " if line else ""
    if kind == "missing" or isinstance(given, dict):
        return f"{where}{field}: {message}"
    return f"{where}{field}: got {given!r}; {message}"


def _line(node: yaml.Node | None, location: list[Any]) -> int | None:
    """Return the line (from 1) of the innermost node that exists on the way to `location`."""
    line = None
    for part in location:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    child, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None:
            break
        node = child
    return line


def _fields_beside(location: list[Any]) -> list[str]:
    """Name the fields of the model that holds the last part of `location`."""
    model: type[BaseModel] = CampaignSpec
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[str(part)].annotation
        model = _model_in(annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_in(inner):
            return found
    return None

"""Options of ``matterloop generate`` as conditions of generation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from matterloop.loop.spec import SearchSpace

WORDS = ("space_group", "crystal_system", "method")
"""Targets that are words even where they look like numbers."""
NEVER_NEGATIVE = ("band_gap", "density", "energy_above_hull")
MAX_ELEMENTS = 10
"""What a search space admits at the most."""


def search_space(
    chemsys: str | None,
    formulas: Sequence[str],
    elements: str | None,
    require: str | None = None,
    forbid: str | None = None,
    atoms: int | None = None,
    min_atoms: int | None = None,
    max_atoms: int | None = None,
) -> SearchSpace:
    """Turn the options into a search space; without any of the first three, all elements.

    A chemical system means crystals of all its elements, as materials databases mean it.

    Raises
    ------
    UsageError
        If they contradict each other or leave nothing.
    """
    from pydantic import ValidationError

    from matterloop.loop.elements import SYMBOLS
    from matterloop.loop.spec import SearchSpace

    if atoms is not None and (min_atoms is not None or max_atoms is not None):
        raise UsageError("--atoms says both --min-atoms and --max-atoms.", "one or the others")
    ways = {"--chemsys": chemsys, "--formula": formulas, "--elements": elements}
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other.", "one of them")
    empty = [name for name, value in ways.items() if value == ""]
    if empty:
        raise UsageError(f"{empty[0]} is empty.", "element symbols or a formula")
    system = symbols("--chemsys", chemsys)
    fields: dict[str, Any] = {
        "required_elements": tuple(dict.fromkeys([*system, *symbols("--require", require)])),
        "forbidden_elements": symbols("--forbid", forbid),
        "min_atoms": atoms or min_atoms or 1,
        "max_atoms": atoms or max_atoms or 20,
    }
    if system:
        fields |= {"chemical_system": "-".join(system), "max_elements": max(5, len(system))}
    elif formulas:
        fields |= {"formulas": tuple(formulas), "max_elements": MAX_ELEMENTS}
    elif elements:
        anyone = symbols("--elements", elements)
        fields |= {"elements": anyone, "max_elements": min(MAX_ELEMENTS, len(anyone))}
    else:
        fields |= {"elements": tuple(sorted(SYMBOLS)), "max_elements": MAX_ELEMENTS}
    try:
        return SearchSpace(**fields)
    except ValidationError as error:
        problems = [re.sub("^Value error, ", "", detail["msg"]) for detail in error.errors()]
        raise UsageError(
            f"No crystal can be asked for so: {'; '.join(problems)}.",
            remedy="see `matterloop generate --help`",
        ) from None


def targets(named: Mapping[str, float | str | None], more: Sequence[str]) -> dict[str, float | str]:
    """Turn the options into soft conditions.

    Raises
    ------
    UsageError
        If one is named twice, is no number where it must be, names no space group, or cannot be.
    """
    given = {name: value for name, value in named.items() if value is not None}
    wishes: dict[str, float | str] = {}
    for name, value in merged(given, pairs("--target", more)).items():
        if name == "space_group":
            wishes[name] = _space_group(str(value))
        elif name in WORDS:
            wishes[name] = str(value)
        else:
            wishes[name] = _number(name, value)
    _agree(wishes)
    return wishes


def _agree(wishes: Mapping[str, float | str]) -> None:
    """Refuse a crystal system that the space group does not belong to."""
    from matterloop.loop.dataset import crystal_system_of

    group, system = wishes.get("space_group"), wishes.get("crystal_system")
    if group is None or system is None:
        return
    own = crystal_system_of(int(group))
    if system != own:
        raise UsageError(
            f"Space group {group} is {own}, and the crystal system asked for is {system!r}.",
            "wishes that one crystal can fulfil",
            "leave one of them out",
        )


def _number(name: str, value: float | str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"The target {name} is {value!r}.", "a finite number")
    if number < 0 and name in NEVER_NEGATIVE:
        raise UsageError(f"The target {name} is {number:g}.", "0 or more")
    return number


def _space_group(text: str) -> str:
    if not text.isdecimal():
        from pymatgen.symmetry.groups import SpaceGroup

        try:
            return str(SpaceGroup(text).int_number)
        except ValueError:
            pass
    elif 1 <= int(text) <= 230:
        return str(int(text))
    raise UsageError(f"There is no space group {text!r}.", "1 to 230, or a symbol such as Pm-3m")


def symbols(option: str, text: str | None) -> tuple[str, ...]:
    """Read a list of elements, whatever separates them.

    Raises
    ------
    UsageError
        For what is no element.
    """
    from matterloop.loop.elements import SYMBOLS

    named = tuple(dict.fromkeys(part for part in re.split(r"[\s,;-]+", text or "") if part))
    unknown = [symbol for symbol in named if symbol not in SYMBOLS]
    if unknown:
        raise UsageError(
            f"{option} names {', '.join(map(repr, unknown))}, which is no element.",
            "symbols such as Ba, Ti, O",
        )
    return named


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read options of the form NAME=VALUE.

    Raises
    ------
    UsageError
        For another form, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(f"{option} got {text!r}.", "NAME=VALUE")
        if name in found:
            raise UsageError(f"{option} names {name!r} twice.", "each once")
        found[name.replace("-", "_")] = value
    return found


def merged(named: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Join what options of their own say with what came as NAME=VALUE.

    Raises
    ------
    UsageError
        If both name the same.
    """
    twice = sorted(set(named) & set(more))
    if twice:
        raise UsageError(
            f"{', '.join(twice)} is given twice, by an option of its own and as NAME=VALUE.",
            "one of them",
        )
    return {**named, **more}

"""Reading crystals from wherever they are: files, folders, databases on the net.

A source is named by an address: a path (``crystals/``, ``mp_20.csv.gz``), whose kind is guessed, or
a kind and what it needs, ``kind:rest``: ``cif:crystals/``, ``mp:chemsys=Li-P-S-Cl``,
``optimade:https://alexandria.icams.rub.de/pbe?filter=nelements=2``. The kinds are plugins of the
entry-point group ``matterloop.sources``, built as ``Class(settings, workshop)`` with workshop None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import MatterloopError, PluginBrokenError, SpecError, UsageError
from matterloop.loop.plugins import build, calling, installed, load

_KIND = re.compile(r"([a-z][a-z0-9-]+):(.*)", re.DOTALL)
_SHOWN = 3


class SourceError(MatterloopError):
    """A source of crystals cannot be reached, or does not answer as it should."""


@dataclass(frozen=True)
class Unreadable:
    """An entry of a source that gave no crystal.

    Attributes
    ----------
    identifier
        Name of the row, file or entry.
    reason
        Why, for people.
    """

    identifier: str
    reason: str


class StructureSource(Protocol):
    """A kind of source. Its ``Settings`` model checks what it is built with.

    Attributes
    ----------
    aliases
        Other words for the kind in an address.
    suffixes
        Endings of file names (lower case, with the dot) by which the kind is guessed; ``"/"``
        stands for a folder.
    """

    aliases: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]]

    @staticmethod
    def parse_address(rest: str) -> Mapping[str, Any]:
        """Turn what stands after ``kind:`` into settings."""
        ...

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """Yield crystals and, in between, what could not be read, as they come.

        Raises
        ------
        UsageError, SourceError
            If the source as a whole cannot be read.
        """
        ...


@dataclass
class ReadingReport:
    """What came of reading; filled in while the crystals are taken.

    Attributes
    ----------
    n_read
        Crystals read.
    unreadable
        What was passed over, in order.
    """

    n_read: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.n_read:,} structures read"
        if not self.unreadable:
            return text
        more = len(self.unreadable) - _SHOWN
        named = "; ".join(f"{bad.identifier}: {bad.reason}" for bad in self.unreadable[:_SHOWN])
        rest = f"; and {more:,} more" if more > 0 else ""
        return f"{text}, {len(self.unreadable):,} passed over ({named}{rest})"


def read_structures(
    addresses: str | Path | Iterable[str | Path],
    *,
    report: ReadingReport | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[LabelledStructure]:
    """Read the crystals of one or more sources, one after the other, as a stream.

    Parameters
    ----------
    addresses
        See the module.
    report
        Counts what was read and names what was passed over.
    settings
        Settings of the sources beyond the address, for example ``{"processes": 4}``; a source that
        has no such setting goes without.

    Raises
    ------
    UsageError
        If an address cannot be understood, or a source holds no readable crystal at all.
    SourceError
        If a source cannot be reached.
    """
    report = ReadingReport() if report is None else report
    given = [addresses] if isinstance(addresses, str | Path) else list(addresses)
    sources = [(address, *_open(address, settings or {}, strict=False)) for address in given]
    return _stream(sources, report)


def open_source(address: str | Path, settings: Mapping[str, Any] | None = None) -> StructureSource:
    """Build the source that an address names; `settings` go beyond, and win over, the address.

    Raises
    ------
    UsageError
        If the address cannot be understood or a setting is wrong.
    """
    return _open(address, settings or {}, strict=True)[1]


def kinds() -> dict[str, tuple[str, ...]]:
    """Return the installed kinds of sources and their aliases."""
    return {name: factory.aliases for name, factory in _factories().items()}


def _stream(
    sources: list[tuple[str | Path, str, StructureSource]], report: ReadingReport
) -> Iterator[LabelledStructure]:
    for address, kind, source in sources:
        bad, before = len(report.unreadable), report.n_read
        entries = source.read()
        while True:
            with calling("sources", kind):
                entry = next(entries, None)
            if entry is None:
                break
            if isinstance(entry, Unreadable):
                report.unreadable.append(entry)
                continue
            report.n_read += 1
            yield entry
        if report.n_read == before:
            reasons = ReadingReport(0, report.unreadable[bad:])
            raise UsageError(
                f"{str(address)!r} holds no crystal that can be read: {reasons}.",
                "at least one crystal",
            )


def _open(
    address: str | Path, settings: Mapping[str, Any], *, strict: bool
) -> tuple[str, StructureSource]:
    factories = _factories()
    kind, rest = _kind_of(address, factories)
    factory = factories[kind]
    if not strict:
        fields = factory.Settings.model_fields
        settings = {name: value for name, value in settings.items() if name in fields}
    try:
        source: StructureSource = build(
            "sources", kind, {**factory.parse_address(rest), **settings}, None
        )
    except SpecError as error:
        allowed = ", ".join(factory.Settings.model_fields)
        raise UsageError(
            f"The source {str(address)!r} is wrong: {'; '.join(error.problems)}.",
            f"settings of {kind}: {allowed}",
        ) from None
    return kind, source


def _kind_of(address: str | Path, factories: Mapping[str, Any]) -> tuple[str, str]:
    text = str(address)
    words = {name: name for name in factories}
    words.update({alias: name for name, factory in factories.items() for alias in factory.aliases})
    match = _KIND.fullmatch(text)
    if match and match[1] in words and not isinstance(address, Path):
        return words[match[1]], match[2]
    if text.startswith(("http://", "https://")) and "optimade" in words:
        return words["optimade"], text
    ending = "/" if Path(text).is_dir() else text.lower()
    guessed = [
        (len(suffix), name)
        for name, factory in factories.items()
        for suffix in factory.suffixes
        if ending.endswith(suffix)
    ]
    if guessed:
        return max(guessed)[1], text
    endings = sorted({s for f in factories.values() for s in f.suffixes if s != "/"})
    raise UsageError(
        f"It is not clear how to read {text!r}.",
        f"a folder, a file that ends in {', '.join(endings)}, or KIND:ADDRESS with a kind of"
        f" {', '.join(sorted(words))}",
    )


def _factories() -> dict[str, Any]:
    found = {}
    for name in sorted(installed("sources")):
        try:
            found[name] = load("sources", name)
        except PluginBrokenError:
            continue  # `matterloop doctor` tells; the other kinds still work
    return found

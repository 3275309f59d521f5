"""Training a model from nothing: the data it learns from, and what it tells while it learns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.dataset import LabelledStructure
    from matterloop.loop.sources import ReadingReport

_BLOCK = 1 << 20


@dataclass(frozen=True)
class DataSource:
    """Where crystals come from.

    Attributes
    ----------
    name
        File or folder without its path, or the address on the net.
    sha256
        Of the file, or of all files of the folder with their names; None for what is on the net.
    address
        As `matterloop.loop.sources` reads it.
    """

    name: str
    sha256: str | None
    address: str

    @classmethod
    def at(cls, address: str) -> DataSource:
        """Identify an address."""
        path = _path_of(address)
        if path is None:
            return cls(address, None, address)
        return cls(path.resolve().name, _fingerprint(path), address)


@dataclass(frozen=True)
class TrainingData:
    """Crystals to learn from; nothing is parsed before `read`.

    Attributes
    ----------
    sources
        Read one after the other.
    limit
        Only so many crystals, the first ones; None for all.
    """

    sources: tuple[DataSource, ...]
    limit: int | None = None

    @classmethod
    def at(cls, addresses: Sequence[str], limit: int | None = None) -> TrainingData:
        """Identify addresses; see `matterloop.loop.sources`."""
        if not addresses:
            raise UsageError("There is no data to train on.", "at least one source of crystals")
        return cls(tuple(DataSource.at(address) for address in addresses), limit)

    def describe(self) -> list[dict[str, Any]]:
        """Return name and hash of every source, as JSON."""
        return [{"name": source.name, "sha256": source.sha256} for source in self.sources]

    def read(self, report: ReadingReport, *, processes: int = 1) -> Iterator[LabelledStructure]:
        """Yield the crystals.

        Raises
        ------
        UsageError, SourceError
            See `matterloop.loop.sources.read_structures`.
        """
        from itertools import islice

        from matterloop.loop.sources import read_structures

        found = read_structures(
            [source.address for source in self.sources],
            report=report,
            settings={"processes": processes},
        )
        return islice(found, self.limit)


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands.

    Attributes
    ----------
    phase
        What is being done, in words.
    done, total
        In `unit`; `total` is None where it is not known.
    unit
        ``crystals``, ``steps``, ``samples``.
    seen
        Crystals learned from in this phase so far, repetitions included.
    figures
        Losses or other figures worth showing.
    kept
        Whether everything up to here is on disk.
    """

    phase: str
    done: int
    total: int | None
    unit: str = "steps"
    seen: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False


Watch = Callable[[TrainingProgress], None]


def _nobody(progress: TrainingProgress) -> None:
    """Watch nothing."""


StabilityJudge = Callable[["Sequence[Structure]"], "list[float | None]"]
"""Energy above hull in eV/atom of every crystal, None where it cannot be told."""


@dataclass(frozen=True)
class TrainingRequest:
    """What decides where and how a generator is trained, besides its settings.

    Attributes
    ----------
    data
        To learn from.
    folder
        Gets the weights, and a subfolder from which the same call goes on after an interruption.
    seed
        Determines every draw.
    device
        ``cpu``, ``cuda`` or ``auto``.
    workers
        Processes that share the work on a CPU.
    stability
        Judges the samples by which checkpoints are chosen; None: the network itself does.
    stability_name
        Of the judge, for the record.
    watch
        Is told what happens.
    """

    data: TrainingData
    folder: Path
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    stability: StabilityJudge | None = None
    stability_name: str = ""
    watch: Watch = _nobody


def _path_of(address: str) -> Path | None:
    for text in (address, address.partition(":")[2]):
        if text and Path(text).exists():
            return Path(text)
    return None


def _fingerprint(path: Path) -> str:
    try:
        if path.is_file():
            return _file_sha256(path)
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(path)}\0{_file_sha256(file)}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be read: {error.strerror}.", "a file or folder of crystals"
        ) from None


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

"""The crystals that are judged, the unreadable and the undelivered among them.

Every rate has all samples as its denominator, so whatever could not be read or was never delivered
stays in the list as a sample without a structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.chemistry.matching import require_crystal
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.ledger.structures import structure_content
from matterloop.loop.structure_files import REQUEST, read_folder

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Sample:
    """One of the crystals to be judged.

    Attributes
    ----------
    name
        File name, row or number of the draw.
    structure
        The crystal; None if there is none.
    problem
        Why there is none; empty if there is one.
    """

    name: str
    structure: Structure | None
    problem: str = ""


def sample_of(name: str, structure: Structure) -> Sample:
    """Make a sample of a crystal, or a failure with its reason if it is no proper crystal."""
    try:
        require_crystal(structure)
    except UsageError as error:
        return Sample(name, None, error.came)
    return Sample(name, structure)


def read_samples(address: str | Path) -> list[Sample]:
    """Read crystals that anybody made: a folder or file of CIFs, extended XYZ, JSON, CSV, ...

    Parameters
    ----------
    address
        See `matterloop.loop.sources`; or a folder that ``matterloop generate`` filled, in any
        format.

    Raises
    ------
    UsageError
        If there is nothing to be read there, or not a single entry.
    """
    from matterloop.loop.plugins import calling
    from matterloop.loop.sources import Unreadable, open_source

    folder = Path(address)
    if (folder / REQUEST).is_file() and not any(folder.glob("*.cif")):
        with calling("sources", str(address)):
            return [sample_of(entry.file, structure) for entry, structure in read_folder(folder)]
    source = open_source(address)
    samples = []
    with calling("sources", str(address)):
        for entry in source.read():
            if isinstance(entry, Unreadable):
                samples.append(Sample(entry.identifier, None, entry.reason))
            else:
                samples.append(sample_of(entry.identifier, entry.structure))
    if not samples:
        raise UsageError(f"{str(address)!r} holds no crystal.", "at least one")
    return samples


def samples_of(structures: Iterable[Structure], asked: int | None = None) -> list[Sample]:
    """Turn crystals into numbered samples; those that are missing up to `asked` become failures."""
    samples = [sample_of(str(i), structure) for i, structure in enumerate(structures, start=1)]
    return samples + [
        Sample(str(i), None, "not delivered") for i in range(len(samples) + 1, (asked or 0) + 1)
    ]


def readable(samples: Sequence[Sample]) -> list[tuple[int, Structure]]:
    """Return position and crystal of the samples that have one."""
    return [(i, s.structure) for i, s in enumerate(samples) if s.structure is not None]


def structure_key(structure: Structure) -> str:
    """Return the SHA-256 of a crystal's content, as the ledger names it."""
    return content_hash(structure_content(structure))

"""What the hull builder has computed so far: an append-only file of JSON lines.

The builder may be killed at any instant. A line is written whole or is the last, broken one, which
is skipped when the file is read and separated from what follows; nothing else is ever rewritten.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from matterloop.loop.calculation import PotentialIdentity
from matterloop.loop.errors import ConflictError

Stage = Literal["single", "relax"]


@dataclass(frozen=True)
class Record:
    """What came of one crystal in one stage.

    Attributes
    ----------
    stage
        ``single`` (a single point) or ``relax``.
    provenance
        Where the crystal comes from; unique per crystal.
    formula
        Reduced, elements in alphabetic order.
    energy_eV_per_atom
        None if the calculation failed.
    volume_A3_per_atom, spacegroup
        Of the crystal that has this energy; the space group (number) at a tolerance of 0.1 A.
    dft_e_above_hull_eV_per_atom, dft_formation_energy_eV_per_atom
        As the source states them, where it does.
    converged
        Whether a relaxation converged; True for single points.
    failure
        Reason, empty if all went well.
    cpu_s
        CPU seconds of a relaxation.
    """

    stage: Stage
    provenance: str
    formula: str
    energy_eV_per_atom: float | None = None
    volume_A3_per_atom: float | None = None
    spacegroup: int | None = None
    dft_e_above_hull_eV_per_atom: float | None = None
    dft_formation_energy_eV_per_atom: float | None = None
    converged: bool = True
    failure: str = ""
    cpu_s: float = 0.0


class BuildState:
    """The records of one build, in memory and on disk.

    Parameters
    ----------
    path
        File of JSON lines; created with its folder if missing.
    identity
        Potential of the build; the file's first line must name the same.
    writable
        False to look at a build that another process may be running.

    Raises
    ------
    ConflictError
        If the file belongs to another potential, or another builder is writing to it.
    """

    def __init__(self, path: Path, identity: PotentialIdentity, *, writable: bool = True) -> None:
        self.path, self.identity = path, identity
        self.records: dict[tuple[Stage, str], Record] = {}
        self._file: IO[str] | None = _open_alone(path) if writable else None
        text = path.read_text() if path.exists() else ""
        lines = list(_whole_lines(text))
        if lines and lines[0].get("identity") != asdict(identity):
            self.close()
            raise ConflictError(
                f"{path} holds results of {lines[0].get('identity')}, not of {identity}.",
                remedy="name another state file for this potential",
            )
        for line in lines[1:]:
            record = Record(**line)
            self.records[record.stage, record.provenance] = record
        if self._file and text and not text.endswith("\n"):
            self._file.write("\n")
        if self._file and not lines:
            self._write({"identity": asdict(identity)})

    def add(self, record: Record) -> None:
        """Keep one record, now."""
        self.records[record.stage, record.provenance] = record
        self._write(asdict(record))

    def has(self, stage: Stage, provenance: str) -> bool:
        """Tell whether this crystal went through this stage, with or without success."""
        return (stage, provenance) in self.records

    def of(self, stage: Stage) -> list[Record]:
        """Return the successful records of a stage, in the order of their provenance."""
        return [
            record
            for (own, _), record in sorted(self.records.items())
            if own == stage and record.energy_eV_per_atom is not None
        ]

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, value: dict[str, Any]) -> None:
        assert self._file is not None, "opened for reading"
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()


def _open_alone(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConflictError(
            f"Another builder is writing to {path}.",
            remedy="wait for it, or name another state file",
        ) from None
    return file


def _whole_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # cut off by a kill; its crystal is computed again
        if isinstance(value, dict):
            yield value

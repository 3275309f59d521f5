"""How a reference hull lies on disk: ``NAME.csv.gz`` with the entries, ``NAME.json``, its card.

The card holds the identity of the potential, where the entries come from, their licence, the
settings of the calculation and the SHA-256 of the CSV text (uncompressed, because the compressed
bytes depend on the version of zlib).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matterloop.loop.calculation import PotentialIdentity
from matterloop.loop.errors import MatterloopError, UsageError
from matterloop.loop.hull.entry import ReferenceEntry

COLUMNS = (
    "formula",
    "energy_eV_per_atom",
    "provenance",
    "kind",
    "spacegroup",
    "volume_A3_per_atom",
)
CARD_KEYS = ("sources", "licence", "settings")
"""What the builder of a hull must state on its card; the rest is written by `write_files`."""


def csv_text(entries: Iterable[ReferenceEntry]) -> str:
    """Write entries as CSV, energies with 5 decimals, in an order that depends on content only."""
    rows = sorted(
        (
            entry.formula,
            f"{entry.energy_eV_per_atom:.5f}",
            entry.provenance,
            entry.kind,
            "" if entry.spacegroup is None else str(entry.spacegroup),
            "" if entry.volume_A3_per_atom is None else f"{entry.volume_A3_per_atom:.4f}",
        )
        for entry in entries
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue()


def write_files(
    path: Path,
    identity: PotentialIdentity,
    entries: Iterable[ReferenceEntry],
    card: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``NAME.csv.gz`` and ``NAME.json`` and return the whole card.

    Raises
    ------
    UsageError
        If the name does not end in ``.csv.gz`` or the card leaves out one of `CARD_KEYS`.
    """
    card_path = _card_path(path)
    missing = [key for key in CARD_KEYS if key not in card]
    if missing:
        raise UsageError(
            f"The card of the hull {path.name} lacks {', '.join(missing)}.",
            f"the keys {', '.join(CARD_KEYS)}",
        )
    text = csv_text(entries)
    whole = dict(card)
    whole["identity"] = {
        "name": identity.name,
        "sha256": identity.sha256,
        "correction_scheme": identity.correction_scheme,
    }
    whole["csv_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    whole["n_entries"] = text.count("\n") - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=9) as packed,
    ):
        packed.write(text.encode())
    card_path.write_text(json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return whole


def read_card(path: Path) -> tuple[PotentialIdentity, dict[str, Any]]:
    """Read the card that stands beside a hull's CSV.

    Raises
    ------
    UsageError
        If it is missing or incomplete.
    """
    card_path = _card_path(path)
    try:
        card = json.loads(card_path.read_text())
        if not isinstance(card, dict):
            raise TypeError
        identity = PotentialIdentity(**card["identity"])
        str(card["csv_sha256"])
    except FileNotFoundError:
        raise UsageError(
            f"The reference hull {path} has no card.",
            f"a JSON file {card_path.name} beside it",
            "build the hull again; without its card nobody knows to which potential it belongs",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"The card {card_path} cannot be read: {type(error).__name__}: {error}.",
            "a JSON object with identity {name, sha256, correction_scheme} and csv_sha256",
        ) from None
    return identity, card


def read_entries(path: Path, csv_sha256: str) -> list[ReferenceEntry]:
    """Read a hull's CSV and check it against the hash on its card.

    Raises
    ------
    UsageError
        If the file is missing, broken, not what the card describes, or a row is wrong.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except FileNotFoundError:
        raise UsageError(f"There is no reference hull {path}.", "a file NAME.csv.gz") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "a gzip file of CSV text") from None
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != csv_sha256:
        raise UsageError(
            f"{path} holds the SHA-256 {found[:12]}..., its card says {csv_sha256[:12]}...",
            "the file that the card describes",
            "restore both files, or build the hull again",
        )
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UsageError(
            f"{path} has the columns {reader.fieldnames}.", f"the columns {', '.join(COLUMNS)}"
        )
    return [_entry(path, number, row) for number, row in enumerate(reader, start=2)]


def _entry(path: Path, number: int, row: dict[str, str]) -> ReferenceEntry:
    try:
        return ReferenceEntry(
            formula=row["formula"],
            energy_eV_per_atom=float(row["energy_eV_per_atom"]),
            provenance=row["provenance"],
            kind=row["kind"],  # type: ignore[arg-type]  # checked by ReferenceEntry
            spacegroup=int(row["spacegroup"]) if row["spacegroup"] else None,
            volume_A3_per_atom=float(row["volume_A3_per_atom"])
            if row["volume_A3_per_atom"]
            else None,
        )
    except (MatterloopError, ValueError, TypeError) as error:
        raise UsageError(f"{path}, line {number}: {error}") from None


def _card_path(path: Path) -> Path:
    if not path.name.endswith(".csv.gz"):
        raise UsageError(f"{path} is not the name of a reference hull.", "a name NAME.csv.gz")
    return path.with_name(path.name.removesuffix(".csv.gz") + ".json")

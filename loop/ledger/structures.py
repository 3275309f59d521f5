"""Crystals, stored once under the hash of their content.

Two crystals have the same content if they agree in the lattice vectors (as a matrix: orientation
counts, since forces and stresses refer to it), in the elements, in the order of the sites and in
the fractional coordinates after wrapping into [0, 1), all rounded to `DIGITS` decimals.
Oxidation states, charges, magnetic moments and other site properties are no content. Symmetry
equivalence is another question, which the critic answers (StructureMatcher).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from matterloop.loop.errors import LedgerError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.ledger.models import StructureRow

if TYPE_CHECKING:
    from pymatgen.core import Structure

DIGITS = 8
"""Decimals of lattice vectors (Angstrom) and fractional coordinates: far below any physical
difference, far above the last bits in which two machines may differ."""

SYMPREC_A = 0.01
"""Distance tolerance of the space group, Angstrom (spglib; pymatgen's default)."""


def put_structure(session: Session, structure: Structure) -> str:
    """Store a crystal unless it is there already; safe when several processes do so at once.

    Returns
    -------
    str
        SHA-256 of the content, the primary key.

    Raises
    ------
    LedgerError
        If a site is disordered, or a number is not finite.
    """
    content = structure_content(structure)
    sha256 = content_hash(content)
    if session.get(StructureRow, sha256) is not None:
        return sha256
    stored = _build(content)
    composition = stored.composition
    values = {
        "sha256": sha256,
        "formula": composition.formula,
        "reduced_formula": composition.reduced_formula,
        "chemical_system": composition.chemical_system,
        "n_atoms": len(stored),
        "volume_A3": float(stored.volume),
        "density_g_cm3": float(stored.density),
        "space_group": _space_group(content),
        "content": content,
    }
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(
        dialect.insert(StructureRow)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["sha256"])
    )
    return sha256


def get_structure(row: StructureRow) -> Structure:
    """Return the crystal of a row, in the precision in which it was stored."""
    return _build(row.content)


def structure_content(structure: Structure) -> dict[str, Any]:
    """Return what is hashed and stored: ``lattice`` (3 x 3, Angstrom), ``species``, ``coords``."""
    if not structure.is_ordered:
        raise LedgerError(
            f"{structure.composition.reduced_formula} has sites with several elements.",
            "an ordered crystal",
        )
    try:
        content = {
            "lattice": [[_rounded(x) for x in row] for row in structure.lattice.matrix],
            "species": [site.specie.symbol for site in structure],
            "coords": [[_wrapped(x) for x in site.frac_coords] for site in structure],
        }
        content_hash(content)
    except ValueError as error:
        raise LedgerError(
            f"{structure.composition.reduced_formula} has a lattice vector or a coordinate"
            " that is not finite."
        ) from error
    return content


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0


def _wrapped(value: float) -> float:
    return _rounded(_rounded(value) % 1.0) % 1.0


def _build(content: dict[str, Any]) -> Structure:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(content["lattice"]), content["species"], content["coords"])


def _space_group(content: dict[str, Any]) -> int | None:
    import spglib
    from pymatgen.core import Element

    numbers = [Element(symbol).Z for symbol in content["species"]]
    with warnings.catch_warnings():
        # spglib announces future error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(
            (content["lattice"], content["coords"], numbers), symprec=SYMPREC_A
        )
    return None if dataset is None else int(dataset.number)

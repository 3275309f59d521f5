"""Fingerprints of a crystal's sites and of its composition, as CDVAE's coverage compares them.

Structure: for every site the weights of coordination numbers 1 to 24 after pymatgen's CrystalNN
(Pan et al., Inorg. Chem. 60, 1590 (2021)) and the local structure order parameters of the motifs of
each coordination number, weighted alike (Zimmermann and Jain, RSC Adv. 10, 6063 (2020)): 61 in all,
averaged over the sites. This is matminer's ``CrystalNNFingerprint.from_preset("ops")``, figure by
figure, made from pymatgen alone.

Composition: 22 properties of the elements (Magpie: Ward et al., npj Comput. Mater. 2, 16028 (2016))
as minimum, maximum, range, mean, mean absolute deviation and mode, weighted by atomic fractions:
the 132 figures of matminer's ``ElementProperty.from_preset("magpie")``. The table of properties is
SMACT's copy, which fills gaps (noble gases) with the mean over the elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from matterloop.loop.elements import element_counts
from matterloop.loop.errors import LedgerError, UsageError
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.evaluation.samples import structure_key

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from matterloop.loop.evaluation.energies import Watch

N_STRUCTURE = 61
N_COMPOSITION = 132
_LARGEST_CN = 24
_STEINHARDT = ("q2", "q4", "q6")
_STEINHARDT_CNS = (9, 10, 11, 12)
"""Coordination numbers whose environments are told apart by bond-orientational order as well."""

_VERSION = 1
"""Counts up when fingerprints change, so that those on disk are not taken for the new ones."""


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprints of one crystal.

    Attributes
    ----------
    structure
        Shape (`N_STRUCTURE`,).
    composition
        Shape (`N_COMPOSITION`,).
    """

    structure: NDArray[np.float64]
    composition: NDArray[np.float64]


def fingerprints(
    structures: Sequence[Structure | None],
    records: Records,
    *,
    workers: int = 1,
    watch: Watch | None = None,
) -> list[Fingerprint | None]:
    """Return the fingerprints of many crystals; None where there is none, or no crystal.

    A site takes some 16 ms of a CPU. Structure fingerprints are kept in `records`.

    Parameters
    ----------
    workers
        Processes; with more than one the calling script needs an ``if __name__ == "__main__"``.
    """
    keys: list[str | None] = []
    waiting: dict[str, Structure] = {}
    for structure in structures:
        try:
            key = None if structure is None else _key(structure)
        except LedgerError:
            key = None
        keys.append(key)
        if key is not None and structure is not None and key not in records:
            waiting[key] = structure
    total = len({key for key in keys if key is not None})
    done = total - len(waiting)
    found = _each(list(waiting.values()), workers)
    for key, figures in zip(waiting, found, strict=True):
        records.put(key, {"fingerprint": figures})
        done += 1
        if watch:
            watch("fingerprints", done, total)
    return [
        None if key is None or structure is None else _whole(records.get(key), structure)
        for key, structure in zip(keys, structures, strict=True)
    ]


def structure_fingerprint(structure: Structure) -> NDArray[np.float64]:
    """Return the mean over sites of weighted order parameters, shape (`N_STRUCTURE`,).

    Raises
    ------
    UsageError
        If CrystalNN finds no neighbours or fails otherwise, as it does for absurd crystals.
    """
    try:
        with warnings.catch_warnings():
            # CrystalNN warns of every element without a known ionic radius.
            warnings.simplefilter("ignore")
            sites = [_site_fingerprint(structure, index) for index in range(len(structure))]
    except Exception as error:
        raise UsageError(
            f"CrystalNN finds no environments in {structure.composition.reduced_formula}:"
            f" {type(error).__name__}: {error}."
        ) from error
    mean: NDArray[np.float64] = np.array(sites).mean(axis=0)
    if not np.isfinite(mean).all():
        raise UsageError(f"{structure.composition.reduced_formula} has no finite fingerprint.")
    return mean


def composition_fingerprint(counts: Mapping[str, int]) -> NDArray[np.float64]:
    """Return the Magpie statistics of a composition, shape (`N_COMPOSITION`,).

    Parameters
    ----------
    counts
        Element symbol to number of atoms.

    Raises
    ------
    UsageError
        If an element is beyond the table (heavier than berkelium).
    """
    table = _element_table()
    if beyond := sorted(set(counts) - set(table)):
        raise UsageError(f"The table of Magpie's properties lacks {', '.join(beyond)}.")
    values = np.array([table[element] for element in counts])
    amounts = np.array([counts[element] for element in counts], dtype=np.float64)
    fractions = amounts / amounts.sum()
    mean = fractions @ values
    lowest, highest = values.min(axis=0), values.max(axis=0)
    columns = (
        lowest,
        highest,
        highest - lowest,
        mean,
        fractions @ np.abs(values - mean),
        values[fractions == fractions.max()].min(axis=0),
    )
    return np.stack(columns, axis=1).ravel()


def _key(structure: Structure) -> str:
    return record_key("fingerprint", _VERSION, structure_key(structure))


def _each(structures: list[Structure], workers: int) -> Iterator[list[float] | None]:
    if workers < 2 or len(structures) < 2:
        yield from map(_figures, structures)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not forked: a process with torch's threads in it must not be.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_figures, structures, chunksize=8)


def _figures(structure: Structure) -> list[float] | None:
    try:
        return [round(float(x), 10) for x in structure_fingerprint(structure)]
    except UsageError:
        return None


def _whole(row: dict[str, Any] | None, structure: Structure) -> Fingerprint | None:
    if row is None or row["fingerprint"] is None:
        return None
    try:
        composition = composition_fingerprint(element_counts(structure))
    except UsageError:
        return None
    return Fingerprint(np.array(row["fingerprint"]), composition)


def _site_fingerprint(structure: Structure, index: int) -> list[float]:
    """Weighted order parameters of one site, shape (`N_STRUCTURE`,)."""
    finder, motifs = _finder(), _motifs()
    environment = finder.get_nn_data(structure, index)
    figures: list[float] = []
    for cn in range(1, _LARGEST_CN + 1):
        weight = float(environment.cn_weights.get(cn, 0))
        figures.append(weight)
        if not weight:
            figures += [0.0] * len(motifs.get(cn, ()))
            continue
        sites = [structure[index], *(near["site"] for near in environment.cn_nninfo[cn])]
        neighbours = list(range(1, len(sites)))
        for motif in motifs.get(cn, ()):
            order = motif.get_order_parameters(sites, 0, indices_neighs=neighbours)[0]
            figures.append(weight * float(order or 0.0))  # None where it is not defined
    return figures


@lru_cache(maxsize=1)
def _finder() -> Any:
    from pymatgen.analysis.local_env import CrystalNN

    return CrystalNN()


@lru_cache(maxsize=1)
def _motifs() -> dict[int, list[Any]]:
    """Order parameters of every coordination number that has motifs, in matminer's order."""
    from pymatgen.analysis.local_env import CN_OPT_PARAMS, LocalStructOrderParams

    motifs = {1: [LocalStructOrderParams(["sgl_bd"])]}
    for cn, named in CN_OPT_PARAMS.items():
        motifs[cn] = [
            LocalStructOrderParams([kind], parameters=[parameters[0] if parameters else None])
            for kind, *parameters in named.values()
        ]
    for cn in _STEINHARDT_CNS:
        steinhardt = [LocalStructOrderParams([kind]) for kind in _STEINHARDT]
        motifs[cn] = motifs.get(cn, []) + steinhardt
    return motifs


@lru_cache(maxsize=1)
def _element_table() -> dict[str, NDArray[np.float64]]:
    """Element symbol to the 22 properties, in Magpie's order."""
    import csv
    from importlib.resources import files

    with (files("smact") / "data" / "magpie.csv").open(encoding="utf-8") as stream:
        rows = csv.reader(stream)
        next(rows)
        return {row[0]: np.array([float(value) for value in row[1:]]) for row in rows}

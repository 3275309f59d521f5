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
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

N_STRUCTURE = 61
N_COMPOSITION = 132
_LARGEST_CN = 24
_STEINHARDT = ("q2", "q4", "q6")
_STEINHARDT_CNS = (9, 10, 11, 12)
"""Coordination numbers whose environments are told apart by bond-orientational order as well."""


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

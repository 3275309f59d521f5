"""Melting points of what a solid-state synthesis starts from.

Compounds: values as handbooks give them (CRC Handbook of Chemistry and Physics, "Physical Constants
of Inorganic Compounds"), in whole kelvin; handbooks differ by up to a few per cent. Elements:
pymatgen. Where a compound sublimes or decomposes first, that temperature stands in, since the
solid is not there above it.
"""

from __future__ import annotations

import warnings
from functools import cache

from pymatgen.core import Composition

MELTING_POINT_K: dict[str, float] = {
    "Li2S": 1645.0, "Na2S": 1445.0, "K2S": 1221.0, "MgS": 2499.0, "CaS": 2797.0, "Al2S3": 1373.0,
    "SiS2": 1363.0, "GeS2": 1113.0, "P2S5": 558.0, "ZnS": 2100.0, "SnS2": 873.0, "Sb2S3": 823.0,
    "LiF": 1121.0, "LiCl": 883.0, "LiBr": 823.0, "LiI": 742.0, "NaF": 1269.0, "NaCl": 1074.0,
    "NaBr": 1020.0, "NaI": 934.0, "KF": 1131.0, "KCl": 1044.0, "MgCl2": 987.0, "MgF2": 1536.0,
    "CaCl2": 1048.0, "CaF2": 1691.0, "AlCl3": 466.0, "AlF3": 1549.0, "ZnCl2": 563.0,
    "YCl3": 994.0, "InCl3": 856.0, "ZrCl4": 604.0, "Li2O": 1711.0, "Na2O": 1407.0, "MgO": 3098.0,
    "CaO": 3172.0, "SrO": 2804.0, "BaO": 2246.0, "Al2O3": 2327.0, "SiO2": 1983.0, "GeO2": 1389.0,
    "P2O5": 835.0, "TiO2": 2116.0, "ZrO2": 2983.0, "V2O5": 954.0, "Nb2O5": 1785.0, "MoO3": 1075.0,
    "WO3": 1745.0, "Cr2O3": 2705.0, "MnO": 2115.0, "Fe2O3": 1812.0, "CoO": 2103.0, "NiO": 2230.0,
    "CuO": 1500.0, "ZnO": 2247.0, "Ga2O3": 2080.0, "In2O3": 2185.0, "SnO2": 1903.0, "Y2O3": 2712.0,
    "La2O3": 2577.0, "B2O3": 723.0, "Bi2O3": 1098.0, "Li3N": 1086.0, "AlN": 3273.0, "BN": 3239.0,
}  # fmt: skip
"""Melting point of the compounds that a laboratory keeps on the shelf, K."""


def melting_point_K(composition: Composition) -> float | None:  # noqa: N802  # K: kelvin
    """Return the melting point of an element or a tabulated compound in kelvin, None elsewhere."""
    if len(composition) == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns where it has no figure
            point = composition.elements[0].melting_point
        return None if point is None else float(point)
    return _by_formula().get(composition.reduced_formula)


@cache
def _by_formula() -> dict[str, float]:
    return {Composition(name).reduced_formula: value for name, value in MELTING_POINT_K.items()}

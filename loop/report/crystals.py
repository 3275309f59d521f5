"""Crystals to look at and to take away: a small 3D figure and a CIF file inside a link."""

from __future__ import annotations

import base64
import warnings
from functools import cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matterloop.loop.report.charts import GREY, layout
from matterloop.loop.structure_files.formats import cif_text

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pymatgen.core import Structure

MAX_ATOMS_CONVENTIONAL = 64
"""Above it the stored cell is drawn instead of the conventional one."""
MAX_ATOMS_DRAWN = 120
BOND_TOLERANCE_A = 0.35
"""Bonds are drawn up to the sum of covalent radii plus this much."""
FINE_SPHERES = 45
"""Up to so many drawn atoms a sphere has 162 corners, beyond it 42."""
_BALL = 0.38
"""Drawn radius over atomic radius: a ball-and-stick picture."""


def crystal_figure(structure: Structure) -> go.Figure | None:
    """Draw a crystal; None for cells too large to be drawn well.

    pymatviz finds sites, their images on the cell's border, bonds and colours. It draws atoms as
    flat discs in pixels; here they become spheres in Angstrom, one mesh per element.
    """
    import plotly.graph_objects as go
    from pymatgen.analysis.local_env import CutOffDictNN
    from pymatviz import structure_3d

    if len(structure) > MAX_ATOMS_DRAWN:
        return None
    cell = _conventional(structure)
    drawn = structure_3d(
        cell,
        atom_size=1,
        show_bonds=CutOffDictNN(_bond_lengths(cell)),
        show_cell_faces=False,
        bond_kwargs={"color": "rgb(150,155,165)", "width": 4},
        subplot_title=False,
    )
    lines, atoms = _sorted(drawn.data)
    figure = go.Figure([go.Scatter3d(line) for line in lines])
    fine = sum(len(centres) for _, _, centres in atoms.values()) <= FINE_SPHERES
    for element, (colour, radius, centres) in sorted(atoms.items()):
        figure.add_trace(
            go.Mesh3d(
                **spheres(np.array(centres), _BALL * radius, 2 if fine else 1),
                color=colour,
                name=element,
                showlegend=True,
                hoverinfo="name",
                lighting={"ambient": 0.55, "diffuse": 0.7, "specular": 0.25, "roughness": 0.6},
                lightposition={"x": 2000, "y": 1000, "z": 4000},
            )
        )
    hidden = {"visible": False}
    figure.update_layout(
        layout(
            height=300,
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            legend={"x": 0.5, "xanchor": "center", "y": 0, "orientation": "h"},
            scene={
                "xaxis": hidden,
                "yaxis": hidden,
                "zaxis": hidden,
                "aspectmode": "data",
                "camera": {
                    "eye": {"x": 1.65, "y": 0.95, "z": 0.6},
                    "center": {"x": 0, "y": 0, "z": -0.05},
                },
            },
        )
    )
    return figure


def cif_uri(structure: Structure) -> str:
    """Return the CIF as a ``data:`` address, so that a link can offer it as a file."""
    encoded = base64.b64encode(cif_text(structure).encode()).decode()
    return f"data:chemical/x-cif;base64,{encoded}"


def spheres(
    centres: NDArray[np.float64], radius: float | NDArray[np.float64], fineness: int
) -> dict[str, NDArray[Any]]:
    """Return one mesh for all spheres: corners x, y, z (Angstrom) and triangles i, j, k.

    `centres` is (spheres, 3), `radius` one number or (spheres,), all in Angstrom; each sphere has
    12, 42, 162, ... corners for a `fineness` of 0, 1, 2, ...
    """
    corners, faces = _icosphere(fineness)
    radii = np.broadcast_to(radius, len(centres))[:, None, None]
    points = (centres[:, None, :] + radii * corners[None, :, :]).reshape(-1, 3)
    shifts = np.arange(len(centres)) * len(corners)
    triangles = (faces[None, :, :] + shifts[:, None, None]).reshape(-1, 3)
    mesh: dict[str, NDArray[Any]] = dict(zip("xyz", points.T.astype(np.float32), strict=True))
    mesh.update(zip("ijk", triangles.T.astype(np.uint16), strict=True))
    return mesh


def _conventional(structure: Structure) -> Structure:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    with warnings.catch_warnings():
        # spglib announces future error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            cell = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
        except SymmetryUndeterminedError:
            return structure
    return cell if len(cell) <= MAX_ATOMS_CONVENTIONAL else structure


def _bond_lengths(cell: Structure) -> dict[tuple[str, str], float]:
    """Longest bond by pair of elements; none between metals of a crystal with nonmetals."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius

    elements = sorted(cell.composition.elements)
    salt = any(not element.is_metal for element in elements)
    return {
        (one.symbol, other.symbol): CovalentRadius.radius[one.symbol]
        + CovalentRadius.radius[other.symbol]
        + BOND_TOLERANCE_A
        for one, other in combinations_with_replacement(elements, 2)
        if not (salt and one.is_metal and other.is_metal)
    }


def _sorted(
    traces: Any,
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, float, list[tuple[float, ...]]]]]:
    """Join pymatviz's line traces by look, and collect colour, radius (A) and centres of atoms."""
    lines: dict[tuple[str, float], dict[str, list[float | None]]] = {}
    atoms: dict[str, tuple[str, float, list[tuple[float, ...]]]] = {}
    for trace in traces:
        if trace.type != "scatter3d":
            continue
        if trace.mode == "lines":
            look = str(trace.line.color), float(trace.line.width or 2)
            points = lines.setdefault(look, {"x": [], "y": [], "z": []})
            for axis, values in points.items():
                values.extend([*(round(float(x), 3) for x in trace[axis]), None])
        elif trace.marker.color is not None and not str(trace.name).startswith("node"):
            element = str(trace.name).removeprefix("Image of ")
            colour, radius = str(trace.marker.color), float(trace.marker.size)
            atoms.setdefault(element, (colour, radius, []))[2].extend(
                zip(trace.x, trace.y, trace.z, strict=True)
            )
    joined = [
        {
            "mode": "lines",
            "line": {"color": GREY if colour in ("black", "#000000") else colour, "width": width},
            "hoverinfo": "skip",
            "showlegend": False,
            **points,
        }
        for (colour, width), points in lines.items()
    ]
    return joined, atoms


@cache
def _icosphere(fineness: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Split an icosahedron's triangles in four, `fineness` times: a unit sphere."""
    from scipy.spatial import ConvexHull

    golden = (1 + 5**0.5) / 2
    base = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(corner, turn) for corner in base for turn in range(3)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for _ in range(fineness):
        faces = ConvexHull(points).simplices
        edges = np.unique(
            np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0
        )
        middles = points[edges].sum(axis=1)
        points = np.vstack([points, middles / np.linalg.norm(middles, axis=1, keepdims=True)])
    faces = ConvexHull(points).simplices
    # ConvexHull does not orient its triangles; light needs them all to look outwards.
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    inwards = np.einsum("ij,ij->i", np.cross(b - a, c - a), a + b + c) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return points, faces.astype(np.int64)

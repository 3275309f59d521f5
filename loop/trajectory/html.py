"""A trajectory as one HTML file with a slider; it opens offline and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import new_id
from matterloop.loop.report.crystals import spheres
from matterloop.loop.report.wording import formula_html
from matterloop.loop.trajectory.raster import Array, Camera
from matterloop.loop.trajectory.scene import (
    AZIMUTH_DEG,
    ELEVATION_DEG,
    Scene,
    colour,
    scenes,
    thinned,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

FRAME_MS = 70
_DIGITS = 3
_FINE_SPHERES = 24
"""Up to so many spheres each has 162 corners, beyond it 42: the file stays below 10 MB."""

_PLAY = {
    "mode": "immediate",
    "fromcurrent": True,
    "frame": {"duration": FRAME_MS, "redraw": True},
    "transition": {"duration": 0},
}

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { margin: 0; background: #0d1117; color: #e6edf3; font: 16px/1.4 system-ui, sans-serif; }
  main { max-width: 860px; margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.4rem; font-weight: 500; margin: 0; }
  p { color: #8b949e; margin: .2rem 0 0; }
  #crystal { height: min(80vh, 720px); }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>$formula</h1>
<p>$caption</p>
<div id="crystal"></div>
</main>
<script>
  const figure = $figure;
  Plotly.newPlot("crystal", figure.data, figure.layout, {displaylogo: false, responsive: true})
    .then(() => Plotly.addFrames("crystal", figure.frames))
    .then(() => Plotly.animate("crystal", null, $play))
    .catch(() => {});  // a reader who takes the slider stops the animation
</script>
</body>
</html>
""")


def write_html(frames: Sequence[tuple[float, Structure]], path: Path) -> Path:
    """Draw a crystal appearing, to be turned with the mouse and moved with a slider.

    Parameters
    ----------
    frames
        As for `write_gif`.

    Raises
    ------
    UsageError
        If the frames do not fit together, or the file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    chosen = thinned(frames)
    film = scenes(chosen)
    composition = chosen[-1][1].composition
    page = _PAGE.substitute(
        title=f"{escape(composition.reduced_formula)} from noise",
        formula=formula_html(composition.reduced_formula),
        caption=f"From noise to crystal in {len(frames) - 1} steps; "
        f"{len(chosen[-1][1])} atoms in the generated cell",
        plotly=get_plotlyjs(),
        play=json.dumps(_PLAY),
        figure=_script_safe(trajectory_figure(film)),
    )
    part = path.with_name(f".{path.name}.{new_id()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def trajectory_figure(film: Sequence[Scene]) -> dict[str, Any]:
    """Return the animation as plotly's JSON: data, layout, frames."""
    symbols = list(dict.fromkeys(symbol for scene in film for symbol in scene.elements))
    # A mesh keeps its triangles over all frames, so each element has as many spheres in all.
    most = {symbol: max(scene.elements.count(symbol) for scene in film) for symbol in symbols}
    fineness = 2 if sum(most.values()) <= _FINE_SPHERES else 1
    frames = [
        {
            "name": f"{scene.time:.3f}",
            "data": [
                _lines(scene.edges),
                _lines(scene.bonds[scene.bond_weights > 0.5]),
                *(_corners(scene, symbol, most[symbol], fineness) for symbol in symbols),
            ],
        }
        for scene in film
    ]
    first = frames[0]["data"]
    assert isinstance(first, list)
    line = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
    data: list[dict[str, Any]] = [
        {**line, **first[0], "line": {"color": "#8b949e", "width": 2}},
        {**line, **first[1], "line": {"color": "#c9d1d9", "width": 5}},
        *(
            {**_mesh(symbol, most[symbol], fineness), **place}
            for symbol, place in zip(symbols, first[2:], strict=True)
        ),
    ]
    return {
        "data": data,
        "layout": _layout(film, [str(f["name"]) for f in frames]),
        "frames": frames,
    }


def _lines(segments: Array) -> dict[str, Any]:
    points: dict[str, Any] = {
        axis: [
            value
            for one, other in segments[:, :, place]
            for value in (round(float(one), _DIGITS), round(float(other), _DIGITS), None)
        ]
        for place, axis in enumerate("xyz")
    }
    return {"type": "scatter3d", **points}


def _corners(scene: Scene, symbol: str, count: int, fineness: int) -> dict[str, Any]:
    mine = [i for i, element in enumerate(scene.elements) if element == symbol]
    centres, radii = np.zeros((count, 3)), np.zeros(count)
    centres[: len(mine)], radii[: len(mine)] = scene.centres[mine], scene.radii[mine]
    mesh = spheres(centres, radii, fineness)
    places: dict[str, Any] = {a: [round(float(v), _DIGITS) for v in mesh[a]] for a in "xyz"}
    return {"type": "mesh3d", **places}


def _mesh(symbol: str, count: int, fineness: int) -> dict[str, Any]:
    triangles = spheres(np.zeros((count, 3)), 1.0, fineness)
    red, green, blue = (round(255 * float(part)) for part in colour(symbol))
    return {
        "name": symbol,
        "color": f"rgb({red},{green},{blue})",
        "showlegend": True,
        "hoverinfo": "name",
        "lighting": {"ambient": 0.5, "diffuse": 0.75, "specular": 0.3, "roughness": 0.5},
        "lightposition": {"x": -2000, "y": -4000, "z": 5000},
        **{corner: [int(index) for index in triangles[corner]] for corner in "ijk"},
    }


def _layout(film: Sequence[Scene], names: Sequence[str]) -> dict[str, Any]:
    reach = max(scene.reach for scene in film)
    axis = {"visible": False, "range": [-reach, reach], "autorange": False}
    x, y, z = (float(part) for part in 1.15 * Camera(AZIMUTH_DEG, ELEVATION_DEG, 1.0).axes[2])
    jump = {**_PLAY, "frame": {"duration": 0, "redraw": True}}
    return {
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#e6edf3", "size": 14},
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "uirevision": "kept",
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1},
        "scene": {
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
            "aspectmode": "cube",
            "dragmode": "orbit",
            "camera": {"eye": {"x": x, "y": y, "z": z}},
        },
        "sliders": [
            {
                "active": 0,
                "x": 0.16,
                "len": 0.82,
                "pad": {"t": 8, "b": 16},
                "currentvalue": {
                    "prefix": "time ",
                    "xanchor": "right",
                    "font": {"color": "#8b949e"},
                },
                "ticklen": 0,
                "font": {"color": "rgba(0,0,0,0)"},
                "steps": [
                    {"label": name, "method": "animate", "args": [[name], jump]} for name in names
                ],
            }
        ],
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "left",
                "x": 0.0,
                "y": 0.0,
                "xanchor": "left",
                "yanchor": "top",
                "pad": {"t": 24, "l": 4},
                "showactive": False,
                "font": {"color": "#0d1117"},
                "bgcolor": "#c9d1d9",
                "buttons": [
                    {"label": "Play", "method": "animate", "args": [None, _PLAY]},
                    {"label": "Pause", "method": "animate", "args": [[None], jump]},
                ],
            }
        ],
    }


def _script_safe(figure: dict[str, Any]) -> str:
    """Write JSON in which no text can close the script element."""
    text = json.dumps(figure, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text

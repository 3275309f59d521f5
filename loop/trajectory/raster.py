"""Painting spheres and rods: a small renderer with a depth buffer, for pictures without a GPU.

Balls and rods are painted pixel by pixel from their equations, so that they meet exactly and have
no facets. Contact shadows come from the depth buffer: what lies deeper than its surroundings is
darkened (Luft, Colditz and Deussen, ACM Trans. Graph. 25, 1206 (2006)).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FAR = -1e6
OVERSAMPLING = 2
"""Pixels painted per pixel of the picture, in each direction."""
_SHADOW_A = 0.32
"""How far shadows reach."""
_COARSE = 4
"""Shadows are soft: they are computed on every fourth pixel."""
_LIGHT = np.array([-0.42, 0.55, 0.72]) / np.linalg.norm([-0.42, 0.55, 0.72])
_HALF = np.add(_LIGHT, [0, 0, 1]) / np.linalg.norm(np.add(_LIGHT, [0, 0, 1]))


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    Attributes
    ----------
    azimuth_deg, elevation_deg
        Direction towards the eye: around z from x, and above the plane of x and y.
    distance
        Of the eye from the origin, Angstrom.
    """

    azimuth_deg: float
    elevation_deg: float
    distance: float

    @property
    def axes(self) -> Array:
        """(3, 3) rows: right, up, towards the eye."""
        azimuth, elevation = np.radians([self.azimuth_deg, self.elevation_deg])
        eye = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        return np.array([right, np.cross(eye, right), eye])


class Painter:
    """A square picture being painted.

    Parameters
    ----------
    pixels
        Width and height; a multiple of 4.
    reach
        Angstrom from the centre to the nearest border, at the distance of the origin.
    centre
        (2,) Angstrom to the right and up: what stands in the middle of the picture.
    camera
        See `Camera`.
    background
        Red, green, blue, 0 to 1.
    """

    def __init__(
        self, pixels: int, reach: float, centre: Array, camera: Camera, background: Array
    ) -> None:
        self._pixels = OVERSAMPLING * pixels
        self._scale = self._pixels / 2 / reach
        self._axes, self._centre = camera.axes, centre
        self._camera, self._background, self._reach = camera, background, reach
        self._depth = np.full((self._pixels, self._pixels), _FAR, dtype=np.float32)
        self._colour = np.empty((self._pixels, self._pixels, 3), dtype=np.float32)
        self._colour[:] = background

    def sphere(self, centre: Array, radius: float, colour: Array) -> None:
        """Paint a ball; lengths in Angstrom."""
        (x, y), z, scale = self._project(centre)
        r = radius * scale
        window = self._window(x - r, x + r, y - r, y + r)
        if window is None:
            return
        rows, columns, px, py = window
        nx, ny = (px - x) / r, (py - y) / r
        flat = nx * nx + ny * ny
        nz = np.sqrt(np.clip(1 - flat, 0, None))
        self._paint(rows, columns, flat <= 1, z + radius * nz, (nx, ny, nz), colour)

    def rod(self, start: Array, end: Array, radius: float, colour: Array, lit: bool = True) -> None:
        """Paint a rod; unlit ones have their colour throughout."""
        (x0, y0), _, _ = self._project(start)
        (x1, y1), _, _ = self._project(end)
        # The window around a slanting rod is mostly empty: paint it piece by piece.
        pieces = max(1, int(np.hypot(x1 - x0, y1 - y0) / 48))
        points = [start + (end - start) * i / pieces for i in range(pieces + 1)]
        for left, right in pairwise(points):
            self._piece(left, right, radius, colour, lit)

    def _piece(self, start: Array, end: Array, radius: float, colour: Array, lit: bool) -> None:
        (x0, y0), z0, s0 = self._project(start)
        (x1, y1), z1, s1 = self._project(end)
        r = radius * (s0 + s1) / 2
        window = self._window(min(x0, x1) - r, max(x0, x1) + r, min(y0, y1) - r, max(y0, y1) + r)
        if window is None:
            return
        rows, columns, px, py = window
        length = float(np.hypot(x1 - x0, y1 - y0)) or 1e-9
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        along = (px - x0) * ux + (py - y0) * uy
        side = ((px - x0) * -uy + (py - y0) * ux) / r
        nz = np.sqrt(np.clip(1 - side * side, 0, None))
        part = np.clip(along / length, 0, 1)
        inside = (np.abs(side) <= 1) & (along >= -0.5) & (along <= length + 0.5)
        depth = z0 + part * (z1 - z0) + radius * nz
        normal = (-uy * side, ux * side, nz) if lit else None
        self._paint(rows, columns, inside, depth, normal, colour)

    def finish(self) -> NDArray[np.uint8]:
        """Return the picture, (pixels, pixels, 3), with shadows and haze."""
        from scipy.ndimage import gaussian_filter, zoom

        k, n = OVERSAMPLING, self._pixels // OVERSAMPLING
        offsets = [(i, j) for i in range(k) for j in range(k)]
        colour = sum((self._colour[i::k, j::k] for i, j in offsets), np.float32(0)) / k**2
        depth = self._depth[::k, ::k]
        painted = depth > _FAR / 2
        depth = np.where(painted, depth, np.float32(-1.2 * self._reach))
        sigma = _SHADOW_A * self._scale / k / _COARSE
        coarse = gaussian_filter(depth[::_COARSE, ::_COARSE], sigma)
        hollow = zoom(coarse, _COARSE, order=1)[:n, :n] - depth
        shade = 1 - 0.55 * np.clip(hollow / (0.8 * self._reach), 0, 0.6) * painted
        haze = np.clip(0.22 - 0.3 * depth / self._reach, 0, 0.42) * painted
        colour *= (shade * (1 - haze))[..., None]
        colour += haze[..., None] * self._background
        return np.asarray(np.clip(colour, 0, 1) * 255 + 0.5, dtype=np.uint8)

    def _project(self, point: Array) -> tuple[tuple[float, float], float, float]:
        right, up, towards = self._axes @ point
        nearer = self._camera.distance / (self._camera.distance - towards)
        x = self._pixels / 2 + (right * nearer - self._centre[0]) * self._scale
        y = self._pixels / 2 - (up * nearer - self._centre[1]) * self._scale
        return (float(x), float(y)), float(towards), float(self._scale * nearer)

    def _window(
        self, left: float, right: float, top: float, bottom: float
    ) -> tuple[slice, slice, Array, Array] | None:
        columns = slice(max(0, int(left)), min(self._pixels, int(right) + 2))
        rows = slice(max(0, int(top)), min(self._pixels, int(bottom) + 2))
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return None
        px: Array = np.arange(columns.start, columns.stop, dtype=np.float64)[None, :] + 0.5
        py: Array = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] + 0.5
        return rows, columns, px, py

    def _paint(
        self,
        rows: slice,
        columns: slice,
        inside: NDArray[np.bool_],
        depth: Array,
        normal: tuple[Array, Array, Array] | None,
        colour: Array,
    ) -> None:
        seen = inside & (depth > self._depth[rows, columns])
        if not seen.any():
            return
        self._depth[rows, columns][seen] = depth[seen]
        if normal is None:
            self._colour[rows, columns][seen] = colour
            return
        nx, ny, nz = (np.broadcast_to(part, seen.shape)[seen] for part in normal)
        ny = -ny  # rows count downwards
        light = nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2]
        shine = np.clip(nx * _HALF[0] + ny * _HALF[1] + nz * _HALF[2], 0, 1) ** 40
        bright = (0.34 + 0.78 * np.clip(0.8 * light + 0.2, 0, 1)) * (0.72 + 0.28 * nz)
        self._colour[rows, columns][seen] = bright[:, None] * colour + 0.42 * shine[:, None]

"""A trajectory as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import new_id
from matterloop.loop.trajectory.raster import Array, Camera, Painter
from matterloop.loop.trajectory.scene import (
    AZIMUTH_DEG,
    ELEVATION_DEG,
    Scene,
    colour,
    scenes,
    thinned,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from pymatgen.core import Structure

FRAME_MS, FIRST_MS, LAST_MS = 60, 400, 2600
_BACKGROUND = np.array([13, 17, 23]) / 255
_INK, _FAINT = (230, 237, 243), (125, 135, 150)
_EDGE = np.array([0.55, 0.60, 0.68])
_ROD = np.array([0.78, 0.80, 0.84])
_EDGE_A, _ROD_A = 0.022, 0.085
_MARGIN = 1.06


def write_gif(frames: Sequence[tuple[float, Structure]], path: Path, *, pixels: int = 440) -> Path:
    """Draw a crystal appearing, from a fixed place at a fixed scale.

    Parameters
    ----------
    frames
        (time, crystal), ascending in time from 0 to 1, the same sites in all; see `thinned`.
    pixels
        Width of the picture; it is a little higher.

    Raises
    ------
    UsageError
        If the frames do not fit together, or the file cannot be written.
    """
    chosen = thinned(frames)
    film = scenes(chosen)
    camera = Camera(AZIMUTH_DEG, ELEVATION_DEG, 6 * max(scene.reach for scene in film))
    view = View.of(film, camera, pixels)
    pictures = [_picture(scene, chosen[-1][1], view) for scene in film]
    durations = [FRAME_MS] * len(pictures)
    durations[0], durations[-1] = FIRST_MS, LAST_MS
    from PIL import Image

    palette = _palette(pictures)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    part = path.with_name(f".{path.name}.{new_id()}.part")
    try:
        indexed[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=durations,
            loop=0,
            optimize=False,
        )
        part.replace(path)
    except OSError as error:
        raise UsageError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class View:
    """The part of the world that all frames show; lengths in Angstrom.

    Attributes
    ----------
    camera
        Where it is seen from.
    reach, centre
        See `Painter`.
    pixels
        Width and height of the picture.
    """

    camera: Camera
    reach: float
    centre: Array
    pixels: int

    @classmethod
    def of(cls, film: Sequence[Scene], camera: Camera, pixels: int) -> Self:
        """Choose the smallest part that holds every frame."""
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for scene in film:
            corners = scene.edges.reshape(-1, 3)
            points = np.vstack([scene.centres, corners]) @ camera.axes.T
            nearer = camera.distance / (camera.distance - points[:, 2:])
            radii = np.concatenate([scene.radii, np.zeros(len(corners))])[:, None] * nearer
            places = points[:, :2] * nearer
            low = np.minimum(low, (places - radii).min(axis=0))
            high = np.maximum(high, (places + radii).max(axis=0))
        return cls(camera, _MARGIN * float((high - low).max()) / 2, (low + high) / 2, pixels)


def _picture(scene: Scene, final: Structure, view: View) -> Image:
    from PIL import Image

    pixels = view.pixels
    painter = Painter(pixels, view.reach, view.centre, view.camera, _BACKGROUND)
    for start, end in scene.edges:
        painter.rod(start, end, _EDGE_A, _EDGE, lit=False)
    for (start, end), weight in zip(scene.bonds, scene.bond_weights, strict=True):
        painter.rod(start, end, _ROD_A * weight, _ROD)
    for symbol, centre, radius in zip(scene.elements, scene.centres, scene.radii, strict=True):
        painter.sphere(centre, radius, colour(symbol))
    crystal = Image.fromarray(painter.finish())
    footer = pixels // 8
    background = tuple(round(255 * c) for c in _BACKGROUND)
    picture = Image.new("RGB", (pixels, pixels + footer), background)
    picture.paste(crystal, (0, 0))
    _caption(picture, scene, final, pixels, footer)
    return picture


def _caption(picture: Image, scene: Scene, final: Structure, pixels: int, footer: int) -> None:
    """Write the formula, the elements with their colours, and how far time has come."""
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(picture)
    large, small = footer * 0.46, footer * 0.30
    left, right, base = footer * 0.5, pixels - footer * 0.5, pixels + footer * 0.38
    x = left
    for character in final.composition.reduced_formula:
        digit = character.isdigit()
        font = ImageFont.load_default(small if digit else large)
        drop = large * 0.2 if digit else 0
        draw.text((x, base + drop), character, font=font, fill=_INK, anchor="ls")
        x += font.getlength(character) + 0.5
    font = ImageFont.load_default(small)
    x = right
    for element in sorted(final.composition.elements, reverse=True):
        x -= font.getlength(element.symbol)
        draw.text((x, base), element.symbol, font=font, fill=_INK, anchor="ls")
        dot = small * 0.36
        x -= 2.9 * dot
        middle = base - small * 0.36
        rgb = tuple(int(255 * c) for c in colour(element.symbol))
        draw.ellipse((x, middle - dot, x + 2 * dot, middle + dot), fill=rgb)
        x -= small * 0.6
    line = base + footer * 0.32
    done = left + (right - left) * min(max(scene.time, 0.0), 1.0)
    thick = max(1, round(footer / 28))
    draw.rectangle((left, line, right, line + thick), fill=tuple(c // 3 for c in _FAINT))
    draw.rectangle((left, line, done, line + thick), fill=_INK)


def _palette(pictures: Sequence[Image]) -> Image:
    """Choose 256 colours for all frames, so that nothing flickers."""
    from PIL import Image

    some = thinned(pictures, 5)
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for row, picture in enumerate(some):
        sheet.paste(picture, (0, row * height))
    return sheet.quantize(colors=256, method=Image.Quantize.MEDIANCUT)

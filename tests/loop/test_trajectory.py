"""Pictures of a crystal appearing: what is drawn where, and that the files open."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pymatgen.core import Lattice, Structure

from matterloop.loop.errors import UsageError
from matterloop.loop.trajectory import write_gif, write_html
from matterloop.loop.trajectory.html import trajectory_figure
from matterloop.loop.trajectory.raster import Camera, Painter
from matterloop.loop.trajectory.scene import scenes, thinned

PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ba", "Ti", "O", "O", "O"],
    # Away from the origin on purpose: pictures put the largest atom at the corner.
    np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) + 0.3,
)
SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()


def appearing(crystal: Structure, n: int) -> list[tuple[float, Structure]]:
    """Straight from random places and another cell to the crystal."""
    rng = np.random.default_rng(0)
    way = rng.random((len(crystal), 3)) - crystal.frac_coords
    way -= np.rint(way)
    frames = []
    for time in np.linspace(0, 1, n):
        cell = crystal.lattice.matrix + 0.4 * (1 - time) * rng.random((3, 3))
        places = crystal.frac_coords + (1 - time) * way
        frames.append((float(time), Structure(Lattice(cell), crystal.species, places % 1)))
    return frames


def bonds_of(scene) -> np.ndarray:
    return np.linalg.norm(scene.bonds[:, 0] - scene.bonds[:, 1], axis=1)


def test_a_perovskite_is_drawn_as_in_textbooks():
    scene = scenes([(1.0, PEROVSKITE)])[0]
    counts = {symbol: scene.elements.count(symbol) for symbol in ("Ba", "Ti", "O")}
    assert counts == {"Ba": 8, "Ti": 1, "O": 6}
    barium = scene.centres[np.array(scene.elements) == "Ba"]
    assert np.abs(barium) == pytest.approx(np.full((8, 3), 2.0))
    titanium = scene.centres[scene.elements.index("Ti")]
    assert titanium == pytest.approx(np.zeros(3), abs=1e-9)
    # Six bonds to the titanium; those to the barium would hide the picture.
    assert bonds_of(scene) == pytest.approx([2.0] * 6)
    assert scene.bond_weights == pytest.approx([1.0] * 6)
    assert np.linalg.norm(scene.edges[:, 0] - scene.edges[:, 1], axis=1) == pytest.approx(
        [4.0] * 12
    )


def test_primitive_cells_are_drawn_as_conventional_ones():
    scene = scenes([(1.0, SALT)])[0]
    assert (scene.elements.count("Na"), scene.elements.count("Cl")) == (14, 13)
    edges = scene.edges[:, 1] - scene.edges[:, 0]
    assert np.linalg.norm(edges, axis=1) == pytest.approx([5.69] * 12)
    assert bonds_of(scene) == pytest.approx([5.69 / 2] * 54)


def test_frames_share_the_corner_and_the_turn_of_the_cell():
    film = scenes(appearing(SALT, 5))
    for scene in film:
        a = scene.edges[:, 1] - scene.edges[:, 0]
        assert np.abs(scene.edges.reshape(-1, 3).mean(axis=0)).max() < 1e-9
        along_x = (np.abs(a[:, 1]) < 1e-9) & (np.abs(a[:, 2]) < 1e-9)
        assert along_x.sum() == 4
    assert [scene.time for scene in film] == [0, 0.25, 0.5, 0.75, 1]


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.floats(-1e-3, 1e-3))
def test_an_atom_that_passes_a_face_does_not_jump(place, step):
    def drawn(x: float) -> float:
        """How much of oxygen spheres is there, Angstrom."""
        moved = PEROVSKITE.copy()
        moved.replace(4, "O", [x, 0.5, 0.8])
        scene = scenes([(0.0, moved), (1.0, PEROVSKITE)])[0]
        return float(scene.radii[np.array(scene.elements) == "O"].sum())

    # At once, a whole sphere of 0.4 Angstrom would come or go.
    assert abs(drawn(place) - drawn(place + step)) < 0.05


def test_frames_that_do_not_fit_together():
    with pytest.raises(UsageError, match="no frames"):
        scenes([])
    with pytest.raises(UsageError, match="same atoms"):
        scenes([(0.0, SALT), (1.0, PEROVSKITE)])


def test_too_many_frames_are_thinned_evenly():
    assert thinned(range(9), 5) == [0, 2, 4, 6, 8]
    assert thinned(range(3), 5) == [0, 1, 2]


def test_the_nearer_ball_hides_the_other():
    camera = Camera(0, 0, 50)
    red, blue = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])

    def middle(*depths: float) -> np.ndarray:
        painter = Painter(40, 2.0, np.zeros(2), camera, np.zeros(3))
        for depth, colour in zip(depths, (red, blue), strict=True):
            painter.sphere(np.array([depth, 0, 0]), 1.0, colour)
        return painter.finish()[20, 20].astype(int)

    assert middle(1, -1)[0] > middle(1, -1)[2] + 50
    assert middle(-1, 1)[2] > middle(-1, 1)[0] + 50


def test_a_rod_lies_between_its_ends():
    painter = Painter(80, 2.0, np.zeros(2), Camera(-90, 0, 50), np.zeros(3))
    painter.rod(np.array([-1.0, 0, 0.5]), np.array([1.0, 0, 0.5]), 0.2, np.ones(3))
    rows, columns = np.nonzero(painter.finish().sum(axis=2))
    # From -1 to 1 on the horizontal, at 0.5 above the middle, 0.2 to both sides.
    assert (columns.min(), columns.max()) == (pytest.approx(20, abs=2), pytest.approx(60, abs=2))
    assert (rows.min(), rows.max()) == (pytest.approx(26, abs=2), pytest.approx(34, abs=2))


def test_the_gif_opens_and_moves(tmp_path):
    path = write_gif(appearing(PEROVSKITE, 4), tmp_path / "a.gif", pixels=96)
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        assert gif.size == (96, 108)
        pictures, durations = [], []
        for frame in range(4):
            gif.seek(frame)
            pictures.append(np.asarray(gif.convert("RGB"), dtype=int))
            durations.append(gif.info["duration"])
    assert durations[-1] > 10 * durations[1]
    for before, after in pairwise(pictures):
        assert np.abs(before - after).max() > 60
    # Barium's green at the corners, oxygen's red around the middle.
    last = pictures[-1][:96]
    assert ((last[..., 1] > 90) & (last[..., 0] < 60)).sum() > 200
    assert ((last[..., 0] > 90) & (last[..., 1] < 60)).sum() > 50
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_frames_give_the_same_gif(tmp_path):
    frames = appearing(SALT, 2)
    one = write_gif(frames, tmp_path / "1.gif", pixels=64).read_bytes()
    assert one == write_gif(frames, tmp_path / "2.gif", pixels=64).read_bytes()


class _Loading(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]


def test_the_page_loads_nothing_and_holds_every_frame(tmp_path):
    path = write_html(appearing(PEROVSKITE, 4), tmp_path / "a.html")
    text = path.read_text()
    page = _Loading()
    page.feed(text)
    assert page.loads == []
    assert "BaTiO<sub>3</sub>" in text
    drawn = re.search(r"const figure = (\{.*\});\n", text)
    assert drawn is not None
    figure = json.loads(drawn.group(1))
    assert len(figure["frames"]) == 4
    steps = figure["layout"]["sliders"][0]["steps"]
    assert [step["args"][0][0] for step in steps] == [f["name"] for f in figure["frames"]]


def test_plotly_accepts_the_animation():
    import plotly.graph_objects as go

    figure = go.Figure(trajectory_figure(scenes(appearing(PEROVSKITE, 3))))
    assert [trace.type for trace in figure.data] == ["scatter3d"] * 2 + ["mesh3d"] * 3
    for frame in figure.frames:
        for whole, moved in zip(figure.data[2:], frame.data[2:], strict=True):
            assert max(whole.i) < len(moved.x) == len(whole.x)


def test_a_place_that_cannot_be_written(tmp_path):
    for write in (write_gif, write_html):
        with pytest.raises(UsageError, match="Cannot write"):
            write(appearing(SALT, 1), tmp_path / "missing" / "file")

"""Pictures: what is where on the page, and that the same faces give the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Layout
from meshgan.view import figures
from meshgan.view.figures import (
    comparison,
    contact_sheet,
    factor_label,
    grid,
    heat_colours,
    heat_limit,
    heat_maps,
    one_coloured,
    strip,
    worn,
)

BALL = trimesh.creation.icosphere(subdivisions=3, radius=50)
TRIANGLES = np.asarray(BALL.faces)
FACTORS = [-0.5, 0.0, 0.5, 1.0, 1.5]


def balls(count: int) -> NDArray[np.float64]:
    """Ellipsoids from slim to wide: (count, V, 3)."""
    wide = np.linspace(0.6, 1.0, count)[:, None, None]
    return BALL.vertices * np.concatenate([wide, np.ones_like(wide), wide], axis=2)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.asarray(image)


def blue_boxes(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (image == figures.ACCENT).all(axis=2)


def runs(mask: NDArray[np.bool_]) -> int:
    """How many runs of True a row of booleans has."""
    return int((np.diff(np.concatenate([[False], mask]).astype(int)) == 1).sum())


FIGURES: dict[str, Callable[[Path], None]] = {
    "sheet": lambda path: contact_sheet(balls(5), TRIANGLES, path, 3, 64, [f"face {i}" for i in range(5)]),
    "turned": lambda path: contact_sheet(balls(2), TRIANGLES, path, size=64, view="three-quarter"),
    "strip": lambda path: strip(balls(5), TRIANGLES, path, FACTORS, size=64),
    "rows": lambda path: comparison({"CoMA": balls(3), "MeshGAN": balls(3)[::-1]}, TRIANGLES, path, size=64),
    "grid": lambda path: grid(np.stack([balls(3)] * 3), TRIANGLES, path, [0, 1, 2], [0, 1, 2], size=64),
    "heat": lambda path: heat_maps(balls(2), np.abs(balls(2)[..., 0]), TRIANGLES, path, size=96),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_faces_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    for twice in ("a.png", "b.png"):
        FIGURES[name](tmp_path / twice)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    assert pixels(tmp_path / "a.png").std() > 20


def test_a_contact_sheet_shows_faces_in_reading_order(tmp_path: Path) -> None:
    contact_sheet(balls(6), TRIANGLES, tmp_path / "sheet.png", columns=3, size=64)
    image = pixels(tmp_path / "sheet.png") < 250
    rows = [image[: len(image) // 2], image[len(image) // 2 :]]
    widths = []
    for row in rows:
        drawn = row.any(axis=(0, 2))
        assert runs(drawn) == 3
        edges = np.flatnonzero(np.diff(np.concatenate([[False], drawn, [False]]).astype(int)))
        widths += list(edges[1::2] - edges[::2])
    assert widths == sorted(widths)
    assert widths[-1] > 1.5 * widths[0]


def test_captions_take_room_below_each_face(tmp_path: Path) -> None:
    contact_sheet(balls(2), TRIANGLES, tmp_path / "plain.png", size=64)
    contact_sheet(balls(2), TRIANGLES, tmp_path / "named.png", size=64, captions=["one", "two"])
    plain, named = (pixels(tmp_path / name) for name in ("plain.png", "named.png"))
    assert len(named) > len(plain)
    assert (named[len(plain) :] < 200).any()


def test_a_strip_boxes_its_anchors(tmp_path: Path) -> None:
    strip(balls(5), TRIANGLES, tmp_path / "strip.png", FACTORS, size=64)
    image = pixels(tmp_path / "strip.png")
    boxed = blue_boxes(image)
    assert runs(boxed.any(axis=0)) == 2
    left = np.flatnonzero(boxed.any(axis=0))[0] / image.shape[1]
    assert 0.2 < left < 0.4  # the second of five


def test_a_grid_boxes_the_original(tmp_path: Path) -> None:
    grid(np.stack([balls(3)] * 3), TRIANGLES, tmp_path / "grid.png", [0, 1, 2], [0, 1, 2], size=64)
    boxed = blue_boxes(pixels(tmp_path / "grid.png"))
    assert runs(boxed.any(axis=0)) == runs(boxed.any(axis=1)) == 1
    middle = np.argwhere(boxed).mean(axis=0) / boxed.shape
    assert ((middle > 0.4) & (middle < 0.65)).all()


def test_rows_of_a_comparison_share_one_scale(tmp_path: Path) -> None:
    comparison({"small": 0.8 * balls(1), "large": balls(1)}, TRIANGLES, tmp_path / "rows.png", size=128)
    image = (pixels(tmp_path / "rows.png") < 245).all(axis=2)[:, 30:]
    upper, lower = (part.any(axis=1).sum() for part in np.array_split(image, 2))
    assert upper / lower == pytest.approx(0.8, abs=0.03)


def test_heat_colours_are_monotone_in_lightness_and_clipped() -> None:
    colours = heat_colours(np.linspace(0, 2, 50), 2.0)
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()
    np.testing.assert_array_equal(heat_colours([5.0, np.inf, -1.0], 2.0), colours[[-1, -1, 0]])
    unknown = heat_colours([np.nan], 2.0)[0]
    assert np.ptp(unknown) == 0  # grey
    assert np.abs(colours - unknown).max(axis=1).min() > 0.05  # as no error is


@pytest.mark.parametrize(("largest", "limit"), [(0.0, 0.1), (0.11, 0.2), (1.0, 1.0), (1.7, 2.0), (23.0, 30.0)])
def test_the_colour_bar_ends_at_a_round_number(largest: float, limit: float) -> None:
    assert heat_limit(np.full((3, 4), largest)) == pytest.approx(limit)


def test_heat_maps_show_where_the_error_is(tmp_path: Path) -> None:
    errors = (BALL.vertices[:, 0] > 0)[None] * 2.0
    heat_maps(BALL.vertices[None], errors, TRIANGLES, tmp_path / "heat.png", limit_mm=2.0, size=128)
    tile = pixels(tmp_path / "heat.png")[:128, :128].astype(int)
    assert tile[60, 30].sum() > tile[60, 100].sum() + 200


def test_labels() -> None:
    assert factor_label("f_ID", -0.5) == "f_{ID} = −0.5"
    assert factor_label("f", 1.0) == "f = 1"


def test_text_fits_its_room_and_subscripts_are_small() -> None:
    texts = ["f_{ID} = 0.5", "a longer line of text"]
    font = figures.fitting(texts, 30, 150)
    assert max(figures.width(text, font) for text in texts) <= 155
    assert figures.fitting(["x"], 30, 150).size == 30
    assert figures.width("f_{ID}", font) < figures.width("fID", font)
    assert figures.width("file_name", font) > figures.width("filename", font)


def test_an_empty_title_hides_nothing(tmp_path: Path) -> None:
    comparison({"": balls(2)}, TRIANGLES, tmp_path / "untitled.png", ["a", "b"], size=128)
    image = (pixels(tmp_path / "untitled.png") < 250).any(axis=2)[20:]
    first, second = (np.flatnonzero(half.any(axis=1)) for half in np.array_split(image, 2, axis=1))
    assert abs(len(first) - len(second)) <= 2
    left = np.flatnonzero(image.any(axis=0))[0]
    assert image[:, left].sum() < 30  # the silhouette's end, not a cut


def test_faces_that_are_not_finite_leave_a_blank_tile(tmp_path: Path) -> None:
    faces = balls(3)
    faces[1] = np.nan
    contact_sheet(faces, TRIANGLES, tmp_path / "sheet.png", size=64)
    assert runs((pixels(tmp_path / "sheet.png") < 250).any(axis=(0, 2))) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeshganError, match=r"sheet\.png"):
        contact_sheet(balls(1), TRIANGLES, tmp_path / "file" / "sheet.png", size=32)


def test_parts_are_drawn_in_the_colours_of_their_picture() -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (255, 0, 0), (0, 0, 255)  # upper left, lower right
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    corners = np.array([[0, 1, 3]])
    layout = Layout(
        np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.9], [0.1, 0.2]]), corners, np.array([2]), (), stream.getvalue()
    )
    np.testing.assert_array_equal(worn(layout), [[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert worn(None) is None
    assert worn(replace(layout, picture=b"")) is None


def test_triangles_go_together_by_their_colours() -> None:
    colours = np.array([[1, 0, 0], [0.9, 0.05, 0], [1, 0.1, 0], [0, 0, 1], [0, 0.1, 1], [0.1, 0, 1]], np.float32)
    triangles = np.array([[3, 4, 5], [0, 1, 2], [2, 1, 0]])
    (most, red), (rest, blue) = one_coloured(triangles, colours)
    assert (most.tolist(), rest.tolist()) == ([1, 2], [0])
    np.testing.assert_allclose(red, colours[:3].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(blue, colours[3:].mean(axis=0), atol=1e-6)
    ((every, _),) = one_coloured(triangles, np.full((6, 3), 0.5, np.float32))
    assert every.tolist() == [0, 1, 2]

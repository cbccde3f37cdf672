"""Printable pictures of faces: contact sheets, strips, comparisons, grids and heat maps, as PNG.

`tiles` and `heat_tiles` draw faces; `page` sets rows of tiles with titles, boxes and a colour bar. The other
functions are the usual arrangements. The same faces give the same bytes.

Through the holes of a face in a picture one sees a dark hollow in place of the paper behind it (`with_backing`). A face
is open at its rim and, often, between the lips. The rim is the longest boundary of each connected part; every other
boundary is a hole, and a dark cone is drawn behind it. Pictures only: no mesh is changed.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from meshgan.arrays import Bytes, Faces, Integers, Singles
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Layout, connected
from meshgan.storage import atomic_file
from meshgan.view.raster import CLAY, Camera, Light, encoded, render

VIEWS = {"frontal": (0.0, 0.0), "three-quarter": (-32.0, 4.0), "profile": (-90.0, 0.0)}  # yaw and pitch in degrees
ACCENT = (38, 110, 190)  # of boxes
SUPERSAMPLE = 4
DPI = 200

# Heat maps: even light, so that the colour and not the shading is read.
EVEN = Light(CLAY.directions[:2], ((0.24,) * 3, (0.12,) * 3), (0.70,) * 3, (1.0,) * 3, CLAY.background, srgb=True)
HEAT = "magma_r"
HEAT_RANGE = (0.02, 0.80)  # of the colour map: its dark end would swallow the shading
CHANGE, CHANGE_RANGE = "RdBu_r", (0.06, 0.94)  # of what goes both ways: blue inwards, red outwards
UNKNOWN = (0.62, 0.62, 0.62)  # of an error that is not known: grey, which no error has
INK, SOFT_INK = (38, 40, 44), (110, 114, 120)
SMALLEST = 8  # pixels; below, nobody reads it
Font = ImageFont.FreeTypeFont

ALIKE = 0.12  # sRGB: colours that are no further apart can be drawn as one, where a mesh may have but one
STEPS = 24  # of each of its numbers, to begin with

DARK = (0.20, 0.15, 0.14)  # sRGB
DEPTH = 0.35  # of a hole's width: how far its cone goes back along -z


def tiles(
    faces: ArrayLike,
    triangles: ArrayLike,
    size: int = 256,
    view: str = "frontal",
    camera: Camera | None = None,
    colour: ArrayLike | None = None,
) -> Bytes:
    """Clay stills (N, size, size, 3) of faces (N, V, 3), all seen by one camera; without one, it frames the faces.

    `colour`, sRGB in [0, 1], takes the clay's place: (3,), or (V, 3) as `worn` gives it.
    """
    camera = camera or camera_for(faces, view)
    clay = np.broadcast_to(encoded(CLAY.albedo) if colour is None else colour, np.shape(faces)[-2:])
    vertices, corners, colours = with_backing(faces, triangles, clay)
    return render(vertices, corners, size, SUPERSAMPLE, camera, CLAY, colours)


def worn(layout: Layout | None) -> Singles | None:
    """The colours (V, 3), sRGB in [0, 1], that the picture of a layout gives the vertices, if it has one."""
    if layout is None or not layout.picture:
        return None
    with Image.open(BytesIO(layout.picture)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    own = layout.coordinates[: len(layout.coordinates) - len(layout.doubled)] * [1, -1] + [0, 1]
    columns, rows = (own * (np.array(pixels.shape[1::-1]) - 1)).round().astype(np.int64).T
    return pixels[rows, columns]


def one_coloured(triangles: Integers, colours: Singles) -> list[tuple[Integers, Singles]]:
    """Triangles (F, 3) of vertices with colours (V, 3) in groups of nearly one colour, largest first: for each group
    the numbers of its triangles, and its colour (3,)."""
    from scipy.cluster.hierarchy import fcluster, linkage  # a tenth of a second

    own = colours[triangles].mean(axis=1)
    shades, shade = np.unique((own * STEPS).round() / STEPS, axis=0, return_inverse=True)
    merged = fcluster(linkage(shades, "complete"), ALIKE, "distance") if len(shades) > 1 else np.ones(1, np.int64)
    group = merged[shade.ravel()]
    numbers, counts = np.unique(group, return_counts=True)
    rows = [np.flatnonzero(group == number) for number in numbers[np.argsort(-counts, kind="stable")]]
    return [(some, own[some].mean(axis=0)) for some in rows]


def heat_tiles(
    faces: ArrayLike,
    errors: ArrayLike,
    triangles: ArrayLike,
    limit_mm: float,
    size: int = 256,
    view: str = "frontal",
    camera: Camera | None = None,
    both_ways: bool = False,
) -> Bytes:
    """Stills of faces (N, V, 3) coloured by `errors` (N, V) in mm, from 0 (or `-limit_mm`) to `limit_mm` and beyond."""
    camera = camera or camera_for(faces, view)
    vertices, corners, colours = with_backing(faces, triangles, heat_colours(errors, limit_mm, both_ways))
    return render(vertices, corners, size, SUPERSAMPLE, camera, EVEN, colours)


def heat_colours(errors: ArrayLike, limit_mm: float, both_ways: bool = False) -> Singles:
    """Colours (..., 3), sRGB in [0, 1], of errors in mm; `limit_mm` and more have the darkest, NaN is grey.

    Of what goes `both_ways`, the colours run from `-limit_mm` to `limit_mm`.
    """
    from matplotlib import colormaps

    values = np.asarray(errors, dtype=np.float64)
    share = np.clip(np.nan_to_num(values / limit_mm), -1 if both_ways else 0, 1)
    (low, high), name = (CHANGE_RANGE, CHANGE) if both_ways else (HEAT_RANGE, HEAT)
    colours = colormaps[name](low + (high - low) * ((share + 1) / 2 if both_ways else share))[..., :3]
    return np.where(np.isnan(values)[..., None], UNKNOWN, colours).astype(np.float32)


def camera_for(faces: ArrayLike, view: str = "frontal") -> Camera:
    """The camera that shows faces (N, V, 3) from one of `VIEWS`."""
    yaw, pitch = VIEWS[view]
    return Camera.framing(faces, yaw=yaw, pitch=pitch)


def contact_sheet(
    faces: ArrayLike,
    triangles: ArrayLike,
    path: Path,
    columns: int = 8,
    size: int = 192,
    captions: Sequence[str] | None = None,
    view: str = "frontal",
    colour: ArrayLike | None = None,
) -> None:
    """Write faces (N, V, 3), in reading order, `columns` to a row, with a caption under each if there are any."""
    drawn = tiles(faces, triangles, size, view, colour=colour)
    starts = range(0, len(drawn), columns)
    under = [captions[start : start + columns] for start in starts] if captions else None
    page(path, [drawn[start : start + columns] for start in starts], captions=under)


def strip(
    faces: ArrayLike,
    triangles: ArrayLike,
    path: Path,
    factors: Sequence[float],
    anchors: Collection[float] = (0.0, 1.0),
    size: int = 256,
    view: str = "frontal",
    colour: ArrayLike | None = None,
) -> None:
    """Write one row of faces (N, V, 3) with their factors; the anchors, between which one interpolates, are boxed."""
    titles = [factor_label("f", f) for f in factors]
    comparison({"": faces}, triangles, path, titles, _where(factors, anchors), size, view, colour)


def comparison(
    rows: Mapping[str, ArrayLike],
    triangles: ArrayLike,
    path: Path,
    column_titles: Sequence[str] = (),
    boxed: Collection[int] = (),
    size: int = 256,
    view: str = "frontal",
    colour: ArrayLike | None = None,
) -> None:
    """Write titled rows of faces (N, V, 3) under each other, all at one scale; `boxed` columns are framed."""
    camera = camera_for(np.concatenate([np.asarray(faces) for faces in rows.values()]), view)
    drawn = [tiles(faces, triangles, size, camera=camera, colour=colour) for faces in rows.values()]
    boxes = {(row, column) for row in range(len(drawn)) for column in boxed}
    page(path, drawn, list(rows), column_titles, boxed=boxes)


def grid(
    faces: ArrayLike,
    triangles: ArrayLike,
    path: Path,
    row_factors: Sequence[float],
    column_factors: Sequence[float],
    row_name: str = "f_ID",
    column_name: str = "f_EXP",
    size: int = 192,
    view: str = "frontal",
) -> None:
    """Write faces (R, C, V, 3) over two factors; the face at (1, 1), the original, is boxed."""
    table = np.asarray(faces)
    camera = camera_for(table.reshape(-1, *table.shape[2:]), view)
    drawn = [tiles(row, triangles, size, camera=camera) for row in table]
    boxes = {(r, c) for r in _where(row_factors, (1,)) for c in _where(column_factors, (1,))}
    row_titles = [factor_label(row_name, f) for f in row_factors]
    page(path, drawn, row_titles, [factor_label(column_name, f) for f in column_factors], boxed=boxes)


def heat_maps(
    faces: ArrayLike,
    errors: ArrayLike,
    triangles: ArrayLike,
    path: Path,
    limit_mm: float | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    size: int = 256,
    view: str = "frontal",
    both_ways: bool = False,
) -> None:
    """Write faces (N, V, 3) coloured by errors (N, V) in mm, with a colour bar.

    The bar ends at `limit_mm`, else at the 98th percentile of the errors; of what goes `both_ways`, it begins at as
    much below zero. Without captions, each face has its median and largest error.
    """
    limit = limit_mm or heat_limit(np.abs(errors))
    drawn = heat_tiles(faces, errors, triangles, limit, size, view, both_ways=both_ways)
    notes = captions or [f"median {np.median(e):.2f}, max {np.max(e):.2f} mm" for e in np.asarray(errors)]
    starts = range(0, len(drawn), columns)
    under = [notes[start : start + columns] for start in starts]
    page(path, [drawn[start : start + columns] for start in starts], captions=under, bar_mm=limit, both_ways=both_ways)


def heat_limit(errors: ArrayLike) -> float:
    """The 98th percentile of errors in mm, rounded up to one significant digit (0.1 mm at least)."""
    value = max(float(np.nanpercentile(np.asarray(errors), 98)), 0.1)
    step = 10.0 ** np.floor(np.log10(value))
    return float(np.ceil(value / step - 1e-9) * step)


def band_chart(rows: Mapping[str, ArrayLike], names: Sequence[str], path: Path) -> None:
    """Write energies (B,) in mm² by band of wavelength as bars on a logarithmic scale, one colour for each row."""
    from matplotlib.figure import Figure  # half a second

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    places, width = np.arange(len(names)), 0.8 / len(rows)
    for i, (name, values) in enumerate(rows.items()):
        axes.bar(places + (i - (len(rows) - 1) / 2) * width, np.asarray(values), width, label=name)
    axes.set(xticks=places, xticklabels=names, xlabel="wavelength, mm", ylabel="energy, mm² per vertex", yscale="log")
    axes.legend(frameon=False)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def factor_label(name: str, factor: float) -> str:
    """`f = −0.5`; what follows an underscore in `name` becomes a subscript."""
    base, _, index = name.partition("_")
    return f"{base}{f'_{{{index}}}' if index else ''} = {factor:g}".replace("-", "−")


def _where(factors: Sequence[float], wanted: Collection[float]) -> list[int]:
    return [i for i, factor in enumerate(factors) if np.isclose(list(wanted), factor).any()]


def page(
    path: Path,
    rows: Sequence[Bytes],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] | None = None,
    boxed: Collection[tuple[int, int]] = (),
    bar_mm: float | None = None,
    both_ways: bool = False,
) -> None:
    """Write rows of tiles (N, S, S, 3) as a PNG.

    Titles stand beside rows and above columns, `captions` under each tile; `boxed` (row, column) tiles are framed;
    `bar_mm` adds the heat maps' colour bar from 0, or as much below it, to that error.
    """
    rows = _trim(rows)
    height, width = rows[0].shape[1:3]
    size = max(height, width)
    letter, gap = max(11, round(size * 0.062)), max(2, size // 40)
    line = round(letter * 1.5)
    left = gap + (line + gap if any(row_titles) else 0)
    top = gap + (line if any(column_titles) else 0)
    pitch_x, pitch_y = width + gap, height + gap + (line if captions else 0)
    columns, bar = max(len(row) for row in rows), 5 * letter if bar_mm else 0
    sheet = Image.new("RGB", (left + columns * pitch_x + bar, top + len(rows) * pitch_y), "white")
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            corner = (left + c * pitch_x, top + r * pitch_y)
            sheet.paste(Image.fromarray(tile), corner)
            if (r, c) in boxed:
                _box(sheet, corner, (width, height))
    titles = fitting(column_titles, letter, width)
    for c, title in enumerate(column_titles):
        write(sheet, title, (left + c * pitch_x + width / 2, gap + line / 2), titles)
    titles = fitting(row_titles, letter, height)
    for r, title in enumerate(row_titles if any(row_titles) else ()):
        write_upright(sheet, title, (gap + line / 2, top + r * pitch_y + height / 2), titles)
    notes = fitting(chain(*(captions or [])), letter, width)
    for r, line_of_notes in enumerate(captions or []):
        for c, note in enumerate(line_of_notes):
            write(sheet, note, (left + c * pitch_x + width / 2, top + r * pitch_y + height + line / 2), notes, SOFT_INK)
    if bar_mm:
        _colour_bar(sheet, (left + columns * pitch_x + gap, top + gap), height - 2 * gap, bar_mm, letter, both_ways)
    with atomic_file(path) as partial:
        sheet.save(partial, format="PNG", dpi=(DPI, DPI), compress_level=6)


def _trim(rows: Sequence[Bytes]) -> list[Bytes]:
    """Cut away the white left and right of (and above and below) all tiles alike; a little air stays."""
    size = rows[0].shape[1]
    drawn = np.any([(row < 250).any(axis=(0, 3)) for row in rows], axis=0)
    if not drawn.any():
        return list(rows)
    air = size // 32
    (top, bottom), (left, right) = (np.flatnonzero(drawn.any(axis=a))[[0, -1]] for a in (1, 0))
    ys, xs = slice(max(0, top - air), bottom + 1 + air), slice(max(0, left - air), right + 1 + air)
    return [np.ascontiguousarray(row[:, ys, xs]) for row in rows]


def _box(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> None:
    (x, y), (width, height) = corner, size
    edges, line = (x, y, x + width - 1, y + height - 1), max(2, max(size) // 90)
    ImageDraw.Draw(sheet).rounded_rectangle(edges, max(size) // 24, outline=ACCENT, width=line)


def _colour_bar(
    sheet: Image.Image, corner: tuple[int, int], height: int, limit_mm: float, letter: int, both_ways: bool
) -> None:
    """The heat maps' scale from 0, or `-limit_mm` (below), to `limit_mm` with its unit."""
    x, y = corner[0], corner[1] + 2 * letter
    height -= 2 * letter
    ramp = heat_colours(np.linspace(limit_mm, -limit_mm * both_ways, height), limit_mm, both_ways)
    bar = np.repeat(np.round(255 * ramp).astype(np.uint8)[:, None], letter, axis=1)
    sheet.paste(Image.fromarray(bar), (x, y))
    draw, font = ImageDraw.Draw(sheet), fitting((), letter, 0)
    draw.text((x, y - 1.2 * letter), "mm", fill=INK, font=font, anchor="lm")
    for share in (0.0, 0.5, 1.0):
        at = round(y + (height - 1) * (1 - share))
        draw.line((x + letter, at, x + letter + letter // 3, at), fill=INK)
        value = limit_mm * (2 * share - 1 if both_ways else share)
        label = f"{'≥ ' if share == 1 else '≤ ' if share == 0 and both_ways else ''}{value:g}"
        draw.text((x + letter + letter // 2 + 1, at), label, fill=INK, font=font, anchor="lm")


def fitting(texts: Iterable[str], size: float, room: float) -> Font:
    """The font in `size` pixels, or smaller, so that each of `texts` fits into `room` pixels."""
    font = _font(size)
    widest = max((width(text, font) for text in texts), default=0)
    return font if widest <= room else _font(max(SMALLEST, font.size * room / widest))


def width(text: str, font: Font) -> float:
    """The length of a line in pixels."""
    return sum(face.getlength(piece) for piece, face, _ in _pieces(text, font))


def write(
    sheet: Image.Image, text: str, centre: tuple[float, float], font: Font, ink: tuple[int, int, int] = INK
) -> None:
    """Write one line around `centre`."""
    draw, x = ImageDraw.Draw(sheet), centre[0] - width(text, font) / 2
    for piece, face, drop in _pieces(text, font):
        draw.text((round(x), round(centre[1] + drop)), piece, fill=ink, font=face, anchor="lm")
        x += face.getlength(piece)


def write_upright(sheet: Image.Image, text: str, centre: tuple[float, float], font: Font) -> None:
    """Write one line around `centre` that reads upwards."""
    label = Image.new("RGB", (round(width(text, font)) + 2, round(font.size * 1.5)), "white")
    write(label, text, (label.width / 2, label.height / 2), font)
    turned = label.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(turned, (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2)))


def _font(size: float) -> Font:
    return ImageFont.truetype(_letters(), round(size))


@cache
def _letters() -> Path:
    """The font that comes with matplotlib, which is not imported for it: that takes longer than a sheet."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        raise MeshganError("matplotlib, whose font pictures are labelled in, is not installed; install it again.")
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _pieces(text: str, font: Font) -> list[tuple[str, Font, float]]:
    """Text, font and drop below the line of each run of plain or subscript letters."""
    small = _font(font.size * 0.7)
    parts = re.split(r"_\{(.*?)\}", text)
    return [(part, small, font.size * 0.28) if i % 2 else (part, font, 0.0) for i, part in enumerate(parts) if part]


def with_backing(faces: ArrayLike, triangles: ArrayLike, colours: ArrayLike) -> tuple[Singles, Integers, Singles]:
    """Add a cone behind each hole.

    Takes faces (N, V, 3) in mm, triangles (F, 3) and sRGB colours (V, 3) or (N, V, 3); returns the same with the
    cones' vertices and triangles at the end.
    """
    vertices, corners = np.asarray(faces, dtype=np.float32), np.asarray(triangles, dtype=np.int64)
    shades = np.asarray(colours, dtype=np.float32)
    behind, fans = cones(vertices, holes(corners, vertices.shape[1]))
    dark = np.broadcast_to(np.array(DARK, np.float32), (*shades.shape[:-2], behind.shape[1], 3))
    return (
        np.concatenate([vertices, behind], axis=1),
        np.concatenate([corners, vertices.shape[1] + fans]),
        np.concatenate([shades, dark], axis=-2),
    )


def cones(faces: Faces, edges_of_holes: Sequence[Integers]) -> tuple[Singles, Integers]:
    """Vertices (N, K, 3) and triangles (F, 3) of a cone behind each hole of faces (N, V, 3); see `holes`."""
    vertices, fans, count = [faces[:, :0]], [np.empty((0, 3), np.int64)], 0
    for edges in edges_of_holes:
        loop, size = faces[:, edges[:, 0]], len(edges)
        fans.append(count + np.column_stack([np.arange(size), _next(edges), np.full(size, size)]))
        vertices += [loop, _tip(loop)]
        count += size + 1
    return np.concatenate(vertices, axis=1).astype(np.float32), np.concatenate(fans)


def holes(triangles: Integers, count: int) -> list[Integers]:
    """Directed edges (E, 2) of every hole of a mesh of `count` vertices, so that its filling faces outwards.

    A boundary counts as a hole unless it has the most edges of all in its connected part.
    """
    half = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forth, back = half @ [count, 1], half @ [1, count]
    boundary = half[~np.isin(forth, back)][:, ::-1]
    if not len(boundary):
        return []
    loop_of, part_of = connected(boundary, count)[boundary[:, 0]], connected(half, count)[boundary[:, 0]]
    loops, first, sizes = np.unique(loop_of, return_index=True, return_counts=True)
    parts = part_of[first]
    rims = {part: loops[parts == part][sizes[parts == part].argmax()] for part in np.unique(parts)}
    return [boundary[loop_of == loop] for loop in loops if loop not in rims.values()]


def _next(edges: Integers) -> Integers:
    """For each edge, the row of the edge that starts where it ends."""
    order = edges[:, 0].argsort(kind="stable")
    return order[np.searchsorted(edges[order, 0], edges[:, 1]).clip(max=len(edges) - 1)]


def _tip(loop: Singles) -> Singles:
    """The cone's tip (N, 1, 3): behind the middle of a loop (N, E, 3)."""
    with np.errstate(invalid="ignore"):  # faces that are not finite are drawn blank
        tip = loop.mean(axis=1, keepdims=True)
        tip[:, :, 2] -= DEPTH * np.ptp(loop, axis=1).max(axis=1, keepdims=True)
    return tip

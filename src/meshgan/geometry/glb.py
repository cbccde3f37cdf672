"""GLB files (glTF 2.0, binary): what a viewer shows of the default scene, in metres, as triangles; and the writing.

Nodes are walked depth first in the order of the file; parts of a mesh that share their vertices go on sharing them.
Triangles, strips and fans are read, sparse accessors, default weights of morph targets, and skins in the pose of the
file. Materials and textures are not looked at; compressed files are not read.
Reference: Khronos Group, glTF 2.0 Specification, sections 3.6 (accessors), 3.7 (meshes, morph targets, skins), 4 (GLB).
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Floats, Integers, Singles
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import MOST, Layout, Mesh, Part, fans, strips, within_bounds
from meshgan.progress import counted
from meshgan.reading import decoded, parse_json, shown

METRES = 1e-3  # per millimetre
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
TRIANGLES, STRIP, FAN = 4, 5, 6  # the modes of a primitive that make a surface
DEEPEST = 100  # levels of nodes; files that refer to themselves end here
MOST_NODES = 20_000  # and primitives; an avatar has hundreds
MOST_SHAPED = 100_000_000  # vertices of morph targets; three seconds
MOST_JSON = 32 * 2**20  # bytes of the description
HARMLESS: tuple[str, ...] = (
    "KHR_materials_",
    "KHR_texture_",
    "KHR_lights_",
    "KHR_animation_",
    "KHR_xmp",
    "EXT_texture_",
    "VRM",
)
HARMLESS += ("KHR_mesh_quantization", "KHR_node_visibility", "KHR_audio_")
BLOCK = 2**17  # skinned vertices that are placed at a time
ARRAY_BUFFER, ELEMENT_BUFFER = 34962, 34963
BYTE, FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5120, 5126, 5123, 5125
QUANTISED = "KHR_mesh_quantization"
STILL = 0.01  # mm: a vertex that a morph target moves no further is not in it
LEAST_TURN = 1  # of 127: a normal that turns no further, half a degree, stays
DENSE = 12 / 14  # of the vertices: beyond, naming those that move takes more room than all
PLAIN = (0.58, 0.36, 0.27)  # linear: skin

Document = dict[str, Any]
GENERATOR = "meshgan"
PNG = b"\x89PNG\r\n\x1a\n"
DOUBLED = "doubledVertices"  # in a primitive's extras: of which vertices the last ones are doubles, along seams
LINEAR = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}  # clamped at the edges


def read(data: bytes) -> tuple[Any, ...]:
    """Vertices (V, 3) in the file's unit, metres by definition, triangles (F, 3), and sentences on what is not read.

    Raises if the file is damaged or holds what no reader of bounded memory can: the result may be as large as the
    file has bytes, or a million vertices.
    """
    document, binary = _chunks(data)
    for extension in document.get("extensionsRequired", []):
        if not str(extension).startswith(HARMLESS):
            raise MeshganError(
                f"it needs the extension {shown(str(extension)[:40])}, which is not read; export without."
            )
    scene = _Scene(document, binary)
    most = min(MOST, max(1_000_000, len(data)))
    vertices, triangles, count, size, parts, lines = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0, 0, 0, 0
    for node, placement in scene.placed():
        offsets: dict[Any, int] = {}
        seams: dict[Any, Any] = {}
        mirrored = "skin" not in node and bool(np.linalg.det(placement[:3, :3]) < 0)
        for primitive in scene.mesh(node)["primitives"]:
            parts = within_bounds(parts + 1, "parts", MOST_NODES)
            mode = primitive.get("mode", TRIANGLES)
            if mode not in (TRIANGLES, STRIP, FAN):
                lines += 1
                continue
            key = scene.shape(primitive)
            if key not in offsets:
                offsets[key] = count
                within_bounds(count + scene.count(primitive), "vertices", most)
                points, whole = _without_seams(primitive, scene.vertices(node, primitive, placement))
                seams[key] = whole
                vertices.append(points)
                count += len(points)
            faces = scene.triangles(primitive, mode)
            faces = (seams[key][faces] if seams[key] is not None else faces) + offsets[key]
            size = within_bounds(size + len(faces), "triangles", most)
            triangles.append(faces[:, ::-1] if mirrored else faces)  # so that outside stays outside
    left_out = [f"left out {counted(lines, 'part')} made of points or lines"] if lines else []
    if beside := scene.meshes_beside():
        left_out.append(f"left out {counted(beside, 'mesh', 'meshes')} outside of its default scene")
    return np.concatenate(vertices), np.concatenate(triangles), *left_out


@dataclass(frozen=True, eq=False)
class Placed:
    """A primitive of a file where it stands in the scene: vertices (N, 3) in mm, of which seams are doubled, its
    triangles (F, 3), and `frames`, (3, 3) or (N, 3, 3), that turn displacements of the file into those of the scene."""

    mesh: int
    number: int
    vertices: Floats
    triangles: Integers
    frames: Floats


def placed(data: bytes) -> list[Placed]:
    """The surfaces of a whole GLB file, a mesh that stands in several places at its first. Raises as `read` does."""
    read(data)  # by all its limits
    scene, found = _Scene(*_chunks(data)), []
    seen: set[int] = set()
    for node, placement in scene.placed():
        mesh = _index(node["mesh"])
        if mesh in seen:
            continue
        seen.add(mesh)
        for number, primitive in enumerate(scene.mesh(node)["primitives"]):
            if (mode := primitive.get("mode", TRIANGLES)) in (TRIANGLES, STRIP, FAN):
                points, faces = scene.vertices(node, primitive, placement) / METRES, scene.triangles(primitive, mode)
                found.append(Placed(mesh, number, points, faces, scene.frames(node, primitive, placement)))
    return found


@dataclass(frozen=True, eq=False)
class Shaped:
    """What a morph target does to one surface: how its vertices (N, 3) move, in mm in the scene, and its unit normals
    (N, 3) there, before and after; of length zero, they are not known."""

    moves: Floats
    before: Floats
    after: Floats


def with_targets(data: bytes, surfaces: Sequence[Placed], targets: Mapping[str, Sequence[Shaped]]) -> bytes:
    """The same file with these morph targets: names to what each does to each surface.

    Meshes that no target moves stay as they are; of others, morph targets of their own are left out, and what animates
    those. Nothing else is changed.
    """
    document, binary = _chunks(data)
    buffer = _Buffer()
    buffer.data, buffer.accessors, buffer.views = bytearray(binary), document["accessors"], document["bufferViews"]
    shaped = [list(shapes) for shapes in zip(*targets.values(), strict=True)]  # of each surface
    still = Shaped(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3)))
    moved = {
        surface.mesh
        for surface, shapes in zip(surfaces, shaped, strict=True)
        if max(float(np.abs(shape.moves).max(initial=0.0)) for shape in shapes) > STILL
    }
    own = {(surface.mesh, surface.number): row for row, surface in enumerate(surfaces)}
    for number in sorted(moved):
        body = document["meshes"][number]
        for place, primitive in enumerate(body["primitives"]):
            row = own.get((number, place))
            frames, shapes = (np.eye(3), [still] * len(targets)) if row is None else (surfaces[row].frames, shaped[row])
            primitive["targets"] = [_placed_target(buffer, document, primitive, frames, shape) for shape in shapes]
        body["weights"] = [0.0] * len(targets)
        extras = body.get("extras")
        body["extras"] = (extras if isinstance(extras, dict) else {}) | {"targetNames": list(targets)}
    nodes = {row for row, node in enumerate(document["nodes"]) if node.get("mesh") in moved}
    for row in nodes:
        document["nodes"][row].pop("weights", None)
    _still(document, nodes)
    buffer.data += bytes(-len(buffer.data) % 4)
    document["buffers"] = [{"byteLength": len(buffer.data)}]
    return _container(document, bytes(buffer.data))


def _placed_target(
    buffer: "_Buffer", document: Document, primitive: Document, frames: Floats, shape: Shaped
) -> Document:
    """The accessors of what a morph target does to a primitive, in the file's own frames."""
    count = document["accessors"][primitive["attributes"]["POSITION"]]["count"]
    moves = np.zeros((count, 3), "<f4")
    rows = np.flatnonzero(np.linalg.norm(shape.moves, axis=1) > STILL)
    back = np.linalg.pinv(frames if frames.ndim == 2 else frames[rows])
    moves[rows] = np.einsum("...ij,...j->...i", back, shape.moves[rows]) * METRES
    target = {"POSITION": buffer.add_vectors(moves) if len(rows) > DENSE * count else buffer.add_sparse(moves, rows)}
    if "NORMAL" in primitive["attributes"]:  # which go by the transposed inverse
        ways = frames.T if frames.ndim == 2 else frames[rows].transpose(0, 2, 1)
        before, after = (np.einsum("...ij,...j->...i", ways, some[rows]) for some in (shape.before, shape.after))
        lengths = [np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12) for some in (before, after)]
        turns = np.zeros((count, 3), "<f4")
        turns[rows] = after / lengths[1] - before / lengths[0]
        target["NORMAL"] = buffer.add_sparse(turns, rows)
    return target


def _still(document: Document, nodes: set[int]) -> None:
    """Take out of the animations what moves the weights of these nodes."""
    kept = []
    for animation in document.get("animations", []):
        channels = [
            channel
            for channel in animation["channels"]
            if channel["target"].get("path") != "weights" or channel["target"].get("node") not in nodes
        ]
        if channels:
            kept.append(animation | {"channels": channels})
    if "animations" in document:
        document["animations"] = kept
        if not kept:
            del document["animations"]


def _without_seams(primitive: Document, points: Floats) -> tuple[Floats, Integers | None]:
    """The vertices of a primitive without those that `write` has doubled along seams of the texture, and for each
    vertex of the file the one that it is, if there are any."""
    extras = primitive.get("extras")
    doubled = extras.get(DOUBLED) if isinstance(extras, dict) else None
    whole = len(points) - len(doubled) if isinstance(doubled, list) else 0
    if not isinstance(doubled, list) or not all(type(v) is int and 0 <= v < whole for v in doubled):
        return points, None
    owner = np.concatenate([np.arange(whole), np.array(doubled, dtype=np.int64)])
    if not np.array_equal(points[owner], points):  # somebody has changed the file since
        return points, None
    return points[:whole], owner


@dataclass
class _Scene:
    """The description of a file and its binary part, with what has been placed so far."""

    document: Document
    binary: bytes
    places: dict[int, Floats] = field(default_factory=dict)  # of each node (4, 4)

    def placed(self) -> Iterator[tuple[Document, Floats]]:
        """Each node of the default scene that has a mesh, with its placement (4, 4), depth first."""
        nodes = self.document.get("nodes", [])
        within_bounds(len(nodes), "nodes", MOST_NODES)
        stack = [(number, np.eye(4), 0) for number in reversed(self._roots())]
        found = []
        while stack:
            number, parent, depth = stack.pop()
            if depth > DEEPEST or number in self.places or number < 0:  # in a tree, every node is visited once
                raise MeshganError("its nodes go in circles.")
            node = nodes[number]
            self.places[number] = parent @ placement if (placement := _placement(node)) is not None else parent
            if "mesh" in node:
                found.append((node, self.places[number]))
            stack += [(child, self.places[number], depth + 1) for child in reversed(node.get("children", []))]
        yield from found  # only now are the joints of all skins placed

    def _roots(self) -> list[int]:
        """The nodes at the top of the default scene, else of the first, else all that are nobody's children."""
        if scenes := self.document.get("scenes"):
            return list(scenes[self.document.get("scene", 0)].get("nodes", []))
        nodes = self.document.get("nodes", [])
        children = {child for node in nodes for child in node.get("children", [])}
        return [number for number in range(len(nodes)) if number not in children]

    def mesh(self, node: Document) -> Document:
        """The mesh of a node."""
        found: Document = self.document["meshes"][_index(node["mesh"])]
        return found

    def meshes_beside(self) -> int:
        """How many nodes have a mesh and are not in the scene."""
        nodes = self.document.get("nodes", [])
        return sum("mesh" in node and number not in self.places for number, node in enumerate(nodes))

    def shape(self, primitive: Document) -> tuple[int, ...]:
        """The accessors that make the vertices of a primitive; those with the same share them."""
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}) and "bufferView" not in self._position(
            primitive
        ):
            raise MeshganError("it is compressed by KHR_draco_mesh_compression, which is not read; export without.")
        targets = [target.get("POSITION", -1) for target in primitive.get("targets", [])]
        return (primitive["attributes"]["POSITION"], *targets)

    def _position(self, primitive: Document) -> Document:
        found: Document = self.document["accessors"][_index(primitive["attributes"]["POSITION"])]
        return found

    def count(self, primitive: Document) -> int:
        """The number of vertices of a primitive."""
        return within_bounds(_index(self._position(primitive)["count"]), "vertices")

    def vertices(self, node: Document, primitive: Document, placement: Floats) -> Floats:
        """The vertices (V, 3) of a primitive where they are in the scene: shaped by its weights, skinned or placed."""
        points = self.accessor(primitive["attributes"]["POSITION"], 3).astype(np.float64)
        weights: list[float] = node.get("weights") or self.mesh(node).get("weights") or []
        within_bounds(len(weights) * len(points), "vertices in its morph targets", MOST_SHAPED)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and "POSITION" in target:
                shift = self.accessor(target["POSITION"], 3)
                if shift.shape != points.shape:
                    raise MeshganError("a morph target has another number of vertices than its mesh.")
                points += float(weight) * shift
        if "skin" in node and "JOINTS_0" in primitive["attributes"]:
            return self._skinned(points, primitive["attributes"], self.document["skins"][_index(node["skin"])])
        return points @ placement[:3, :3].T + placement[:3, 3]

    def frames(self, node: Document, primitive: Document, placement: Floats) -> Floats:
        """What turns displacements of the file into those of the scene: one matrix (3, 3), or one of each vertex."""
        if "skin" not in node or "JOINTS_0" not in primitive["attributes"]:
            return placement[:3, :3]
        attributes, skin = primitive["attributes"], self.document["skins"][_index(node["skin"])]
        units = [self._skinned(np.broadcast_to(row, (self.count(primitive), 3)), attributes, skin) for row in np.eye(3)]
        origin = self._skinned(np.zeros((self.count(primitive), 3)), attributes, skin)
        return np.stack([unit - origin for unit in units], axis=2)

    def _skinned(self, points: Floats, attributes: Document, skin: Document) -> Floats:
        """Vertices (V, 3) moved by their joints; where the node stands does not matter then."""
        joints = skin["joints"]
        if not all(joint in self.places for joint in joints):
            raise MeshganError("a joint of its skin is not in the scene.")
        motions = np.stack([self.places[joint] for joint in joints])
        if "inverseBindMatrices" in skin:
            inverse = self.accessor(skin["inverseBindMatrices"], 16).astype(np.float64)
            motions = motions @ inverse[: len(motions)].reshape(-1, 4, 4).transpose(0, 2, 1)
        owners, shares = self.accessor(attributes["JOINTS_0"], 4), self.accessor(attributes["WEIGHTS_0"], 4)
        if len(owners) != len(points) or len(shares) != len(points) or owners.max(initial=0) >= len(motions):
            raise MeshganError("its skin does not fit its vertices.")
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        moved = np.empty_like(points)
        for start in range(0, len(points), BLOCK):
            rows = slice(start, start + BLOCK)
            motion = np.einsum("vk,vkij->vij", shares[rows], motions[owners[rows].astype(np.int64), :3])
            moved[rows] = np.einsum("vij,vj->vi", motion[:, :, :3], points[rows]) + motion[:, :, 3]
        return moved

    def triangles(self, primitive: Document, mode: int) -> Integers:
        """The triangles (F, 3) of a primitive, numbered from its first vertex."""
        count = self.count(primitive)
        corners = np.arange(count)
        if "indices" in primitive:
            corners = self.accessor(primitive["indices"], 1)[:, 0].astype(np.int64)
        if corners.min(initial=0) < 0 or corners.max(initial=0) >= count:
            raise MeshganError("it has triangles that point outside its vertices.")
        if mode != TRIANGLES:
            return strips(corners) if mode == STRIP else fans(corners, np.array([len(corners)]))
        if len(corners) % 3:
            raise MeshganError("its last triangle is not complete.")
        return corners.reshape(-1, 3)

    def accessor(self, number: Any, width: int) -> NDArray[Any]:
        """The rows (N, width) of an accessor; raises if they do not lie inside the binary chunk."""
        accessor = self.document["accessors"][_index(number)]
        kind, count = np.dtype(COMPONENTS[accessor["componentType"]]), _index(accessor["count"])
        if WIDTHS[accessor["type"]] != width:
            raise MeshganError("it uses an accessor for what it cannot hold.")
        within_bounds(count, "vertices", 3 * MOST)
        values: NDArray[Any]
        if "bufferView" in accessor:
            values = self._view(accessor["bufferView"], accessor.get("byteOffset", 0), count, width, kind)
        elif "sparse" in accessor:
            within_bounds(count, "vertices", max(1_000_000, len(self.binary)))
            values = np.zeros((count, width), kind)
        else:
            raise MeshganError("it is compressed, or an accessor has no data; export without compression.")
        if "sparse" in accessor:
            values = self._filled(values.copy(), accessor["sparse"], kind)
        return (
            np.maximum(values / np.iinfo(kind).max, -1) if accessor.get("normalized") and kind.kind != "f" else values
        )

    def _filled(self, values: NDArray[Any], sparse: Document, kind: np.dtype[Any]) -> NDArray[Any]:
        """The values with those that a sparse accessor names set."""
        count, place, content = _index(sparse["count"]), sparse["indices"], sparse["values"]
        index_kind = np.dtype(COMPONENTS[place["componentType"]])
        rows = self._view(place["bufferView"], place.get("byteOffset", 0), count, 1, index_kind)[:, 0]
        if rows.max(initial=0) >= len(values):
            raise MeshganError("a sparse accessor points outside its rows.")
        values[rows] = self._view(content["bufferView"], content.get("byteOffset", 0), count, values.shape[1], kind)
        return values

    def _view(self, number: Any, offset: Any, count: int, width: int, kind: np.dtype[Any]) -> NDArray[Any]:
        """`count` rows (N, width) of a buffer view."""
        view = self.document["bufferViews"][_index(number)]
        if view["buffer"] != 0 or "uri" in self.document["buffers"][0]:
            raise MeshganError("its data lies in another file, which is not read; export as one GLB.")
        start = _index(view.get("byteOffset", 0)) + _index(offset)
        stride = _index(view.get("byteStride", width * kind.itemsize))
        stop = start + (count - 1) * stride + width * kind.itemsize
        if not (0 <= start < stop <= len(self.binary) and count > 0 and width * kind.itemsize <= stride):
            raise MeshganError("an accessor reaches beyond the file; is it cut off?")
        return np.ndarray((count, width), kind, self.binary, start, (stride, kind.itemsize))


def _chunks(data: bytes) -> tuple[Document, bytes]:
    """The JSON document and the binary chunk of a whole GLB file; what stands behind its end is left out."""
    if len(data) < 20 or not data.startswith(b"glTF"):
        raise MeshganError("it is no GLB file: its header is missing.")
    version, length, size, kind = struct.unpack_from("<III4s", data, 4)
    if version != 2:
        raise MeshganError(f"it is of glTF version {version}; version 2 is read.")
    if length > len(data) or kind != b"JSON" or size > length - 20:
        raise MeshganError("it is cut off, or its header is damaged.")
    if size > MOST_JSON:
        raise MeshganError("its description is larger than any mesh's.")
    document = parse_json(decoded(data[20 : 20 + size]), "its description")
    if not isinstance(document, dict):
        raise MeshganError("its description means nothing.")
    start = 20 + size
    if start + 8 > length:
        return document, b""
    (binary_size,) = struct.unpack_from("<I", data, start)
    binary = data[start + 8 : start + 8 + binary_size]
    if len(binary) < binary_size:
        raise MeshganError("its binary part is cut off.")
    return document, binary


def picture_of(data: bytes) -> bytes:
    """The PNG that a face wears in a file of `write`; empty if it wears none, or somebody else has written the file."""
    document, binary = _chunks(data)
    try:
        if document["asset"]["generator"] != GENERATOR:
            return b""
        view = document["bufferViews"][_index(document["images"][0]["bufferView"])]
        start = _index(view.get("byteOffset", 0))
        picture = binary[start : start + _index(view["byteLength"])]
    except (AttributeError, IndexError, KeyError, TypeError, MeshganError):  # what no reader has looked at
        return b""
    return picture if picture.startswith(PNG) else b""


def _index(number: Any) -> int:
    """A count or an index of a description: no float, no negative."""
    if type(number) is not int or number < 0:
        raise MeshganError("its description has an index or a size that cannot be.")
    return number


def _placement(node: Document) -> Floats | None:
    """The matrix (4, 4) of a node: given, or made of scale, then rotation (x, y, z, w), then translation; or none."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    if not {"rotation", "scale", "translation"} & node.keys():
        return None
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    placement = np.eye(4)
    placement[:3, :3] = np.array(rotation) * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    placement[:3, 3] = node.get("translation", (0, 0, 0))
    return placement


@dataclass(frozen=True, eq=False)
class Animation:
    """How weights of the morph targets (T, K), and the head, as quaternions (T, 4) of x, y, z, w about `pivot` (3,) in
    metres, change over `times` (T,) in seconds; linear in between."""

    times: Floats
    weights: Floats
    rotations: Floats | None = None
    pivot: Floats | None = None

    def described(self, buffer: "_Buffer", moved: Mapping[int, Integers], turned: int) -> Document:
        """The animation of the nodes `moved`, each with the columns of `weights` that it has, and of the one `turned`;
        its numbers are appended to the buffer."""
        times = buffer.add_numbers(self.times)
        found = [(node, "weights", buffer.add_numbers(self.weights[:, own].ravel())) for node, own in moved.items()]
        if self.rotations is not None:
            found.append((turned, "rotation", buffer.add_numbers(self.rotations)))
        return {
            "name": "drive",
            "channels": [{"sampler": i, "target": {"node": n, "path": path}} for i, (n, path, _) in enumerate(found)],
            "samplers": [{"input": times, "output": output, "interpolation": "LINEAR"} for *_, output in found],
        }


def write(
    mesh: Mesh,
    morph_targets: Mapping[str, ArrayLike] | None = None,
    weights: Mapping[str, float] | None = None,
    name: str = "face",
    rights: str = "",
    colours: ArrayLike | None = None,
    layout: Layout | None = None,
    picture: bytes = b"",
    animation: Animation | None = None,
    about: Mapping[str, Any] | None = None,
) -> bytes:
    """The mesh (mm inside, metres in the file) as a GLB file, with normals; the same input gives the same bytes.

    `morph_targets` maps names to displacements (V, 3) in mm, `weights` some of the names to their value when the
    file is opened (others: 0); the names stand in the mesh's `extras.targetNames`, where game engines and Blender
    look for them. Targets are sparse accessors: vertices that one moves by no more than `STILL` are left out of it.
    `colours` (V, 3) are linear, from 0 to 1; without, the material is a plain skin tone. `rights` is the copyright
    line, and `about` what else to know of it (model, seed, code), in the node's extras. Node, mesh and material have
    names of their own, so that they do not clash in a scene. With a `layout`, the vertices on its seams are doubled,
    behind all others, and `extras` tell of which they are; `picture` (PNG) is its texture. Each part of the layout is a
    node with a mesh and a material of its own, and with those targets that move it. An `animation` moves weights and
    head.
    """
    targets = {key: np.asarray(shift, dtype=np.float64) for key, shift in (morph_targets or {}).items()}
    _check(mesh, targets, weights or {})
    picture = picture or (layout.picture if layout is not None else b"")
    buffer, file = _Buffer(), _File(mesh, targets, weights or {}, colours, layout)
    pieces, bodies, owned = file.pieces(), [], []
    for number, piece in enumerate(pieces):
        body, columns = file.body(buffer, piece, f"{name}-{piece.name}" if piece.name else name)
        body["primitives"][0]["material"] = number
        bodies.append(body)
        owned.append(columns)
    pictured: Document = {}
    if picture:
        image = {"bufferView": buffer.add_bytes(picture), "mimeType": "image/png", "name": f"{name}-skin"}
        pictured = {"images": [image], "textures": [{"source": 0, "sampler": 0}], "samplers": [LINEAR]}
    nodes = _nodes([piece.name for piece in pieces], name, about, animation)
    moving: Document = {}
    if animation is not None:
        moved = {node: columns for node, columns in enumerate(owned) if len(columns)}
        moving = {"animations": [animation.described(buffer, moved, len(nodes) - 1)]}
    buffer.data += bytes(-len(buffer.data) % 4)
    document: Document = {
        "asset": {"version": "2.0", "generator": GENERATOR} | ({"copyright": rights} if rights else {}),
        "scene": 0,
        "scenes": [{"nodes": [len(nodes) - 1]}],
        "nodes": nodes,
        "meshes": bodies,
        "materials": [file.material(piece, name, bool(picture)) for piece in pieces],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    document |= pictured | moving
    if any(map(len, owned)):  # the turns of their normals are bytes
        document |= {"extensionsUsed": [QUANTISED], "extensionsRequired": [QUANTISED]}
    return _container(document, bytes(buffer.data))


def _nodes(
    parts: Sequence[str], name: str, about: Mapping[str, Any] | None, animation: Animation | None
) -> list[Document]:
    """A node for each part, with the mesh of its number; one above them all where there are several, `about` in it; and
    one above that, which an animation turns. The last one is the scene's."""
    nodes: list[Document] = [
        {"name": f"{name}-{part}" if part else name, "mesh": number} for number, part in enumerate(parts)
    ]
    if len(nodes) > 1:
        nodes.append({"name": name, "children": list(range(len(nodes)))})
    top = nodes[-1]
    if about:
        top["extras"] = dict(about)
    if animation is not None and animation.rotations is not None and animation.pivot is not None:
        point = [float(x) for x in animation.pivot]
        top["translation"] = [-x for x in point]
        nodes.append({"name": f"{name}-pivot", "translation": point, "children": [len(nodes) - 1]})
    return nodes


@dataclass(frozen=True, eq=False)
class _Piece:
    """A part as a mesh of the file: the vertices that it has (N,), doubles behind, its triangles (F, 3) of those, and
    the texture coordinates (N, 2)."""

    name: str
    rows: Integers
    triangles: Integers
    doubled: Integers
    coordinates: Floats | None
    part: Part | None


class _File:
    """What is written of a mesh, part by part."""

    def __init__(
        self,
        mesh: Mesh,
        targets: Mapping[str, Floats],
        weights: Mapping[str, float],
        colours: ArrayLike | None,
        layout: Layout | None,
    ) -> None:
        self.mesh, self.weights, self.layout = mesh, weights, layout
        self.colours = None if colours is None else np.asarray(colours)
        self.normals = _unit_normals(mesh)
        self.targets = targets

    @cached_property
    def turns(self) -> dict[str, Singles]:
        """How each target turns the normals (V, 3)."""
        moved = {key: self.mesh.with_vertices(self.mesh.vertices + shift) for key, shift in self.targets.items()}
        return {key: _unit_normals(mesh) - self.normals for key, mesh in moved.items()}

    def pieces(self) -> list[_Piece]:
        """The parts of the layout, or the mesh as one."""
        count = len(self.mesh.vertices)
        if self.layout is None:
            none = np.empty(0, dtype=np.int64)
            return [_Piece("", np.arange(count), self.mesh.triangles, none, None, None)]
        layout, owner = self.layout, self.layout.owner
        if not layout.parts:
            return [_Piece("", owner, layout.corners, layout.doubled, layout.coordinates, None)]
        pieces, start = [], 0
        for part in layout.parts:
            own = np.flatnonzero((owner >= start) & (owner < start + part.count))
            number = np.full(len(owner), -1)
            number[own] = np.arange(len(own))
            inside = (self.mesh.triangles >= start) & (self.mesh.triangles < start + part.count)
            corners = number[layout.corners[inside.all(axis=1)]]
            doubled = owner[own[part.count :]] - start
            pieces.append(_Piece(part.name, owner[own], corners, doubled, layout.coordinates[own], part))
            start += part.count
        return pieces

    def body(self, buffer: "_Buffer", piece: _Piece, name: str) -> tuple[Document, Integers]:
        """The mesh of a piece, and which of the targets it has; of a part only those that move it."""
        rows = piece.rows
        attributes = {
            "POSITION": buffer.add_vectors(self.mesh.vertices[rows] * METRES),
            "NORMAL": buffer.add_vectors(self.normals[rows]),
        }
        if self.colours is not None:
            attributes["COLOR_0"] = buffer.add_vectors(self.colours[rows])
        if piece.coordinates is not None:
            attributes["TEXCOORD_0"] = buffer.add_coordinates(piece.coordinates * [1, -1] + [0, 1])
        primitive: Document = {"attributes": attributes, "indices": buffer.add_indices(piece.triangles, len(rows))}
        if len(piece.doubled):
            primitive["extras"] = {DOUBLED: piece.doubled.tolist()}
        body: Document = {"name": f"{name}-mesh", "primitives": [primitive]}
        lengths = [np.linalg.norm(shift[rows], axis=1).max(initial=0.0) for shift in self.targets.values()]
        columns = np.flatnonzero(np.array(lengths) > STILL) if piece.part is not None else np.arange(len(lengths))
        if len(columns):
            keys = [list(self.targets)[i] for i in columns]
            primitive["targets"] = [_target(buffer, self.targets[k][rows], self.turns[k][rows]) for k in keys]
            body["weights"] = [float(self.weights.get(key, 0.0)) for key in keys]
            body["extras"] = {"targetNames": keys}
        return body, columns

    def material(self, piece: _Piece, name: str, pictured: bool) -> Document:
        """The material of a piece: a picture, its own colours, those of its part, or a plain skin tone."""
        look: Document = {"metallicFactor": 0.0, "roughnessFactor": 0.6}
        if piece.part is not None:
            look["roughnessFactor"] = piece.part.roughness
        if pictured:
            look["baseColorTexture"] = {"index": 0}
        elif self.colours is not None:
            look["roughnessFactor"] = 1.0  # no shine
        else:
            look["baseColorFactor"] = [*(PLAIN if piece.part is None else piece.part.colour), 1.0]
        kind = piece.name or ("colours" if self.colours is not None and not pictured else "skin")
        doubled = {"doubleSided": True}  # a face is an open surface
        return {"name": f"{name}-{kind}", "pbrMetallicRoughness": look, **doubled}


def _target(buffer: "_Buffer", shift: Floats, turned: Singles) -> Document:
    """The accessors of one morph target: how the vertices move (N, 3), in mm, and how their normals turn (N, 3)."""
    moves = (shift * METRES).astype("<f4")
    turns = np.round(np.clip(turned, -1, 1) * 127).astype("<i1")
    moving = np.flatnonzero(np.linalg.norm(shift, axis=1) > STILL)
    dense = len(moving) > DENSE * len(moves)
    return {
        "POSITION": buffer.add_vectors(moves) if dense else buffer.add_sparse(moves, moving),
        "NORMAL": buffer.add_sparse(turns, np.flatnonzero((np.abs(turns) > LEAST_TURN).any(axis=1))),
    }


def _check(mesh: Mesh, targets: Mapping[str, Floats], weights: Mapping[str, float]) -> None:
    for key, shift in targets.items():
        if shift.shape != mesh.vertices.shape or not np.isfinite(shift).all():
            raise ValueError(f"morph target {key!r} needs finite displacements of shape {mesh.vertices.shape}")
    if not set(weights) <= set(targets):
        raise ValueError(f"weights without a morph target: {sorted(set(weights) - set(targets))}")


def _unit_normals(mesh: Mesh) -> NDArray[np.float32]:
    """Vertex normals (V, 3) of length 1; where there is no surface, +z."""
    normals = mesh.vertex_normals.copy()
    normals[~normals.any(axis=1)] = (0.0, 0.0, 1.0)
    return normals.astype(np.float32)


class _Buffer:
    """The binary part as it grows, with the accessor and the view of each array."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.accessors: list[dict[str, Any]] = []
        self.views: list[dict[str, int]] = []

    def add_vectors(self, vectors: NDArray[np.floating[Any]]) -> int:
        """Append (V, 3) as float32 with its bounds; returns the accessor's index."""
        values = np.ascontiguousarray(vectors, dtype="<f4")
        bounds = {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self._add(values, ARRAY_BUFFER, {"componentType": FLOAT, "type": "VEC3", **bounds})

    def add_sparse(self, vectors: NDArray[Any], rows: Integers) -> int:
        """Append the `rows` (N,) of (V, 3), float32 or normalised bytes; all others are zero."""
        rows = rows if len(rows) else np.zeros(1, np.int64)  # none is not allowed
        chosen, real = np.zeros_like(vectors), vectors.dtype.kind == "f"
        chosen[rows] = vectors[rows]
        accessor: Document = {"componentType": FLOAT if real else BYTE, "count": len(vectors), "type": "VEC3"}
        accessor |= {"min": chosen.min(axis=0).tolist(), "max": chosen.max(axis=0).tolist()}
        accessor |= {} if real else {"normalized": True}
        short = len(vectors) <= 0xFFFF
        indices = {"componentType": UNSIGNED_SHORT if short else UNSIGNED_INT}
        indices["bufferView"] = self._view(rows.astype("<u2" if short else "<u4"))
        accessor["sparse"] = {
            "count": len(rows),
            "indices": indices,
            "values": {"bufferView": self._view(vectors[rows])},
        }
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_coordinates(self, coordinates: Floats) -> int:
        """Append texture coordinates (V, 2): floats, since some readers take fractions for whole numbers."""
        return self._add(coordinates.astype("<f4"), ARRAY_BUFFER, {"componentType": FLOAT, "type": "VEC2"})

    def add_numbers(self, values: Floats) -> int:
        """Append numbers (N,) or (N, 4) of an animation."""
        bounds = {"min": [float(values.min())], "max": [float(values.max())]} if values.ndim == 1 else {}
        kind = "SCALAR" if values.ndim == 1 else "VEC4"
        return self._add(values.astype("<f4"), None, {"componentType": FLOAT, "type": kind, **bounds})

    def add_bytes(self, content: bytes) -> int:
        """Append a whole file; returns the index of its view."""
        return self._view(np.frombuffer(content, np.uint8))

    def add_indices(self, triangles: Integers, count: int) -> int:
        """Append the triangles of `count` vertices as the smallest type that holds them; its largest value is
        reserved by glTF."""
        short = count <= 0xFFFF
        values = np.ascontiguousarray(triangles.reshape(-1), dtype="<u2" if short else "<u4")
        kind = UNSIGNED_SHORT if short else UNSIGNED_INT
        bounds = {"min": [int(values.min())], "max": [int(values.max())]}
        return self._add(values, ELEMENT_BUFFER, {"componentType": kind, "type": "SCALAR", **bounds})

    def _add(self, values: NDArray[Any], target: int | None, accessor: dict[str, Any]) -> int:
        self.accessors.append(
            {
                "bufferView": self._view(values, **({"target": target} if target else {})),
                "count": len(values),
                **accessor,
            }
        )
        return len(self.accessors) - 1

    def _view(self, values: NDArray[Any], **more: int) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes} | more)
        self.data += values.tobytes()
        return len(self.views) - 1


def _container(document: Mapping[str, Any], binary: bytes) -> bytes:
    """The GLB file: header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

"""Whole heads around the faces of the corpora: scalp, ears, neck, the inside of the mouth, eyeballs, teeth, tongue.

The skin of a head has the vertices of the face template, eyeballs aside, so a head's face is made as a face is: by the
face basis, `detail.py`, `motion.py`. What is around it follows.

1. *Skin beyond the face* has the same linear shapes, and those of ears, neck and the back of the head. What is
   personal about the face besides is spread over it as a thin plate that is held at the face and at rest far from it:
   the u that is least bent, ∫|Δu|² + |u|²/ℓ⁴, of all with the face's own values.
2. *Eyeballs* are spheres through the lids' margins. They turn about their middles.
3. *The inside of the mouth, teeth and tongue* are placed by the similarity that fits the inner rims of the lips, so
   that they lie alike in every mouth. What is below the bite goes with the jaw.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import as_file
from importlib.resources.abc import Traversable

import numpy as np
import scipy
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from meshgan.arrays import Floats, Integers, Reals, Singles
from meshgan.data.corpora.basis import ASSETS, HEAD_PARTS, FaceBasis, Neutral, face_template, layout_of
from meshgan.data.corpora.detail import Traits, detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.eyes import Eye
from meshgan.data.corpora.motion import contacts
from meshgan.data.corpora.population import People, draw_people
from meshgan.geometry.align import Similarity, similarity
from meshgan.geometry.files import read_mesh
from meshgan.geometry.laplacian import cotangent_weights, mass
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface

REACH_MM, INSIDE_MM = 32.0, 8.0  # how far from the face what is personal about it is felt, and inside the mouth
LOOSE_MM = 0.1  # between lids and eyeball: lids are made of straight edges
EXTRA_MM = 1.6  # standard deviation of a feature beyond the face, at the vertex that it moves most
EXTRA_LIMITS = (0.03, 0.3)  # of its slider's range [-1, 1]
EXTREME = 2.2  # deviations at which those end
LIP_MM, TEETH_MM = (-2.0, 20.0), (-25.0, -5.0)  # from there on a tongue that is out lies on the lip, and on the teeth
BESIDE_MM = 10.0  # of the middle, on either side, is the lip that it lies on
BACK_MM, AROUND_MM = 5.0, 20.0  # from the face on, the mouth's inside lies behind its skin; and how far that goes
THROUGH_MM, BEHIND_MM = 3.0, 0.2  # what is so far before the skin has come through it; and is left so far behind
STILL_MM = 0.02
NEAR_MM, CLEAR_MM = 2.5, 0.3  # seen from above, skin so near to the tongue is below it; and how much is between them
RIM_MM = 45.0  # so near the middle of the lips, borders of the face template are the inner rims of its lips
SIDES = 0.25  # how far left and right ears differ, against how far people do


def head_template() -> Mesh:
    """The head template of the package: its parts follow one another, as `HEAD_PARTS` names them."""
    with as_file(ASSETS / "head_template.ply") as path:
        return read_mesh(path)


@dataclass(frozen=True, eq=False)
class Beyond:
    """What head_basis.npz holds of the R points of skin beyond the face, in millimetres."""

    face: FaceBasis  # of the face's V points alone
    basis: FaceBasis  # of those and these together
    extras: Singles  # (X, R, 3): shapes that leave the face where it is
    extra_names: tuple[str, ...]
    extra_shapes: Integers  # (E, 2): the shapes of each one's positive and negative side, -1 for none
    balls: Integers  # the vertices of the face template that are eyeballs
    tongue_out: Singles  # (T, 3): how the tongue comes out
    sizes: Integers  # vertices of each of the head's parts
    mouth: Integers  # the vertices of the head inside its mouth

    @classmethod
    def read(cls, folder: Traversable = ASSETS) -> "Beyond":
        """What a folder of assets holds; without one, that of this package."""
        face = FaceBasis.read()
        with (folder / "head_basis.npz").open("rb") as stream:
            arrays = dict(np.load(stream, allow_pickle=False))
        step = float(arrays["step_mm"])
        base, phenotypes, features = (arrays[name] for name in ("base", "phenotypes", "features"))

        def both(shapes: Singles, steps: Integers) -> Singles:
            more = np.multiply(steps, step, dtype=np.float32)
            return np.concatenate([shapes[:, :-1], more, shapes[:, -1:]], axis=1)

        nothing = np.zeros((len(face.actions), len(base), 3), dtype=np.float32)
        basis = replace(
            face,
            base=np.concatenate([face.base[:-1], base, face.base[-1:]]),
            phenotypes=both(face.phenotypes, phenotypes),
            features=both(face.features, features),
            actions=np.concatenate([face.actions, nothing], axis=1),
            jaw_weights=np.concatenate([face.jaw_weights, arrays["jaw_weights"]]),
        )
        return cls(
            face=face,
            basis=basis,
            extras=np.multiply(arrays["extras"], step, dtype=np.float32),
            extra_names=tuple(arrays["extra_names"].tolist()),
            extra_shapes=arrays["extra_shapes"].astype(np.int64),
            balls=arrays["balls"].astype(np.int64),
            tongue_out=arrays["tongue_out"],
            sizes=arrays["parts"].astype(np.int64),
            mouth=arrays["mouth"].astype(np.int64),
        )

    def draw(self, draws: Draws) -> Floats:
        """Weights (B, X) of the extra shapes of the people of `draws` (B): both ears nearly alike."""
        plain = [name.removeprefix("l-").removeprefix("r-") for name in self.extra_names]
        shared, column = np.unique(plain, return_inverse=True)
        own = np.array([name.startswith(("l-", "r-")) for name in self.extra_names])
        values = draws.normal(len(shared))[:, column] * np.where(own, np.sqrt(1 - SIDES**2), 1.0)
        values += np.where(own, SIDES, 0.0) * draws.normal(len(plain))
        reach = np.linalg.norm(self.extras, axis=2).max(axis=1)
        reach = np.where(self.extra_shapes >= 0, reach[self.extra_shapes], 0).max(axis=1)
        values = np.clip(values, -EXTREME, EXTREME) * np.clip(EXTRA_MM / reach, *EXTRA_LIMITS)
        weights = np.zeros((len(values), len(self.extras)))
        for side, part in enumerate((np.maximum(values, 0), np.maximum(-values, 0))):
            there = self.extra_shapes[:, side] >= 0
            weights[:, self.extra_shapes[there, side]] = part[:, there]
        return weights


class Heads:
    """The head template, and how a head is put together around a face.

    `parts` are the vertices of each part; those of the skin begin with `kept` (K,), the vertices of the face template
    `face` that are not eyeballs.
    """

    def __init__(self, beyond: Beyond, template: Mesh, face: Mesh) -> None:
        self.beyond, self.template, self.face = beyond, template, face
        ends = np.cumsum(beyond.sizes)
        self.parts = {name: slice(int(a), int(b)) for name, a, b in zip(HEAD_PARTS, np.r_[0, ends], ends, strict=False)}
        self.kept = np.setdiff1d(np.arange(len(face.vertices)), beyond.balls)
        skin = self.parts["skin"]
        self.around = slice(len(self.kept), skin.stop)
        self.lined = beyond.mouth - len(self.kept)
        self.inside = slice(self.parts["teethUpper"].start, self.parts["tongue"].stop)
        own = template.triangles[(template.triangles < skin.stop).all(axis=1)]
        reach = np.where(np.isin(np.arange(skin.stop), beyond.mouth), INSIDE_MM, REACH_MM)
        self.plate = Plate(Mesh(template.vertices[skin], own), len(self.kept), reach)
        rest = face.vertices[None].astype(np.float32)
        self.eyes: list[tuple[Eye, slice, Singles]] = []  # each with its part, and rays to the vertices of that
        for eye, name in zip(contacts().eyes, ("eyeLeft", "eyeRight"), strict=True):
            ball = eye.balls(rest)
            rays = (template.vertices[self.parts[name]] - ball.centre) / (ball.radius[0] - LOOSE_MM)
            self.eyes.append((eye, self.parts[name], rays.astype(np.float32)))
        middles = face.vertices[face.boundary_edges].mean(axis=1)
        near = np.linalg.norm(middles - face.vertices[contacts().lips.middle].mean(axis=0), axis=1) < RIM_MM
        self.rims = np.unique(face.boundary_edges[near])
        lip = np.unique(contacts().lips.surfaces[1])
        self.lip = lip[np.abs(face.vertices[lip, 0]) < BESIDE_MM]
        tongue = template.vertices[self.parts["tongue"]] + beyond.tongue_out
        # (T,): how far the tongue, when it is out, goes with the lip below it, and with the teeth
        self.over_lip, self.over_teeth = (_step(tongue[:, 2], *ends) for ends in (LIP_MM, TEETH_MM))
        normals = template.with_vertices(np.r_[template.vertices[: self.parts["tongue"].start], tongue]).vertex_normals
        self.under = np.flatnonzero((normals[self.parts["tongue"]][:, 1] < -0.7) & (self.over_teeth > 0.3))

    def assembled(self, faces: Reals, beyond: Reals) -> Singles:
        """Heads (B, H, 3) of faces (B, V, 3) of the face template and the skin (B, R, 3) beyond them."""
        heads = np.empty((len(faces), len(self.template.vertices), 3), dtype=np.float32)
        heads[:, : len(self.kept)] = faces[:, self.kept]
        heads[:, self.around] = beyond
        for eye, part, rays in self.eyes:
            ball = eye.balls(faces)
            heads[:, part] = ball.centre[:, None] + (ball.radius[:, None, None] - LOOSE_MM) * rays
        mouths = self.mouths(faces)
        heads[:, self.inside] = mouths(self.template.vertices[self.inside])
        besides = self.plate.spread(faces[:, self.held] - mouths(self.face.vertices[self.held]), self.lined)
        heads[:, self.beyond.mouth] = mouths(self.template.vertices[self.beyond.mouth]) + besides
        return heads

    def mouths(self, faces: Reals) -> Similarity:
        """The motions that carry teeth and tongue of the template into the mouths of faces (B, V, 3)."""
        rims = self.face.vertices[self.rims]
        return similarity(np.broadcast_to(rims, (len(faces), *rims.shape)), faces[:, self.rims])

    def people(self, seed: int, numbers: Integers) -> tuple[Singles, Singles, People, Traits]:
        """Heads (B, H, 3) of the people with these numbers of the corpus of identities, and their faces (B, V, 3), all
        where the face basis has them; who they are, and their traits."""
        basis, size = self.beyond.basis, len(self.face.vertices)
        people = draw_people(self.beyond.face, Draws(seed, "identities", numbers))
        whole = basis.neutral(people.phenotype, people.features)
        plain = Neutral(np.ascontiguousarray(whole.vertices[:, :size]), whole.joints)
        traits = detail().draw(people, Draws(seed, "identity-detail", numbers))
        faces = contacts().settled(detail().applied(plain, traits)).vertices
        extra = self.beyond.draw(Draws(seed, "head-features", numbers)).astype(np.float32)
        shapes = self.beyond.extras.reshape(len(self.beyond.extras), -1)
        around = whole.vertices[:, size:] + (extra @ shapes).reshape(len(extra), -1, 3)
        middle = plain.vertices.mean(axis=1, keepdims=True)
        stretched = traits.proportions[:, None].astype(np.float32)
        around, held = (middle + (points - middle) * stretched for points in (around, plain.vertices[:, self.held]))
        grown = traits.size[:, None, None].astype(np.float32)
        around += self.plate.spread(faces[:, self.held] / grown - held)
        return self.assembled(faces, around * grown), faces, people, traits

    def face_of(self, head: Reals) -> Floats:
        """The face (V, 3) of the face template that a head (H, 3) has, with a round ball in each eye."""
        face = np.empty((len(self.face.vertices), 3))
        face[self.kept] = head[: len(self.kept)]
        for eye, part, _ in self.eyes:
            rest = eye.balls(self.face.vertices[None])
            rays = self.face.vertices[eye.ball] - rest.centre
            rays /= np.linalg.norm(rays, axis=1, keepdims=True)
            centre, radius = sphere(head[part])
            face[eye.ball] = centre + (radius + LOOSE_MM) * rays
        return face

    def followed(self, head: Floats, moved: Singles, joint: Reals, jaw: Floats, gaze: Floats, out: Floats) -> Singles:
        """How far (N, H, 3) the vertices of a head (H, 3) move where those of its face move by `moved` (N, V, 3).

        The jaw turns about the `joint` (3,) by rotation vectors and moves, both `jaw` (N, 6); the eyes turn by `gaze`
        (N, 2, 2), to the left and up, in radians; and the tongue comes `out` (N,), 1 being all the way.
        """
        turn = scipy.spatial.transform.Rotation.from_rotvec(jaw[:, :3]).as_matrix() - np.eye(3)
        jawed = ((head - joint) @ turn.transpose(0, 2, 1) + jaw[:, None, 3:]).astype(np.float32)
        follows, size = self.beyond.basis.jaw_weights[:, None], len(self.face.vertices)
        shifts = np.zeros((len(moved), *head.shape), dtype=np.float32)
        shifts[:, : len(self.kept)] = moved[:, self.kept]
        besides = moved[:, self.held] - follows[self.held] * jawed[:, self.plate.held]
        shifts[:, self.around] = follows[size:] * jawed[:, self.around] + self.plate.spread(besides)
        for number, (_, part, _) in enumerate(self.eyes):
            arms = head[part] - sphere(head[part])[0]
            turned = scipy.spatial.transform.Rotation.from_euler("YX", gaze[:, number] * [1, -1]).as_matrix() @ arms.T
            shifts[:, part] = turned.transpose(0, 2, 1) - arms
        lower = slice(self.parts["teethLower"].start, self.parts["tongue"].stop)
        shifts[:, lower] = jawed[:, lower]
        tongue = self.parts["tongue"]
        shifts[:, tongue] += out[:, None, None] * self._tongue_over_lip(head, moved, jawed, turn, out.max(initial=0.0))
        for row in np.flatnonzero(out > 0):
            self._draw_ahead(head, shifts[row])
        self._keep_behind(head, shifts)
        return shifts

    def _draw_ahead(self, head: Floats, shift: Singles) -> None:
        """Draw a tongue that is out ahead, in place, where it hangs before the lower lip and into it."""
        part, lip = self.parts["tongue"], np.searchsorted(self.kept, self.lip)
        surface = Surface(Mesh(head[part] + shift[part], self._tongue))
        points = head[lip] + shift[lip]
        found = surface.closest(points)
        normals = surface.normals(found)
        depths = ((found.points - points) * normals).sum(axis=1)
        deepest = np.argmax(np.where(found.distance < THROUGH_MM, depths, 0.0))
        if depths[deepest] > 0 and found.distance[deepest] < THROUGH_MM:
            way = (depths[deepest] + BEHIND_MM) * normals[deepest]
            shift[part] -= (self.over_lip[:, None] * way).astype(np.float32)

    @cached_property
    def _tongue(self) -> Integers:
        """The triangles of the tongue, by its own vertices."""
        part, triangles = self.parts["tongue"], self.template.triangles
        return triangles[(triangles >= part.start).all(axis=1) & (triangles < part.stop).all(axis=1)] - part.start

    def _keep_behind(self, head: Floats, shifts: Singles) -> None:
        """Push the inside of the mouth back behind the skin before it, in place: where a chin is thin and the jaw is
        far open, skin that is stretched comes to lie behind what goes with the jaw."""
        lining, used, skin = self._lining
        for shift in shifts:
            if np.abs(shift[lining]).max() < STILL_MM:
                continue
            surface = Surface(Mesh(head[used] + shift[used], skin))
            points = head[lining] + shift[lining]
            found = surface.closest(points)
            normals = surface.normals(found)
            ahead = ((points - found.points) * normals).sum(axis=1)
            through = (ahead > 0) & (found.distance < THROUGH_MM) & ~surface.on_border(found)
            shift[lining[through]] -= ((ahead + BEHIND_MM)[:, None] * normals)[through].astype(np.float32)

    @cached_property
    def _lining(self) -> tuple[Integers, Integers, Integers]:
        """The vertices of the mouth's inside that lie behind the face; those (U,) of the skin around the mouth, and the
        triangles (F, 3) between these."""
        mouth, vertices = self.beyond.mouth, self.template.vertices
        back = Surface(self.face).closest(vertices[mouth]).distance > BACK_MM
        near = scipy.spatial.cKDTree(vertices[mouth]).query(vertices)[0] < AROUND_MM
        near[mouth] = near[self.parts["skin"].stop :] = False
        triangles = self.template.triangles
        used, corners = np.unique(triangles[near[triangles].all(axis=1)], return_inverse=True)
        return mouth[back], used, corners.reshape(-1, 3)

    def _tongue_over_lip(self, head: Floats, moved: Singles, jawed: Singles, turn: Floats, size: float) -> Singles:
        """How the tongue comes out (N, T, 3) for 1 of the way, in a head whose face moves by `moved`: over the lower
        lip, wherever that is, which may be higher or further ahead than if all mouths were alike."""
        rest = self.face_of(head)
        lip = rest[self.lip] + moved[:, self.lip]
        alike = self.mouths(rest[None])(self.face.vertices[self.lip]) + jawed[:, np.searchsorted(self.kept, self.lip)]
        off = (lip.max(axis=1) - alike.max(axis=1)) * [0, 1, 1]
        way = self.beyond.tongue_out + self.beyond.tongue_out @ turn.transpose(0, 2, 1)
        way += self.over_lip[:, None] * (off / max(size, 1e-9))[:, None]
        tongue = self.parts["tongue"]
        under = head[tongue][self.under] + jawed[:, tongue][:, self.under] + size * way[:, self.under]
        lower = self.parts["teethLower"]
        teeth = head[lower] + jawed[:, lower]
        for number, (points, below) in enumerate(zip(np.concatenate([lip, teeth], axis=1), under, strict=True)):
            far, nearest = scipy.spatial.cKDTree(below[:, [0, 2]]).query(points[:, [0, 2]])
            high = (points[:, 1] - below[nearest, 1])[far < NEAR_MM]
            lift = max(float(high.max(initial=-CLEAR_MM)) + CLEAR_MM, 0.0) / max(size, 1e-9)
            way[number, :, 1] += lift * self.over_teeth
        return way.astype(np.float32)

    @property
    def held(self) -> Integers:
        """The vertices of the face template that hold the skin beyond it."""
        return self.kept[self.plate.held]


class Plate:
    """The skin beyond the face as a thin plate: takes displacements of the first `count` vertices of a mesh (V) on, as
    far as they `reach` (V,) in mm."""

    def __init__(self, skin: Mesh, count: int, reach: Floats) -> None:
        weights, areas = cotangent_weights(skin), np.maximum(mass(skin), 1e-3)
        plate = sp.csr_array(weights @ sp.diags_array(1 / areas) @ weights)[count:]
        system = plate[:, count:] + sp.diags_array(areas[count:] / reach[count:] ** 4)
        to_held = sp.csc_array(plate[:, :count])
        self.held = np.flatnonzero(np.diff(to_held.indptr))
        self.matrix = splu(sp.csc_array(system)).solve(-to_held[:, self.held].toarray()).astype(np.float32)

    def spread(self, moved: Reals, rows: Integers | slice = slice(None)) -> Singles:
        """The displacements (B, R, 3) of the rest, or some `rows` of it, that go with those (B, K, 3) of the vertices
        `held` (K,)."""
        columns = np.asarray(moved, dtype=np.float32).transpose(1, 0, 2).reshape(len(self.held), -1)
        matrix = self.matrix[rows]
        return (matrix @ columns).reshape(len(matrix), -1, 3).transpose(1, 0, 2)


def sphere(points: Reals) -> tuple[Floats, float]:
    """Middle (3,) and radius of the sphere of least squares through points (N, 3)."""
    middle = points.mean(axis=0, dtype=np.float64)
    arms = points - middle
    shift, rest = np.split(
        np.linalg.lstsq(np.column_stack([2 * arms, np.ones(len(arms))]), (arms**2).sum(axis=1))[0], [3]
    )
    return middle + shift, float(np.sqrt(rest[0] + shift @ shift))


def _step(values: Floats, low: float, high: float) -> Floats:
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


@cache
def heads() -> Heads:
    """The heads of the package."""
    return Heads(Beyond.read(), head_template(), face_template())


def faces_of(vertices: Reals, template: Mesh) -> Floats:
    """The faces (B, V, 3) of the face template that heads (B, H, 3) of this template have; other meshes as they are."""
    layout = layout_of(template)
    if layout is None or not layout.parts:
        return np.asarray(vertices, dtype=np.float64)
    return np.stack([heads().face_of(head) for head in vertices])

"""What a visitor sees: a clay face in studio light, a gallery to choose from, or the errors of a fit in colour.

The whole scene is in millimetres; faces look along +z, y is up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import viser
from numpy.typing import NDArray

from meshgan.arrays import Faces, Floats, Integers, Singles
from meshgan.data.corpora.basis import layout_of
from meshgan.geometry import glb
from meshgan.geometry.files import MILLIMETRES
from meshgan.geometry.mesh import Mesh
from meshgan.studio.sliders import StudioModel
from meshgan.view.figures import cones, holes, one_coloured, worn
from meshgan.view.raster import decoded

CLAY, DARK = (205, 186, 172), (48, 36, 34)
NOTHING = (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint32))  # to be seen: a mesh may not be empty
FIELD_OF_VIEW = np.radians(24.0)
AIR = 1.12  # of the picture's size against that of the room that faces need
PIVOT = (0.5, 0.5, 0.2)  # of that room: where the camera looks and turns, in the middle of a face's outline
ASIDE = (0.16, 0.03)  # of the camera's way to the right and up, so that a nose is a nose
ABOVE = 1.0005  # how much larger the painted face is, so that it covers the pieces that it takes the place of
GAP = 1.12  # between the faces of a gallery, against their size
CORNERS = np.array([(-1.0, -1.0, 0.0), (1.0, -1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 1.0, 0.0)])
PANE = np.array([(0, 1, 2), (0, 2, 3)], np.uint32)  # seen from the front

# Towards each light, its colour and strength: key from the upper left, cool fill from the right, rim from behind.
LIGHTS = {
    "key": ((-0.55, 0.65, 0.85), (255, 243, 230), 2.6),
    "fill": ((0.95, 0.10, 0.60), (222, 233, 255), 1.0),
    "rim": ((0.25, 0.90, -0.65), (255, 255, 255), 1.3),
}
SKY, GROUND, AMBIENT = (236, 240, 248), (130, 112, 100), 0.6
# A backdrop as in a photographer's studio; labels that can be read; no second number over
# a slider, which would hide its neighbour; and where a slider's middle is zero, no bar to it.
STYLE = """
canvas[data-engine] { background: radial-gradient(ellipse at 50% 42%, #f5f5f3 0%, #dfdfdd 65%, #c9c9c7 100%) }
label[for] { letter-spacing: -0.1px; color: #4a5058 }
.mantine-Slider-root { margin: 0 0.5em }
.mantine-Slider-label { display: none }
.mantine-Slider-markLabel { color: #6a7079; white-space: nowrap }
.mantine-Slider-root:has([aria-valuemin^="-"]) .mantine-Slider-bar { opacity: 0 }
.mantine-Slider-root:has([aria-valuemin^="-"]) .mantine-Slider-mark { background: white; border-color: #ced4da }
"""
# What each page runs once. Arrow keys on a slider move the slider alone; the viewer would turn the camera as well:
# sliders hear the key at the page's root, the camera's keys are heard above `body`. And new vertices are taken in as
# they arrive, as the viewer itself does in a hidden window; else it takes them in when it begins a frame, draws that
# frame with the old face, and only the next one with the new.
SCRIPT = """
document.body.addEventListener('keydown', k => k.target.matches('[role=slider]') && k.stopPropagation());
const viewer = window.__viserMutable, frame = viewer?.requestRender;
if (frame) viewer.requestRender = () => { viewer.drainMessageQueue?.(); frame() };
"""


def dress(server: viser.ViserServer, identity: StudioModel) -> None:
    """What all visitors share: light, background, and the camera before the faces of the model."""
    scene, camera = server.scene, server.initial_camera
    scene.set_up_direction("+y")
    scene.world_axes.visible = False
    scene.configure_default_lights(False)
    scene.configure_environment_map(None)
    for name, (towards, colour, strength) in LIGHTS.items():
        x, y, z = (1000.0 * part for part in towards)
        scene.add_light_directional(f"/light/{name}", color=colour, intensity=strength, position=(x, y, z))
    scene.add_light_hemisphere("/light/sky", sky_color=SKY, ground_color=GROUND, intensity=AMBIENT)
    server.gui.add_html(f'<style onload="{SCRIPT}">{STYLE}</style>')
    middle, (width, height, _) = extent(identity)
    camera.fov, camera.near, camera.far = float(FIELD_OF_VIEW), 10.0, 20_000.0
    camera.look_at = tuple(middle)
    camera.position = tuple(middle + distance(width, height, 1.0) * direction())


def extent(identity: StudioModel) -> tuple[Floats, Floats]:
    """Where the camera looks (3,), and the size (3,) of what it should see there, in mm."""
    low, high = identity.room
    return low + (high - low) * PIVOT, high - low


def direction() -> Floats:
    """From the face to the camera."""
    towards = np.array([*ASIDE, 1.0])
    return towards / np.linalg.norm(towards)


def distance(width: float, height: float, aspect: float) -> float:
    """How far away the camera stands to see `width` by `height` mm in a picture `aspect` times as wide as high."""
    return AIR * max(height, width / aspect) / (2 * np.tan(FIELD_OF_VIEW / 2))


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the face with one colour, as the viewer wants it: its vertices are `rows` (N,) of the face's."""

    rows: Integers | slice
    triangles: NDArray[np.uint32]
    colour: tuple[int, int, int]


def pieces(template: Mesh) -> list[Piece]:
    """The pieces of faces of a template, largest first: by what they wear, or one of clay."""
    colours = worn(layout_of(template))
    if colours is None:
        return [Piece(slice(None), template.triangles.astype(np.uint32), CLAY)]
    found = []
    for numbers, colour in one_coloured(template.triangles, colours):
        rows, corners = np.unique(template.triangles[numbers], return_inverse=True)
        red, green, blue = (round(255 * float(part)) for part in colour)
        found.append(Piece(rows, corners.reshape(-1, 3).astype(np.uint32), (red, green, blue)))
    return found


class Stage:
    """The scene of one visitor.

    The viewer has one colour for a mesh whose vertices move, and takes a while to load one with colours at its
    vertices, during which nothing is seen. So a face that wears something is moved in pieces of one colour each, and
    painted when it stands still: that is `later`, which is done step by step (`settle`) unless the face moves on.
    """

    def __init__(
        self, client: viser.ClientHandle, loop: asyncio.AbstractEventLoop, identity: StudioModel, face: Faces
    ) -> None:
        self.client, self._loop = client, loop
        template = identity.template
        self.triangles = template.triangles.astype(np.uint32)
        self.middle, self.size = extent(identity)
        self.holes = holes(template.triangles, len(template.vertices))
        self.worn = worn(layout_of(template))  # by eyes, teeth and skin
        self.pieces = pieces(template)
        self.parts = [self._piece(number, face) for number in range(len(self.pieces))]
        self.dark = self._hollow("/hollow", face)
        self.heat: viser.GlbHandle | None = None
        self.painted: viser.GlbHandle | None = None
        self.later: deque[Callable[[], None]] = deque()
        self._painting_of: Faces | None = None
        self.gallery: list[Any] = []
        self._framed = (float(self.size[0]), float(self.size[1]), True)
        self._places = deque([self._place(1.0), np.asarray(client.camera.position)], maxlen=8)
        self.look()
        client.camera.on_update(self._fit_window)

    def show(self, face: Faces) -> None:
        """Show a face (V, 3)."""
        if face is self._painting_of and (self.later or (self.painted is not None and self.painted.visible)):
            return  # it is there, or on its way
        self._painting_of = face if self.worn is not None else None
        for piece, handle in zip(self.pieces, self.parts, strict=True):
            handle.vertices = face[piece.rows]
        self.dark.vertices = self._cones(face)[0]
        self._only(*self.parts)
        if self.worn is not None:
            self.later.extend([lambda: self._paint(face), self._uncover])

    def settle(self) -> None:
        """The next step that a face which stands still waits for."""
        if self.later:
            self.later.popleft()()

    def _paint(self, face: Faces) -> None:
        """Show a face (V, 3) that wears something in all its colours, over its pieces."""
        assert self.worn is not None
        if self.painted is None:
            self.painted = self._painted("/painted", face, self.worn, larger=ABOVE)
        else:
            self.painted.glb_data = self._painting(face, self.worn)
            self.painted.visible = True

    def _uncover(self) -> None:
        """Take the pieces away, from under the painted face."""
        for part in self.parts:
            part.visible = False

    def show_heat(self, face: Faces, colours: Singles) -> None:
        """Show a face (V, 3) with a colour (V, 3), sRGB in [0, 1], at each vertex."""
        if self.heat is None:
            self.heat = self._painted("/heat", face, colours)
        else:
            self.heat.glb_data = self._painting(face, colours)
        self.dark.vertices = self._cones(face)[0]
        self._only(self.heat)

    def show_gallery(
        self, faces: Faces, above: Sequence[str], beside: Sequence[str], pick: Sequence[Callable[[Any], Any]]
    ) -> None:
        """Show faces (N, V, 3) in rows and columns with titles; `pick` has a callback for a click on each."""
        self.close_gallery()
        pitch = GAP * np.maximum(self.size[:2], np.ptp(faces[..., :2], axis=1).max(axis=0))
        xs = pitch[0] * (np.arange(len(above)) - (len(above) - 1) / 2)
        ys = pitch[1] * ((len(beside) - 1) / 2 - np.arange(len(beside)))
        for number, face in enumerate(faces):
            place = (xs[number % len(xs)], ys[number // len(xs)], 0.0)
            pane = self._pane(f"/gallery/{number}", pitch, place)
            pane.on_click(pick[number])
            if self.worn is None:
                shown: Any = self._mesh(f"/faces/{number}", face, self.triangles, CLAY, place)
            else:
                shown = self._painted(f"/faces/{number}", face, self.worn, place)
            self.gallery += [pane, shown, self._hollow(f"/hollows/{number}", face, place)]
        edge = pitch / 2
        self._titles("above", above, [(x, ys[0] + edge[1], 0.0) for x in xs], "bottom-center")
        self._titles("beside", beside, [(xs[0] - edge[0], y, 0.0) for y in ys], "center-right")
        self._only()
        self.look((len(xs) + any(beside)) * pitch[0], len(ys) * pitch[1], aside=False)

    def _titles(self, name: str, titles: Sequence[str], places: Sequence[Any], anchor: Any) -> None:
        for number, (title, place) in enumerate(zip(titles, places, strict=True)):
            if title:
                label = self.client.scene.add_label(
                    f"/titles/{name}/{number}", title, position=self.middle + place, anchor=anchor
                )
                self.gallery.append(label)

    def close_gallery(self) -> None:
        """Take the gallery down."""
        for thing in self.gallery:
            thing.remove()
        if self.gallery:
            self.gallery = []
            self.look()

    def look(self, width: float = 0.0, height: float = 0.0, aside: bool = True) -> None:
        """Put the camera where it sees `width` by `height` mm, or one face."""
        self._framed = (width or float(self.size[0]), height or float(self.size[1]), aside)
        with suppress(RuntimeError):  # the studio has been closed meanwhile
            self._loop.call_soon_threadsafe(self._frame)  # browsers' own messages come in there: no race with them

    def room(self, face: Faces) -> tuple[float, float]:
        """The width and height in mm around the camera's middle that a face (V, 3) needs, at least the usual ones."""
        beyond = 2 * np.abs(face - self.middle).max(axis=0)
        return float(max(beyond[0], self.size[0])), float(max(beyond[1], self.size[1]))

    def _place(self, aspect: float) -> Floats:
        """Where the camera belongs in a window `aspect` times as wide as high."""
        width, height, aside = self._framed
        towards = direction() if aside else np.array([0.0, 0.0, 1.0])
        place: Floats = self.middle + distance(width, height, aspect) * towards
        return place

    def _frame(self) -> None:
        camera = self.client.camera
        self._places.append(self._place(camera.aspect))
        with self.client.atomic():
            camera.position = self._places[-1]
            camera.look_at = self.middle

    async def _fit_window(self, camera: viser.CameraHandle) -> None:
        """Frame again where the window has got another shape, unless the visitor has turned the face.

        While a page opens, its canvas changes shape back and forth, and a browser reports in between, on its way from
        one place that it was told to the next. So what counts in each report is only whether the camera stands where
        we have told it to go, and whether it belongs there: whatever comes late or twice, the last report decides.
        """
        ours = any(np.allclose(camera.position, place, atol=1.0) for place in self._places)
        wanted = self._place(camera.aspect)
        if ours and np.linalg.norm(camera.position - wanted) > 0.02 * np.linalg.norm(wanted - self.middle):
            self._frame()

    @property
    def portrait(self) -> bool:
        """Whether the picture is much higher than wide."""
        return bool(self.client.camera.aspect < 0.8)

    @property
    def view(self) -> tuple[float, float]:
        """Yaw and pitch, in degrees, by which the face is turned away from the camera (see `view.raster.Camera`)."""
        x, y, z = self.client.camera.position - self.client.camera.look_at
        return -float(np.degrees(np.arctan2(x, z))), -float(np.degrees(np.arctan2(y, np.hypot(x, z))))

    def _piece(self, number: int, face: Faces) -> viser.MeshHandle:
        piece = self.pieces[number]
        name = f"/face/{number}" if number else "/face"
        return self._mesh(name, face[piece.rows], piece.triangles, piece.colour, (0.0, 0.0, 0.0))

    def _painted(
        self, name: str, face: Faces, colours: Singles, place: Any = (0.0, 0.0, 0.0), larger: float = 1.0
    ) -> viser.GlbHandle:
        """A face (V, 3) with a colour (V, 3), sRGB in [0, 1], at each vertex."""
        return self.client.scene.add_glb(
            name, self._painting(face, colours), scale=larger * MILLIMETRES["m"], cast_shadow=False,
            receive_shadow=False, position=place,
        )  # fmt: skip

    def _painting(self, face: Faces, colours: Singles) -> bytes:
        return glb.write(Mesh(face, self.triangles), colours=decoded(colours))

    def _hollow(self, name: str, face: Faces, place: Any = (0.0, 0.0, 0.0)) -> viser.MeshHandle:
        return self._mesh(name, *self._cones(face), DARK, place)

    def _pane(self, name: str, size: Floats, place: Any) -> viser.MeshHandle:
        """An invisible pane through a face, to be clicked: a face itself would get a ragged yellow outline."""
        corners = self.middle + CORNERS * [*size / 2, 0.0]
        return self._mesh(name, corners.astype(np.float32), PANE, CLAY, place, opacity=0.0)

    def _mesh(
        self, name: str, vertices: Any, triangles: Any, colour: Any, place: Any, opacity: float | None = None
    ) -> viser.MeshHandle:
        return self.client.scene.add_mesh_simple(
            name, vertices, triangles, color=colour, side="double", cast_shadow=False, receive_shadow=False,
            position=place, opacity=opacity,
        )  # fmt: skip

    def _cones(self, face: Faces) -> tuple[Singles, NDArray[np.uint32]]:
        """A dark cone behind each hole of the face, as behind open lips, for one does not look through a head."""
        vertices, triangles = cones(face[None], self.holes)
        return (vertices[0], triangles.astype(np.uint32)) if len(triangles) else NOTHING

    def _only(self, *shown: Any) -> None:
        self.later.clear()
        for thing in (*self.parts, self.heat, self.painted):
            wanted = any(thing is one for one in shown)
            if thing is not None and thing.visible != wanted:
                thing.visible = wanted
        self.dark.visible = bool(shown)

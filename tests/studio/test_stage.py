"""Where the camera is told to go: far enough for faces, and by a window that reports in any order."""

import numpy as np
import pytest

pytest.importorskip("viser", reason="needs the extra studio")

from meshgan.bench.studio import CAMERA
from meshgan.data.corpora.basis import face_template, head_layout
from meshgan.data.corpora.heads import head_template
from meshgan.model.model_folder import SHIPPED
from meshgan.studio import page as page_module
from meshgan.studio.gate import Gate
from meshgan.studio.page import Shared
from meshgan.studio.server import Studio
from meshgan.studio.session import SIMILAR
from meshgan.studio.sliders import identity_model, load_pair, rig_model
from meshgan.studio.stage import CLAY, FIELD_OF_VIEW, direction, distance, extent, pieces
from meshgan.view.figures import ALIKE, worn
from visitor import Visitor

WIDE, NARROW = 1440, 330  # pixels, of a window 900 high


class Window(Visitor):
    """A browser that moves its camera, and says so, only when the test wants it."""

    def __init__(self, address):
        super().__init__(address)
        self.told = []

    def _take(self, message):
        if message["type"] == "SetCameraPositionMessage" and not message["initial"]:
            self.told.append(message["position"])
        super()._take(message)

    def reports(self, position, width):
        self.send(CAMERA | {"position": tuple(position), "image_width": width})

    def hears(self, count):
        """The last of `count` places that it has been told to go to."""
        return self.wait(lambda: self.told[count - 1] if len(self.told) >= count else None)


@pytest.fixture
def window(studio):
    with Window(studio.addresses[0]) as window:
        yield window


def test_a_narrow_window_is_framed_from_further_away(window):
    near = window.hears(1)
    window.reports(near, NARROW)
    assert window.hears(2)[2] > 1.3 * near[2]


def test_whatever_a_window_reports_late_the_last_report_decides(window):
    near = window.hears(1)
    window.reports(near, NARROW)
    far = window.hears(2)
    window.reports(far, WIDE)  # the canvas has been wide again, for a moment
    np.testing.assert_allclose(window.hears(3), near)
    window.reports(far, NARROW)  # and narrow, before it heard of the third place
    window.reports(near, NARROW)  # it has heard now
    np.testing.assert_allclose(window.hears(4), far)


def test_a_face_that_the_visitor_has_turned_is_left_alone(window):
    near = window.hears(1)
    window.reports((near[0] + 40.0, near[1], near[2] - 10.0), NARROW)
    before = window.face
    window.press("Random face")  # what it is answered comes after all answers to the report
    window.wait(lambda: not np.array_equal(window.scene["/face"]["vertices"], before))
    assert len(window.told) == 1


@pytest.fixture(scope="module")
def identity():
    if not SHIPPED.is_dir():
        pytest.skip("no model ships")
    return load_pair(str(SHIPPED / "identity"), None)[0]


@pytest.mark.parametrize("aspect", [0.37, 0.7, 1.2, 2.0])
def test_nearly_all_random_faces_fit_into_the_picture(identity, aspect):
    faces = identity.decode(identity.model.codes(200, seed=5))
    middle, size = extent(identity)
    towards = direction()
    right = np.cross([0.0, 1.0, 0.0], towards)
    right /= np.linalg.norm(right)
    depths = distance(size[0], size[1], aspect) - (faces - middle) @ towards
    height = 2 * np.tan(FIELD_OF_VIEW / 2) * depths
    across = np.abs((faces - middle) @ right) / (aspect * height)
    up = np.abs((faces - middle) @ np.cross(towards, right)) / height
    assert np.mean(np.maximum(across, up).max(axis=1) < 0.5) > 0.95


def test_a_head_is_drawn_in_pieces_of_one_colour():
    template = head_template()
    found = pieces(template)
    assert 4 <= len(found) <= 40
    assert max(found, key=lambda piece: len(piece.triangles)) is found[0]
    drawn = np.concatenate([piece.rows[piece.triangles] for piece in found])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, template.triangles.tolist()))
    colours = worn(head_layout())
    for piece in found:
        far = np.abs(255 * colours[piece.rows[piece.triangles]].mean(axis=1) - piece.colour).max()
        assert far < 255 * ALIKE
    (whole,) = pieces(face_template())
    assert whole.colour == CLAY
    np.testing.assert_array_equal(whole.triangles, face_template().triangles)


def test_heads_are_moved_piece_by_piece_and_painted_when_they_stand_still(head_model, monkeypatch):
    monkeypatch.setattr(page_module, "REST", 1e6)
    running = Studio(Shared(identity_model(head_model, None), rig_model(head_model.template)), Gate(port=0))
    try:
        with Window(running.addresses[0]) as window:
            window.hears(1)
            (page,) = running.pages.values()
            page.session.slide("jawOpen", 0.7)
            page.show()
            for piece, handle in zip(page.stage.pieces, page.stage.parts, strict=True):
                np.testing.assert_array_equal(handle.vertices, page.session.face[piece.rows])
                assert handle.visible
            assert page.stage.painted is None
            page.stage.settle()
            first = page.stage.painted.glb_data
            assert all(handle.visible for handle in page.stage.parts)  # until the browser has loaded it
            page.stage.settle()
            assert page.stage.painted.visible
            assert not any(handle.visible for handle in page.stage.parts)
            page.session.slide("jawOpen", 0.2)
            page.show()
            assert all(handle.visible for handle in page.stage.parts)
            assert not page.stage.painted.visible
            page.stage.settle()
            assert page.stage.painted.visible
            assert page.stage.painted.glb_data != first
            page.session.offer_similar()
            page.show()
            assert not any(handle.visible for handle in page.stage.parts)
            assert not page.stage.painted.visible
            assert not page.stage.later
            assert len(page.stage.gallery) >= 3 * SIMILAR
    finally:
        running.stop()

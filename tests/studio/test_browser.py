"""The studio as a person meets it: Chromium clicks every control, opens every file, and looks at the picture.

Needs Debian's `chromium` (any GPU or none: WebGL runs in software) and the Python package playwright. After a change
to what the studio looks like, `MESHGAN_PICTURES=new pytest tests/studio/test_browser.py -k as_in_the_docs` takes the
pictures in docs/images again; look at them before you commit them.
"""

import io
import json
import os
import shutil
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from meshgan.data.corpora.anny import identities
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.geometry.files import write_mesh
from meshgan.model.directions import estimate_directions
from meshgan.model.pca import fit_pca

pytest.importorskip("viser", reason="needs the extra studio")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from playwright.sync_api import Error, sync_playwright

from meshgan.studio.gate import Gate
from meshgan.studio.guard import PROTOCOL
from meshgan.studio.page import Shared
from meshgan.studio.server import Studio
from meshgan.studio.session import GRID, SIMILAR, Session
from meshgan.studio.sliders import load_pair

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
PICTURES = Path(__file__).parents[2] / "docs" / "images"
SHOWN = "id=start exp=start age=-12 female=1.2 happiness=0.9 surprise=0.3"
LONG = 180.0  # seconds after which something will not come any more, on however busy a machine
DESKTOP, TABLET = {"width": 1440, "height": 900}, {"width": 820, "height": 1180}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: sudo apt-get install -y chromium"),
]


def face_set(path, faces, labels):
    with create_faceset(
        path, face_template(), len(faces), Card(name=path.name, source="test", licence="CC0-1.0", synthetic=True)
    ) as writer:
        writer.append(faces, labels)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Real faces: a PCA identity model and a PCA expression model, with directions."""
    base = tmp_path_factory.mktemp("browser")
    faces, people = identities(FaceBasis.read(), face_template(), 0, 0)
    names = [f"I{i}" for i in range(len(faces))]
    found = face_set(base / "people", faces, people.labels(names))
    identity = fit_pca(found, 40)
    identity.save(base / "identity")
    labels = {"age": found.labels["age"].astype(float), "female": (found.labels["sex"] == "female").astype(float)}
    estimate_directions(identity.encode(faces), labels).save(base / "identity")
    plan = ExpressionPlan(subjects=12, posed=120, spontaneous=60, noise_mm=0.0)
    rows = np.arange(len(plan))
    found = face_set(base / "moods", plan.pure(rows), plan.labels(rows, plan.takes(rows)))
    expression = fit_pca(found, 20)
    expression.save(base / "expression")
    words = found.labels["expression"]
    shares = {word: (words == word).astype(float) for word in np.unique(words)}
    estimate_directions(expression.encode(found.vertices[:]), shares).save(base / "expression")
    return load_pair(str(base / "identity"), str(base / "expression"))


@pytest.fixture(scope="module")
def studio(models):
    """A studio in which every visitor draws the same faces: some are smaller than others."""
    running = Studio(Shared(*models), Gate(port=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshgan.studio.page.Session", partial(Session, seed=0))
        yield running
    running.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        yield chromium
        chromium.close()


class Person:
    """Sits before one window, and remembers what they have clicked."""

    def __init__(self, browser, studio, size=DESKTOP, script=None):
        before = set(studio.pages)
        self.window = browser.new_page(viewport=size, accept_downloads=True)
        self.window.set_default_timeout(1000 * LONG)
        self.errors = []
        self.window.on("pageerror", lambda error: self.errors.append(str(error)))
        if script:
            self.window.add_init_script(script)
        self.window.goto(studio.addresses[0])
        self.window.get_by_role("button", name="Random face").wait_for()
        (number,) = until(lambda: set(studio.pages) - before)
        self.page = studio.pages[number]
        self.session = self.page.session
        self.used = set()
        self.window.wait_for_timeout(2500)
        self.close_remarks()
        self.window.wait_for_timeout(500)

    def close_remarks(self):
        """The viewer remarks that it draws in software; on a busy machine it does so late, over the face."""
        for close in self.window.locator(".mantine-Notification-closeButton").all():
            with suppress(Error):  # it has gone by itself
                close.click(timeout=1000)

    def tab(self, name):
        self.window.get_by_role("tab", name=name, exact=True).click()
        self.window.wait_for_timeout(300)

    def does(self, name, action):
        """Do something on the page; wait until the server has done its part."""
        before = self.page.changes
        action()
        until(lambda: self.page.changes > before)
        self.used.add(name)
        self.window.wait_for_timeout(400)

    def click(self, name, option=None):
        button = self.window.get_by_role("button", name=option or name, exact=True)
        self.does(name, lambda: button.first.click())

    def push(self, label, key="ArrowRight", times=1):
        """Move a slider with the keyboard."""
        thumb = self.window.locator(f"[id='{self.uuid(label)}'] [role=slider]")
        thumb.focus()
        for _ in range(times):
            self.does(label, lambda: self.window.keyboard.press(key))

    def uuid(self, label):
        """The control with this label. Titles of axes are in two tabs: those of identities come first."""
        return next(uuid for uuid, h in self.controls.items() if h.label == label)

    @property
    def controls(self):
        return dict(self.page.gui._gui_input_handle_from_uuid)

    def picture(self):
        """What is drawn, (H, W, 3) in [0, 255], without the panel."""
        canvas = self.window.locator("canvas[data-engine]").bounding_box()
        image = Image.open(io.BytesIO(self.window.screenshot(clip=canvas))).convert("RGB")
        return np.asarray(image).astype(float)

    def shot(self):
        """The whole window."""
        return Image.open(io.BytesIO(self.window.screenshot())).convert("RGB")

    def sees(self, condition):
        """Wait until what is drawn fulfils a condition: a busy machine draws late. Returns the picture."""

        def seen():
            self.close_remarks()
            return [picture] if condition(picture := self.picture()) else None

        return until(seen)[0]

    def still(self):
        """The picture, once it no longer changes and nothing lies over it."""

        def unchanged():
            self.close_remarks()
            before = self.picture()
            self.window.wait_for_timeout(1000)
            return [after] if difference(after := self.picture(), before) < 0.01 else None

        return until(unchanged)[0]


def difference(first, second):
    return np.abs(first - second).mean()


def framed(picture):
    """Whether a whole face is in the middle, and fills the height or the width."""
    shown = clay(picture)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not len(rows) or columns[0] < 4 or columns[-1] > shown.shape[1] - 5:
        return False
    height, width = shown.shape
    middle = max(abs(rows.mean() / height - 0.5), abs(columns.mean() / width - 0.5)) < 0.06
    return middle and 0.6 < max(np.ptp(rows) / height, np.ptp(columns) / width) < 0.97


def until(condition, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the studio never got there"
        time.sleep(0.02)
    return value


def clay(picture):
    """Where the picture shows a face: the background is grey, clay is not."""
    return picture.max(axis=2) - picture.min(axis=2) > 12


@pytest.fixture(scope="module")
def person(browser, studio):
    person = Person(browser, studio)
    yield person
    person.window.close()


def test_the_first_picture_is_a_lit_face_in_the_middle(person):
    picture = person.sees(framed)
    shown = clay(picture)
    assert 20 < picture[shown].std() < 90  # neither flat nor burnt out
    assert not person.errors


def test_faces_locks_undo_and_seeds(person):
    session, first = person.session, person.sees(framed)
    seed = session.state.seed
    person.click("Random face")
    person.sees(lambda picture: difference(picture, first) > 1)
    person.click("History", "Undo")
    assert session.state.seed == seed
    person.sees(lambda picture: difference(picture, first) < 0.5)
    person.click("History", "Redo")
    person.click("Only a new", "Identity")
    person.click("Only a new", "Expression")
    kept = session.state.identity.source
    box = person.window.get_by_role("checkbox")
    person.does("Keep identity", lambda: box.nth(0).click())
    person.click("Random face")
    assert session.state.identity.source == kept
    person.does("Keep identity", lambda: box.nth(0).click())
    person.does("Keep expression", lambda: box.nth(1).click())
    person.does("Keep expression", lambda: box.nth(1).click())
    assert not session.locked
    person.click("Start from", "Mean face")
    person.click("Start from", "Neutral")
    person.click("View", "From the front")
    field = person.window.get_by_role("textbox").first
    assert field.input_value() == "id=start exp=start"
    field.fill(seed)
    person.window.wait_for_timeout(300)
    person.used.add("Seed")
    person.click("", "Go to this seed")
    assert session.state.seed == seed
    person.sees(lambda picture: difference(picture, first) < 0.5)


def test_similar_faces_are_picked_by_a_click_on_one(person):
    person.click("Look around", "Similar faces")
    person.sees(lambda picture: clay(picture).any(axis=0).mean() > 0.5)  # several beside each other
    without = person.still()
    session, before = person.session, person.session.state
    offered = session.gallery.states
    assert len(offered) == SIMILAR
    canvas = person.window.locator("canvas[data-engine]").bounding_box()
    rows = np.flatnonzero(clay(without).any(axis=1))
    spot = (canvas["x"] + canvas["width"] / 2 + 60, canvas["y"] + float(rows[len(rows) * 3 // 4]))
    person.window.mouse.move(*spot)
    person.window.wait_for_timeout(500)
    assert difference(person.picture(), without) < 0.1  # what may be clicked is not drawn over
    person.window.mouse.click(*spot)
    until(lambda: session.gallery is None)
    assert session.state in offered
    assert session.state is not before


def test_every_slider_moves_the_face(person):
    for tab, model in (("Traits", person.session.identity), ("Expression", person.session.expression)):
        person.tab(tab)
        person.window.get_by_text("Expert: principal axes").last.click()
        person.window.wait_for_timeout(500)
        for slider in model.sliders.values():
            handle = next(
                h for h in person.controls.values() if h.label == slider.title and f"{id(h)}" not in person.used
            )
            person.used.add(f"{id(handle)}")
            face = person.session.face
            thumb = person.window.locator(f"[id='{handle._impl.uuid}'] [role=slider]")
            thumb.focus()
            person.does(slider.title, lambda: person.window.keyboard.press("ArrowRight"))
            assert person.session.amount(slider.key) == pytest.approx(slider.step)
            assert not np.array_equal(person.session.face, face)
        person.click("Sliders", "All to zero")
        until(lambda thumb=thumb: thumb.get_attribute("aria-valuenow") == "0")


def test_blends_and_their_grid(person):
    session = person.session
    person.tab("Blend")
    person.click("My face is now", "A")
    person.click("Random face")
    person.click("My face is now", "B")
    assert session.b is session.state
    person.push("From A to B", "End")
    person.push("From A to B", "ArrowLeft")
    assert session.state.identity.source.startswith("~")
    person.click("All between", "Grid of blends")
    person.window.wait_for_timeout(4000)
    assert len(session.gallery.states) == len(GRID) ** 2
    person.click("Back to my face")
    assert session.gallery is None


def upload(person, *files):
    with person.window.expect_file_chooser() as chooser:
        person.window.get_by_role("button", name="Load a mesh").click()
    chooser.value.set_files(*files)


def test_a_mesh_is_loaded_fitted_and_shown_in_colour(person, models, tmp_path):
    person.tab("Fit")
    person.window.get_by_role("combobox", name="Unit of the file").click()
    person.window.get_by_role("option", name="cm", exact=True).click()
    until(lambda: next(h for h in person.controls.values() if h.label == "Unit of the file").value == "cm")
    person.used.add("Unit of the file")
    box = person.window.get_by_role("checkbox").last
    box.click()
    person.used.add("Fit expression")
    face = identities(FaceBasis.read(), face_template(), 1, 0)[0][3]  # of somebody whom the model has not seen
    write_mesh(tmp_path / "mine.ply", models[0].template.with_vertices(face / 10))
    person.does("Load a mesh", lambda: upload(person, tmp_path / "mine.ply"))
    assert person.page.view == "errors"
    assert 0.05 < person.page.errors.mean() < 1.5
    person.sees(lambda picture: (picture.max(axis=2) - picture.min(axis=2) > 100).mean() > 0.05)
    for option, view in (("Face", "face"), ("My mesh", "mesh"), ("Errors", "errors"), ("Face", "face")):
        person.click("Show", option)
        assert person.page.view == view
    assert person.window.get_by_text("from your mesh on average").is_visible()


def test_bad_files_get_a_sentence_in_the_page(person, tmp_path):
    person.tab("Fit")
    (tmp_path / "broken.obj").write_text("v 0 0\nf 1 2 3\n")
    person.does("Load a mesh", lambda: upload(person, tmp_path / "broken.obj"))
    person.window.get_by_text("broken.obj cannot be read as a mesh").wait_for()


def test_every_format_is_saved_and_opened(person, models):
    person.tab("Save")
    session, opened = person.session, {}
    for option in ("GLB", "OBJ", "PLY", "PNG", "JSON"):
        with person.window.expect_download() as waiting:
            person.window.get_by_role("button", name=option, exact=True).click()
        assert waiting.value.suggested_filename == f"face.{option.lower()}"
        opened[option] = waiting.value.path().read_bytes()
    person.used |= {"Mesh", "Picture", "Code"}
    for kind in ("OBJ", "PLY"):
        mesh = trimesh.load_mesh(io.BytesIO(opened[kind]), file_type=kind.lower(), process=False)
        corners = session.face[models[0].template.triangles]  # trimesh doubles vertices along a seam of the texture
        np.testing.assert_allclose(mesh.vertices[mesh.faces], corners, atol=1e-3)
    scene = trimesh.load_scene(io.BytesIO(opened["GLB"]), file_type="glb")
    assert sum(len(part.faces) for part in scene.geometry.values()) == len(models[0].template.triangles)
    assert Image.open(io.BytesIO(opened["PNG"])).size == (1024, 1024)
    other = Session(*models, seed=0)
    other.use_seed(json.loads(opened["JSON"])["seed"])
    np.testing.assert_array_equal(other.face, session.face)


def test_no_control_was_left_out(person):
    labels = {handle.label for handle in person.controls.values()}
    assert labels - person.used == set()
    assert not person.errors


def test_turning_the_face_with_the_mouse(person):
    person.tab("Face")
    person.click("View", "From the front")
    person.window.wait_for_timeout(600)
    before, (yaw, _) = person.picture(), person.page.stage.view
    canvas = person.window.locator("canvas[data-engine]").bounding_box()
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    person.window.mouse.move(x, y)
    person.window.mouse.down()
    for step in range(12):
        person.window.mouse.move(x + 15 * step, y)
    person.window.mouse.up()
    person.sees(lambda picture: difference(picture, before) > 3)
    until(lambda: abs(person.page.stage.view[0] - yaw) > 10)


def test_a_tablet_shows_the_whole_face_and_all_tabs(browser, studio):
    person = Person(browser, studio, TABLET)
    person.sees(framed)
    for name in ("Face", "Traits", "Expression", "Blend", "Fit", "Save"):
        person.tab(name)
    assert person.window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert not person.errors
    person.window.close()
    until(lambda: person.page not in studio.pages.values())


@pytest.mark.parametrize(("size", "name"), [(DESKTOP, "studio.png"), (TABLET, "studio-tablet.png")])
def test_the_window_looks_as_in_the_docs(browser, studio, size, name):
    """Layout, light and colours, at a tenth of the size: fonts and drivers draw details in their own way."""
    person = Person(browser, studio, size)
    person.window.get_by_role("textbox").first.fill(SHOWN)
    person.window.wait_for_timeout(300)
    person.click("", "Go to this seed")
    person.tab("Expression")
    person.window.wait_for_timeout(2000)
    if os.environ.get("MESHGAN_PICTURES") == "new":
        person.still()
        person.shot().save(PICTURES / name, optimize=True)
    known = Image.open(PICTURES / name).convert("RGB")
    small = (size["width"] // 10, size["height"] // 10)

    def alike():
        person.close_remarks()
        taken = person.shot()
        assert known.size == taken.size
        was, now = (np.asarray(image.resize(small, Image.Resampling.BOX)).astype(float) for image in (known, taken))
        return difference(was, now) < 3 and (np.abs(was - now).max(axis=2) > 60).mean() < 0.01

    until(alike)
    person.window.close()


WATCH = """
window.slides = [];
let slide = null;
window.addEventListener('keydown', () => { slide = { pressed: performance.now() } }, true);
window.Worker = class extends Worker {
  constructor(...words) {
    super(...words);
    this.addEventListener('message', ({ data }) => {
      if (slide && data.messages?.some(message => message.updates?.vertices)) slide.arrived ??= performance.now();
    });
  }
};
const paint = WebGL2RenderingContext.prototype.drawElements;
WebGL2RenderingContext.prototype.drawElements = function (...words) {
  if (slide?.arrived) slide.old = true;  // a frame with the old face, though the new one is here
  return paint.apply(this, words);
};
const upload = WebGL2RenderingContext.prototype.bufferSubData;
WebGL2RenderingContext.prototype.bufferSubData = function (...words) {
  const data = words.find(ArrayBuffer.isView);
  if (slide?.arrived && data && data.byteLength === SIZE) {
    const done = slide;
    slide = null;
    done.uploaded = performance.now();
    queueMicrotask(() => {  // when the frame has been told what to draw: a pixel can only be read once it is drawn
      this.readPixels(0, 0, 1, 1, this.RGBA, this.UNSIGNED_BYTE, new Uint8Array(4));
      done.drawn = performance.now();
      window.slides.push(done);
    });
  }
  return upload.apply(this, words);
};
"""
STAGES = {"arrived": "new vertices in the browser", "uploaded": "given to the renderer", "drawn": "picture drawn"}


def test_a_slider_reaches_the_renderer_within_50_ms(browser, studio, models):
    """From the key to the new vertices in the browser, to the frame that draws them, and to the end of that frame.

    The last is reported only: without a graphics card, the browser draws the frame and smooths its edges in software,
    on the processor, and that alone can take longer than 50 ms on two cores. Other work on the machine only adds: the
    best counts.
    """
    load = os.getloadavg()[0]
    size = 12 * len(models[0].template.vertices)
    person = Person(browser, studio, {"width": 700, "height": 450}, WATCH.replace("SIZE", str(size)))
    person.tab("Traits")
    thumb = person.window.locator(f"[id='{person.uuid('Age, years')}'] [role=slider]")
    thumb.focus()
    for _ in range(25):
        person.window.wait_for_timeout(600)  # what the last one has set in motion has come to rest
        person.window.keyboard.press("ArrowRight")
    person.window.wait_for_timeout(600)
    slides = person.window.evaluate("window.slides")
    person.window.close()
    assert slides
    late = np.mean([slide.get("old", False) for slide in slides])
    print(f"\nframes with the old face, though the new one had come: {late:.0%}", end="")
    assert late < 0.5  # in the viewer's own order: all
    best = {}
    for stage, name in STAGES.items():
        times = sorted(slide[stage] - slide["pressed"] for slide in slides)
        best[stage] = times[0]
        print(f"\nslider to {name}: best {times[0]:.0f} ms, median {np.median(times):.0f} ms of {len(times)}", end="")
    assert_below(50, best["uploaded"], load)


FRAMES = """
window.frames_drawn = [];
const paint = WebGL2RenderingContext.prototype.drawElements;
WebGL2RenderingContext.prototype.drawElements = function (...words) {
  const now = document.timeline.currentTime, drawn = window.frames_drawn;
  if (drawn[drawn.length - 1] !== now) drawn.push(now);  // many meshes make one frame
  return paint.apply(this, words);
};
"""


@pytest.mark.parametrize(("size", "limit"), [({"width": 700, "height": 450}, 100), (DESKTOP, 300)])
def test_turning_stays_fluid(browser, studio, size, limit):
    """The time from one frame to the next while the mouse drags the face round, for three seconds.

    The browser does not begin a frame before it is rid of the one before, so this is what a person sees. Turning asks
    nothing of the server. Without a graphics card the processor draws each frame, and the limits are wide: they hold
    as long as nothing but drawing takes time.
    """
    load = os.getloadavg()[0]
    person = Person(browser, studio, size, FRAMES)
    person.sees(framed)
    canvas = person.window.locator("canvas[data-engine]").bounding_box()
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    person.window.mouse.move(x, y)
    person.window.mouse.down()
    person.window.evaluate("window.frames_drawn.length = 0")
    start = time.monotonic()
    while (passed := time.monotonic() - start) < 3:
        person.window.mouse.move(x + 150 * np.sin(3 * passed), y + 20 * np.sin(2 * passed))
    person.window.mouse.up()
    gaps = np.sort(np.diff(person.window.evaluate("window.frames_drawn")))
    person.window.close()
    middle, most = np.median(gaps), gaps[-1]
    print(
        f"\nturning, {size['width']} by {size['height']}: a frame every {middle:.0f} ms, the median of {len(gaps)};",
        end="",
    )
    print(f" the longest {most:.0f} ms")
    assert_below(limit, middle, load)


def test_arrow_keys_on_a_slider_do_not_turn_the_face(person):
    person.tab("Traits")
    view = person.page.stage.view
    person.window.locator(f"[id='{person.uuid('Age, years')}'] [role=slider]").focus()
    before = person.page.changes
    person.window.keyboard.down("ArrowRight")
    person.window.wait_for_timeout(1000)
    person.window.keyboard.up("ArrowRight")
    until(lambda: person.page.changes > before)
    person.window.wait_for_timeout(500)
    assert person.page.stage.view == view


def test_the_servers_share_is_small(studio, models):
    """Moving a slider, decoding, measuring: what the server does before the new vertices leave."""
    session = Session(*models, seed=1)
    load, times = os.getloadavg()[0], []
    for number in range(60):
        start = time.perf_counter()
        session.slide("age", number % 20)
        session.measure()
        times.append(1000 * (time.perf_counter() - start))
    print(f"\nserver: best {min(times):.1f} ms, median {np.median(times):.1f} ms")
    assert_below(20, min(times), load)


def assert_below(limit, best, load):
    """Milliseconds; where others have all cores, no verdict."""
    if best >= limit and load > (os.cpu_count() or 1):
        pytest.skip(f"the machine is too busy to tell: load {load:.1f}, best {best:.0f} ms")
    assert best < limit


FOREIGN = """<title>waiting</title><script>
const socket = new WebSocket("ws://127.0.0.1:PORT", ["PROTOCOL"]);
socket.onopen = () => { document.title = "entered"; };
socket.onclose = () => { if (document.title == "waiting") document.title = "refused"; };
</script>"""


def test_a_page_of_another_origin_does_not_get_in(browser, studio):
    """What any web page may try that is open in the same browser: the websocket, and a name that leads to us."""
    page = FOREIGN.replace("PORT", str(studio.port)).replace("PROTOCOL", PROTOCOL).encode()

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

    server = HTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = set(studio.pages)
    window = browser.new_page()
    window.set_default_timeout(1000 * LONG)
    try:
        window.goto(f"http://127.0.0.1:{server.server_port}/")
        window.wait_for_function("document.title != 'waiting'")
        assert window.title() == "refused"
        assert set(studio.pages) == before
    finally:
        window.close()
        server.shutdown()
        server.server_close()


def test_a_foreign_name_that_leads_to_this_machine_is_refused(browser, studio):
    """DNS rebinding: the browser believes that it talks to evil.example, whose address has become ours."""
    rule = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=[*SOFTWARE, rule])
    try:
        window = other.new_page()
        window.set_default_timeout(1000 * LONG)
        answer = window.goto(f"http://evil.example:{studio.port}/")
        assert answer.status == 403
        assert "viser" not in window.content().lower()
    finally:
        other.close()
